#!/usr/bin/env python3
"""Tests that a node with 2,048 partitions of 100 records each starts quickly, rests when nothing happens, and stays
within its memory limit.

It prints what it measures. The goals are a start in less than 5 s and less than 1 % of one core. The limits of the test
are wider, since other tests may keep the machine busy.
"""

import os
import shutil
import sys
import time

import node_process
from node_process import CONTEXT, Admin, NodeProcess, constants, ttypes

PARTITIONS = 2048
RECORDS = 100 * PARTITIONS
BATCH = 1000
MAX_START_S = 30
MAX_IDLE_SHARE = 0.05
IDLE_S = 5
LIMIT_MB = 1024


def cpu_seconds(node):
    with open(f"/proc/{node.process.pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fill(node):
    with node.connect() as kv:
        for first in range(0, RECORDS, BATCH):
            ops = [ttypes.WriteOp(kind=constants.OP_PUT, key=b"key-%08d" % i, value=b"v" * 100)
                   for i in range(first, min(first + BATCH, RECORDS))]
            for result in kv.writeBatch(CONTEXT, ttypes.WriteBatchRequest(ops=ops)).results:
                assert result.error is None, result


def check_status(node, directory):
    server = f"{node.host}:{node.port}"
    with node.connect(service=Admin) as admin:
        status = admin.status(CONTEXT)
    assert status.verdict == "ok", status.verdict
    assert len(status.partitions) == PARTITIONS
    records = sum(p.last_lsn for p in status.partitions)
    assert records == RECORDS, records
    short = node_process.run_kvadmin("--server", server, "status").stdout
    assert len(short.splitlines()) < 30 and f"{PARTITIONS} partitions" in short, short
    full = node_process.run_kvadmin("--server", server, "status", "--partitions").stdout
    assert len(full.splitlines()) > PARTITIONS
    files = sum((directory / f"partition-{p:05}" / "data").stat().st_size for p in range(PARTITIONS))
    print(f"  {RECORDS} records in {files >> 20} MiB of files")


def timed_start(node, what):
    begin = time.monotonic()
    node.start()
    took = time.monotonic() - begin
    print(f"  {what:28} {took:6.2f} s, {cpu_seconds(node):5.2f} s of CPU", flush=True)
    return took


def main():
    directory = node_process.temporary_directory("many-partitions")
    flags = ["--partitions", PARTITIONS, "--reactors", "2", "--memory_limit_mb", LIMIT_MB]
    node = NodeProcess(directory / "data", flags)
    try:
        timed_start(node, "creation")
        fill(node)
        check_status(node, directory / "data")
        node.kill()
        replayed = timed_start(node, "start after a crash")
        begin = time.monotonic()
        node.stop()
        print(f"  stop with a checkpoint       {time.monotonic() - begin:6.2f} s")
        clean = timed_start(node, "start")
        time.sleep(1)
        before = cpu_seconds(node)
        time.sleep(IDLE_S)
        share = (cpu_seconds(node) - before) / IDLE_S
        resident = node.resident_bytes()
        print(f"  idle: {100 * share:.2f} % of one core, {resident >> 20} MiB resident of {LIMIT_MB}", flush=True)
        check_status(node, directory / "data")
        node.stop()
        assert max(replayed, clean) < MAX_START_S, "the start takes too long"
        assert share < MAX_IDLE_SHARE, "an idle node is too busy"
        assert resident < LIMIT_MB << 20, "the node exceeds its memory limit"
        small = NodeProcess(directory / "data", ["--memory_limit_mb", 128])
        small.launch()
        small.process.wait(60)
        assert small.process.returncode != 0 and "is too small for" in small.output(), small.output()
    finally:
        node.kill()
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
