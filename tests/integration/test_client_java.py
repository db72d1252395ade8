#!/usr/bin/python3
"""Tests the Java client: its unit tests, its sample program, the program of its README, and the conformance suite with
both of its clients.

It needs Maven, a JDK and the Thrift compiler, which `./dev test` installs. Without them it says so, and exits with 77
(skipped).
"""

import functools
import os
import re
import shutil
import subprocess
import sys

import commands
from node_process import BIN_DIR, NodeProcess, ROOT, temporary_directory

CLIENT = ROOT / "clients" / "java"
SKIPPED = 77
MAVEN = ("mvn", "-B", "-q")
ENVIRONMENT = {**os.environ, "PANDO_BIN_DIR": str(BIN_DIR.resolve())}
run = functools.partial(commands.run, cwd=CLIENT, environment=ENVIRONMENT)


def check_programs(directory):
    """The sample, and the program that the README has for a project of one's own."""
    node = NodeProcess(directory / "data").start()
    address = f"{node.host}:{node.port}"
    libraries = f"target/test-classes:target/classes:{(CLIENT / 'target/conformance.classpath').read_text()}"
    printed = run("java", "-cp", libraries, "dev.pando.sample.Sample", address)
    for line in ("connected to Pando ", "get: red, it expires: true", "a key without a record: false",
                 "applied: false, because it is yellow", "counter: 5", "moved: true, moved again: false",
                 "scan: java-sample/apple = yellow", "count: in the snapshot 4, now 5",
                 "watch: Change[java-sample/pear, version=", "error: BAD_REQUEST, applied: NO.", "session: 1",
                 "removed: 5 records", "asynchronous: wrote 100 records and removed 100"):
        assert line in printed, f"missing: {line}"
    program = re.search(r"```java\n(.*?)```", (CLIENT / "README.md").read_text(), re.S).group(1)
    program = program.replace('"127.0.0.1:7450", "127.0.0.1:7460"', f'"{address}"')
    (directory / "Hello.java").write_text(program)
    printed = run("java", "-cp", libraries, directory / "Hello.java")
    assert printed == "fruit/apple red\nfruit/pear green\n", printed
    node.stop()


def conform():
    """Prints a line for each case."""
    command = [sys.executable, "-W", "ignore", ROOT / "clients" / "conformance" / "run.py", "--languages",
               "java,java-async"]
    code = subprocess.run(list(map(str, command)), env=ENVIRONMENT, check=False).returncode
    assert code == 0, f"the conformance suite: exit code {code}"


def main():
    missing = [tool for tool in ("mvn", "javac", "thrift") if not shutil.which(tool)]
    if missing:
        print(f"skipped: there is no {' and no '.join(missing)}; ./dev test installs them")
        return SKIPPED
    run("./run_conformance", "--build-only")
    run(*MAVEN, "test")
    directory = temporary_directory("client-java")
    check_programs(directory)
    shutil.rmtree(directory)
    conform()
    return 0


if __name__ == "__main__":
    sys.exit(main())
