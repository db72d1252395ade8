"""Tests a partition whose file is damaged: the node serves the others and says what is wrong, the checks name it and
nothing else, and an operator gets it back with kvadmin accept-loss."""

import json
import re
import shutil
import time
import unittest
import urllib.request

import kvadmin_process
from kvadmin_process import CORRUPTION, IN_USE, NO, OK, USAGE
from node_process import CONTEXT, NodeProcess, temporary_directory, ttypes

FLAGS = ["--reactors=2", "--partitions=4", "--memory_limit_mb=192", "--log_budget_mb=64"]
BLOCK = 4096
RECORDS = 400


class QuarantineTest(unittest.TestCase):
    def setUp(self):
        self.root = temporary_directory("quarantine")
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        self.data = self.root / "data"
        self.node = NodeProcess(self.data, FLAGS)
        self.addCleanup(self.node.kill)

    def kv(self, *arguments, expect=OK, server=True):
        done = kvadmin_process.run(*arguments, server=f"{self.node.host}:{self.node.port}" if server else None)
        self.assertEqual(done.code, expect, f"kvadmin {arguments}: {done.out}{done.err}")
        return done.out + done.err

    def offline(self, *arguments, expect=OK):
        return self.kv(*arguments, expect=expect, server=False)

    def put(self, first, end):
        with self.node.connect() as client:
            for i in range(first, end):
                client.put(CONTEXT, ttypes.PutRequest(key=b"key-%05d" % i, value=b"value %d" % i))

    def records(self):
        """Returns the numbers of the records that can be read, and the answers of the others."""
        found, refused = set(), set()
        with self.node.connect() as client:
            for i in range(RECORDS):
                try:
                    reply = client.get(CONTEXT, ttypes.GetRequest(key=b"key-%05d" % i))
                    if reply.record.found:
                        self.assertEqual(reply.record.value, b"value %d" % i)
                        found.add(i)
                except ttypes.KvError as error:
                    refused.add(error.message)
        return found, refused

    def damage_superblocks(self, partition):
        with open(self.data / f"partition-{partition:05}/data", "r+b") as file:
            for copy in range(4):
                file.seek(copy * BLOCK + 1000)
                file.write(b"\xff")

    def accept(self, *arguments):
        shown = self.offline("accept-loss", self.data, "--partition", 1, *arguments, expect=NO)
        code = re.search(r"--confirm ([0-9a-f]{8})", shown).group(1)
        self.offline("accept-loss", self.data, "--partition", 1, *arguments, "--confirm", "00000000", expect=USAGE)
        return shown, self.offline("accept-loss", self.data, "--partition", 1, *arguments, "--confirm", code)

    def page(self, path):
        port = re.findall(r"http 127\.0\.0\.1:(\d+)", self.node.output())[-1]
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=30).read().decode()

    def expect_told(self):
        """The log, status, the scrub, the health page and the metrics say the same."""
        said = re.search(r"partition 1 \(hash 4000000000000000 to 7fffffffffffffff\) has been quarantined since \S+ \S+Z: .*",
                         self.node.output())
        self.assertIsNotNone(said, self.node.output())
        what, todo = said.group(0).split(". To do: ")
        self.assertIn("accept-loss", todo)
        self.assertIn(said.group(0) + "\n", self.kv("status", expect=NO))
        status = json.loads(self.kv("--json", "status", expect=NO))
        self.assertEqual([p["quarantine"] for p in status["partitions"] if "quarantine" in p], [said.group(0)])
        self.assertEqual(status["verdict"], f"serving, but {what}")
        self.assertEqual(status["advice"], todo)
        self.assertEqual(self.page("healthz"), f"ok, but 1 partition is quarantined\n{said.group(0)}\n")
        for arguments in (["--report"], [], ["--report"]):
            report = self.kv("check", "--online", "--quiet", *arguments, expect=CORRUPTION)
            self.assertIn(what, report)
            self.assertIn(todo, report)
            self.assertNotIn("sound", report.replace("put a sound copy", ""))
        self.assertEqual(json.loads(self.kv("--json", "check", "--online", expect=CORRUPTION))["problems_total"], 1)
        deadline = time.monotonic() + 30
        while 'kv_partition_quarantined_since_seconds{reactor="1",partition="1",cause=' not in self.page("metrics"):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.1)
        self.assertIn('kv_partitions_quarantined{reactor="1"} 1', self.page("metrics"))
        self.assertIn('kv_scrub_findings_count{reactor="1"} 1', self.page("metrics"))

    def start_damaged(self):
        """Returns the records of all partitions but 1, while 1 is quarantined."""
        self.node.start()
        self.expect_told()
        found, refused = self.records()
        self.assertEqual(len(refused), 1, refused)
        self.assertIn("partition 1 is quarantined", refused.pop())
        self.assertGreater(len(found), RECORDS // 2)
        self.assertLess(len(found), RECORDS)
        return found

    def test_a_partition_comes_back_from_a_backup_or_empty(self):
        self.node.start()
        self.put(0, RECORDS // 2)
        self.kv("backup", "--quiet", self.root / "backup")
        self.put(RECORDS // 2, RECORDS)
        self.assertIn("check --backup", self.offline("check", self.root / "backup", expect=USAGE))
        self.offline("accept-loss", self.data, "--partition", 1, expect=IN_USE)
        self.node.stop()
        self.assertIn("is sound", self.offline("accept-loss", self.data, "--partition", 1, expect=USAGE))
        self.damage_superblocks(1)
        others = self.start_damaged()
        self.node.stop()

        check = self.offline("check", "--quiet", self.data, expect=CORRUPTION)
        self.assertIn("DAMAGED: 1 problem, only in partition 1; all other partitions (3) are sound", check)
        self.assertIn("cannot be opened", self.offline("accept-loss", self.data, "--partition", 1, expect=NO))
        self.assertIn("no partition 7", self.offline("accept-loss", self.data, "--partition", 7, expect=USAGE))
        shutil.copytree(self.data, self.root / "other")
        shown, _ = self.accept("--backup", self.root / "backup")
        self.assertIn("no valid superblock", shown)
        self.assertRegex(shown, r"Lost: the writes with LSN \d+ to \d+, \d+ in all")
        self.assertTrue((self.data / "partition-00001/data.damaged-1").exists())
        self.offline("check", "--quiet", self.data)
        self.node.start()
        found, refused = self.records()
        self.assertEqual(refused, set())
        self.assertEqual(found, others | set(range(RECORDS // 2)))
        self.put(0, RECORDS)
        self.node.kill()
        self.node.start()
        self.assertEqual(self.records(), (set(range(RECORDS)), set()))
        self.kv("backup", "--quiet", self.root / "next", "--base", self.root / "backup")
        self.assertIn(f"sound: {RECORDS} records", self.offline("check", "--quiet", "--backup", self.root / "next"))
        self.node.stop()
        self.offline("check", "--quiet", self.data)

        self.node = NodeProcess(self.root / "other", FLAGS)
        self.data = self.root / "other"
        self.addCleanup(self.node.kill)
        self.accept("--empty")
        self.node.start()
        self.assertEqual(self.records(), (others, set()))
        self.put(0, RECORDS)
        self.node.kill()
        self.node.start()
        self.assertEqual(self.records(), (set(range(RECORDS)), set()))

    def test_damaged_leaves_stay_unless_the_tree_is_replaced(self):
        self.node = NodeProcess(self.data, [*FLAGS, "--compression=none"])
        self.addCleanup(self.node.kill)
        self.node.start()
        with self.node.connect() as client:
            for i in range(RECORDS):
                client.put(CONTEXT, ttypes.PutRequest(key=b"key-%05d" % i, value=b"[%d]" % i * 150))
        self.node.stop()
        path = self.data / "partition-00001/data"
        content = path.read_bytes()
        value = re.search(rb"\[\d+\]", content).group(0)  # of one record; the file may hold older copies of its leaf
        path.write_bytes(content.replace(value * 100, b"x" + (value * 100)[1:]))
        shown = self.offline("accept-loss", self.data, "--partition", 1, expect=NO)
        self.assertRegex(shown, r"Its tree is damaged in \d+ places?, and that stays")
        self.assertGreater(json.loads(self.offline("--json", "accept-loss", self.data, "--partition", 1,
                                                   expect=NO))["damage_stays"], 0)
        self.assertNotIn("that stays", self.accept("--empty")[0])
        self.offline("check", "--quiet", self.data)

    def test_a_partition_continues_from_its_last_checkpoint(self):
        self.node.start()
        self.put(0, RECORDS // 2)
        self.kv("checkpoint")
        old = self.root / "old"
        self.node.stop()
        shutil.copy(self.data / "partition-00001/data", old)
        self.node.start()
        self.put(RECORDS // 2, RECORDS)
        self.node.stop()
        self.node.start()
        self.node.stop()
        shutil.copy(old, self.data / "partition-00001/data")
        others = self.start_damaged()
        self.node.stop()
        check = self.offline("check", "--quiet", self.data, expect=CORRUPTION)
        self.assertIn("only in partition 1", check)
        shown = json.loads(self.offline("--json", "accept-loss", self.data, "--partition", 1, expect=NO))
        self.assertTrue(shown["possible"])
        self.assertLess(shown["continues_from_lsn"], shown["logged_lsn"])
        self.accept()
        self.node.start()
        found, refused = self.records()
        self.assertEqual(refused, set())
        self.assertEqual(found, others | set(range(RECORDS // 2)))
        self.put(0, RECORDS)
        self.node.kill()
        self.node.start()
        self.assertEqual(self.records(), (set(range(RECORDS)), set()))


if __name__ == "__main__":
    unittest.main()
