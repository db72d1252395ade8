#!/usr/bin/python3
"""What an operator does with the replicas of a cluster of four real nodes: kvadmin replica add, remove and move."""

import os
import shutil
import signal
import subprocess
import time
import unittest

from cluster_process import Cluster
from kvadmin_process import FAILED, KVADMIN, OK, USAGE, run
from node_process import temporary_directory
from test_cluster import Writer

PARTITIONS = 4
HEAL_TIMEOUT_S = 60


class ReplicaTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = temporary_directory("cluster-replicas")
        cls.cluster = Cluster(cls.directory, nodes=4, partitions=PARTITIONS).start()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.kill()
        shutil.rmtree(cls.directory, ignore_errors=True)

    def setUp(self):
        self.wait_ok()

    def kv(self, *arguments, expect=OK):
        done = run("--json", *arguments, "--topology", self.cluster.topology)
        self.assertEqual(done.code, expect, f"kvadmin {arguments}: {done.out}{done.err}")
        return done

    def wait_ok(self):
        self.cluster.wait_well()

    def record(self, partition):
        return self.cluster.partitions()[partition]

    def nodes_of(self, partition):
        """Its master, the other nodes with replicas, and those without."""
        record = self.record(partition)
        master = record["master"]
        others = [r["node"] for r in record["isr"] if r["node"] != master]
        return master, others, [n for n in self.cluster.nodes if n != master and n not in others]

    def held(self, node, partition):
        """Whether the node's disk has data of the partition."""
        return (self.cluster.nodes[node].data_dir / f"partition-{partition:05}" / "data").exists()

    def wait_dropped(self, node, partition):
        deadline = time.monotonic() + HEAL_TIMEOUT_S
        while self.held(node, partition):
            self.assertLess(time.monotonic(), deadline, f"node {node} does not drop partition {partition}")
            time.sleep(0.1)

    def writers(self):
        writers = [Writer(self.cluster, number) for number in range(2)]
        for writer in writers:
            writer.start()
        time.sleep(0.5)
        return writers

    def judge(self, writers):
        for writer in writers:
            writer.finish()
            writer.verify()

    def test_add_and_remove(self):
        _, others, (spare, ) = self.nodes_of(0)
        writers = self.writers()
        would = self.kv("replica", "add", "0", spare, "--dry-run").json()["would"]
        self.assertEqual(len(would), 2, would)
        self.assertEqual(len(self.record(0)["isr"]), 3)
        done = self.kv("replica", "add", "0", spare).json()
        self.assertEqual((done["changed"], done["in_sync"], done["replicas"]), (True, [1, 2, 3, 4], 4))
        self.assertIn("holds a replica of partition 0 already", self.kv("replica", "add", "0", spare,
                                                                        expect=USAGE).err)
        done = self.kv("replica", "remove", "0", others[0]).json()
        self.assertEqual((done["changed"], done["dropped"], done["replicas"]), (True, True, 3))
        self.assertFalse(self.held(others[0], 0))
        log = self.cluster.nodes[others[0]].log.read_text(errors="replace")
        logged = [line for line in log.splitlines() if "it was removed from" in line]
        self.assertEqual(len(logged), 1, logged)
        self.assertTrue(logged[0].startswith("I"), logged)  # nothing is wrong
        self.assertIn("partition 0", logged[0])
        self.assertNotIn("To do", logged[0])
        self.assertIn("holds no replica", self.kv("replica", "remove", "0", others[0], expect=USAGE).err)
        self.judge(writers)
        # It does not come back.
        node = self.cluster.nodes[others[0]]
        node.stop()
        node.start()
        self.wait_ok()
        self.assertFalse(self.held(others[0], 0))
        self.assertEqual(self.record(0)["replicas"], 3)

    def test_a_replica_that_is_removed_while_its_node_is_down_is_dropped_later(self):
        master, others, (spare, ) = self.nodes_of(1)
        victim = next(node for node in others)
        self.cluster.nodes[victim].kill_node()
        self.kv("replica", "move", "1", victim, spare)
        self.assertTrue(self.held(victim, 1))
        self.assertNotIn(victim, [r["node"] for r in self.record(1)["isr"]])
        self.assertEqual(self.record(1)["replicas"], 3)
        self.cluster.nodes[victim].start()
        self.wait_dropped(victim, 1)
        self.wait_ok()
        self.assertNotIn(victim, [r["node"] for r in self.record(1)["isr"] + self.record(1)["evicted"]])
        self.assertNotEqual(master, victim)

    def test_move_the_master_under_load(self):
        writers = self.writers()
        master, _, (spare, ) = self.nodes_of(2)
        done = self.kv("replica", "move", "2", master, spare).json()
        self.assertEqual((done["master"], done["replicas"], done["dropped"]), (spare, 3, True))
        self.assertNotIn(master, done["in_sync"])
        self.assertEqual(self.kv("replica", "move", "2", master, spare).json()["changed"], False)
        self.assertFalse(self.held(master, 2))
        # And back, at once: the node gets another replica than before.
        before = {r["replica"] for r in self.record(2)["isr"]}
        self.kv("replica", "move", "2", spare, master)
        new = [r["replica"] for r in self.record(2)["isr"] if r["node"] == master]
        self.assertEqual(len(new), 1)
        self.assertNotIn(new[0], before)
        self.judge(writers)

    def test_an_interrupted_move_goes_on(self):
        master, others, (spare, ) = self.nodes_of(3)
        pid = self.cluster.nodes[spare].node_pid()
        arguments = ("replica", "move", "3", others[0], spare, "--topology", self.cluster.topology)
        os.kill(pid, signal.SIGSTOP)
        try:
            done = run("--json", "--timeout-ms", "1000", *arguments)
            self.assertEqual(done.code, FAILED, done.out)
            self.assertIn("does not answer", done.err)
            self.assertEqual(self.record(3)["learners"], [])
        finally:
            os.kill(pid, signal.SIGCONT)
        self.wait_ok()
        started = subprocess.Popen([KVADMIN, "--json", *map(str, arguments)], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        deadline = time.monotonic() + HEAL_TIMEOUT_S
        while not [r for r in self.record(3)["learners"] + self.record(3)["isr"] if r["node"] == spare]:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.005)
        started.send_signal(signal.SIGINT)
        started.communicate(timeout=30)
        self.kv(*arguments[:-2])
        self.assertEqual(sorted(r["node"] for r in self.record(3)["isr"]),
                         sorted([master, spare] + others[1:]))
        self.wait_dropped(others[0], 3)

    def test_a_move_to_a_node_that_is_dead_is_refused_at_once(self):
        """Also while its replica counts as in sync."""
        _, others, _ = self.nodes_of(0)
        pid = self.cluster.nodes[others[1]].node_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            done = run("--json", "--timeout-ms", "1000", "replica", "move", "0", others[0], others[1], "--topology",
                       self.cluster.topology)
            self.assertEqual(done.code, FAILED, done.out + done.err)
            self.assertIn(f"node {others[1]} (", done.err)
            self.assertIn("does not answer, so it cannot be given a replica", done.err)
            self.assertLess(time.monotonic() - began, 10)
        finally:
            os.kill(pid, signal.SIGCONT)

    def test_what_is_refused(self):
        master, others, (spare, ) = self.nodes_of(0)
        refused = self.kv("replica", "remove", "0", master, expect=FAILED).err
        self.assertIn("is the master of partition 0", refused)
        self.assertIn("kvadmin failover 0", refused)
        self.assertIn("there is no partition 99", self.kv("replica", "add", "99", "1", expect=USAGE).err)
        self.assertIn("no node 9", self.kv("replica", "add", "0", "9", expect=USAGE).err)
        self.assertIn("no node 9", self.kv("replica", "move", "0", "9", spare, expect=USAGE).err)
        self.assertIn("to the same node", self.kv("replica", "move", "0", "1", "1", expect=USAGE).err)
        self.kv("replica", "remove", "0", others[0])
        refused = self.kv("replica", "remove", "0", others[1], expect=FAILED).err
        self.assertIn("2 must be (min_isr)", refused)
        done = self.kv("replica", "add", "0", others[0]).json()
        self.assertEqual(done["replicas"], 3)
        done = self.kv("replica", "add", "0", spare).json()
        done = self.kv("replica", "remove", "0", master, "--yes").json()
        self.assertNotEqual(done["master"], master)


if __name__ == "__main__":
    unittest.main()
