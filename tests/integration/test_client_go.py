#!/usr/bin/python3
"""Tests the Go client: that its generated code is that of the interface, its format, its unit tests, its sample program
and README, and the conformance suite.

It needs Go, which `./dev test` installs. Without Go it says so, and exits with 77 (skipped).
"""

import functools
import re
import shutil
import subprocess
import sys

import commands
from node_process import BIN_DIR, NodeProcess, ROOT, temporary_directory

CLIENT = ROOT / "clients" / "go"
SKIPPED = 77
ENVIRONMENT = {**commands.GO_ENVIRONMENT, "PANDO_BIN_DIR": str(BIN_DIR.resolve())}
run = functools.partial(commands.run, cwd=CLIENT, environment=ENVIRONMENT)


def check_code():
    run("./generate.sh", "--check")
    unformatted = run("gofmt", "-l", ".")
    assert not unformatted, f"not formatted: {unformatted}"
    run("go", "vet", "./...")
    run("go", "test", "-race", "./...")


def check_programs(directory):
    """The sample, and the program that the README has for a project of one's own."""
    node = NodeProcess(directory / "data").start()
    address = f"{node.host}:{node.port}"
    printed = run("go", "run", "./cmd/sample", address)
    for line in ("connected to Pando ", "get: red, expires in 1h0m0s", "a key without a record: found = false",
                 "changed to yellow", "not changed to blue: it is yellow now", "counter: 1",
                 "moved 30: true true\nmoved 30: false false", "scan: go-sample/apple = yellow",
                 "count: in the snapshot 4 - now 5", "watch: go-sample/later removed = true",
                 "error: BAD_REQUEST - applied: NO", "removed: 4 records"):
        assert line in printed, f"missing: {line}"
    project = directory / "project"
    project.mkdir()
    readme = (CLIENT / "README.md").read_text()
    program = re.search(r"```go\n(package main.*?)```", readme, re.S).group(1)
    (project / "main.go").write_text(program.replace("127.0.0.1:7450", address))
    commands = re.search(r"(?m)^    go mod init .*\n(    .*\n)+", readme).group(0)
    for command in commands.split("\n"):
        if command.strip() and not command.strip().startswith("go run"):
            run(*command.replace("/path/to/pando", str(ROOT)).split(), cwd=project)
    printed = run("go", "run", ".", cwd=project)
    assert printed == "fruit/apple red\nfruit/pear green\n", printed
    node.stop()


def conform():
    """Prints a line for each case."""
    command = [sys.executable, ROOT / "clients" / "conformance" / "run.py", "--languages", "go"]
    code = subprocess.run(list(map(str, command)), env=ENVIRONMENT, check=False).returncode
    assert code == 0, f"the conformance suite: exit code {code}"


def main():
    if not shutil.which("go"):
        print("skipped: there is no Go compiler; ./dev test installs one (Debian: golang-go)")
        return SKIPPED
    check_code()
    directory = temporary_directory("client-go")
    check_programs(directory)
    shutil.rmtree(directory)
    conform()
    return 0


if __name__ == "__main__":
    sys.exit(main())
