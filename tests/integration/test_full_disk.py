#!/usr/bin/python3
"""Tests a real node whose data file reaches a size limit, like a full disk, and which then frees deleted space.

    tests/integration/test_full_disk.py [--limit_mb N]

The limit is RLIMIT_FSIZE, which the kernel enforces where it would enforce a full disk: when the file is extended.
The test fills the store until DISK_FULL, then deletes in random order, with kill -9 in between. It fails if a delete
is refused, the node does not come back, an acknowledged write is lost, puts are still refused after the deletes,
`kvadmin check` finds a problem, or the file does not shrink on disk.
"""

import argparse
import pathlib
import random
import resource
import shutil
import sys
import time

from node_process import CONTEXT, Admin, NodeProcess, constants, run_kvadmin, temporary_directory, ttypes

MIB = 1 << 20
BATCH = 200
SPACE_TIMEOUT_S = 60


def key_of(number):
    return b"record/%08d" % number


class FullDisk:
    def __init__(self, directory, limit_bytes):
        self.directory = directory
        self.limit_bytes = limit_bytes
        self.dice = random.Random(11)
        self.noise = random.Random(7).randbytes(1 << 20)
        self.held = {}
        self.node = None
        self.connection = None

    def start(self):
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit_bytes, hard))  # the node inherits it
        try:
            self.node = NodeProcess(self.directory, ["--partitions=1", "--reactors=1", "--memory_limit_mb=256",
                                                     "--log_budget_mb=64", "--release_space_after_s=1",
                                                     "--checkpoint_interval_s=5"]).start()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        self.connection = self.node.connect()

    def kill_and_start(self):
        self.connection.close()
        self.node.kill()
        self.start()

    def value_of(self, number):
        at = number * 7919 % (len(self.noise) - 800)
        return self.noise[at:at + 700]

    def data_file(self):
        return pathlib.Path(self.directory) / "partition-00000" / "data"

    def disk_bytes(self):
        return self.data_file().stat().st_blocks * 512

    def write(self, ops):
        """Returns whether the disk had room. The only other answer that is allowed is DISK_FULL."""
        results = self.connection.writeBatch(CONTEXT, ttypes.WriteBatchRequest(ops=ops)).results
        full = [r for r in results if r.error is not None]
        assert all(r.error.code == constants.DISK_FULL for r in full), full[0]
        assert len(full) in (0, len(results)), "only some of the ops on one partition were refused"
        return not full

    def put(self, numbers):
        stored = self.write([ttypes.WriteOp(kind=constants.OP_PUT, key=key_of(n), value=self.value_of(n))
                             for n in numbers])
        if stored:
            self.held.update((n, self.value_of(n)) for n in numbers)
        return stored

    def fill(self, start):
        number = start
        while self.put(range(number, number + BATCH)):
            number += BATCH
        print(f"full with {len(self.held)} records, {self.disk_bytes() / MIB:.0f} MiB on disk", flush=True)
        verdict = self.verdict()
        assert "disk is full" in verdict, verdict
        return number

    def verdict(self):
        with self.node.connect(service=Admin) as admin:
            return admin.status(CONTEXT).verdict

    def delete_range(self):
        """Deletes the lower half with one command, which is enough for a later put."""
        middle = sorted(self.held)[len(self.held) // 2]
        lower = [n for n in self.held if n < middle]
        said = run_kvadmin("--server", f"{self.node.host}:{self.node.port}", "delete-range",
                           "--prefix", "record/", "--end", key_of(middle).decode())
        assert f"{len(lower)} records removed" in said.stdout, said.stdout
        for n in lower:
            del self.held[n]

    def delete(self, count):
        numbers = self.dice.sample(sorted(self.held), count)
        for at in range(0, count, 20):
            some = numbers[at:at + 20]
            assert self.write([ttypes.WriteOp(kind=constants.OP_REMOVE, key=key_of(n)) for n in some]), \
                "a delete was refused on a full disk"
            for n in some:
                del self.held[n]

    def compare(self):
        found = self.connection.count(CONTEXT, ttypes.CountRequest()).count
        assert found == len(self.held), f"found {found} records where {len(self.held)} were expected"
        for n in self.dice.sample(sorted(self.held), min(300, len(self.held))):
            record = self.connection.get(CONTEXT, ttypes.GetRequest(key=key_of(n))).record
            assert record.value == self.held[n], n

    def run(self):
        self.start()
        end = self.fill(0)
        assert len(self.held) > self.limit_bytes // 1200, "the disk was full too early"
        self.kill_and_start()
        self.compare()
        for _ in range(3):
            self.delete(len(self.held) // 3)
            self.kill_and_start()
            self.compare()
        for number in range(end, end + 1000, BATCH):
            assert self.put(range(number, number + BATCH)), "a put was refused although most records were deleted"
        assert self.verdict() == "ok", self.verdict()
        before = self.disk_bytes()
        self.delete(len(self.held) - 500)
        for _ in range(2):
            run_kvadmin("--server", f"{self.node.host}:{self.node.port}", "checkpoint")
            self.put([0])
        deadline = time.monotonic() + SPACE_TIMEOUT_S
        while self.disk_bytes() > before // 3:
            assert time.monotonic() < deadline, f"{self.disk_bytes()} of {before} bytes are still on disk"
            time.sleep(0.1)
        print(f"{before / MIB:.0f} MiB on disk shrank to {self.disk_bytes() / MIB:.0f} MiB", flush=True)
        self.compare()
        self.kill_and_start()
        self.compare()
        end = self.fill(end + 1000)
        self.compare()
        self.delete_range()
        self.compare()
        self.fill(end)
        self.compare()
        self.connection.close()
        self.node.stop()
        run_kvadmin("check", self.directory)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit_mb", type=int, default=48)
    options = parser.parse_args()
    directory = temporary_directory("full-disk")
    test = FullDisk(directory / "store", options.limit_mb * MIB)
    try:
        test.run()
        shutil.rmtree(directory)
    finally:
        if test.node:
            test.node.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
