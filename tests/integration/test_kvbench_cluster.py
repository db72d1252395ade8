#!/usr/bin/python3
"""Runs kvbench failover and kvbench replication on clusters of Pando, with the smallest sizes, and looks at what they
report. The figures mean nothing here."""

import json
import shutil
import subprocess
import unittest

from node_process import BIN_DIR, temporary_directory

TIMEOUT_S = 240  # of each command; they take a few seconds


class KvbenchCluster(unittest.TestCase):

    def setUp(self):
        self.directory = temporary_directory("kvbench-cluster")

    def tearDown(self):
        shutil.rmtree(self.directory, ignore_errors=True)

    def bench(self, *arguments):
        figures = self.directory / "figures.json"
        done = subprocess.run(
            [BIN_DIR / "kvbench", *arguments, "--systems=pando", "--partitions=2", f"--scratch_dir={self.directory}",
             f"--json={figures}"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        self.assertEqual(done.returncode, 0, f"kvbench exited with {done.returncode}:\n{done.stdout}{done.stderr}")
        left = [path.name for path in self.directory.iterdir()]
        self.assertEqual(left, ["figures.json"], "files of the servers were left behind")
        return [json.loads(line) for line in figures.read_text().splitlines()], done.stdout

    def test_failover(self):
        lines, out = self.bench("failover", "--runs=1", "--rate=200", "--warmup_s=0.1")
        self.assertEqual([line["workload"] for line in lines], ["kill", "silent", "restart", "handover"])
        for line in lines:
            self.assertGreater(line["acknowledged"], 0, line)
            self.assertGreater(line["partitions"], 0, line)
            self.assertEqual((line["lost"], line["wrong_reads"]), (0, 0), line)
        self.assertGreater(lines[0]["pause_ms"], 0)
        self.assertIn("acknowledged writes of all runs are there\n", out)

    def test_replication(self):
        lines, out = self.bench("replication", "--parts=cost,lag,catch-up", "--repeat=1", "--seconds=0.3",
                                "--warmup_s=0.1", "--keys=200", "--value_bytes=10000", "--rate=100",
                                "--catch_up_keys=500", "--missed_mb=100", "--log_budget_mb=16")
        by_workload = {line["workload"]: line for line in lines}
        self.assertEqual(list(by_workload), ["put-r1", "put-r3", "lag", "catch-up-before", "catch-up"])
        for line in lines:
            self.assertGreater(line["ops"], 0, line)
            self.assertEqual(line["errors"], 0, line)
        self.assertGreater(by_workload["lag"]["lag_samples"], 0)
        # More was written than the log keeps, so pages were copied.
        self.assertGreater(by_workload["catch-up"]["copied_mb"], 1)
        self.assertGreater(by_workload["catch-up"]["level_s"], 0)
        for text in ("ratios of runs", "Lag at 100 puts/s", "Catch-up: "):
            self.assertIn(text, out)


if __name__ == "__main__":
    unittest.main()
