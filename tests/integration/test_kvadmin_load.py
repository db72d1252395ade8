"""Tests that `kvadmin load` accounts for every line of its input, whatever the server answers."""

import json
import os
import time
import unittest

from kvadmin_harness import FakeServer, WithNode
from kvadmin_process import FAILED, OK, REJECTED, USAGE, run
from node_process import constants, ttypes


def stored(ops):
    return ttypes.WriteBatchReply(results=[ttypes.WriteResult(applied=True, version=1) for _ in ops])


class LoadTest(WithNode):
    def fake(self, answer):
        server = FakeServer(answer)
        self.addCleanup(server.close)
        return server

    def lines(self, count):
        return "".join(json.dumps({"key": f"k{i}", "value": str(i)}) + "\n" for i in range(1, count + 1)).encode()

    def test_one_record_that_the_server_refuses(self):
        # The server refuses a whole batch because of one record's TTL.
        lines = [{"key": f"lt/{i}", "value": "x"} for i in range(1, 1001)]
        lines[499]["ttl_ms"] = 2**63 - 1
        done = self.kv("--json", "load", "-", "--on-error", "skip", expect=REJECTED,
                       stdin="".join(json.dumps(line) + "\n" for line in lines).encode())
        summary = done.json()
        self.assertEqual((summary["loaded"], [r["line"] for r in summary["rejects"]]), (999, [500]))
        self.assertEqual(self.kv("count", "--prefix", "lt/").out, "999\n")

    def test_a_batch_that_is_refused_as_a_whole_is_cut_down_to_the_record(self):
        bad = {"k7", "k600", "k601"}

        def answer(ops):
            if any(op.key.decode() in bad for op in ops):
                return ttypes.KvError(code=constants.BAD_REQUEST, message="bad key in here", retryable=False,
                                      applied=constants.APPLIED_NO)
            return stored(ops)

        server = self.fake(answer)
        done = run("--json", "load", "-", "--on-error", "skip", "--batch-ops", "100", server=server.address,
                   stdin=self.lines(1000))
        self.assertEqual(done.code, REJECTED, done.err)
        summary = done.json()
        self.assertEqual((summary["loaded"], sorted(r["line"] for r in summary["rejects"])), (997, [7, 600, 601]))
        good = [batch for batch in server.batches if not bad & set(batch)]
        self.assertEqual(sorted(key for batch in good for key in batch),
                         sorted(f"k{i}" for i in range(1, 1001) if f"k{i}" not in bad), "each must be stored once")

    def test_a_deadline_rejects_nothing(self):
        failures = iter([True, True, False, True])

        def answer(ops):
            if next(failures, False):
                return ttypes.KvError(code=constants.DEADLINE, message="too slow", retryable=False,
                                      applied=constants.APPLIED_UNKNOWN)
            return stored(ops)

        server = self.fake(answer)
        done = run("--json", "load", "-", "--batch-ops", "50", server=server.address, stdin=self.lines(500))
        self.assertEqual(done.code, OK, done.err)
        self.assertEqual((done.json()["loaded"], done.json()["rejected"]), (500, 0))

    def test_a_deadline_of_one_record_rejects_nothing(self):
        first = [True]

        def answer(ops):
            reply = stored(ops)
            if first.pop() if first else False:
                reply.results[2] = ttypes.WriteResult(error=ttypes.KvError(
                    code=constants.DEADLINE, message="slow", retryable=False, applied=constants.APPLIED_UNKNOWN))
            return reply

        server = self.fake(answer)
        done = run("--json", "load", "-", "--batch-ops", "10", server=server.address, stdin=self.lines(30))
        self.assertEqual((done.code, done.json()["loaded"]), (OK, 30), done.err)
        self.assertIn(["k3"], server.batches)

    def test_a_refused_record_that_then_meets_a_busy_server(self):
        # Two batches are refused as a whole. When the server gets their records alone, it is busy once for each.
        refusals, busy = iter([True] * 4), {"k1", "k2", "k3", "k4"}

        def answer(ops):
            if len(ops) > 1 and next(refusals, False):
                return ttypes.KvError(code=constants.BAD_REQUEST, message="not together", retryable=False,
                                      applied=constants.APPLIED_NO)
            reply = stored(ops)
            for op, result in zip(ops, reply.results):
                if op.key.decode() in busy:
                    busy.remove(op.key.decode())
                    result.error = ttypes.KvError(code=constants.OVERLOADED, message="busy", retryable=True,
                                                  applied=constants.APPLIED_NO)
            return reply

        server = self.fake(answer)
        done = run("--json", "load", "-", "--batch-ops", "2", "--window", "4", server=server.address, stdin=self.lines(8))
        self.assertEqual(done.code, OK, done.err)
        self.assertEqual((done.json()["loaded"], done.json()["rejected"]), (8, 0))
        self.assertFalse(busy)

    def test_a_refused_record_whose_server_is_gone_is_not_settled(self):
        def answer(ops):
            if any(op.key == b"k5" for op in ops):
                return ttypes.KvError(code=constants.BAD_REQUEST if len(ops) > 1 else constants.DENIED, message="no",
                                      retryable=False, applied=constants.APPLIED_NO)
            return stored(ops)

        server = self.fake(answer)
        done = run("--json", "load", "-", "--batch-ops", "4", "--window", "4", server=server.address, stdin=self.lines(8))
        self.assertEqual((done.code, done.json()["next_line"]), (FAILED, 5), done.err)

    def test_an_error_that_is_nobodys_fault_ends_the_load(self):
        def answer(ops):
            if any(op.key == b"k55" for op in ops):
                return ttypes.KvError(code=constants.DENIED, message="not you", retryable=False,
                                      applied=constants.APPLIED_NO)
            return stored(ops)

        server = self.fake(answer)
        done = run("--json", "load", "-", "--on-error", "skip", "--batch-ops", "10", "--window", "1",
                   server=server.address, stdin=self.lines(100))
        self.assertEqual(done.code, FAILED, done.err)
        summary = done.json()
        self.assertEqual((summary["loaded"], summary["rejected"], summary["next_line"]), (50, 0, 51))
        self.assertIn("not you", json.loads(done.err)["error"]["message"])
        # What was on its way then is stored, and counts.
        server = self.fake(answer)
        done = run("--json", "load", "-", "--batch-ops", "10", "--window", "4", server=server.address,
                   stdin=self.lines(100))
        summary = done.json()
        arrived = sum(len(batch) for batch in server.batches if "k55" not in batch)
        self.assertGreater(arrived, 50)
        self.assertEqual((summary["loaded"], summary["next_line"]), (arrived, 51))

    def test_expiry_survives_exactly(self):
        if "absolute_expiry" not in self.kv("--json", "hello").json()["features"]:
            self.skipTest("the node takes no absolute expiry")
        now_ms = int(time.time() * 1000)
        lines = [{"key": f"ex/{i}", "value": "x", "expires_at_ms": now_ms + 3_600_000 + i} for i in range(500)]
        lines.append({"key": "ex/gone", "value": "x", "expires_at_ms": now_ms - 1})
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        self.kv("put", "ex/gone", "an older value that never expires")
        summary = self.kv("--json", "load", "-", "--batch-ops", "50", stdin=text).json()
        self.assertEqual((summary["loaded"], summary["expired"]), (500, 1))
        rows = self.kv("--json", "scan", "--prefix", "ex/", "--limit", "0").lines()
        self.assertEqual({r["key"]: r["expires_at_ms"] for r in rows},
                         {line["key"]: line["expires_at_ms"] for line in lines[:500]})
        exported = self.kv("export", "-q", "--prefix", "ex/").raw
        time.sleep(0.1)
        self.kv("load", "-q", "-", stdin=exported)
        self.assertEqual(self.kv("export", "-q", "--prefix", "ex/").raw, exported)

    def test_rejects_destroy_nothing(self):
        text = '{"key": "rj/1", "value": "x"}\nbad\n{"key": "rj/3", "value": "x"}\nworse\n'
        path, rejects = self.write("rj.jsonl", text), self.root / "rj.rejects"
        load = ["load", path, "--on-error", "skip", "--rejects"]
        self.assertIn("this is the input", self.kv(*load, path, expect=USAGE).err)
        os.link(path, self.root / "rj.link")
        self.kv(*load, self.root / "rj.link", expect=USAGE)
        self.assertEqual(path.read_text(), text)
        self.kv(*load, rejects, expect=REJECTED)
        once = rejects.read_text()
        self.assertEqual([json.loads(line)["line"] for line in once.splitlines()], [2, 4])
        self.assertIn("not empty", self.kv(*load, rejects, expect=FAILED).err)
        self.assertEqual(rejects.read_text(), once)
        self.kv(*load, rejects, "--from-line", "3", expect=REJECTED)
        self.assertEqual([json.loads(line)["line"] for line in rejects.read_text().splitlines()], [2, 4, 4])

    def test_from_line(self):
        path = self.write("fl.csv", 'key,value\nfl/2,"a\nb"\nfl/4,x\nfl/5,"y\nz"\nfl/7,end\n')
        self.kv("load", path, "--from-line", "4")
        self.assertEqual(self.kv("scan", "--prefix", "fl/", "--keys-only").out.split(), ["fl/4", "fl/5", "fl/7"])

    def test_csv_says_what_is_wrong(self):
        path = self.write("w.csv", ' key , value\nwc/1,a\nwc/2,b"c"\n')
        done = self.kv("load", path, expect=REJECTED)
        self.assertIn("line 3: not CSV: line 3, column 7: there is a quote in an unquoted field", done.err)
        self.assertEqual(self.kv("get", "wc/1").out, "a\n")


if __name__ == "__main__":
    unittest.main()
