#!/usr/bin/python3
"""Tests a node with eight times as much data as memory: load, reads, scans, overwrites, kill -9 amid writes, recovery,
and the audit.

    tests/integration/test_large_data.py [--records N] [--value_bytes N] [--memory_limit_mb N] [--seed S]

Fails if resident memory exceeds the limit by more than a tenth, recovery takes ten seconds or more, an acknowledged
write is lost, or `kvadmin check` finds a problem. The key of record n is n in decimal. Its value is made of n and of
how many times it was written.
"""

import argparse
import random
import shutil
import sys
import threading
import time

from node_process import CONTEXT, NodeProcess, TTransport, constants, run_kvadmin, temporary_directory, ttypes

MIB = 1 << 20
BATCH = 500
WRITERS = 4
MAX_RECOVERY_S = 10


def key_of(number):
    return b"record/%012d" % number


class Values:
    """Values of which half is random and half repeats, so that they compress in part."""

    def __init__(self, value_bytes):
        self.value_bytes = value_bytes
        self.noise = random.Random(7).randbytes(1 << 16)

    def of(self, number, writing):
        start = (number * 7919 + writing * 104729) % (len(self.noise) - self.value_bytes)
        head = b"%d/%d:" % (number, writing)
        return (head + self.noise[start:start + self.value_bytes // 2]).ljust(self.value_bytes, b".")


class MemoryWatch(threading.Thread):
    """Samples the resident memory of a node until the process ends."""

    def __init__(self, node):
        super().__init__(daemon=True)
        self.node = node
        self.most = 0

    def run(self):
        while self.node.process.poll() is None:
            try:
                self.most = max(self.most, self.node.resident_bytes())
            except (OSError, AttributeError):
                return
            time.sleep(0.05)


class Store:
    def __init__(self, options, directory):
        self.options = options
        self.values = Values(options.value_bytes)
        self.data_dir = directory / "data"
        self.node = NodeProcess(self.data_dir, [f"--memory_limit_mb={options.memory_limit_mb}"])
        self.watches = []
        self.writing = {}  # batch number -> number of the last acknowledged write of it, from 1
        self.attempted = {}  # batch number -> number of the last attempted write of it

    def batches(self):
        return (self.options.records + BATCH - 1) // BATCH

    def records_of(self, batch):
        return range(batch * BATCH, min((batch + 1) * BATCH, self.options.records))

    def start(self):
        started = time.monotonic()
        self.node.start()
        self.watches.append(MemoryWatch(self.node))
        self.watches[-1].start()
        return time.monotonic() - started

    def write(self, batches, writing):
        """Writes the batches over several connections. A thread ends without an error when the node is killed."""
        errors = []

        def work(mine):
            try:
                with self.node.connect() as connection:
                    for batch in mine:
                        self.attempted[batch] = writing
                        self.write_batch(connection, batch, writing)
                        self.writing[batch] = writing
            except (TTransport.TTransportException, ConnectionError, EOFError):
                pass
            except Exception as error:  # pylint: disable=broad-except
                errors.append(error)

        threads = [threading.Thread(target=work, args=(batches[i::WRITERS],), daemon=True) for i in range(WRITERS)]
        for thread in threads:
            thread.start()
        return threads, errors

    def write_all(self, batches, writing):
        threads, errors = self.write(batches, writing)
        for thread in threads:
            thread.join()
        assert not errors, errors[0]
        missing = [batch for batch in batches if self.writing.get(batch) != writing]
        assert not missing, f"{len(missing)} batches were not acknowledged; {self.node.output()}"

    def write_batch(self, connection, batch, writing):
        ops = [ttypes.WriteOp(kind=constants.OP_PUT, key=key_of(n), value=self.values.of(n, writing))
               for n in self.records_of(batch)]
        reply = connection.writeBatch(CONTEXT, ttypes.WriteBatchRequest(ops=ops))
        for result in reply.results:
            assert result.applied and result.error is None, result

    def verify(self, connection, number, value):
        batch = number // BATCH
        # A batch over several partitions that was not acknowledged may have been applied in part.
        possible = {self.writing[batch], self.attempted[batch]}
        assert value in [self.values.of(number, w) for w in possible], f"record {number}: {value[:30]!r}, not of {possible}"

    def read_some(self, count, chooser):
        with self.node.connect() as connection:
            for _ in range(count // 100):
                numbers = [chooser.randrange(self.options.records) for _ in range(100)]
                reply = connection.multiGet(CONTEXT, ttypes.MultiGetRequest(keys=[key_of(n) for n in numbers]))
                for number, item in zip(numbers, reply.items, strict=True):
                    assert item.error is None and item.record.found, (number, item)
                    self.verify(connection, number, item.record.value)

    def scan_all(self):
        number, cursor = 0, b""
        with self.node.connect() as connection:
            while True:
                page = connection.scan(CONTEXT, ttypes.ScanRequest(prefix=b"record/", cursor=cursor, start_key=b"",
                                                                   end_key=b""))
                for row in page.rows:
                    assert row.key == key_of(number), f"the scan has {row.key} where record {number} belongs"
                    self.verify(connection, number, row.value)
                    number += 1
                cursor = page.cursor
                if not cursor:
                    break
            assert number == self.options.records, f"the scan ended after {number} records"
            count = connection.count(CONTEXT, ttypes.CountRequest(prefix=b"record/", start_key=b"", end_key=b"")).count
            assert count == self.options.records, f"count is {count}"

    def most_resident_bytes(self):
        return max(watch.most for watch in self.watches)


def run(options, directory):
    chooser = random.Random(options.seed)
    store = Store(options, directory)
    store.start()
    timer = time.monotonic()

    def step(what):
        nonlocal timer
        now = time.monotonic()
        print(f"  {what}: {now - timer:.1f} s, most resident {store.most_resident_bytes() / MIB:.0f} MiB", flush=True)
        timer = now

    everything = list(range(store.batches()))
    store.write_all(everything, 1)
    step(f"loaded {options.records} records")
    store.read_some(20_000, chooser)
    step("read 20000 at random")
    store.scan_all()
    step("scanned all")
    some = chooser.sample(everything, len(everything) // 3)
    store.write_all(some, 2)
    step("overwrote a third")

    threads, errors = store.write(chooser.sample(everything, len(everything)), 3)
    time.sleep(chooser.uniform(2, 4))  # the random moment of the kill, not a wait for an event
    store.node.kill()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]
    recovery_s = store.start()
    step(f"killed; back in {recovery_s:.1f} s")
    assert recovery_s < MAX_RECOVERY_S, f"recovery took {recovery_s:.1f} s"
    store.scan_all()
    step("scanned all")
    store.node.stop()
    step("stopped")
    most, limit = store.most_resident_bytes(), options.memory_limit_mb * MIB
    assert most <= limit * 1.1, f"resident memory reached {most / MIB:.0f} MiB with a limit of {limit / MIB:.0f}"
    run_kvadmin("check", store.data_dir)
    step("audited")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory_limit_mb", type=int, default=128)
    parser.add_argument("--value_bytes", type=int, default=2000)
    parser.add_argument("--records", type=int, default=0, help="default: eight times the memory limit")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    options.records = options.records or 8 * options.memory_limit_mb * MIB // options.value_bytes
    print(f"replay: {sys.argv[0]} --records={options.records} --value_bytes={options.value_bytes} "
          f"--memory_limit_mb={options.memory_limit_mb} --seed={options.seed}", flush=True)
    directory = temporary_directory("large-data")
    run(options, directory)
    shutil.rmtree(directory)
    print("passed")


if __name__ == "__main__":
    main()
