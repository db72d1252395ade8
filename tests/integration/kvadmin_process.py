"""Runs kvadmin and captures its output; names its exit codes."""

import json
import os
import subprocess

from node_process import BIN_DIR

OK, NO, USAGE, FAILED, CORRUPTION, IN_USE, REJECTED = range(7)
KVADMIN = str(BIN_DIR / "kvadmin")


class Done:
    """The exit code and the output of a kvadmin that has finished."""

    def __init__(self, process):
        self.code = process.returncode
        self.raw = process.stdout
        self.out = process.stdout.decode(errors="replace")
        self.err = process.stderr.decode(errors="replace")

    def json(self):
        return json.loads(self.out)

    def lines(self):
        return [json.loads(line) for line in self.out.splitlines()]


def run(*arguments, server=None, stdin=b"", env=None):
    environment = {k: v for k, v in os.environ.items() if k != "PANDO_SERVER"}
    environment.update(env or {})
    if server:
        environment["PANDO_SERVER"] = server
    return Done(subprocess.run([KVADMIN, *map(str, arguments)], input=stdin, capture_output=True, timeout=120,
                               check=False, env=environment))
