"""Tests the scrub of a running node: bytes that change in its files are reported with their place, and never served."""

import json
import re
import shutil
import time
import unittest
import urllib.request

from node_process import Admin, CONTEXT, NodeProcess, run_kvadmin, temporary_directory, ttypes

OK, NO, USAGE, FAILED, CORRUPTION = range(5)
# Without compression, so that the test can find values in the files.
FLAGS = ["--reactors=2", "--partitions=4", "--memory_limit_mb=256", "--compression=none"]
BLOCK = 4096
RECORDS = 2000


def value_of(number):
    return f"<{number:06}>" + "x" * (9000 if number % 500 == 0 else 200)


class ScrubTest(unittest.TestCase):
    def setUp(self):
        self.root = temporary_directory("scrub")
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        self.node = NodeProcess(self.root / "data", FLAGS)
        self.addCleanup(self.node.kill)
        self.node.start()

    def kv(self, *arguments, expect=OK):
        done = run_kvadmin("--server", f"{self.node.host}:{self.node.port}", *arguments, check=False)
        self.assertEqual(done.returncode, expect, f"kvadmin {arguments}: {done.stdout}{done.stderr}")
        return done.stdout

    def check(self, expect=OK):
        return json.loads(self.kv("--json", "check", "--online", "--mb-per-s", 10000, expect=expect))

    def load(self):
        path = self.root / "records.jsonl"
        with open(path, "w", encoding="ascii") as out:
            for i in range(RECORDS):
                out.write(json.dumps({"key": f"key-{i:06}", "value": value_of(i)}) + "\n")
        self.kv("load", "--quiet", path)
        self.kv("checkpoint")

    def find(self, number, pattern):
        """Returns the file that holds the value of this record, and its offset there."""
        places = []
        for path in sorted((self.root / "data").glob(pattern)):
            at = path.read_bytes().find(value_of(number).encode())
            if at >= 0:
                places.append((path, at))
        self.assertEqual(len(places), 1, places)
        return places[0]

    @staticmethod
    def flip(path, offset):
        with open(path, "r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 0x10]))

    def metric(self, name):
        text = self.node.output()
        port = int(re.search(r"http 127\.0\.0\.1:(\d+)", text).group(1))
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30).read().decode()
        return sum(float(line.split()[-1]) for line in page.splitlines() if re.match(name + r"[{ ]", line))

    def wait_for_metric(self, name, value):
        """Waits for a metric, because the node publishes metrics only twice a second."""
        deadline = time.monotonic() + 60
        while self.metric(name) != value:
            self.assertLess(time.monotonic(), deadline, name)
            time.sleep(0.05)

    def expect_problem(self, path, offset, says):
        report = self.check(expect=CORRUPTION)
        self.assertEqual([(p["file"], p["offset"]) for p in report["problems"]], [(str(path), offset)])
        self.assertIn(says, report["problems"][0]["what"])
        self.assertTrue(report["problems"][0]["advice"])

    def test_a_sound_store_is_said_to_be_sound(self):
        self.load()
        report = self.check()
        self.assertEqual(report["problems"], [])
        self.assertEqual((report["overflow_values"], report["running"]), (RECORDS // 500, False))
        self.assertGreater(report["pages"], 40)
        self.assertGreater(report["log_batches"], 0)
        self.assertIn("sound: ", self.kv("check", "--online"))
        self.assertIn("sound: ", self.kv("check", "--online", "--report"))
        self.assertIn("last pass finished", self.kv("status"))

    def test_a_changed_leaf_is_reported_and_not_served(self):
        self.load()
        path, at = self.find(77, "partition-*/data")
        content = path.read_bytes()
        page = at // BLOCK * BLOCK
        while content[page:page + 4] != b"PDPG":
            page -= BLOCK
        self.flip(path, at)
        self.expect_problem(path, page, "leaf: checksum mismatch")
        self.assertIn(f"PROBLEM {path} at offset {page}", self.kv("check", "--online", expect=CORRUPTION))
        self.assertIn("1 damaged places", self.kv("status", expect=NO))
        # The copy in memory is sound and is served.
        self.assertEqual(self.kv("get", "key-000077").strip(), value_of(77))
        self.kv("put", "zzz", "in another leaf")

        # The copy on disk is not served.
        self.node.kill()
        self.node.start()
        self.kv("get", "key-000077", expect=CORRUPTION)
        put = run_kvadmin("--server", f"{self.node.host}:{self.node.port}", "put", "key-000077", "x", check=False)
        self.assertEqual(put.returncode, CORRUPTION)
        self.assertIn("the server refused (CORRUPT)", put.stderr)
        self.assertNotIn("unknown", put.stderr)
        served = refused = 0
        for i in range(0, RECORDS, 7):
            done = run_kvadmin("--server", f"{self.node.host}:{self.node.port}", "get", f"key-{i:06}", check=False)
            self.assertIn(done.returncode, (OK, CORRUPTION), done.stderr)
            if done.returncode == OK:
                self.assertEqual(done.stdout.strip(), value_of(i))
                served += 1
            else:
                self.assertIn(str(path), done.stderr)
                self.assertIn(str(page), done.stderr)
                refused += 1
        self.assertGreater(served, 20 * refused)
        self.wait_for_metric("kv_pool_damaged_reads_total", refused + 2)
        said = [line for line in self.node.output().splitlines() if "a read failed: " in line]
        self.assertEqual(len(said), 1, said)
        self.assertIn(f"{path}: page at offset {page}", said[0])
        self.flip(path, at)
        self.assertEqual(self.check()["problems"], [])
        self.assertEqual(self.kv("get", "key-000077").strip(), value_of(77))
        self.node.stop()
        self.assertIn("sound: ", run_kvadmin("check", self.root / "data").stdout)

    def test_values_superblocks_and_log_are_covered(self):
        self.load()
        path, at = self.find(500, "partition-*/data")
        self.assertEqual(at % BLOCK, 0)
        self.flip(path, at + 5000)
        self.expect_problem(path, at, "the value of key 'key-000500'")
        self.wait_for_metric("kv_scrub_findings_count", 1)
        self.flip(path, at + 5000)

        for copy in range(4):
            self.flip(path, copy * BLOCK + 100)
            self.expect_problem(path, copy * BLOCK, "superblock copy")
            self.flip(path, copy * BLOCK + 100)

        self.kv("put", "late", value_of(999_999))
        path, at = self.find(999_999, "wal-*/*.wal")
        self.flip(path, at)
        report = self.check(expect=CORRUPTION)
        self.assertEqual([p["file"] for p in report["problems"]], [str(path)])
        self.assertLess(abs(report["problems"][0]["offset"] - at), BLOCK)
        self.flip(path, at)
        self.assertEqual(self.check()["problems"], [])
        self.wait_for_metric("kv_scrub_findings_count", 0)
        self.assertGreater(self.metric("kv_scrub_read_bytes_total"), 0)

    def test_over_thrift(self):
        with self.node.connect(service=Admin) as admin:
            reply = admin.scrub(CONTEXT, ttypes.ScrubRequest())
            self.assertEqual((reply.running, reply.passes_finished, reply.findings), (False, 0, []))
            reply = admin.scrub(CONTEXT, ttypes.ScrubRequest(start=True, mb_per_s=1))
            self.assertTrue(reply.running)
            with self.assertRaises(ttypes.KvError):
                admin.scrub(CONTEXT, ttypes.ScrubRequest(start=True, mb_per_s=-1))
        self.kv("check", expect=USAGE)
        self.kv("check", "--report", expect=USAGE)
        self.kv("check", "--online", self.root, expect=USAGE)


if __name__ == "__main__":
    unittest.main()
