#!/usr/bin/python3
"""kvadmin verify: equal replicas are found equal, also while clients write, and a record that differs on one replica is
found, with its key."""

import shutil
import subprocess
import time
import unittest

from cluster_process import BIN_DIR, Cluster
from kvadmin_process import FAILED, NO, OK, USAGE, run
from node_process import temporary_directory
from test_cluster import Writer

PARTITIONS = 4
RECORDS = 3000
WRITES_MEANWHILE = 300
LOAD_TIMEOUT_S = 120


class VerifyTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = temporary_directory("cluster-verify")
        cls.cluster = Cluster(cls.directory, partitions=PARTITIONS).start()
        client = cls.cluster.client()
        for i in range(RECORDS):
            client.put(b"row/%05d" % i, b"value %d" % i)
        client.close()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.kill()
        shutil.rmtree(cls.directory, ignore_errors=True)

    def verify(self, *arguments, expect=OK):
        done = run("--json", "verify", *arguments, "--topology", self.cluster.topology)
        self.assertEqual(done.code, expect, f"kvadmin verify {arguments}: {done.out}{done.err}")
        return done

    def wait_ok(self):
        self.cluster.wait_well()

    def test_equal_replicas(self):
        self.wait_ok()
        lines = self.verify().lines()
        self.assertEqual(lines[-1], {"equal": PARTITIONS, "differ": 0, "unknown": 0})
        self.assertGreaterEqual(sum(line["count"] for line in lines[:-1]), RECORDS)
        for line in lines[:-1]:
            self.assertEqual((line["verdict"], line["nodes"], line["left_out"]), ("equal", [1, 2, 3], []))
        self.assertEqual([line["partition"] for line in self.verify("2", "0").lines()[:-1]], [2, 0])
        self.assertIn("there is no partition 9", self.verify("9", expect=USAGE).err)
        self.assertIn("there is no partition x", self.verify("x", expect=USAGE).err)
        text = run("verify", "1", "--topology", self.cluster.topology).out
        self.assertRegex(text, "partition 1: the 3 replicas of the nodes 1,2,3 are equal at LSN ")

    def test_equal_replicas_under_load(self):
        self.wait_ok()
        writers = [Writer(self.cluster, number) for number in range(3)]
        for writer in writers:
            writer.start()
        count = lambda: sum(writer.writes for writer in writers)
        before = count()
        began = time.monotonic()
        rounds = 0
        while rounds < 3 or count() < before + WRITES_MEANWHILE:
            self.assertLess(time.monotonic() - began, LOAD_TIMEOUT_S, f"{count() - before} writes in {rounds} rounds")
            self.assertEqual(self.verify().lines()[-1]["equal"], PARTITIONS)
            rounds += 1
        took_s = time.monotonic() - began
        written = count() - before
        for writer in writers:
            writer.finish()
            writer.verify()
        print(f"verified {rounds} times in {took_s:.1f} s while {written} writes went on")

    def flip(self, node, key, value):
        """Changes a record of a node that is stopped."""
        for partition in range(PARTITIONS):
            done = subprocess.run([BIN_DIR / "flip_record", self.cluster.nodes[node].data_dir, str(partition), key, value],
                                  check=False, capture_output=True, text=True, timeout=60)
            if done.returncode == 0:
                return partition
            self.assertIn("there is no record", done.stderr)
        raise AssertionError(f"no partition of node {node} has {key}")

    def test_a_record_that_differs_is_found(self):
        self.wait_ok()
        node = self.cluster.nodes[2]
        node.stop()
        left = self.verify(expect=OK).lines()
        self.assertEqual([line["left_out"] for line in left[:-1]], [[2]] * PARTITIONS)
        partition = self.flip(2, "row/01234", "volue 1234")
        node.start()
        self.wait_ok()
        lines = self.verify(expect=NO).lines()
        self.assertEqual(lines[-1], {"equal": PARTITIONS - 1, "differ": 1, "unknown": 0})
        (line, ) = [line for line in lines if line.get("verdict") == "differ"]
        self.assertEqual((line["partition"], line["nodes"], line["same_history"]), (partition, [1, 2], True))
        first = line["first"]
        self.assertEqual(first["key"], "row/01234")
        self.assertEqual(first["1"]["version"], first["2"]["version"])
        self.assertEqual(first["1"]["bytes"], first["2"]["bytes"])
        self.assertNotEqual(first["1"]["value_hash"], first["2"]["value_hash"])
        self.assertLess(line["requests"], 100)
        text = run("verify", str(partition), "--topology", self.cluster.topology)
        self.assertEqual(text.code, NO)
        self.assertIn("the first that differs is row/01234 (node 1: version ", text.out)
        # Under load as well.
        writers = [Writer(self.cluster, 7)]
        writers[0].start()
        (line, ) = [line for line in self.verify(expect=NO).lines() if line.get("verdict") == "differ"]
        self.assertEqual(line["first"]["key"], "row/01234")
        writers[0].finish()
        # Written again, it is the same everywhere.
        client = self.cluster.client()
        client.put(b"row/01234", b"value 1234")
        client.close()
        # The followers apply it a moment after the master. Until then they have an equal LSN, and differ.
        deadline = time.monotonic() + 10
        while run("verify", "--topology", self.cluster.topology).code == NO:
            self.assertLess(time.monotonic(), deadline)
        self.assertEqual(self.verify().lines()[-1]["equal"], PARTITIONS)

    def test_too_few_replicas(self):
        self.wait_ok()
        for node in (2, 3):
            self.cluster.nodes[node].kill_node()
        try:
            done = self.verify(expect=FAILED)
            self.assertEqual(done.lines()[-1]["unknown"], PARTITIONS)
        finally:
            for node in (2, 3):
                self.cluster.nodes[node].start()


if __name__ == "__main__":
    unittest.main()
