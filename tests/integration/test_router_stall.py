#!/usr/bin/python3
"""One node stops in its tracks (SIGSTOP). Reads through a router of what other nodes lead go on as fast as before, while
requests for what the stopped node led wait, and are answered by its successor. Prints how long reads took.
"""

import os
import shutil
import signal
import threading
import time
import unittest

from cluster_process import Cluster
from kvadmin_process import OK, run
from node_process import constants, temporary_directory, ttypes
from router_process import RouterProcess

PARTITIONS, KEYS, READERS = 8, 400, 2
STALL_S = 0.8  # shorter than a lease: nobody takes over
CALM_S = 2.0
WITHIN_S = 0.1  # no read of another node's keys takes longer


class Reader(threading.Thread):
    """Reads keys one after another, and notes how long each read took."""

    def __init__(self, router, keys):
        super().__init__(daemon=True)
        self.connection = router.connect(timeout_s=60)
        self.keys = keys
        self.took = []  # (when it began, how long)
        self.stopping = threading.Event()
        self.error = None

    def run(self):
        try:
            while not self.stopping.is_set():
                for key in self.keys:
                    began = time.monotonic()
                    record = self.connection.get(ttypes.Context(budget_ms=30000), ttypes.GetRequest(key=key)).record
                    assert record.value == key, key
                    self.took.append((began, time.monotonic() - began))
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    def between(self, begin, end):
        return [took for began, took in self.took if began < end and began + took > begin]

    def finish(self):
        self.stopping.set()
        self.join(60)
        assert not self.is_alive(), "a read hangs"
        self.connection.close()
        if self.error:
            raise self.error


def percentile(values, share):
    return sorted(values)[int(share * (len(values) - 1))]


class RouterStall(unittest.TestCase):
    def setUp(self):
        self.directory = temporary_directory("router-stall")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.cluster = Cluster(self.directory, partitions=PARTITIONS).start()
        self.addCleanup(self.cluster.kill)
        self.cluster.wait_well()
        self.router = RouterProcess(self.directory / "router.log", [self.cluster.nodes[1].address]).start()
        self.addCleanup(self.router.kill)
        self.router.wait_http()

    def kv(self, *arguments):
        done = run("--json", *arguments, "--topology", self.cluster.topology)
        self.assertEqual(done.code, OK, f"kvadmin {arguments}: {done.out}{done.err}")

    def leader_of_each(self):
        """The node that answers for each key by itself."""
        leads = {}
        for number, node in self.cluster.nodes.items():
            with node.connect() as connection:
                for i in range(KEYS):
                    key = b"stall/%d" % i
                    try:
                        connection.get(ttypes.Context(), ttypes.GetRequest(key=key))
                        leads[key] = number
                    except ttypes.KvError as error:
                        self.assertEqual(error.code, constants.NOT_MASTER, error)
        self.assertEqual(len(leads), KEYS)
        return leads

    def test_a_node_that_stops_slows_nobody_else(self):
        with self.router.connect() as connection:
            for i in range(KEYS):
                key = b"stall/%d" % i
                connection.put(ttypes.Context(budget_ms=20000), ttypes.PutRequest(key=key, value=key))
        self.kv("rebalance", "--masters")
        leads = self.leader_of_each()
        stopped = next(number for number in (2, 3) if number in leads.values())
        elsewhere = [key for key, number in leads.items() if number != stopped]
        readers = [Reader(self.router, elsewhere[i::READERS]) for i in range(READERS)]
        its = Reader(self.router, [key for key, number in leads.items() if number == stopped][:1])
        for reader in [*readers, its]:
            reader.start()
        stopped_pid = self.cluster.nodes[stopped].node_pid()
        self.addCleanup(os.kill, stopped_pid, signal.SIGCONT)
        calm = time.monotonic()
        time.sleep(CALM_S)  # what is measured, not waited for
        stall = time.monotonic()
        os.kill(stopped_pid, signal.SIGSTOP)
        time.sleep(STALL_S)
        end = time.monotonic()
        os.kill(stopped_pid, signal.SIGCONT)
        for reader in [*readers, its]:
            reader.finish()
        before = [took for reader in readers for took in reader.between(calm, stall)]
        during = [took for reader in readers for took in reader.between(stall, end)]
        for name, took in (("before", before), ("while a node is stopped", during)):
            print(f"{name}: {len(took)} reads, p50 {percentile(took, 0.5) * 1e6:.0f} us, "
                  f"p99 {percentile(took, 0.99) * 1e6:.0f} us, longest {max(took) * 1000:.1f} ms")
        self.assertGreater(len(during), KEYS)
        self.assertLess(percentile(during, 0.99), WITHIN_S)
        # The router did ask the one that was stopped.
        self.assertGreater(max(its.between(stall, end)), STALL_S / 2)


if __name__ == "__main__":
    unittest.main()
