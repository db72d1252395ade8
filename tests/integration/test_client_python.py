#!/usr/bin/python3
"""Installs the Python client with pip; runs the conformance suite with both of its classes, its own tests, and the
samples.
"""

import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "clients" / "conformance"))
# pylint: disable=wrong-import-position
import run as conformance  # noqa: E402
from node_process import CONTEXT, NodeProcess, constants, temporary_directory, ttypes  # noqa: E402

CLIENT = ROOT / "clients" / "python"
PYTHON = ROOT / "build" / "python-client" / "bin" / "python"
TABLES_PYTHON = ROOT / "build" / "pyarrow" / "bin" / "python"  # which ./dev test makes; it has pyarrow
PACKAGES = 600


def call(*command, expected=(), **environment):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False, cwd="/",
                          env={**os.environ, **environment})
    print(f"$ {' '.join(map(str, command))}\n{done.stdout}{done.stderr}", flush=True)
    assert done.returncode == 0, f"exit code {done.returncode}"
    for text in expected:
        assert text in done.stdout, f"missing: {text}"


def load_packages(node):
    """Records like those of ./dev up: every third in games, the others in libs and depending on libc6."""
    ops = []
    for i in range(PACKAGES):
        section, depends = ("contrib/games", "") if i % 3 == 0 else ("libs", "Depends: libc6 (>= 2.34), zlib1g | zlib2\n")
        stanza = f"Package: p{i:04d}\nSection: {section}\nInstalled-Size: {i}\nSize: 1000\n{depends}Description: x\n more"
        ops.append(ttypes.WriteOp(kind=constants.OP_PUT, key=b"p%04d" % i, value=stanza.encode()))
    with node.connect() as kv:
        assert all(result.applied for result in kv.writeBatch(CONTEXT, ttypes.WriteBatchRequest(ops)).results)


def run_samples(node, directory):
    samples = CLIENT / "samples"
    games, libs = PACKAGES // 3, PACKAGES - PACKAGES // 3
    call(PYTHON, samples / "report.py", node.address,
         expected=(f"{PACKAGES:,} records in", "as many as the cluster counts", f"games{games:>20,}", f"libs{libs:>21,}"))
    call(PYTHON, samples / "parallel_splits.py", node.address, "--workers", "2", "--parts", "5",
         expected=(f"{libs:>7,} packages depend on libc6", f"{libs:>7,} packages depend on zlib2",
                   f"{PACKAGES:,} rows in 5 parts"))
    table = ("--table", directory / "table.sqlite")
    follow = (PYTHON, samples / "follow_changes.py", node.address, *table, "--seconds", "0.5")
    call(*follow, expected=(f"{PACKAGES:,} packages in 2 sections (libs {libs:,}, games {games:,}): from a snapshot",))
    with node.connect() as kv:
        kv.remove(CONTEXT, ttypes.RemoveRequest(b"p0000"))
    call(*follow, expected=("goes on where it was", f"{PACKAGES - 1:,} packages in 2 sections", "1 changes, the last one of p0000"))
    call(*follow, "--every", "0.2", expected=("0 changed records since the last snapshot",))
    call(PYTHON, samples / "sample.py", node.address,
         expected=("connected to Pando ", "first update applied: True - second: False because it is yellow",
                   "visits: 1", "batch applied: True", "in the snapshot: 5 records",
                   "since then: python-sample/pear removed", "my own write: 1", "error: BAD_REQUEST - applied: NO",
                   "100 increments at once: True", "removed: 6 records"))


def test_tables():
    """Without pyarrow, the tests say that they are skipped."""
    site = next((ROOT / "build" / "python-client" / "lib").glob("python3*/site-packages"))
    python = TABLES_PYTHON if TABLES_PYTHON.exists() else PYTHON
    call(python, "-m", "unittest", "discover", "-s", CLIENT / "tests", "-p", "test_tables.py", PYTHONPATH=str(site))


def main():
    code = conformance.conform(["python", "python-async"])
    if code:
        sys.exit(code)
    call(PYTHON, "-m", "unittest", "discover", "-s", CLIENT / "tests", "-p", "test_unit.py")
    call(PYTHON, "-m", "unittest", "discover", "-s", CLIENT / "tests", "-p", "test_servers.py")
    test_tables()
    directory = temporary_directory("client-python")
    node = NodeProcess(directory / "data", ["--memory_limit_mb=256", "--partitions=4"]).start()
    node.address = f"{node.host}:{node.port}"
    load_packages(node)
    run_samples(node, directory)
    call(PYTHON, CLIENT / "tests" / "test_with_server.py", PANDO_ADDRESSES=node.address)
    node.stop()
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
