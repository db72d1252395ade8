#!/usr/bin/python3
"""kvadmin topology recover, with three real nodes: the topology is removed, or put back from an older copy, and made anew
from the nodes' directories. What nodes say meanwhile, and what recover refuses."""

import json
import pathlib
import re
import shutil
import unittest

from cluster_process import Cluster
from kvadmin_process import FAILED, IN_USE, NO, OK, USAGE, run
from node_process import temporary_directory

CANNOT_START = 1


class TopologyRecover(unittest.TestCase):

    def setUp(self):
        self.directory = temporary_directory("topology-recover")
        self.cluster = Cluster(self.directory, partitions=4)
        self.place = self.cluster.directory / "topology"
        self.cluster.start()
        self.cluster.wait_healed()
        self.expected = {}

    def tearDown(self):
        self.cluster.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def put(self, prefix, count=200):
        client = self.cluster.client()
        for i in range(count):
            key, value = b"%s%d" % (prefix, i), b"value-%s%d" % (prefix, i)
            client.put(key, value)
            self.expected[key] = value
        client.close()

    def check_all(self):
        client = self.cluster.client()
        for key, value in self.expected.items():
            self.assertEqual(client.get(key), value, key)
        client.close()

    def recover(self, *more, nodes=(1, 2, 3), json_too=False):
        directories = ",".join(str(self.cluster.nodes[n].data_dir) for n in nodes)
        return run(*(["--json"] if json_too else []), "topology", "recover", f"file:{self.place}", "--nodes=1,2,3",
                   f"--data-dirs={directories}", *more)

    def recover_confirmed(self, *more, nodes=(1, 2, 3)):
        shown = self.recover(*more, nodes=nodes)
        self.assertEqual(shown.code, NO, shown.out + shown.err)
        code = re.search(r"--confirm ([0-9a-f]{8})", shown.out).group(1)
        done = self.recover(*more, "--confirm", code, nodes=nodes)
        self.assertEqual(done.code, OK, done.out + done.err)
        return done.out

    def expect_no_start(self, node, *texts):
        node.launch()
        self.assertEqual(node.process.wait(60), CANNOT_START, node.output())
        for text in texts:
            self.assertIn(text, node.output())

    def epochs(self):
        return {number: p["epoch"] for number, p in self.cluster.partitions().items()}

    def test_a_topology_that_was_removed(self):
        self.put(b"a")
        before = self.epochs()
        in_use = self.recover()
        self.assertEqual(in_use.code, IN_USE, in_use.out + in_use.err)
        self.cluster.kill()
        shutil.rmtree(self.place)
        self.place.mkdir()
        self.expect_no_start(self.cluster.nodes[1], "holds no cluster", "kvadmin topology recover")

        dry = self.recover("--dry-run", json_too=True)
        self.assertEqual(dry.code, OK, dry.out + dry.err)
        plan = json.loads(dry.out)["recover"]
        self.assertEqual(plan["missing"], [])
        self.assertFalse(plan["written"])
        self.assertEqual(list(self.place.glob("partition*")), [])
        for partition in plan["partitions"]:
            self.assertGreater(partition["epoch"], before[partition["id"]])
            self.assertEqual(sorted(partition["in_sync"] + partition["behind"]), [1, 2, 3])
        wrong = self.recover("--confirm", "00000000")
        self.assertEqual(wrong.code, USAGE, wrong.out + wrong.err)

        self.assertIn("Nothing that was acknowledged is lost", self.recover_confirmed())
        self.cluster.start()
        self.cluster.wait_healed()
        self.check_all()
        set_min_isr = run("cluster", "set-min-isr", "all", "2", server=self.cluster.nodes[1].address)
        self.assertEqual(set_min_isr.code, OK, set_min_isr.err)
        self.put(b"b")
        self.check_all()
        status = run("cluster", "status", server=self.cluster.nodes[1].address)
        self.assertEqual(status.code, OK, status.out + status.err)

    def test_a_topology_of_an_hour_ago(self):
        self.put(b"a")
        old = pathlib.Path(self.directory) / "old"
        shutil.copytree(self.place, old)
        # Masters change meanwhile, and one node misses the last writes.
        for number in (1, 2, 3):
            node = self.cluster.nodes[number]
            node.kill_node()
            node.start()
            self.cluster.wait_healed()
        self.put(b"b")
        self.cluster.nodes[3].kill_node()
        self.put(b"c", count=50)
        before = self.epochs()
        self.cluster.kill()
        shutil.rmtree(self.place)
        shutil.copytree(old, self.place)
        self.expect_no_start(self.cluster.nodes[2], "has gone back", "kvadmin topology recover")

        out = self.recover_confirmed()
        self.assertIn("Nothing that was acknowledged is lost", out)
        for number, epoch in self.epochs().items():
            self.assertGreater(epoch, before[number])
        self.cluster.start()
        self.cluster.wait_healed()
        self.check_all()
        self.put(b"d")
        self.check_all()

    def test_a_node_that_is_lost(self):
        self.put(b"a")
        self.cluster.kill()
        shutil.rmtree(self.place)
        self.place.mkdir()
        shutil.rmtree(self.cluster.nodes[3].data_dir)
        refused = self.recover(nodes=(1, 2))
        self.assertEqual(refused.code, FAILED, refused.out + refused.err)
        self.assertIn("node 3", refused.err)
        self.assertIn("--accept-loss", refused.err)
        self.assertEqual(list(self.place.glob("partition*")), [])

        self.assertIn("GIVEN UP", self.recover_confirmed("--accept-loss", nodes=(1, 2)))
        self.cluster.start()
        self.cluster.wait_healed(replicas=2)
        self.check_all()
        for number, partition in self.cluster.partitions().items():
            self.assertEqual(partition["lineage"], 2)
            added = run("replica", "add", str(number), "3", server=self.cluster.nodes[1].address)
            self.assertEqual(added.code, OK, added.out + added.err)
        self.cluster.wait_healed()
        self.put(b"b")
        self.check_all()


if __name__ == "__main__":
    unittest.main()
