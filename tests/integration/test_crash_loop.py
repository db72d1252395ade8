#!/usr/bin/python3
"""Kills a node with kill -9 in a loop, on real files: no acknowledged write may be lost, and no write may be partial.

Several connections put, remove, increment, and batch, each on its own keys. SIGKILL comes at a random moment, and
sometimes again during recovery. After each restart every key must hold its last acknowledged value, or the value that
the write in flight at the kill would have left. Point reads, the scan, and the count must agree. At the end, and on
some of the killed directories, `kvadmin check` must find nothing.

    tests/integration/test_crash_loop.py [--iterations N] [--seed S] [--connections N]

PANDO_TEST_ROUNDS and PANDO_TEST_SEED set the defaults of --iterations and --seed. Moments and choices come from the
seed, but the interleaving of a real process does not, so a replay makes a failure likely, not certain.
"""

import argparse
import os
import random
import shutil
import sys
import threading
import time

from node_process import Admin, CONTEXT, NodeProcess, TTransport, constants, run_kvadmin, temporary_directory, ttypes

KEYS_PER_WRITER = 400
SIZES = (0, 10, 100, 100, 1000, 1000, 4000, 20_000, 120_000)  # inline and overflow values
ABSENT = None
# The smallest budgets, so that evictions, checkpoints, and log recycling happen during the test.
FLAGS = ["--memory_limit_mb=96", "--log_budget_mb=64"]


class Writer(threading.Thread):
    """Writes through one connection to keys that only it writes, and knows what must exist after a crash.

    acknowledged: key -> value (ABSENT = no record). in_flight: key -> value that the unanswered request would leave.
    """

    def __init__(self, number, seed):
        super().__init__(daemon=True)
        self.number = number
        self.random = random.Random(f"{seed}/{number}")
        self.acknowledged = {}
        self.in_flight = {}
        self.sequence = 0
        self.writes = 0
        self.unexpected = None
        self.node = None

    def fresh(self, node):
        """Returns a new thread that continues with this one's knowledge, because a thread can run only once."""
        successor = Writer(self.number, self.random.random())
        successor.acknowledged, successor.sequence, successor.writes = self.acknowledged, self.sequence, self.writes
        successor.node = node
        return successor

    def value(self):
        self.sequence += 1
        size = self.random.choice(SIZES)
        return (b"%012d:" % self.sequence) + self.random.randbytes(min(size, 64)) * (size // 64 + 1)

    def run(self):
        try:
            with self.node.connect() as connection:
                while True:
                    self.step(connection)
        except (TTransport.TTransportException, ConnectionError, EOFError):
            pass  # the node was killed; in_flight keeps the unanswered request
        except Exception as error:  # pylint: disable=broad-except
            self.unexpected = error

    def step(self, connection):
        choice = self.random.random()
        index = self.random.randrange(KEYS_PER_WRITER)
        if choice < 0.60:
            self.put(connection, b"w%d/put/%d" % (self.number, index))
        elif choice < 0.70:
            self.remove(connection, b"w%d/put/%d" % (self.number, index))
        elif choice < 0.85:
            self.increment(connection, b"w%d/number/%d" % (self.number, index % 20))
        else:
            self.batch(connection, index % 10)
        self.acknowledged.update(self.in_flight)
        self.in_flight = {}
        self.writes += 1

    def put(self, connection, key):
        self.in_flight = {key: self.value()}
        result = connection.put(CONTEXT, ttypes.PutRequest(key=key, value=self.in_flight[key]))
        assert result.applied, f"put {key} was not applied"

    def remove(self, connection, key):
        self.in_flight = {key: ABSENT}
        result = connection.remove(CONTEXT, ttypes.RemoveRequest(key=key))
        existed = self.acknowledged.get(key) is not ABSENT
        assert result.existed == existed, f"remove {key}: existed is {result.existed}, not {existed}"

    def increment(self, connection, key):
        expected = int(self.acknowledged.get(key) or b"0") + 1
        self.in_flight = {key: b"%d" % expected}
        result = connection.increment(CONTEXT, ttypes.IncrementRequest(key=key, delta=1))
        assert result.number == expected, f"increment {key} gave {result.number}, not {expected}"

    def batch(self, connection, index):
        """Writes three keys with the same {tag}, which is atomic."""
        keys = [b"w%d/{batch%d-%d}/%d" % (self.number, self.number, index, part) for part in range(3)]
        value = self.value()
        self.in_flight = {key: value for key in keys}
        ops = [ttypes.WriteOp(kind=constants.OP_PUT, key=key, value=value) for key in keys]
        reply = connection.writeBatch(CONTEXT, ttypes.WriteBatchRequest(ops=ops))
        assert all(result.applied and not result.error for result in reply.results), f"batch: {reply}"

    def verify(self, connection):
        """Checks after a crash that every key is as acknowledged, or as the request in flight would have left it."""
        keys = sorted(set(self.acknowledged) | set(self.in_flight))
        found = read_all(connection, keys)
        landed = {key for key in self.in_flight if found[key] == self.in_flight[key]}
        for key in keys:
            acknowledged = self.acknowledged.get(key)
            if key in landed or found[key] == acknowledged:
                continue
            raise AssertionError(f"{key}: found {brief(found[key])}, acknowledged was {brief(acknowledged)}, in flight "
                                 f"{brief(self.in_flight.get(key, b'(nothing)'))}")
        unchanged = {key for key in self.in_flight if self.acknowledged.get(key) == self.in_flight[key]}
        if landed and landed | unchanged != set(self.in_flight):
            raise AssertionError(f"only a part of a batch exists: {sorted(landed)} of {sorted(self.in_flight)}")
        self.acknowledged = found
        self.in_flight = {}


def brief(value):
    return "no record" if value is ABSENT else f"{value[:24]!r} ({len(value)} bytes)"


def read_all(connection, keys):
    found = {}
    for start in range(0, len(keys), 20):  # 20 of the largest values fit into a frame
        chunk = keys[start:start + 20]
        reply = connection.multiGet(CONTEXT, ttypes.MultiGetRequest(keys=chunk))
        for key, item in zip(chunk, reply.items, strict=True):
            assert item.error is None, f"{key}: {item.error}"
            found[key] = item.record.value if item.record.found else ABSENT
    return found


def scan_keys(connection):
    keys, cursor = [], b""
    while True:
        reply = connection.scan(CONTEXT, ttypes.ScanRequest(keys_only=True, cursor=cursor, start_key=b"", end_key=b"",
                                                            prefix=b""))
        keys += [row.key for row in reply.rows]
        cursor = reply.cursor
        if not cursor:
            return keys


def verify_everything(node, writers):
    with node.connect() as connection:
        for writer in writers:
            writer.verify(connection)
        expected = sorted(key for writer in writers for key, value in writer.acknowledged.items() if value is not ABSENT)
        scanned = scan_keys(connection)
        assert scanned == expected, (f"the scan has {len(scanned)} keys, reads found {len(expected)}; first difference "
                                     f"{sorted(set(scanned) ^ set(expected))[:3]}")
        count = connection.count(CONTEXT, ttypes.CountRequest(start_key=b"", end_key=b"", prefix=b"")).count
        assert count == len(expected), f"count is {count}, reads found {len(expected)}"


class Checkpointer(threading.Thread):
    """Requests checkpoints while the others write, so that kills interrupt checkpoints."""

    def __init__(self, node):
        super().__init__(daemon=True)
        self.node = node
        self.done = 0

    def run(self):
        try:
            with self.node.connect(service=Admin) as admin:
                while True:
                    admin.checkpoint(CONTEXT)
                    self.done += 1
        except (TTransport.TTransportException, ConnectionError, EOFError):
            pass


def write_until_killed(node, writers, delay_s, checkpoint):
    threads = [writer.fresh(node) for writer in writers]
    helper = Checkpointer(node) if checkpoint else None
    for thread in threads + ([helper] if helper else []):
        thread.start()
    time.sleep(delay_s)  # this is the random moment of the kill, not a wait for an event
    node.kill()
    for thread in threads + ([helper] if helper else []):
        thread.join(60)
    for thread in threads:
        if thread.unexpected:
            raise thread.unexpected
    return threads, helper.done if helper else 0


def crash_loop(options, directory):
    chooser = random.Random(options.seed)
    data_dir = directory / "data"
    node = NodeProcess(data_dir, FLAGS)
    writers = [Writer(number, options.seed) for number in range(options.connections)]
    node.start()
    for iteration in range(1, options.iterations + 1):
        delay_s = chooser.uniform(0.02, 0.8)
        writers, checkpoints = write_until_killed(node, writers, delay_s, chooser.random() < 0.5)
        if chooser.random() < 0.2:
            run_kvadmin("check", data_dir)
        recovery_kills = chooser.choice((0, 0, 1, 2))
        for _ in range(recovery_kills):
            node.launch()
            time.sleep(chooser.uniform(0, 0.25))
            node.kill()
        started = time.monotonic()
        node.start()
        recovery_s = time.monotonic() - started
        verify_everything(node, writers)
        print(f"  {iteration}: killed after {delay_s:.2f} s, {recovery_kills} kills in recovery, {checkpoints} "
              f"checkpoints, up in {recovery_s:.2f} s, {sum(w.writes for w in writers)} writes so far, none lost",
              flush=True)
    node.stop()
    run_kvadmin("check", data_dir)
    node.start()
    verify_everything(node, writers)
    node.stop()
    assert sum(writer.writes for writer in writers) > options.iterations * options.connections, "too few writes"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=int(os.environ.get("PANDO_TEST_ROUNDS", 12)))
    parser.add_argument("--seed", type=int, default=int(os.environ.get("PANDO_TEST_SEED", random.randrange(1 << 32))))
    parser.add_argument("--connections", type=int, default=6)
    options = parser.parse_args()
    print(f"replay: {sys.argv[0]} --seed={options.seed} --iterations={options.iterations} "
          f"--connections={options.connections}", flush=True)
    directory = temporary_directory("crash-loop")
    try:
        crash_loop(options, directory)
    except BaseException:
        print(f"FAILED with seed {options.seed}; the data directory is kept in {directory}", file=sys.stderr)
        raise
    shutil.rmtree(directory)
    print("passed")


if __name__ == "__main__":
    main()
