"""Tests a log that is damaged as a whole: a node refuses to start and says what to do, the tools show what is left, and
an operator gets the store back with kvadmin accept-loss --log."""

import collections
import json
import os
import re
import shutil
import unittest

import kvadmin_process
from kvadmin_process import CORRUPTION, IN_USE, NO, OK, USAGE
from node_process import CONTEXT, NodeProcess, temporary_directory, ttypes

FLAGS = ["--reactors=2", "--partitions=4", "--memory_limit_mb=192", "--log_budget_mb=64"]
CANNOT_START = 1
BLOCK = 4096
RECORDS = 600
WAIT_S = 30


def key(i):
    return b"key-%05d" % i


class AcceptLogLossTest(unittest.TestCase):
    def setUp(self):
        self.root = temporary_directory("accept-log-loss")
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        self.data = self.root / "data"
        self.node = NodeProcess(self.data, FLAGS)
        self.addCleanup(self.node.kill)

    def offline(self, *arguments, expect=OK):
        done = kvadmin_process.run(*arguments)
        self.assertEqual(done.code, expect, f"kvadmin {arguments}: {done.out}{done.err}")
        return done.out + done.err

    def put(self, first, end):
        with self.node.connect() as client:
            for i in range(first, end):
                client.put(CONTEXT, ttypes.PutRequest(key=key(i), value=b"value %d" % i))

    def records(self):
        found = set()
        with self.node.connect() as client:
            for i in range(RECORDS):
                reply = client.get(CONTEXT, ttypes.GetRequest(key=key(i)))
                if reply.record.found:
                    self.assertEqual(reply.record.value, b"value %d" % i)
                    found.add(i)
        return found

    def dump(self, expect=OK):
        """Returns the lines of wal-dump, and the numbers of the records by partition, in the order of the log."""
        done = kvadmin_process.run("--json", "wal-dump", self.data)
        self.assertEqual(done.code, expect, done.err)
        lines = [json.loads(line) for line in done.out.splitlines()]
        order = collections.defaultdict(list)
        for line in lines:
            if line.get("op") == "put":
                order[int(line["partition"])].append(int(line["key"].split("-")[1]))
        return lines, order

    def batches(self, reactor):
        """Returns segment files and offsets of the batches of a log, in order."""
        found = []
        for path in sorted((self.data / f"wal-{reactor}").glob("segment-*.wal")):
            image = path.read_bytes()
            found += [(path, at) for at in range(BLOCK, len(image), BLOCK) if image[at + 8:at + 16] == b"PANDOBAT"]
        return found

    def fill(self):
        self.node.start()
        self.put(0, RECORDS // 4)
        done = kvadmin_process.run("checkpoint", server=f"{self.node.host}:{self.node.port}")
        self.assertEqual(done.code, OK, done.err)
        self.put(RECORDS // 4, RECORDS)
        self.node.kill()
        return self.dump()[1]

    def expect_refused(self, *says):
        self.node.launch()
        self.assertEqual(self.node.process.wait(WAIT_S), CANNOT_START, self.node.output())
        for text in (*says, f"kvadmin accept-loss {self.data} --log 0"):
            self.assertIn(text, self.node.output())
        check = self.offline("check", "--quiet", self.data, expect=CORRUPTION)
        for text in (*says, f"kvadmin accept-loss {self.data} --log 0"):
            self.assertIn(text, check)

    def accept(self):
        before = {path: path.read_bytes() for path in sorted(self.data.glob("**/*")) if path.is_file()}
        shown = self.offline("accept-loss", self.data, "--log", 0, expect=NO)
        code = re.search(r"--confirm ([0-9a-f]{8})", shown).group(1)
        self.assertEqual(json.loads(self.offline("--json", "accept-loss", self.data, "--log", 0, expect=NO))["confirm"],
                         code)
        self.offline("accept-loss", self.data, "--log", 0, "--confirm", "00000000", expect=USAGE)
        for path, content in before.items():
            self.assertEqual(path.read_bytes(), content, f"{path} was changed")
        self.offline("accept-loss", self.data, "--log", 0, "--confirm", code)
        self.assertIn("no loss to accept", self.offline("accept-loss", self.data, "--log", 0, expect=USAGE))
        self.offline("check", "--quiet", self.data)
        return shown

    def expect_prefixes(self, order, least):
        """Partitions 1 and 3 have everything; the others a prefix of their history."""
        found = self.records()
        for partition, numbers in order.items():
            here = [i for i in numbers if i in found]
            self.assertEqual(here, numbers[:len(here)], f"partition {partition}")
            if partition % 2 == 1:
                self.assertEqual(here, numbers)
        self.assertTrue(set(range(least)) <= found, "a record of the checkpoint is lost")
        return found

    def go_on(self):
        self.put(0, RECORDS)
        self.node.kill()
        self.node.start()
        self.assertEqual(self.records(), set(range(RECORDS)))
        self.node.stop()
        self.offline("check", "--quiet", self.data)

    def test_a_damaged_batch(self):
        order = self.fill()
        path, at = self.batches(0)[len(self.batches(0)) * 2 // 3]
        whole = path.read_bytes()
        with open(path, "r+b") as file:
            file.seek(at + 40)
            file.write(b"\xff")
        self.expect_refused(f"{path}: offset {at}")

        lines, left = self.dump(expect=CORRUPTION)
        damage = [line["damage"] for line in lines if "damage" in line]
        self.assertEqual([(d["offset"], str(path) in d["what"]) for d in damage], [(at, True)])
        behind = [line for line in lines if line.get("behind_damage")]
        self.assertGreater(len(behind), 10)
        self.assertGreater(len(left[0]) + len(left[2]), len(order[0]) + len(order[2]) - 50)
        text = self.offline("wal-dump", self.data, expect=CORRUPTION)
        self.assertIn("DAMAGED: ", text)
        self.assertIn("the log ends in segment", text)

        self.assertIn("--log 0", self.offline("accept-loss", self.data, "--partition", 0, expect=CORRUPTION))
        self.assertIn("--partition or --log", self.offline("accept-loss", self.data, expect=USAGE))
        self.offline("accept-loss", self.data, "--log", 0, "--partition", 0, expect=USAGE)
        self.offline("accept-loss", self.data, "--log", 0, "--empty", expect=USAGE)
        self.assertIn("no log 7", self.offline("accept-loss", self.data, "--log", 7, expect=USAGE))
        self.assertIn("no loss to accept", self.offline("accept-loss", self.data, "--log", 1, expect=USAGE))
        shown = self.accept()
        self.assertIn(f"damage: {path}: offset {at}", shown)
        self.assertIn("may hold writes of any partition", shown)
        self.assertRegex(shown, r"at least LSN \d+ to \d+, \d+ in all, .*; \d+ can still be read")
        self.assertIn("its log", shown)
        aside = path.with_name(path.name.replace(".wal", ".damaged-1"))
        self.assertEqual(len(aside.read_bytes()), len(whole))
        self.assertIn(aside.name, shown)

        self.node.start()
        self.offline("accept-loss", self.data, "--log", 0, expect=IN_USE)
        found = self.expect_prefixes(order, RECORDS // 4)
        self.assertGreater(len(found), RECORDS // 2)
        self.assertLess(len(found), RECORDS)
        self.go_on()
        self.assertTrue(aside.exists())

    def test_a_truncated_segment(self):
        order = self.fill()
        path, at = self.batches(0)[len(self.batches(0)) // 2]
        os.truncate(path, at + 100)
        self.expect_refused("it was truncated or extended")
        self.accept()
        self.node.start()
        self.expect_prefixes(order, RECORDS // 4)
        self.go_on()

    def test_the_log_is_missing(self):
        order = self.fill()
        shutil.rmtree(self.data / "wal-0")
        self.expect_refused("a part of the log is lost")
        shown = self.accept()
        self.assertIn("its checkpoint", shown)
        self.node.start()
        self.expect_prefixes(order, RECORDS // 4)
        self.go_on()


if __name__ == "__main__":
    unittest.main()
