#!/usr/bin/python3
"""Partitions are split while a node is away, or comes back in the middle, while records expire, and on a full disk; and a
watcher that was away during the split misses nothing silently.
"""

import os
import shutil
import time
import unittest

from cluster_process import Cluster
from kvadmin_process import OK, run
from node_process import constants, temporary_directory, ttypes
from router_process import RouterProcess

TIMEOUT_S = 60
SLOW_MB_PER_S = 1  # so that the copying of a partition takes a while


def context():
    return ttypes.Context(budget_ms=20000)


class SplitFaults(unittest.TestCase):
    def begin(self, partitions, records=0, value_bytes=2000):
        self.directory = temporary_directory("split-faults")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.cluster = Cluster(self.directory, partitions=partitions).start()
        self.addCleanup(self.cluster.kill)
        self.cluster.wait_well()
        nodes = [node.address for node in self.cluster.nodes.values()]
        self.router = RouterProcess(self.directory / "router.log", nodes).start()
        self.addCleanup(self.router.kill)
        self.router.wait_http()
        self.connection = self.router.connect(timeout_s=60)
        self.addCleanup(self.connection.close)
        for start in range(0, records, 100):
            ops = [ttypes.WriteOp(kind=constants.OP_PUT, key=b"row/%06d" % i, value=os.urandom(value_bytes))
                   for i in range(start, start + 100)]
            self.connection.writeBatch(context(), ttypes.WriteBatchRequest(ops))
        self.records = records

    def kv(self, *arguments):
        done = run("--json", *arguments, "--topology", self.cluster.topology)
        self.assertEqual(done.code, OK, f"kvadmin {arguments}: {done.out}{done.err}")
        return done

    def wait_until(self, is_so, what, timeout_s=TIMEOUT_S):
        deadline = time.monotonic() + timeout_s
        while not is_so():
            self.assertLess(time.monotonic(), deadline, f"{what}: {self.status()}")
            time.sleep(0.05)

    def status(self):
        lines = run("--json", "cluster", "status", "--topology", self.cluster.topology).lines()
        return [line["split"] for line in lines if "split" in line]

    def is_split(self, partition):
        return self.cluster.partitions()[partition]["state"] == "split"

    def begin_to_copy(self):
        self.kv("partition", "split", "0", "--no-wait", "--mb-per-s", SLOW_MB_PER_S)
        self.wait_until(lambda: any(s["phase"] == "copying" and s["copied_bytes"] > 100000 for s in self.status()),
                        "partition 0 is not being copied")

    def check_records(self):
        count = self.connection.count(context(), ttypes.CountRequest(prefix=b"row/")).count
        self.assertEqual(count, self.records)

    def lose_node(self, number, isr):
        self.cluster.nodes[number].kill()
        self.wait_until(lambda: all(len(p["isr"]) == isr for p in self.cluster.partitions().values()),
                        "the replicas of the node are still in sync")

    def test_many_splits_while_a_node_is_away(self):
        """The halves lack a replica for as long, and serve all the same."""
        partitions = 32
        self.begin(partitions)
        self.lose_node(3, 2)
        self.kv("partition", "split", "--all", "--no-wait")

        def all_serve():
            serving = [p for p in self.cluster.partitions().values() if p["serves"]]
            return len(serving) == 2 * partitions

        self.wait_until(all_serve, "some halves do not serve", timeout_s=120)
        self.cluster.nodes[3].start()
        self.cluster.wait_well()

    def test_a_node_comes_back_while_its_partition_is_copied(self):
        self.begin(2, records=4000)
        away = next(n for n in self.cluster.nodes if n != self.cluster.partitions()[0]["master"])
        self.lose_node(away, 2)
        self.begin_to_copy()
        self.cluster.nodes[away].start()
        self.wait_until(lambda: self.is_split(0), "partition 0 is not split")
        self.check_records()
        self.cluster.wait_well()

    def test_records_that_expire_all_the_time(self):
        self.begin(1)
        begun = time.monotonic()
        for batch in range(100):
            ops = [ttypes.WriteOp(kind=constants.OP_PUT, key=b"short/%d/%d" % (batch, i), value=b"x",
                                  ttl_mode=constants.TTL_SET, ttl_ms=2000 + 200 * batch + i // 5) for i in range(1000)]
            self.connection.writeBatch(context(), ttypes.WriteBatchRequest(ops))
        self.kv("partition", "split", "0")
        self.assertLess(time.monotonic() - begun, 20, "the last records have expired, so this has tested nothing")
        self.assertTrue(self.is_split(0))
        logs = "".join(node.output() for node in self.cluster.nodes.values())
        self.assertFalse("the sums of partition 0" in logs, "an attempt was in vain")

    def test_a_watcher_that_was_away_misses_nothing_silently(self):
        self.begin(1, records=2000)
        self.begin_to_copy()
        keys = [b"watched/%d" % i for i in range(10)]
        for key in keys:
            self.connection.put(context(), ttypes.PutRequest(key=key, value=b"v"))
        position = self.connection.watch(context(), ttypes.WatchRequest(prefix=b"watched/")).position
        for key in keys:
            self.connection.remove(context(), ttypes.RemoveRequest(key=key))
        level = self.connection.watch(context(), ttypes.WatchRequest(prefix=b"watched/")).position
        self.wait_until(lambda: self.is_split(0), "partition 0 is not split")
        with self.assertRaises(ttypes.KvError) as caught:
            self.connection.watch(context(), ttypes.WatchRequest(prefix=b"watched/", position=position, wait_ms=1000))
        self.assertEqual(caught.exception.code, constants.FEED_GONE)
        # One that has seen everything goes on.
        self.connection.put(context(), ttypes.PutRequest(key=keys[0], value=b"v"))
        seen = self.connection.watch(context(), ttypes.WatchRequest(prefix=b"watched/", position=level, wait_ms=5000))
        self.assertIn((keys[0], False), [(change.key, bool(change.removed)) for change in seen.changes])


if __name__ == "__main__":
    unittest.main()
