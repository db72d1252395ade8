#!/usr/bin/python3
"""What an operator does to a cluster of three real nodes: kvadmin cluster status, failover, rebalance and drain."""

import os
import pathlib
import shutil
import signal
import threading
import time
import unittest

from cluster_process import Cluster
from kvadmin_process import FAILED, NO, OK, USAGE, run
from node_process import temporary_directory
from test_cluster import Writer

PARTITIONS = 8
HEAL_TIMEOUT_S = 60


class ClusterOps(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = temporary_directory("cluster-ops")
        cls.cluster = Cluster(cls.directory, partitions=PARTITIONS).start()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.kill()
        shutil.rmtree(cls.directory, ignore_errors=True)

    def setUp(self):
        self.wait_ok()

    def kv(self, *arguments, expect=OK, server=None):
        if server is None:
            arguments = (*arguments, "--topology", self.cluster.topology)
        done = run("--json", *arguments, server=server)
        self.assertEqual(done.code, expect, f"kvadmin {arguments}: {done.out}{done.err}")
        return done

    def status(self, expect=OK, server=None):
        lines = self.kv("cluster", "status", expect=expect, server=server).lines()
        return (lines[0], {line["node"]["id"]: line["node"] for line in lines if "node" in line},
                {line["partition"]["id"]: line["partition"] for line in lines if "partition" in line})

    def wait_ok(self):
        self.cluster.wait_well()

    def masters(self):
        self.wait_ok()
        return {number: partition["master"] for number, partition in self.status()[2].items()}

    def addresses(self):
        return ",".join(node.address for node in self.cluster.nodes.values())

    def test_status_of_a_cluster_that_is_well(self):
        for server in (None, self.addresses(), self.cluster.nodes[2].address):
            verdict, nodes, partitions = self.status(server=server)
            self.assertEqual(verdict, {"verdict": "ok", "cause": "", "next": ""})
            self.assertEqual(sorted(nodes), [1, 2, 3])
            self.assertEqual(sum(node["masters"] for node in nodes.values()), PARTITIONS)
            self.assertEqual(sum(node["followers"] for node in nodes.values()), 2 * PARTITIONS)
            for partition in partitions.values():
                self.assertEqual(partition["in_sync"], [1, 2, 3])
        text = run("cluster", "status", "-v", server=self.addresses())
        self.assertTrue(text.out.startswith("ok\n"), text.out)
        self.assertIn("PARTITION", text.out)
        lines = text.out.splitlines()
        rows = [line.split()[0] for line in lines if line.strip() and line.split()[0].isdigit()]
        self.assertEqual(rows, ["1", "2", "3", *map(str, range(PARTITIONS))])  # each on a line of its own

    def test_a_node_logs_that_the_topology_is_gone(self):
        place = pathlib.Path(self.cluster.topology.removeprefix("file:"))
        place.rename(f"{place}.away")
        try:
            self.wait_logged("does not serve: ")
        finally:
            os.rename(f"{place}.away", place)
        self.wait_logged("serves again")

    def wait_logged(self, text):
        deadline = time.monotonic() + 30
        node = self.cluster.nodes[1]
        while text not in node.output():
            self.assertLess(time.monotonic(), deadline, f"node 1 has not logged {text!r}")
            time.sleep(0.1)

    def test_status_names_a_node_that_is_down(self):
        self.cluster.nodes[3].kill_node()
        try:
            deadline = time.monotonic() + HEAL_TIMEOUT_S
            while True:  # until the others lead everything
                verdict, nodes, partitions = self.status(expect=NO, server=self.addresses())
                if verdict["verdict"] == "degraded" and all(p["in_sync"] == [1, 2] for p in partitions.values()):
                    break
                self.assertLess(time.monotonic(), deadline, f"{verdict} {partitions}")
            self.assertIn(f"node 3 ({self.cluster.nodes[3].address}) does not answer", verdict["cause"])
            self.assertIn("too few replicas in sync", verdict["cause"])
            self.assertIn("start node 3", verdict["next"])
            self.assertFalse(nodes[3]["reachable"])
            self.assertIn("node 3: it is unreachable", partitions[0]["problems"][0])
            self.assertIn("cannot be handed over to node 3", self.refused("failover", "0", "--to", "3"))
            self.assertIn("does not answer", self.refused("drain", "3"))
        finally:
            self.cluster.nodes[3].start()

    def test_status_tells_that_a_partition_does_not_serve(self):
        """Two of three hang: no partition can have a master."""
        pids = [self.cluster.nodes[number].node_pid() for number in (1, 2)]
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            deadline = time.monotonic() + HEAL_TIMEOUT_S
            while True:  # until the leases have run out, and the third node knows
                done = run("--json", "cluster", "status", "--topology", self.cluster.topology)
                if "8 of 8 partitions have no master" in done.out:
                    break
                self.assertLess(time.monotonic(), deadline, done.out)
            verdict, _, partitions = self.status(expect=NO)
            self.assertEqual(verdict["verdict"], "unavailable")
            self.assertIn("no master", partitions[0]["problems"][0])
            self.assertIn("no master", self.refused("failover", "0"))
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def refused(self, *arguments, expect=FAILED):
        done = self.kv(*arguments, expect=expect)
        return done.err

    def test_lag_is_reported(self):
        """A follower that hangs is silent, and what it lacks is counted."""
        client = self.cluster.client()
        pid = self.cluster.nodes[3].node_pid()
        try:
            os.kill(pid, signal.SIGSTOP)
            deadline = time.monotonic() + HEAL_TIMEOUT_S
            while True:  # until the others lead everything
                partitions = self.status(expect=NO)[2]
                if all(p["in_sync"] == [1, 2] for p in partitions.values()):
                    break
                self.assertLess(time.monotonic(), deadline, partitions)
            for i in range(200):
                client.put(b"lag", b"%d" % i)  # one key: each new one may be sent to the node that hangs first
            partitions = self.status(expect=NO)[2]
            self.assertGreater(sum(p["behind_records"] for p in partitions.values()), 100)
            self.assertGreater(max(p["behind_ms"] for p in partitions.values()), 0)
        finally:
            os.kill(pid, signal.SIGCONT)
            client.close()

    def test_failover(self):
        master = self.masters()[0]
        target = master % 3 + 1
        dry = self.kv("failover", "0", "--to", target, "--dry-run").json()["would_hand_over"]
        self.assertEqual((dry["from"], dry["to"]), (master, target))
        self.assertEqual(self.masters()[0], master)
        done = self.kv("failover", "0", "--to", target).json()
        self.assertEqual((done["from"], done["master"], done["changed"]), (master, target, True))
        self.assertLess(done["pause_ms"], 3000)
        self.wait_ok()
        self.assertEqual(self.masters()[0], target)
        self.assertFalse(self.kv("failover", "0", "--to", target).json()["changed"])
        any_node = self.kv("failover", "0", server=self.addresses()).json()
        self.assertNotEqual(any_node["master"], target)
        self.assertIn("there is no partition 99", self.refused("failover", "99", expect=USAGE))
        self.assertIn("no node 7", self.refused("failover", "0", "--to", "7", expect=USAGE))

    def test_of_many_failovers_at_once_one_wins(self):
        """Those that looked at the same epoch must not undo each other, and none hangs.

        On a busy machine a lease may run out besides, and an election begins one more epoch. Such rounds are repeated.
        """
        exact = 0
        for _ in range(15):
            if exact == 5:
                break
            master = self.masters()[1]
            epoch = self.status()[2][1]["epoch"]
            others = [node for node in (1, 2, 3) if node != master]
            done = []

            def one(target, done=done):
                done.append(run("--json", "failover", "1", "--to", target, "--topology", self.cluster.topology))

            threads = [threading.Thread(target=one, args=(others[i % 2],)) for i in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
                self.assertFalse(thread.is_alive(), "a failover hangs")
            changed = [d.json() for d in done if d.code == OK and d.json()["changed"]]
            for loser in (d for d in done if d.code != OK):
                self.assertEqual(loser.code, FAILED)
                self.assertRegex(loser.err, "its master has changed meanwhile|cannot be handed over|NOT_MASTER")
            self.wait_ok()
            # Each that succeeded began one epoch, and no more.
            self.assertGreaterEqual(len(changed), 1)
            now = self.status()[2][1]["epoch"]
            self.assertGreaterEqual(now, epoch + len(changed))
            exact += now == epoch + len(changed)
        self.assertEqual(exact, 5, "handovers that were refused begin epochs too")

    def test_drain_and_rebalance_under_load(self):
        writers = [Writer(self.cluster, number) for number in range(2)]
        for writer in writers:
            writer.start()
        time.sleep(0.5)
        self.kv("rebalance", "--masters")
        led = [partition for partition, master in self.masters().items() if master == 2]
        plan = self.kv("drain", "2", "--dry-run").lines()
        self.assertEqual([line["would_hand_over"]["partition"] for line in plan], led)
        summary = self.kv("drain", "2").lines()[-1]
        self.assertEqual(summary["handed_over"], len(led))
        self.assertNotIn(2, self.masters().values())
        self.assertEqual(self.kv("drain", "2").lines()[-1]["handed_over"], 0)
        moves = self.kv("rebalance", "--masters").lines()
        self.assertEqual(moves[-1]["handed_over"], 2)
        counts = sorted(list(self.masters().values()).count(node) for node in (1, 2, 3))
        self.assertEqual(counts, [2, 3, 3])
        self.assertEqual(self.kv("rebalance", "--masters").lines()[-1]["handed_over"], 0)
        for writer in writers:
            writer.finish()
            writer.verify()
        self.refused("rebalance", expect=USAGE)


if __name__ == "__main__":
    unittest.main()
