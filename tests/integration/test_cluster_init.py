"""Tests of kvadmin cluster init and show, on a topology in a directory."""

import json
import os
import shutil
import signal
import subprocess
import time
import unittest

from kvadmin_process import CORRUPTION, FAILED, KVADMIN, NO, OK, USAGE, run
from node_process import BIN_DIR, temporary_directory

NODES = "1@a,2@b,3@c,4@a"
TIMEOUT_S = 60


class ClusterInit(unittest.TestCase):
    def setUp(self):
        self.root = temporary_directory("cluster-init")
        self.addCleanup(shutil.rmtree, self.root)
        self.place = self.root / "topology"
        self.place.mkdir()

    def kv(self, *arguments, expect=OK):
        done = run(*arguments)
        self.assertEqual(done.code, expect, f"kvadmin {arguments}: {done.out}{done.err}")
        return done

    def cluster(self, command, *arguments, expect=OK):
        return self.kv("--json", "cluster", command, f"--topology=file:{self.place}", *arguments, expect=expect)

    def shown(self):
        """What `show` says: the cluster, its nodes, and its partitions."""
        lines = self.cluster("show").lines()
        return (lines[0]["cluster"], [line["node"] for line in lines if "node" in line],
                [line["partition"] for line in lines if "partition" in line])

    def expect_whole(self, partitions):
        done = self.cluster("show")
        self.assertEqual(done.err, "")
        cluster, nodes, found = self.shown()
        self.assertTrue(cluster["complete"])
        self.assertEqual([(n["id"], n["zone"], n["state"], n["starts"]) for n in nodes],
                         [(1, "a", "active", 0), (2, "b", "active", 0), (3, "c", "active", 0), (4, "a", "active", 0)])
        self.assertEqual([p["id"] for p in found], list(range(partitions)))
        self.assertEqual(sorted(p["master"] for p in found), sorted([1, 2, 3, 4] * (partitions // 4)))
        zone = {n["id"]: n["zone"] for n in nodes}
        replicas = set()
        for partition in found:
            self.assertEqual({zone[r["node"]] for r in partition["isr"]}, {"a", "b", "c"})
            self.assertEqual((partition["epoch"], partition["min_isr"], partition["learners"]), (1, 2, []))
            replicas.update(r["replica"] for r in partition["isr"])
        self.assertEqual(len(replicas), 3 * partitions)

    def test_init_and_show(self):
        empty = self.cluster("show", expect=NO)
        self.assertEqual(empty.out, "")
        self.assertEqual([json.loads(line)["note"] for line in empty.err.splitlines()],
                         [f"file:{self.place} holds no cluster; kvadmin cluster init creates one"])
        plan = self.cluster("init", "--nodes", NODES, "--dry-run").json()
        self.assertEqual((plan["dry_run"], plan["continues"], len(plan["partitions"])), (True, False, 16))
        self.assertEqual(os.listdir(self.place), [])
        text = self.kv("cluster", "init", "--topology", f"file:{self.place}", "--nodes", NODES, "--dry-run").out
        self.assertIn("Nothing was written. The command would create the cluster.", text)
        self.assertEqual(len(text.splitlines()), 5 + 1 + 17 + 2)

        done = self.cluster("init", "--nodes", NODES).json()
        self.assertEqual((done["nodes"], done["partitions"], done["replicas"], done["min_isr"], done["continued"]),
                         (NODES, 16, 3, 2, False))
        self.expect_whole(16)
        cluster, _, partitions = self.shown()
        self.assertEqual(cluster["cluster_id"], done["cluster_id"])
        self.assertEqual([[r["node"] for r in p["isr"]] for p in partitions], plan["partitions"])
        text = self.kv("cluster", "show", "--topology", f"file:{self.place}").out
        self.assertRegex(text, rf"(?m)^cluster {done['cluster_id']}, protocol 3, 16 partitions")
        self.assertRegex(text, r"(?m)^NODE  STATE   ZONE  WEIGHT  STARTS  OPENED  CLIENTS  PEERS$")
        self.assertRegex(text, r"(?m)^2     active  b     1       0       0       -        -$")
        self.assertRegex(text, r"(?m)^15         serving  1      \d       \d,\d,\d  -        -         3         2$")
        self.kv("topology", "dump", f"file:{self.place}")

        before = sorted(os.listdir(self.place))
        for arguments in (["--nodes", NODES], ["--nodes", "1,2,3"], ["--nodes", NODES, "--dry-run"]):
            error = json.loads(self.cluster("init", *arguments, expect=FAILED).err)["error"]
            self.assertEqual(error["code"], "ALREADY_EXISTS")
            self.assertIn(f"the cluster {done['cluster_id']} exists already", error["message"])
            self.assertIn("kvadmin cluster show prints it", error["message"])
        self.assertEqual(sorted(os.listdir(self.place)), before)

    def refuses_to_start(self, data_dir, *flags):
        before = sorted(os.listdir(self.root)), sorted(os.listdir(self.place))
        done = subprocess.run([BIN_DIR / "kvnode", f"--data_dir={data_dir}", "--listen=127.0.0.1:0", "--http_port=-1", *flags],
                              capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual((sorted(os.listdir(self.root)), sorted(os.listdir(self.place))), before, "something was written")
        return done.stderr

    def test_the_map_and_a_store_stay_apart(self):
        """Two arguments that are mixed up: a node refuses the directory of the map, and init that of a node."""
        self.cluster("init", "--nodes", NODES)
        flags = [f"--topology=file:{self.place}", "--node_id=2"]
        for data_dir, how in ((self.place, "is the directory of"), (self.root, "holds the"), (self.place / "node-2", "lies in")):
            self.assertIn(f"{data_dir} {how}", self.refuses_to_start(data_dir, *flags))
        # Also if it does not say where the map is, or names another one.
        self.assertIn("holds cluster.000000000001", self.refuses_to_start(self.place))
        other = self.root / "other"
        shutil.copytree(self.place, other)
        self.assertIn("is the directory of a topology", self.refuses_to_start(other, *flags))
        node = self.root / "node-1"
        (node / "topology").mkdir(parents=True)
        (node / "store.meta").write_bytes(b"")
        for place in (node, node / "topology"):
            done = self.kv("cluster", "init", f"--topology=file:{place}", "--nodes", NODES, expect=USAGE)
            self.assertIn(f"{node} is the data directory of a node", done.err)
        self.assertEqual(sorted(os.listdir(node)), ["store.meta", "topology"])
        done = self.kv("topology", "recover", f"file:{self.place}", "--nodes=1", f"--data-dirs={self.place}", expect=USAGE)
        self.assertIn("is the directory of the topology", done.err)

    def test_killed_and_continued(self):
        """kvadmin is killed at random moments. The same command continues; others are refused."""
        arguments = ["cluster", "init", f"--topology=file:{self.place}", "--nodes", NODES, "--partitions", "256"]
        cluster_id, killed = None, 0
        for attempt in range(200):
            process = subprocess.Popen([KVADMIN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            found = len(os.listdir(self.place))
            deadline = time.monotonic() + TIMEOUT_S
            while process.poll() is None and len(os.listdir(self.place)) < found + 25:
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            out, err = process.communicate(timeout=TIMEOUT_S)
            if process.returncode == 0:
                self.assertIn(b"completed the cluster" if attempt else b"created the cluster", out)
                break
            self.assertEqual(process.returncode, -signal.SIGKILL, err)
            killed += 1
            cluster, _, _ = self.shown()
            self.assertFalse(cluster["complete"])
            self.assertIn("has not been created completely", self.cluster("show").err)
            cluster_id = cluster_id or cluster["cluster_id"]
            self.assertEqual(cluster["cluster_id"], cluster_id)
            error = self.cluster("init", "--nodes", "1,2,3", "--partitions", "256", expect=FAILED).err
            self.assertIn(f"is being created with --nodes={NODES} --partitions=256", error)
            self.assertTrue(self.cluster("init", *arguments[3:], "--dry-run").json()["continues"])
        self.assertGreater(killed, 0, "it was never killed in time")
        self.expect_whole(256)
        self.assertEqual(self.shown()[0]["cluster_id"], cluster_id)

    def test_refuses(self):
        for arguments, reason in (
                (["--nodes", "1,2"], "need as many nodes"), (["--nodes", "1,2,x"], "is not a node: write its number"),
                (["--nodes", "1,2,2"], "twice"), (["--nodes", "1,1"], "node 1 is named twice"), (["--nodes", "1,2,3@a b"], "is not a zone"),
                (["--nodes", "1,2,3", "--partitions", "12"], "power of two"),
                (["--nodes", "1,2,3", "--min_isr", "4"], "min_isr is 4"),
                (["--nodes", "1,2,3", "--replicas", "17"], "replicas"), ([], "--nodes")):
            self.assertIn(reason, self.cluster("init", *arguments, expect=USAGE).err)
        self.assertIn("Create it", self.kv("cluster", "init", f"--topology=file:{self.root}/none", "--nodes=1,2,3",
                                           expect=FAILED).err)
        self.assertEqual(os.listdir(self.place), [])
        self.cluster("init", "--nodes", "1", "--replicas", "1", "--partitions", "1")
        (self.place / "cluster.000000000002").write_text("pando")
        self.cluster("show", expect=CORRUPTION)
        self.cluster("init", "--nodes", "1", "--replicas", "1", "--partitions", "1", expect=CORRUPTION)


if __name__ == "__main__":
    unittest.main()
