#!/usr/bin/python3
"""kvadmin failover --force: two of three real nodes are lost for good, with their data. The third one goes on with all
that was acknowledged, or says what is lost; the others come back empty, or with their old data, and are installed anew.
"""

import os
import pty
import shutil
import signal
import subprocess
import threading
import time
import unittest

from cluster_process import Cluster, Refused
from kvadmin_process import FAILED, KVADMIN, NO, OK, USAGE, run
from node_process import temporary_directory

KEYS = 60
HEAL_TIMEOUT_S = 60


class ForcedFailover(unittest.TestCase):
    def setUp(self):
        self.directory = temporary_directory("forced-failover")
        self.cluster = Cluster(self.directory, partitions=2).start()
        self.cluster.wait_healed()
        self.client = self.cluster.client(budget_s=15)

    def tearDown(self):
        self.client.close()
        self.cluster.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    # -- helpers

    def kv(self, *arguments, expect=OK):
        done = run("--json", *arguments, "--topology", self.cluster.topology)
        self.assertEqual(done.code, expect, f"kvadmin {arguments}: {done.out}{done.err}")
        return done

    def force(self, partition, *arguments, expect=OK):
        return self.kv("failover", str(partition), "--force", "--confirm", f"partition-{partition}", *arguments,
                       expect=expect)

    def write(self, value):
        for i in range(KEYS):
            self.client.put(b"key%d" % i, value)

    def check(self, value):
        for i in range(KEYS):
            self.assertEqual(self.client.get(b"key%d" % i), value)

    def lose(self, *numbers):
        """The machines are gone, with their disks."""
        for number in numbers:
            self.cluster.nodes[number].kill()
            shutil.rmtree(self.cluster.nodes[number].data_dir)

    def status(self):
        lines = run("--json", "cluster", "status", "--topology", self.cluster.topology).lines()
        return lines[0], {line["partition"]["id"]: line["partition"] for line in lines if "partition" in line}

    def wait_status(self, wanted):
        deadline = time.monotonic() + HEAL_TIMEOUT_S
        while True:
            verdict, partitions = self.status()
            if wanted(verdict, partitions):
                return verdict, partitions
            self.assertLess(time.monotonic(), deadline, f"{verdict} {partitions}")
            time.sleep(0.3)

    def wait_stuck(self):
        return self.wait_status(lambda verdict, _: "2 of 2 partitions have too few replicas left" in verdict["cause"])

    # -- tests

    def test_nothing_is_lost_with_a_member_of_the_isr(self):
        # Node 3 leads nothing: of a partition whose master is there, a lower min_isr is the better advice.
        self.kv("failover", "0", "--to", "1")
        self.kv("failover", "1", "--to", "2")
        self.write(b"1")
        self.lose(1, 2)
        verdict, partitions = self.wait_stuck()
        self.assertEqual(verdict["verdict"], "unavailable")
        self.assertNotIn("set-min-isr", verdict["next"])
        self.assertIn("If their data is lost for good: kvadmin failover 0 --force (node 3 has all", verdict["next"])
        self.assertTrue(any("1 of its replicas is left, and 2 must be" in p for p in partitions[0]["problems"]))
        with self.assertRaises(Refused):
            self.cluster.client(budget_s=1).put(b"key0", b"2")

        dry = self.kv("failover", "0", "--force", "--dry-run").json()["would_force"]
        self.assertEqual((dry["to"], dry["nothing_lost"], dry["lineage"]), (3, True, 1))
        self.assertEqual({r["node"]: r["state"] for r in dry["replicas"]}[1], "unreachable")
        self.assertIn("node 1 cannot take partition 0 over: unreachable",
                      self.force(0, "--to", "1", expect=FAILED).err)
        self.assertIn("not the name", self.kv("failover", "0", "--force", "--confirm", "0", expect=USAGE).err)
        self.assertIn("not a terminal", self.kv("failover", "0", "--force", expect=USAGE).err)
        self.assertEqual(self.cluster.partitions()[0]["lineage"], 1)

        for partition in (0, 1):
            done = self.force(partition).json()
            self.assertEqual((done["master"], done["lineage"], done["nothing_lost"], done["open"]), (3, 2, True, True))
            self.assertEqual(done["next"], f"kvadmin cluster set-min-isr {partition} 2")
        self.check(b"1")
        self.write(b"2")
        for record in self.cluster.partitions().values():
            self.assertEqual((record["lineage"], record["min_isr"], len(record["isr"])), (2, 1, 1))
        self.assertIn("has 1 replica in sync", self.kv("cluster", "set-min-isr", "all", "2", expect=FAILED).err)
        self.assertIn("is well", self.force(0, expect=FAILED).err)

        # The others come back empty.
        for number in (1, 2):
            self.cluster.nodes[number].launch()
        for number in (1, 2):
            self.cluster.nodes[number].wait_ready()
        self.cluster.wait_healed()
        self.check(b"2")
        verdict, partitions = self.wait_status(lambda verdict, _: verdict["verdict"] == "ok")
        self.assertTrue(any("kvadmin cluster set-min-isr 0 2" in p for p in partitions[0]["problems"]))
        self.assertEqual(self.kv("cluster", "set-min-isr", "all", "2", "--dry-run").lines()[-1]["changed"], 0)
        self.assertEqual(self.kv("cluster", "set-min-isr", "all", "2").lines()[-1]["changed"], 2)
        self.assertEqual(self.kv("cluster", "set-min-isr", "0", "2").lines()[-1]["changed"], 0)
        self.assertIn("its min_isr cannot be 4", self.kv("cluster", "set-min-isr", "0", "4", expect=USAGE).err)
        self.assertEqual([p["min_isr"] for p in self.cluster.partitions().values()], [2, 2])
        # Any of the three may die again.
        self.cluster.nodes[3].kill_node()
        self.check(b"2")
        self.write(b"3")
        self.cluster.nodes[3].start()
        self.cluster.wait_healed()
        self.check(b"3")

    def test_a_master_that_is_alone_says_so_and_goes_on_with_a_lower_min_isr(self):
        for partition in (0, 1):
            self.kv("failover", partition, "--to", "3")
        self.write(b"1")
        for number in (1, 2):
            self.cluster.nodes[number].kill()
        verdict, _ = self.wait_stuck()
        self.assertIn("kvadmin cluster set-min-isr all 1, which loses nothing", verdict["next"])
        self.assertNotIn("--force", verdict["next"])
        alone = self.cluster.nodes[3].address
        for command in (("get", "key0"), ("put", "key0", "2"), ("count",)):
            refused = run("--timeout-ms", "2500", *command, server=alone)
            self.assertEqual(refused.code, FAILED)
            # One of the two has left those in sync, if the master has noticed them one after the other.
            self.assertRegex(refused.err, "node 3, its master, .* (the nodes 1,2 do|node [12] does) not answer")
            self.assertIn("kvadmin cluster status", refused.err)
        self.assertIn("--force", self.kv("failover", "0", "--to", "1", expect=FAILED).err)
        self.assertEqual(self.kv("cluster", "set-min-isr", "all", "1").lines()[-1]["changed"], 2)
        self.check(b"1")
        self.write(b"2")
        for number in (1, 2):
            self.cluster.nodes[number].start()
        self.cluster.wait_healed()
        self.kv("cluster", "set-min-isr", "all", "2")
        self.check(b"2")

    def test_nodes_that_return_with_old_data_are_installed_anew(self):
        """They have what was never acknowledged, and it must not come in."""
        self.write(b"1")
        for number in (1, 2):
            self.cluster.nodes[number].kill()
        self.wait_stuck()
        for partition in (0, 1):
            self.force(partition)
        self.write(b"2")
        for number in (1, 2):
            self.cluster.nodes[number].launch()
        for number in (1, 2):
            self.cluster.nodes[number].wait_ready()
        self.cluster.wait_healed()
        self.check(b"2")
        # Those that were there are gone: each has another UUID.
        for number in (1, 2, 3):
            self.assertEqual(len(self.replicas(number)), 2)
        uuids = {r["replica"] for record in self.cluster.partitions().values() for r in record["isr"]}
        self.assertEqual(len(uuids), 6)
        # And the one that went on may die.
        self.kv("cluster", "set-min-isr", "all", "2")
        self.cluster.nodes[3].kill_node()
        self.check(b"2")

    def test_a_node_with_old_data_is_given_a_replica_again(self):
        """It learns that its lineage is over while its partition has no replica on it; the operator adds one later."""
        self.write(b"1")
        for number in (2, 3):
            self.cluster.nodes[number].kill()
        self.wait_stuck()
        for partition in (0, 1):
            self.force(partition)
            for number in (3, 2):
                self.kv("replica", "remove", partition, number)
        self.assertEqual({p["replicas"] for p in self.cluster.partitions().values()}, {1})
        self.write(b"2")
        for number in (2, 3):
            self.cluster.nodes[number].start()
            self.wait_log(number, "an operator has accepted a loss")
        for partition in (0, 1):
            for number in (2, 3):
                self.kv("replica", "add", partition, number)
        self.cluster.wait_healed()
        self.check(b"2")
        self.kv("cluster", "set-min-isr", "all", "2")
        self.cluster.nodes[1].kill_node()
        self.check(b"2")
        self.write(b"3")

    def wait_log(self, number, text, times=2):
        deadline = time.monotonic() + HEAL_TIMEOUT_S
        while self.cluster.nodes[number].log.read_text(errors="replace").count(text) < times:
            self.assertLess(time.monotonic(), deadline, self.cluster.nodes[number].output())
            time.sleep(0.1)

    def replicas(self, number):
        record = self.cluster.partitions()
        return [r for p in record.values() for r in p["isr"] if r["node"] == number]

    def test_wiped_nodes_that_run_already(self):
        """They were emptied and started before anybody noticed: they wait for a master to copy from. What node 3 leads
        heals by itself, because it gives copies without a lease. The rest is forced."""
        self.write(b"1")
        self.kv("failover", "0", "--to", "1")
        self.kv("failover", "1", "--to", "3")
        self.write(b"1")  # so node 3 leads, and is not only named
        self.lose(1, 2)
        for number in (1, 2):
            self.cluster.nodes[number].launch()
        for number in (1, 2):
            self.cluster.nodes[number].wait_ready()
        stuck = "1 of its replicas is left, and 2 must be"
        verdict, _ = self.wait_status(lambda _, partitions: any(stuck in p for p in partitions[0]["problems"]))
        self.assertTrue(verdict["next"].startswith("kvadmin failover 0 --force (node 3 has all"), verdict)
        self.force(0)
        self.wait_status(lambda _, partitions: partitions[1]["verdict"] == "ok")
        self.assertIn("is well", self.force(1, expect=FAILED).err)
        self.assertEqual(self.cluster.partitions()[1]["lineage"], 1)
        self.check(b"1")
        self.cluster.wait_healed()
        self.write(b"2")
        self.check(b"2")

    def test_a_replica_that_was_not_in_sync_needs_consent(self):
        self.write(b"1")
        self.cluster.nodes[3].kill_node()
        deadline = time.monotonic() + HEAL_TIMEOUT_S
        while any(len(p["isr"]) == 3 for p in self.cluster.partitions().values()):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.1)
        self.write(b"2")
        self.lose(1, 2)
        self.cluster.nodes[3].launch()
        self.cluster.nodes[3].wait_ready()
        verdict, _ = self.wait_stuck()
        self.assertIn("--force --accept-loss", verdict["next"])
        refused = self.force(0, expect=FAILED).err
        self.assertIn("node 3 was not in sync: what was acknowledged after LSN", refused)
        self.assertIn("say --accept-loss", refused)
        self.assertEqual(self.cluster.partitions()[0]["lineage"], 1)
        for partition in (0, 1):
            done = self.force(partition, "--accept-loss").json()
            self.assertEqual((done["master"], done["nothing_lost"]), (3, False))
        self.check(b"1")
        self.write(b"3")
        self.check(b"3")

    def test_of_two_at_once_one_wins(self):
        self.write(b"1")
        self.lose(1, 2)
        self.wait_stuck()
        done = []

        def one():
            done.append(run("--json", "failover", "0", "--force", "--confirm", "partition-0", "--topology",
                            self.cluster.topology))

        threads = [threading.Thread(target=one) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            self.assertFalse(thread.is_alive(), "a forced failover hangs")
        self.assertEqual(sorted(d.code for d in done), [OK, FAILED, FAILED, FAILED], [d.err for d in done])
        for loser in (d for d in done if d.code != OK):
            self.assertRegex(loser.err, "has changed its master meanwhile|another forced failover|is well|served by|enough to elect one")
        self.assertEqual(self.cluster.partitions()[0]["lineage"], 2)

    def test_a_healthy_partition_is_refused(self):
        self.write(b"1")
        self.assertIn("is well: node", self.force(0, expect=FAILED).err)
        self.assertIn("is well: node", self.force(0, "--accept-loss", "--to", "2", expect=FAILED).err)
        # One hangs: the others elect another master by themselves.
        pids = [self.cluster.nodes[number].node_pid() for number in (1, 2, 3)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(1.5)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        refused = self.force(0, "--accept-loss", expect=FAILED).err
        self.assertRegex(refused, "is well: node|are enough to elect one")
        self.assertEqual([p["lineage"] for p in self.cluster.partitions().values()], [1, 1])
        self.assertIn("--force", run("failover", "0", "--accept-loss").err)

    def test_it_asks_at_a_terminal(self):
        self.lose(1, 2)
        self.wait_stuck()
        for typed, code in ((b"yes\n", USAGE), (b"partition-0\n", OK)):
            master, slave = pty.openpty()
            process = subprocess.Popen([str(KVADMIN), "failover", "0", "--force", "--topology", self.cluster.topology],
                                       stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            os.close(slave)
            os.write(master, typed)
            out, err = process.communicate(timeout=60)
            os.close(master)
            self.assertEqual(process.returncode, code, out + err)
            self.assertIn(b"Type partition-0 to make node 3 its master", out)
            self.assertIn(b"nothing that was acknowledged is lost", out)
        self.assertIn(b"node 3 is its master now", out)


if __name__ == "__main__":
    unittest.main()
