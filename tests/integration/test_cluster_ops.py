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
from test_cluster_install import metric

PARTITIONS = 8
HEAL_TIMEOUT_S = 60
# What is said to those of several handovers at once that do not end with their node as the master.
LOST_HANDOVER = ("its master has changed meanwhile|cannot be handed over|NOT_MASTER|did not succeed|"
                 "another (handover|change of its master or its replicas) is under way|"
                 "was made master of partition 1, in epoch .* has become its master since|"
                 "names node .* as the master of partition 1, .* but it does not lead")


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

    def test_a_topology_that_is_gone_is_shown(self):
        """In the logs of the nodes, and by cluster status, although everything is served as before."""
        place = pathlib.Path(self.cluster.topology.removeprefix("file:"))
        place.rename(f"{place}.away")
        try:
            self.wait_logged("does not serve: ")
            lines = self.wait_cause("the nodes 1,2,3 cannot reach the topology, for ")
            self.assertEqual(lines[0]["verdict"], "degraded")
            self.assertIn(str(place), lines[0]["cause"])
            self.assertIn("Bring it back as it was", lines[0]["cause"])
            self.assertNotIn("Create it", lines[0]["cause"])
            self.assertIn("repair the topology", lines[0]["next"])
            self.assertEqual(lines[1]["topology"]["unreachable_from"], [1, 2, 3])
            client = self.cluster.client()
            client.put(b"without", b"a topology")
            client.close()
            self.nothing_is_changed_without_a_topology(lines)
            self.assertGreater(metric(self.cluster.nodes[1], "kv_topology_errors_total"), 0)
            self.assertGreater(metric(self.cluster.nodes[1], "kv_topology_age_seconds"), 0)
        finally:
            os.rename(f"{place}.away", place)
        self.wait_logged("serves again")
        self.wait_ok()

    def nothing_is_changed_without_a_topology(self, lines):
        """And a master that is asked for it goes on to serve."""
        partition = next(line["partition"] for line in lines if "partition" in line)
        number, master = partition["id"], partition["master"]
        target = master % 3 + 1
        for _ in range(2):
            for command in (("failover", number, "--to", target), ("drain", master), ("cluster", "set-min-isr", number, 1),
                            ("replica", "remove", number, target, "--timeout-s", "1")):
                done = run("--json", "--timeout-ms", "1500", *command, server=self.addresses())
                self.assertEqual(done.code, FAILED, f"{command}: {done.out}{done.err}")
                self.assertIn("the topology does not answer", done.err, command)
        done = run("--json", "cluster", "status", "-v", server=self.addresses())
        self.assertEqual([line["partition"]["master"] for line in done.lines() if "partition" in line],
                         [line["partition"]["master"] for line in lines if "partition" in line])

    def test_a_topology_that_has_gone_back_is_shown(self):
        """An older copy is put in its place. Two nodes are down, but nothing may be forced by such a map."""
        place = pathlib.Path(self.cluster.topology.removeprefix("file:"))
        self.copy_topology(f"{place}.old")
        self.kv("failover", "0")  # so that there is something newer
        place.rename(f"{place}.newest")
        os.rename(f"{place}.old", place)
        try:
            for number in (1, 2):
                self.cluster.nodes[number].kill_node()
            for server in (self.addresses(), None):
                lines = self.wait_cause("the topology is older than what the nodes have", server=server)
                self.assertIn("has gone back", lines[0]["cause"])
                self.assertIn("bring back the newest copy", lines[0]["next"])
                self.assertNotIn("--force", lines[0]["next"])
                self.assertTrue(lines[1]["topology"]["went_back"])
            self.assertIn("nothing is forced", self.refused("failover", "0", "--force", "--dry-run"))
        finally:
            place.rename(f"{place}.old")
            os.rename(f"{place}.newest", place)
            shutil.rmtree(f"{place}.old")
            for number in (1, 2):
                self.cluster.nodes[number].start()
        self.wait_ok()

    def copy_topology(self, to):
        """An image of it, and its revision."""
        while True:
            shutil.rmtree(to, ignore_errors=True)
            try:
                shutil.copytree(self.cluster.topology.removeprefix("file:"), to)
                break
            except shutil.Error:  # an old revision has been removed meanwhile
                pass
        return sum(line["revision"] for line in run("--json", "topology", "dump", f"file:{to}").lines())

    def test_no_node_starts_with_an_older_topology_than_it_has_seen(self):
        """Also if it is newer than the last start of the node."""
        place = pathlib.Path(self.cluster.topology.removeprefix("file:"))
        revision = self.copy_topology(f"{place}.old")
        self.kv("failover", "0")
        deadline = time.monotonic() + HEAL_TIMEOUT_S
        for node in self.cluster.nodes.values():
            while int.from_bytes((node.data_dir / "cluster").read_bytes()[40:48], "little") <= revision:
                self.assertLess(time.monotonic(), deadline, "a node does not store what it has seen")
                time.sleep(0.1)
        self.cluster.stop()
        place.rename(f"{place}.newest")
        os.rename(f"{place}.old", place)
        try:
            for node in self.cluster.nodes.values():
                node.launch()
            for node in self.cluster.nodes.values():
                self.assertEqual(node.process.wait(30), 1, node.output())
                self.assertRegex(node.output(), r"has gone back: its revision is \d+, and \S+ has seen \d+")
        finally:
            place.rename(f"{place}.old")
            os.rename(f"{place}.newest", place)
            shutil.rmtree(f"{place}.old")
            self.cluster.start()
        self.wait_ok()

    def wait_cause(self, text, server=True):
        """Waits until cluster status says so, and returns its lines."""
        deadline = time.monotonic() + HEAL_TIMEOUT_S
        arguments = ["--json", "cluster", "status"] + ([] if server else ["--topology", self.cluster.topology])
        while True:
            done = run(*arguments, server=self.addresses() if server else None)
            if done.code == NO and text in done.lines()[0]["cause"]:
                return done.lines()
            self.assertLess(time.monotonic(), deadline, done.out + done.err)
            time.sleep(0.2)

    def wait_logged(self, text):
        deadline = time.monotonic() + 30
        node = self.cluster.nodes[1]
        while text not in node.output():
            self.assertLess(time.monotonic(), deadline, f"node 1 has not logged {text!r}")
            time.sleep(0.1)

    def test_commands_of_all_partitions_say_who_leads_and_what_to_do(self):
        self.kv("rebalance", "--masters")
        target = self.directory / "backup"
        several = self.addresses()
        for command in (("scan", "--limit", "0"), ("count", ), ("aggregate", ), ("watch", "--once"), ("split", ),
                        ("snapshot", "open"), ("backup", target), ("export", "-o", self.directory / "all.jsonl"),
                        ("delete-range", "--prefix", "no/such")):
            done = run("--timeout-ms", "1000", *command, server=several)
            self.assertEqual(done.code, FAILED, f"{command}: {done.out}{done.err}")
            self.assertRegex(done.err, r"NOT_MASTER.*partition \d+: the master of epoch \d+ is node \d at 127.0.0.1:\d+",
                             command)
            self.assertIn("with kvadmin failover PARTITION --to NODE for each", done.err)
            self.assertIn('"Back up a cluster" in OPERATING', done.err)
        self.assertFalse(target.exists())
        done = run("--timeout-ms", "1000", "put", "one", "record", server=several)
        self.assertEqual(done.code, OK, done.err)
        # As the message says.
        for partition in range(PARTITIONS):
            self.kv("failover", partition, "--to", 1)
        for command in (("count", ), ("backup", target)):
            done = run(*command, server=self.cluster.nodes[1].address)
            self.assertEqual(done.code, OK, f"{command}: {done.err}")
        shutil.rmtree(target)
        self.kv("rebalance", "--masters")

    def test_one_of_several_servers_says_which_it_is(self):
        down = "127.0.0.1:1"
        node = self.cluster.nodes[2].address
        several = f"{down},{node}"
        for command in (("status", ), ("ping", "--count", "1"), ("checkpoint", ), ("check", "--online")):
            done = run(*command, server=several)
            self.assertEqual(done.code, OK, f"{command}: {done.out}{done.err}")
            self.assertIn(node, done.out, command)
            self.assertNotIn(down, done.out, command)
            self.assertEqual(run("--json", *command, server=several).json()["server"], node)
        self.assertRegex(run("status", server=several).out, r"(?m)^NODE +2 of its cluster$")
        self.assertEqual(run("--json", "status", server=several).json()["cluster_node"], 2)

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
            # Nobody writes, so it lacks nothing. Those that were elected just now do not know what it has.
            lags = {p["behind_records"] for p in partitions.values()}
            self.assertLessEqual(lags, {None, 0})
            self.assertIn(None, lags)
            text = run("cluster", "status", "-v", server=self.addresses()).out
            self.assertRegex(text, r"(?m)^ +\d+ +\d+ +[12] +1,2 +3 +3 +- +- +2 of 3 replicas are in sync; node 3: it is unreachable")
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
        """A follower that hangs is silent, and what it lacks is counted by a master that has heard it before."""
        client = self.cluster.client()
        keys = [b"lag%d" % i for i in range(50)]
        for key in keys:
            client.put(key, b"before")
        key = next(key for key in keys if client.masters[key] != self.cluster.nodes[3].address)
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
                client.put(key, b"%d" % i)  # one key: each new one may be sent to the node that hangs first
            partitions = self.status(expect=NO)[2]
            self.assertGreater(sum(p["behind_records"] or 0 for p in partitions.values()), 100)
            self.assertGreater(max(p["behind_ms"] or 0 for p in partitions.values()), 0)
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
                self.assertRegex(loser.err, LOST_HANDOVER)
                self.assertNotIn("--force", loser.err)
                self.assertNotIn("BAD_REQUEST", loser.err)
            self.wait_ok()
            # Each that succeeded began one epoch, and no more.
            begun = changed + [d for d in done if " made master of partition 1" in d.err]
            self.assertGreaterEqual(len(begun), 1)
            now = self.status()[2][1]["epoch"]
            self.assertGreaterEqual(now, epoch + len(begun))
            exact += now == epoch + len(begun)
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
