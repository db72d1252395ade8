#!/usr/bin/python3
"""Runs the tour in clients/python, to which the README refers, against a node, and checks what it prints."""

import shutil
import subprocess

from node_process import CONTEXT, NodeProcess, ROOT, temporary_directory, ttypes


def main():
    directory = temporary_directory("example")
    node = NodeProcess(directory / "data").start()
    done = subprocess.run(["/usr/bin/python3", ROOT / "clients/python/example.py", f"{node.host}:{node.port}"],
                          capture_output=True, text=True, timeout=120, check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    for line in ("get: True b'red'", "first update applied: True - second: False because it is now b'yellow'",
                 "counter: 1", "scan: b'example/fruit/apple' b'yellow'\nscan: b'example/fruit/pear' b'green'",
                 "it existed: True",
                 "transfer applied: [True, True] - sent again: [False, False]",
                 "parcel sent: False because the order is b'paid'", "touched: True - removed; its value was b'...'",
                 "watch: b'example/fruit/pear' removed - continue at", "removed: 6 records",
                 "an error has a code and a message: True", "certainly not applied: True - worth a retry: False"):
        assert line in done.stdout, f"missing: {line}"
    with node.connect() as kv:
        assert not kv.scan(CONTEXT, ttypes.ScanRequest()).rows, "it has left records"
    node.stop()
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
