#!/usr/bin/python3
"""A node that stays away is replaced by the others, under load: all partitions have three replicas in sync again, and
nothing acknowledged is lost. An operator can switch that off and on while the nodes run."""

import json
import shutil
import time
import unittest

from cluster_process import Cluster
from kvadmin_process import OK, USAGE, run
from node_process import temporary_directory
from test_cluster import Writer

PARTITIONS = 8
HEAL_TIMEOUT_S = 90


class ReplacementTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = temporary_directory("cluster-replacement")
        cls.cluster = Cluster(cls.directory, nodes=4, partitions=PARTITIONS, flags=["--replace_after_s=2"]).start()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.kill()
        shutil.rmtree(cls.directory, ignore_errors=True)

    def kv(self, *arguments, expect=OK):
        done = run("--json", *arguments, "--topology", self.cluster.topology)
        self.assertEqual(done.code, expect, f"kvadmin {arguments}: {done.out}{done.err}")
        return done

    def controller(self):
        done = run("--json", "cluster", "status", "--topology", self.cluster.topology)
        return next(json.loads(line)["controller"] for line in done.out.splitlines() if "controller" in json.loads(line))

    def wait(self, what, holds, timeout_s=HEAL_TIMEOUT_S):
        deadline = time.monotonic() + timeout_s
        while not holds():
            self.assertLess(time.monotonic(), deadline, f"{what}: {self.cluster.partitions()} {self.controller()}")
            time.sleep(0.2)

    def whole_without(self, node):
        for record in self.cluster.partitions().values():
            if len(record["isr"]) != 3 or record["evicted"] or record["learners"] or record["replicas"] != 3:
                return False
            if node in [r["node"] for r in record["isr"]]:
                return False
        return True

    def held(self, node):
        return [p for p in range(PARTITIONS)
                if (self.cluster.nodes[node].data_dir / f"partition-{p:05}" / "data").exists()]

    def wait_ok(self):
        self.wait("the cluster does not become well",
                  lambda: run("cluster", "status", "--topology", self.cluster.topology).code == OK)

    def test_a_node_that_stays_away(self):
        self.wait_ok()
        self.wait("nobody decides", lambda: self.controller()["holder"] != 0)
        self.assertEqual(self.controller()["replace_after_s"], 2)
        writers = [Writer(self.cluster, number) for number in range(3)]
        for writer in writers:
            writer.start()
        time.sleep(0.5)
        # The one that decides, so that another one takes that over too.
        victim = self.controller()["holder"]
        self.assertTrue(self.held(victim))
        began = time.monotonic()
        self.cluster.nodes[victim].kill()
        self.wait("the node is not replaced", lambda: self.whole_without(victim))
        print(f"replaced {time.monotonic() - began:.1f} s after the kill")
        self.assertNotIn(self.controller()["holder"], (0, victim))
        time.sleep(0.5)
        for writer in writers:
            writer.finish()
            writer.verify()
        equal = self.kv("verify").lines()[-1]
        self.assertEqual(equal["equal"], PARTITIONS)
        # It comes back too late, and has nothing any more.
        self.cluster.nodes[victim].start()
        self.wait("the node keeps its old data", lambda: self.held(victim) == [])
        self.wait_ok()
        self.switched_off_and_on()

    def switched_off_and_on(self):
        self.assertIn("--topology", run("--json", "rebalance", "--replace", "off", server="127.0.0.1:1").err)
        self.kv("rebalance", "--masters", "--replace", "off", expect=USAGE)
        self.assertEqual(self.kv("rebalance", "--replace", "off", "--dry-run").json()["changed"], False)
        self.assertEqual(self.kv("rebalance", "--replace", "off").json(),
                         {"replace": "off", "before": "as the nodes were started", "changed": True})
        self.wait("it is still on", lambda: self.controller()["replace_after_s"] == 0, 10)
        victim = max(self.cluster.nodes, key=lambda node: len(self.held(node)))
        self.cluster.nodes[victim].kill()
        time.sleep(15)
        records = self.cluster.partitions()
        self.assertTrue(all(not r["learners"] for r in records.values()))
        self.assertTrue(any(r["evicted"] for r in records.values()))
        self.kv("rebalance", "--replace", "default")
        self.wait("the node is not replaced", lambda: self.whole_without(victim))


if __name__ == "__main__":
    unittest.main()
