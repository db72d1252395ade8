"""Runs the commands of other tools, such as compilers, whose output a test shows and compares."""

import os
import subprocess

# Go fetches nothing that the build has not fetched: no newer Go, and no checksums for a project that has none yet.
GO_ENVIRONMENT = {**os.environ, "GOTOOLCHAIN": "local", "GOSUMDB": "off"}


def run(*command, cwd, environment=None, timeout_s=500):
    """What the command prints to its standard output. It must succeed."""
    print("$", *command, flush=True)
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=timeout_s, check=False)
    print(done.stdout + done.stderr, flush=True)
    assert done.returncode == 0, f"exit code {done.returncode}"
    return done.stdout
