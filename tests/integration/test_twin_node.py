#!/usr/bin/python3
"""Two processes with the number of one node: the second one is refused while the first one answers. If the first one did
not answer, because it hung, the second one takes its place, and the first one ends as soon as it goes on.
"""

import os
import shutil
import signal
import time
import unittest

from cluster_process import Cluster, ClusterNode
from kvadmin_process import OK, run
from node_process import temporary_directory

CANNOT_START, DISPLACED = 1, 4
KEYS = 40


class TwinNode(unittest.TestCase):
    def setUp(self):
        self.directory = temporary_directory("twin-node")
        self.cluster = Cluster(self.directory, partitions=4).start()
        self.cluster.wait_healed()
        self.node = self.cluster.nodes[1]
        self.twin = ClusterNode(self.directory / "twin", self.node.flags)
        self.client = self.cluster.client()
        self.write(b"before")

    def tearDown(self):
        self.client.close()
        self.twin.kill()
        self.cluster.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def write(self, value):
        for i in range(KEYS):
            self.client.put(b"key%d" % i, value)

    def check(self, value):
        for i in range(KEYS):
            self.assertEqual(self.client.get(b"key%d" % i), value)

    def record(self):
        done = run("--json", "cluster", "show", "--topology", self.cluster.topology)
        nodes = [line["node"] for line in done.lines() if "node" in line]
        return next(node for node in nodes if node["id"] == 1)

    def refused(self):
        self.twin.launch()
        self.assertEqual(self.twin.process.wait(30), CANNOT_START, self.twin.output())
        self.assertIn("node 1 runs already", self.twin.output())
        self.assertIn(self.node.address, self.twin.output())  # where to look

    def test_is_refused_while_the_node_answers(self):
        before = self.record(), self.cluster.partitions()
        self.refused()
        # Neither does it with a copy of the directory, which holds all that the node has had.
        os.kill(self.node.node_pid(), signal.SIGSTOP)
        shutil.copytree(self.node.data_dir, self.twin.data_dir, dirs_exist_ok=True)
        os.kill(self.node.node_pid(), signal.SIGCONT)
        self.cluster.wait_healed()
        self.refused()
        self.assertEqual(self.record(), before[0])
        self.assertEqual({p: sorted(r["replica"] for r in record["isr"]) for p, record in before[1].items()},
                         {p: sorted(r["replica"] for r in record["isr"])
                          for p, record in self.cluster.wait_healed().items()})
        self.assertIsNone(self.node.process.poll())
        self.assertNotIn("quarantined", self.node.output())
        self.write(b"after")
        self.check(b"after")

    def test_a_restart_at_once_is_no_twin(self):
        for _ in range(3):
            self.client.close()
            self.node.kill_node()
            self.node.start()
            self.client = self.cluster.client()
        self.cluster.wait_well()
        self.check(b"before")

    def test_the_displaced_process_ends(self):
        pid = self.node.node_pid()
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        self.twin.start()  # nobody answers
        self.assertLess(time.monotonic() - began, 15)
        os.kill(pid, signal.SIGCONT)
        self.assertEqual(self.node.process.wait(30), DISPLACED, self.node.output())
        self.assertIn("another process is node 1 now", self.node.output())
        self.assertIn(self.twin.address, self.node.output())
        # Its directory is an old copy from now on, and it is refused as long as the other one runs.
        self.node.launch()
        self.assertEqual(self.node.process.wait(30), CANNOT_START, self.node.output())
        self.cluster.nodes[1] = self.twin
        self.client.close()
        self.client = self.cluster.client()
        self.cluster.wait_well()
        self.check(b"before")
        done = run("verify", "--topology", self.cluster.topology)
        self.assertEqual(done.code, OK, done.out + done.err)
        # The operator wants the first one back.
        self.twin.stop()
        self.node.start()
        self.cluster.nodes[1] = self.node
        self.client.close()
        self.client = self.cluster.client()
        self.cluster.wait_well()
        self.check(b"before")


if __name__ == "__main__":
    unittest.main(verbosity=2)
