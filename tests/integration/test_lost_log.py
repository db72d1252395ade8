"""Tests logs and directories that an operator moves or removes: a node refuses to start if acknowledged writes are
lost, and a running node never touches the files of another store."""

import os
import re
import shutil
import subprocess
import unittest

import kvadmin_process
from node_process import CONTEXT, NodeProcess, temporary_directory, ttypes

FLAGS = ["--reactors=2", "--partitions=4", "--memory_limit_mb=256", "--log_budget_mb=64"]
CANNOT_START, ENGINE_FAILED = 1, 2
WAIT_S = 30


class LostLogTest(unittest.TestCase):
    def setUp(self):
        self.root = temporary_directory("lost-log")
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)

    def node(self, name="data", *flags):
        node = NodeProcess(self.root / name, [*FLAGS, *flags])
        self.addCleanup(node.kill)
        return node

    @staticmethod
    def put(node, prefix, count, value_bytes=100):
        with node.connect() as client:
            for i in range(count):
                client.put(CONTEXT, ttypes.PutRequest(key=b"%s-%05d" % (prefix, i), value=b"v" * value_bytes))

    def expect_records(self, node, prefix, count):
        with node.connect() as client:
            for i in range(count):
                found = client.get(CONTEXT, ttypes.GetRequest(key=b"%s-%05d" % (prefix, i)))
                self.assertTrue(found.record.found, f"{prefix} {i} is lost")

    def expect_refused(self, node, says):
        node.launch()
        self.assertEqual(node.process.wait(WAIT_S), CANNOT_START, node.output())
        for text in says:
            self.assertIn(text, node.output())

    def expect_check(self, directory, code, says=()):
        done = kvadmin_process.run("check", "--quiet", directory)
        self.assertEqual(done.code, code, done.out + done.err)
        for text in says:
            self.assertIn(text, done.out)

    def test_without_its_logs_a_killed_node_does_not_start(self):
        node = self.node().start()
        self.put(node, b"a", 200)
        node.kill()
        data, aside = self.root / "data", self.root / "aside"
        aside.mkdir()
        logs = sorted(path.name for path in data.glob("wal-*"))
        self.assertEqual(len(logs), 2)
        for name in logs:
            os.rename(data / name, aside / name)
        self.expect_refused(node, ["a part of the log is lost", "wal-", "partition-0000", f"kvadmin accept-loss {data} --log "])
        self.expect_check(data, kvadmin_process.CORRUPTION, [str(data / name) for name in logs])
        self.assertEqual([path.name for path in data.glob("wal-*")], [], "the node created logs in their place")
        for name in logs:
            os.rename(aside / name, data / name)
        self.expect_check(data, kvadmin_process.OK)
        node.start()
        self.expect_records(node, b"a", 200)
        node.stop()

        # It also refuses after a clean stop, because it cannot know that the log was empty.
        shutil.rmtree(data / logs[1])
        self.expect_refused(node, ["a part of the log is lost", logs[1]])
        shown = kvadmin_process.run("accept-loss", data, "--log", 1)
        self.assertEqual(shown.code, kvadmin_process.NO, shown.err)
        code = re.search(r"--confirm ([0-9a-f]{8})", shown.out).group(1)
        accepted = kvadmin_process.run("accept-loss", data, "--log", 1, "--confirm", code)
        self.assertEqual(accepted.code, kvadmin_process.OK, accepted.err)
        node.start()
        self.expect_records(node, b"a", 200)
        self.put(node, b"b", 10)
        node.kill()
        node.start()
        self.expect_records(node, b"b", 10)
        node.stop()
        self.expect_check(data, kvadmin_process.OK)

    def test_a_node_whose_directory_was_renamed_stays_in_its_own_files(self):
        old = self.node()
        old.log = self.root / "old.log"
        old.start()
        self.put(old, b"old", 20)
        os.rename(self.root / "data", self.root / "data.old")
        other = self.node().start()
        self.put(other, b"other", 20)
        # Write several times the log's budget, so that all segments are recycled, some more than once.
        self.put(old, b"large", 200, value_bytes=1 << 20)
        self.expect_records(old, b"old", 20)
        self.put(other, b"more", 20)
        other.kill()
        self.expect_check(self.root / "data", kvadmin_process.OK)
        other.start()
        self.expect_records(other, b"other", 20)
        self.expect_records(other, b"more", 20)
        other.stop()
        old.stop()
        self.expect_check(self.root / "data", kvadmin_process.OK)
        self.expect_check(self.root / "data.old", kvadmin_process.OK)
        again = self.node("data.old").start()
        self.expect_records(again, b"old", 20)
        self.expect_records(again, b"large", 200)
        again.stop()

    def test_a_node_without_its_lock_file_stops(self):
        node = self.node().start()
        self.put(node, b"a", 20)
        os.unlink(self.root / "data" / "lock")
        try:
            code = node.process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.fail(f"the node still runs without its lock file:\n{node.output()}")
        self.assertEqual(code, ENGINE_FAILED, node.output())
        self.assertIn("lock file", node.output())
        node.start()
        self.expect_records(node, b"a", 20)
        node.stop()


if __name__ == "__main__":
    unittest.main()
