#!/usr/bin/python3
"""Builds the Node.js client, runs its unit tests and its tour, and then the conformance cases with it."""

import shutil
import subprocess
import sys

from node_process import CONTEXT, NodeProcess, ROOT, temporary_directory, ttypes

sys.path.insert(0, str(ROOT / "clients" / "conformance"))
from run import SKIPPED, conform  # noqa: E402  pylint: disable=wrong-import-position

CLIENT = ROOT / "clients" / "node"


def run_tour():
    directory = temporary_directory("client-node")
    node = NodeProcess(directory / "data").start()
    done = subprocess.run(["node", CLIENT / "sample.mjs", f"{node.host}:{node.port}"], capture_output=True, text=True,
                          timeout=120, check=False)
    print(done.stdout, done.stderr, flush=True)
    assert done.returncode == 0
    for line in ("get: red - no such key: null", "first update applied: true - second: false because it is yellow",
                 "counter: 9007199254740993n", "batch applied: true", "touched: true - removed; its value was ...",
                 "scan: node-sample/fruit/apple yellow\nscan: node-sample/fruit/pear green", "in the snapshot: 2n - now: 1n",
                 "watch: node-sample/fruit/pear removed", "an error: BAD_REQUEST", "applied: NO",
                 "removed: 4n records"):
        assert line in done.stdout, f"missing: {line}"
    with node.connect() as kv:
        assert not kv.scan(CONTEXT, ttypes.ScanRequest()).rows, "it has left records"
    node.stop()
    shutil.rmtree(directory)


def main():
    built = subprocess.run([CLIENT / "run_conformance", "--build-only"], check=False).returncode
    if built == SKIPPED:
        return SKIPPED
    assert built == 0, f"the client could not be built: {built}"
    subprocess.run(["npm", "test"], cwd=CLIENT, timeout=300, check=True)
    run_tour()
    return conform(["node"])


if __name__ == "__main__":
    sys.exit(main())
