#!/usr/bin/python3
"""Runs a node for a long time: about 90 % full, with an old snapshot held, mixed load, occasional kill -9, and scrubs.

It passes if no acknowledged write was ever lost, file sizes and latencies did not rise after the first third, every
restart was quick, no scrub ever found a problem, and the audit at the end finds none.

    ./dev soak [--minutes N] [--budget-mb N] [--kill-every-s N] [--seed S] [--dir DIR]

The store is filled until its files take 46 % of the budget. The pages that the snapshot keeps, and space that waits for
checkpoints, make that about 90 % under load. The files may never take more than the budget. With --dir on a separate
file system, pass the size of that file system as the budget.

An old snapshot is always held. After each restart the test opens a new one, because snapshots do not outlive the
process.
"""

import argparse
import pathlib
import random
import shutil
import statistics
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
# pylint: disable=wrong-import-position
from node_process import Admin, CONTEXT, NodeProcess, TTransport, constants, run_kvadmin, temporary_directory, ttypes

FILLED = 0.46  # share of the budget when the load begins: because of the snapshot, all data will exist twice
BATCH = 20
SIZES = (60, 200, 700, 700, 1500, 1500, 6000)  # chosen by key, so that space is freed and allocated in equal pieces
LOG_BUDGET_MB = 64  # the smallest that is allowed
SAMPLE_S = 2
SCRUB_MB_PER_S = 20
# How much worse the last two thirds may be than the first: the machine may be busy, but unlimited growth exceeds this.
LATENCY_SLACK, LATENCY_FLOOR_MS = 3.0, 50.0
SIZE_SLACK = 1.05
RECOVERY_LIMIT_S = 10
BROKEN = (TTransport.TTransportException, ConnectionError, EOFError)


SNAPSHOT_TTL_MS = 600_000  # the longest that a server grants; every sample renews it


def open_snapshot(node):
    """Opens a snapshot and returns its token."""
    with node.connect() as connection:
        return connection.openSnapshot(CONTEXT, ttypes.OpenSnapshotRequest(ttl_ms=SNAPSHOT_TTL_MS)).snapshot


class Worker(threading.Thread):
    """Reads and writes its own keys through one connection, and knows what they must hold.

    acknowledged: index -> sequence number of the value. in_flight: the same for the unanswered batch.
    """

    def __init__(self, number, seed, node):
        super().__init__(daemon=True)
        self.random = random.Random(f"{seed}/{number}")
        self.prefix = b"w%02d/" % number
        self.node = node
        self.acknowledged, self.in_flight = {}, {}
        self.sequence = 0
        self.samples = []  # (time, kind, milliseconds) of answered requests
        self.refused = 0
        self.running = threading.Event()
        self.idle = threading.Event()
        self.over = False
        self.error = None

    def key(self, index):
        return self.prefix + b"%08d" % index

    def value(self, index, sequence):
        size = SIZES[index % len(SIZES)]
        return (b"%08d:%012d:" % (index, sequence)).ljust(size, b"%d" % (sequence % 10))

    def run(self):
        while not self.over:
            self.idle.set()
            self.running.wait()
            self.idle.clear()
            try:
                with self.node.connect() as connection:
                    while self.running.is_set() and not self.over:
                        self.step(connection)
            except BROKEN:
                self.running.clear()  # the node was killed; in_flight keeps the batch until settle()
            except Exception as error:  # pylint: disable=broad-except
                self.error = self.error or error
                self.over = True
        self.idle.set()

    def timed(self, kind, call, request):
        started = time.monotonic()
        reply = call(CONTEXT, request)
        self.samples.append((started, kind, (time.monotonic() - started) * 1000))
        return reply

    def step(self, connection):
        choice = self.random.random()
        if choice < 0.45:
            self.write(connection, [self.random.randrange(len(self.acknowledged)) for _ in range(BATCH)])
        elif choice < 0.90:
            self.read(connection, [self.random.randrange(len(self.acknowledged)) for _ in range(BATCH)])
        else:
            self.scan(connection, self.random.randrange(len(self.acknowledged)))

    def write(self, connection, indexes):
        self.sequence += 1
        self.in_flight = {index: self.sequence for index in indexes}
        ops = [ttypes.WriteOp(kind=constants.OP_PUT, key=self.key(i), value=self.value(i, self.sequence))
               for i in self.in_flight]
        reply = self.timed("write", connection.writeBatch, ttypes.WriteBatchRequest(ops=ops))
        for index, result in zip(list(self.in_flight), reply.results, strict=True):
            if result.error is None:
                self.acknowledged[index] = self.sequence
            elif result.error.applied == constants.APPLIED_NO and result.error.code in (constants.DISK_FULL,
                                                                                        constants.OVERLOADED):
                self.refused += 1
            else:
                raise AssertionError(f"write of {self.key(index)}: {result.error}")
        self.in_flight = {}

    def expect(self, index, value, allowed):
        if value not in [self.value(index, sequence) for sequence in allowed]:
            raise AssertionError(f"{self.key(index)} holds {value[:24]!r} ({len(value)} bytes), not one of {allowed}")

    def read(self, connection, indexes):
        request = ttypes.MultiGetRequest(keys=[self.key(i) for i in indexes])
        for index, item in zip(indexes, self.timed("read", connection.multiGet, request).items, strict=True):
            assert item.error is None, f"{self.key(index)}: {item.error}"
            self.expect(index, item.record.value, [self.acknowledged[index]])

    def scan(self, connection, index):
        request = ttypes.ScanRequest(start_key=self.key(index), end_key=b"", prefix=self.prefix, limit_rows=BATCH)
        rows = self.timed("scan", connection.scan, request).rows
        for at, row in enumerate(rows):
            assert row.key == self.key(index + at), f"a scan from {index}: {row.key} in place {at}"
            self.expect(index + at, row.value, [self.acknowledged[index + at]])

    def settle(self, connection):
        """Checks after a restart that every key is as acknowledged, or as the batch in flight would have left it."""
        for start in range(0, len(self.acknowledged), 500):
            indexes = range(start, min(start + 500, len(self.acknowledged)))
            reply = connection.multiGet(CONTEXT, ttypes.MultiGetRequest(keys=[self.key(i) for i in indexes]))
            for index, item in zip(indexes, reply.items, strict=True):
                assert item.error is None and item.record.found, f"{self.key(index)} is lost: {item}"
                self.expect(index, item.record.value, [self.acknowledged[index], self.in_flight.get(index)][:1 + (
                    index in self.in_flight)])
                if index in self.in_flight and item.record.value == self.value(index, self.in_flight[index]):
                    self.acknowledged[index] = self.in_flight[index]
        self.in_flight = {}


class Soak:
    def __init__(self, options, directory):
        self.options = options
        self.random = random.Random(options.seed)
        self.budget = options.budget_mb << 20
        flags = [f"--memory_limit_mb={options.memory_mb}", f"--log_budget_mb={LOG_BUDGET_MB}", "--reactors=2",
                 "--partitions=4", f"--scrub_mb_per_s={options.scrub_mb_per_s}", "--checkpoint_interval_s=10"]
        self.node = NodeProcess(directory / "data", flags)
        self.workers = [Worker(number, options.seed, self.node) for number in range(options.connections)]
        self.sizes = []  # (time, bytes of all files)
        self.snapshot = None  # the token of the one that is held open
        self.kills, self.scrubs, self.slowest_start_s = 0, 0, 0.0

    def file_bytes(self):
        return sum(path.stat().st_blocks * 512 for path in self.node.data_dir.rglob("*") if path.is_file())

    def start_node(self):
        started = time.monotonic()
        self.node.start()
        self.slowest_start_s = max(self.slowest_start_s, time.monotonic() - started)
        self.snapshot = open_snapshot(self.node)

    def fill(self):
        """Writes keys until the files take their share of the budget; each twice, so that there is freed space too."""
        with self.node.connect() as connection, self.node.connect(service=Admin) as admin:
            while self.file_bytes() < self.budget * FILLED:
                for worker in self.workers:
                    first = len(worker.acknowledged)
                    for start in (*range(first, first + 25 * BATCH, BATCH), *range(first, first + 25 * BATCH, BATCH)):
                        for index in range(start, start + BATCH):
                            worker.acknowledged.setdefault(index, 0)
                        worker.write(connection, range(start, start + BATCH))
            admin.checkpoint(CONTEXT)
            # Write everything again with a snapshot held, so that its share of the space is taken before sizes count.
            self.snapshot = open_snapshot(self.node)
            for worker in self.workers:
                for start in range(0, len(worker.acknowledged), BATCH):
                    worker.write(connection, range(start, min(start + BATCH, len(worker.acknowledged))))
            admin.checkpoint(CONTEXT)
        for worker in self.workers:
            worker.samples.clear()

    def kill_and_restart(self):
        self.node.kill()
        for worker in self.workers:
            worker.running.clear()
        for worker in self.workers:
            assert worker.idle.wait(120), "a worker did not become idle within 120 s"
        self.start_node()
        with self.node.connect() as connection:
            for worker in self.workers:
                worker.settle(connection)
        self.kills += 1

    def sample(self):
        """Checks the node once; starts a scrub if none is running."""
        self.sizes.append((time.monotonic(), self.file_bytes()))
        with self.node.connect() as connection:
            connection.renewSnapshot(CONTEXT, ttypes.RenewSnapshotRequest(snapshot=self.snapshot, ttl_ms=SNAPSHOT_TTL_MS))
        with self.node.connect(service=Admin) as admin:
            scrub = admin.scrub(CONTEXT, ttypes.ScrubRequest())
            assert not scrub.findings, f"the scrub found {scrub.findings}"
            if not scrub.running and self.options.scrub_mb_per_s > 0:
                self.scrubs += scrub.passes_finished > 0
                admin.scrub(CONTEXT, ttypes.ScrubRequest(start=True, mb_per_s=self.options.scrub_mb_per_s))

    def work(self):
        end = time.monotonic() + self.options.minutes * 60
        next_kill = self.next_kill()
        for worker in self.workers:
            worker.start()
        while time.monotonic() < end and not any(worker.error for worker in self.workers):
            for worker in self.workers:
                worker.running.set()
            time.sleep(SAMPLE_S)  # the sampling interval, not a wait for an event
            self.sample()
            if time.monotonic() > next_kill:
                self.kill_and_restart()
                print(f"  kill {self.kills}: up again, nothing lost; files {self.sizes[-1][1] >> 20} MiB", flush=True)
                next_kill = self.next_kill()
        for worker in self.workers:
            worker.over = True
            worker.running.set()
        for worker in self.workers:
            worker.join(120)
            if worker.error:
                raise worker.error

    def next_kill(self):
        return time.monotonic() + self.random.expovariate(1 / self.options.kill_every_s)

    def judge(self, started):
        """Compares the last two thirds with the first."""
        third = started + (time.monotonic() - started) / 3
        problems = []
        print(f"{'':8}{'requests':>10}{'p50 ms':>9}{'p99 ms':>9}{'p99 ms of the first third':>28}")
        for kind in ("read", "write", "scan"):
            early = [ms for w in self.workers for at, k, ms in w.samples if k == kind and at < third]
            late = [ms for w in self.workers for at, k, ms in w.samples if k == kind and at >= third]
            first, last = (statistics.quantiles(part, n=100)[98] for part in (early, late))
            print(f"{kind:8}{len(early) + len(late):10}{statistics.median(late):9.2f}{last:9.2f}{first:28.2f}")
            if last > max(LATENCY_SLACK * first, LATENCY_FLOOR_MS):
                problems.append(f"p99 of {kind}s rose from {first:.1f} to {last:.1f} ms")
        early = max(size for at, size in self.sizes if at < third)
        late = max(size for at, size in self.sizes if at >= third)
        print(f"files: at most {early >> 20} MiB in the first third, {late >> 20} MiB after; budget {self.budget >> 20} "
              f"MiB; {self.kills} kills, slowest start {self.slowest_start_s:.1f} s, {self.scrubs} scrubs, "
              f"{sum(w.refused for w in self.workers)} writes refused")
        if late > early * SIZE_SLACK:
            problems.append("the files grew after the first third")
        if late > self.budget:
            problems.append("the files exceeded the budget")
        if self.slowest_start_s > RECOVERY_LIMIT_S:
            problems.append("a start took too long")
        return problems

    def run(self):
        self.start_node()
        self.fill()
        keys = sum(len(worker.acknowledged) for worker in self.workers)
        print(f"filled: {keys} keys, files {self.file_bytes() >> 20} of {self.budget >> 20} MiB", flush=True)
        assert keys > 0, "the empty store already takes its share of the budget: raise --budget-mb"
        started = time.monotonic()
        self.work()
        problems = self.judge(started)
        self.node.stop()
        print(run_kvadmin("check", self.node.data_dir).stdout.splitlines()[-1])
        assert not problems, "; ".join(problems)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--budget-mb", type=int, default=512)
    parser.add_argument("--memory-mb", type=int, default=128, help="smaller than the data, so that reads go to disk")
    parser.add_argument("--kill-every-s", type=float, default=60, help="on average")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--scrub-mb-per-s", type=int, default=SCRUB_MB_PER_S, help="0: no scrubs")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--dir", type=pathlib.Path, help="an empty directory; default: one in the build tree")
    options = parser.parse_args()
    print(f"replay: {sys.argv[0]} --seed={options.seed} --minutes={options.minutes} --budget-mb={options.budget_mb}",
          flush=True)
    directory = options.dir or temporary_directory("soak")
    soak = Soak(options, directory)
    try:
        soak.run()
    except BaseException:
        soak.node.kill()
        print(f"FAILED with seed {options.seed}; the data directory is kept in {directory}", file=sys.stderr)
        raise
    shutil.rmtree(directory / "data")
    print("passed")


if __name__ == "__main__":
    main()
