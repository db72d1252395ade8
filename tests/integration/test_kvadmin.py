"""Tests kvadmin with real nodes: every command, tables and JSON, exit codes, wrong input, and complete round trips."""

import base64
import csv
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
import unittest

from kvadmin_process import (CORRUPTION, FAILED, IN_USE, KVADMIN, NO, OK, REJECTED, USAGE, run)
from node_process import NodeProcess, temporary_directory

NODE_FLAGS = ["--reactors=1", "--memory_limit_mb=256", "--partitions=4"]
SEED = int(os.environ.get("PANDO_SEED", "20"))


class KvadminTest(unittest.TestCase):
    """All tests of the class share one node; each test uses keys with its own prefix."""

    @classmethod
    def setUpClass(cls):
        cls.root = temporary_directory("kvadmin")
        cls.addClassCleanup(shutil.rmtree, cls.root, ignore_errors=True)
        cls.node = NodeProcess(cls.root / "data", NODE_FLAGS).start()
        cls.addClassCleanup(cls.node.kill)
        cls.server = f"{cls.node.host}:{cls.node.port}"

    def kv(self, *arguments, expect=OK, stdin=b""):
        done = run(*arguments, server=self.server, stdin=stdin)
        self.assertEqual(done.code, expect, f"kvadmin {arguments}: {done.out}{done.err}")
        return done

    def write(self, name, content):
        path = self.root / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    # -- one record

    def test_put_get_delete(self):
        self.assertRegex(self.kv("put", "pgd", "blue").out, r"stored, version \d+")
        self.assertEqual(self.kv("get", "pgd").out, "blue\n")
        self.assertEqual(self.kv("get", "--raw", "pgd").raw, b"blue")
        got = self.kv("--json", "get", "pgd").json()
        self.assertEqual((got["key"], got["found"], got["value"]), ("pgd", True, "blue"))
        self.assertRegex(self.kv("get", "-v", "pgd").out, r"version \d+, written \d{4}-.*, expires never, 4 bytes\nblue")
        self.assertEqual(self.kv("delete", "pgd").out, "deleted\n")
        missing = self.kv("get", "pgd", expect=NO)
        self.assertEqual((missing.out, missing.err), ("", 'no record "pgd"\n'))
        self.assertEqual(self.kv("--json", "get", "pgd", expect=NO).json(), {"key": "pgd", "found": False})
        self.kv("delete", "pgd", expect=NO)

    def test_binary_is_typed_and_shown_safely(self):
        self.kv("put", "--hex", "62696e00ff0a", "00ff1b5b6d")
        self.assertEqual(self.kv("get", "--hex", "62696e00ff0a").out, "00ff1b5b6d\n")
        self.assertEqual(self.kv("get", "--base64", base64.b64encode(b"bin\0\xff\n").decode()).out, "AP8bW20=\n")
        row = self.kv("scan", "--prefix", "bin").out.splitlines()[1]
        self.assertEqual(row.split(), ["bin\\x00\\xff\\n", "\\x00\\xff\\x1b[m"])
        self.assertEqual(self.kv("get", "--raw", "--hex", "62696e00ff0a").raw, b"\0\xff\x1b[m")
        got = self.kv("--json", "get", "--hex", "62696e00ff0a").json()
        self.assertEqual(base64.b64decode(got["key_b64"]), b"bin\0\xff\n")
        self.assertEqual(base64.b64decode(got["value_b64"]), b"\0\xff\x1b[m")
        self.assertIn("odd number", self.kv("get", "--hex", "0", expect=USAGE).err)
        self.assertIn("not base64", self.kv("get", "--base64", "a*aa", expect=USAGE).err)

    def test_values_from_files_and_standard_input(self):
        value = bytes(range(256)) * 20
        path = self.write("value", value)
        self.kv("put", "vf-file", "--value-file", path)
        self.assertEqual(self.kv("get", "--raw", "vf-file").raw, value)
        self.kv("put", "vf-stdin", "--value_file", "-", stdin=value[::-1])
        self.assertEqual(self.kv("get", "--raw", "vf-stdin").raw, value[::-1])
        self.kv("put", "vf-empty", "")
        self.assertEqual(self.kv("get", "--raw", "vf-empty").raw, b"")
        self.kv("put", "vf", expect=USAGE)
        self.kv("put", "vf", "x", "--value-file", path, expect=USAGE)
        self.assertIn("/no/such", self.kv("put", "vf", "--value-file", "/no/such", expect=FAILED).err)

    def test_conditions(self):
        self.kv("put", "cond", "1", "--if-exists", expect=NO)
        self.kv("put", "cond", "1", "--if-absent")
        refused = self.kv("put", "cond", "2", "--if-absent", expect=NO)
        self.assertIn('value "1"', refused.err)
        version = self.kv("--json", "get", "cond").json()["version"]
        self.kv("put", "cond", "2", "--if-version", version)
        answer = self.kv("--json", "put", "cond", "3", "--if-version", version, expect=NO).json()
        self.assertFalse(answer["applied"])
        self.assertEqual(answer["current"]["value"], "2")
        self.kv("delete", "cond", "--if-value", "1", expect=NO)
        self.kv("delete", "cond", "--if-value", "2")
        self.kv("put", "cond", "x", "--if-version", "abc", expect=USAGE)

    def test_increment(self):
        self.assertEqual(self.kv("increment", "inc").out, "1\n")
        self.assertEqual(self.kv("increment", "inc", "--by=41").out, "42\n")
        self.assertEqual(self.kv("--json", "increment", "inc", "--by=-50").json()["number"], -8)
        self.kv("put", "inc-text", "many")
        self.assertIn("not a decimal", self.kv("increment", "inc-text", expect=USAGE).err)

    def test_ttl(self):
        self.kv("put", "ttl", "x", "--ttl-ms", "3600000")
        expires = self.kv("--json", "get", "ttl").json()["expires_at_ms"]
        self.assertLess(abs(expires - time.time() * 1000 - 3600000), 60000)
        self.kv("put", "ttl", "y", "--clear-ttl")
        self.assertNotIn("expires_at_ms", self.kv("--json", "get", "ttl").json())

    # -- ranges

    def test_scan_and_count(self):
        keys = [f"scan/{i:03}" for i in range(250)]
        lines = "".join(json.dumps({"key": k, "value": k[::-1]}) + "\n" for k in keys)
        self.kv("load", "-", stdin=lines.encode())
        self.assertEqual(self.kv("count", "--prefix", "scan/").out, "250\n")
        self.assertEqual(self.kv("--json", "count", "--start", "scan/100", "--end", "scan/200").json(), {"count": 100})
        sums = self.kv("--json", "aggregate", "--prefix", "scan/").json()
        self.assertEqual(sums["count"], 250)
        parts = [self.kv("--json", "aggregate", "--start", start, "--end", end).json()
                 for start, end in [("scan/", "scan/100"), ("scan/100", "scan0")]]
        self.assertEqual(sum(part["bytes"] for part in parts), sums["bytes"])
        self.assertEqual(sum(int(part["content_hash"], 16) for part in parts) % 2**64, int(sums["content_hash"], 16))
        text = self.kv("aggregate", "--prefix", "scan/").out
        self.assertRegex(text, r"records +250\nbytes +\d+ .*\ncontent hash +[0-9a-f]{16}\n")

        rows = self.kv("--json", "scan", "--prefix", "scan/", "--limit", "0").lines()
        self.assertEqual([(r["key"], r["value"]) for r in rows], [(k, k[::-1]) for k in keys])
        self.assertEqual(self.kv("scan", "--prefix", "scan/", "--keys-only", "--reverse", "--limit", "3").out.split(),
                         keys[:-4:-1])
        table = self.kv("scan", "--start", "scan/010", "--end", "scan/012").out.splitlines()
        self.assertEqual([line.split() for line in table], [["KEY", "VALUE"], ["scan/010", "010/nacs"],
                                                            ["scan/011", "110/nacs"]])
        first = self.kv("scan", "--prefix", "scan/", "--keys_only")
        self.assertEqual(first.out.split(), keys[:100])
        cursor = first.err.split("--cursor ")[1].split(",")[0]
        rest = self.kv("scan", "--prefix", "scan/", "--keys-only", "--limit", "0", "--cursor", cursor)
        self.assertEqual(rest.out.split(), keys[100:])
        self.kv("scan", "--prefix", "other", "--cursor", cursor, expect=USAGE)
        self.assertEqual(self.kv("scan", "--prefix", "none").out, "")

    # -- load

    def test_load_stops_or_skips_at_bad_lines(self):
        path = self.write("bad.jsonl", "\n".join([
            '{"key": "lb/1", "value": "one"}', "", '{"key": "lb/2"', '{"key": "", "value": "x"}',
            '{"key": "lb/5", "value": 5}', '{"key": "lb/6"}', '["lb/7"]', '{"key": "lb/8", "key_b64": "AA==", "value": ""}',
            '{"key": "lb/9", "value_b64": "AA*="}', '{"key": "%s", "value": ""}' % ("k" * 2049),
            '{"key": "lb/11", "value": "%s"}' % ("v" * (1 << 20 | 1)), '{"key": "lb/12", "value": "twelve"}']) + "\n")
        stopped = self.kv("load", path, expect=REJECTED)
        self.assertIn("line 3: not JSON", stopped.err)
        self.assertIn("stopped at line 3", stopped.err)
        self.assertIn("loaded 1 records", stopped.out)
        self.assertEqual(self.kv("count", "--prefix", "lb/").out, "1\n")

        rejects = self.root / "rejects.jsonl"
        skipped = self.kv("--json", "load", path, "--on-error", "skip", "--rejects", rejects, expect=REJECTED)
        summary = skipped.json()
        self.assertEqual((summary["loaded"], summary["rejected"]), (2, 9))
        expected = {3: "not JSON", 4: "the key is empty", 5: "not a string", 6: '"value" or', 7: "not a JSON object",
                    8: 'either "key"', 9: "not base64", 10: "2049 bytes; the limit is 2048", 11: "the limit is 1048576"}
        for listed in (summary["rejects"], [json.loads(line) for line in rejects.read_text().splitlines()]):
            self.assertEqual([r["line"] for r in listed], list(expected))
            for reject in listed:
                self.assertIn(expected[reject["line"]], reject["error"])
        self.assertEqual(self.kv("scan", "--prefix", "lb/", "--keys-only").out.split(), ["lb/1", "lb/12"])

    def test_load_csv(self):
        path = self.write("in.csv", 'ignored,value,key\r\n1,"a ""quoted""\nvalue, with a comma",lc/1\r\n\r\n'
                                    '2,short\r\n3, spaces ,lc/3\n4,last,lc/4')
        done = self.kv("load", path, "--on_error", "skip", expect=REJECTED)
        self.assertIn("line 5: the record has 2 fields, but the header has 3", done.err)
        self.assertEqual(self.kv("get", "--raw", "lc/1").raw, b'a "quoted"\nvalue, with a comma')
        self.assertEqual(self.kv("get", "--raw", "lc/3").raw, b" spaces ")
        self.assertEqual(self.kv("get", "--raw", "lc/4").raw, b"last")
        self.assertIn("the CSV header must have", self.kv("load", self.write("h.csv", "a,b\n1,2\n"), expect=USAGE).err)
        self.assertIn("is empty", self.kv("load", self.write("e.csv", ""), expect=USAGE).err)
        open_quote = self.kv("load", "--format", "csv", "-", stdin=b'key,value\nlc/5,x\nlc/6,"no end', expect=REJECTED)
        self.assertIn("line 3: not CSV", open_quote.err)
        self.assertEqual(self.kv("get", "--raw", "lc/5").raw, b"x")
        self.kv("load", "--format", "csv", "-", stdin=b"key_b64,value_b64,ttl_ms\nbGMvNw==,AP8=,60000\n")
        self.assertEqual(self.kv("get", "--raw", "lc/7").raw, b"\0\xff")
        self.assertIn("expires_at_ms", self.kv("--json", "get", "lc/7").json())

    def test_load_keeps_the_last_of_equal_keys(self):
        lines = "".join(json.dumps({"key": f"dup/{i % 7}", "value": str(i)}) + "\n" for i in range(5000))
        self.kv("load", "--batch-ops", "16", "-", stdin=lines.encode())
        for k in range(7):
            self.assertEqual(self.kv("get", f"dup/{k}").out, f"{max(i for i in range(5000) if i % 7 == k)}\n")

    def test_load_expiry(self):
        now_ms = int(time.time() * 1000)
        lines = [{"key": "le/gone", "value": "", "expires_at_ms": now_ms - 1},
                 {"key": "le/later", "value": "", "expires_at_ms": now_ms + 3600000}]
        summary = self.kv("--json", "load", "-", stdin="".join(json.dumps(x) + "\n" for x in lines).encode()).json()
        self.assertEqual((summary["loaded"], summary["expired"]), (1, 1))
        left = self.kv("--json", "get", "le/later").json()["expires_at_ms"] - now_ms
        self.assertLess(abs(left - 3600000), 60000)

    def test_load_errors(self):
        self.kv("load", "/no/such/file", expect=FAILED)
        self.kv("load", self.root, expect=USAGE)
        path = self.write("one.jsonl", '{"key": "x", "value": "y"}\n')
        self.assertIn("cannot reach", run("--server", "127.0.0.1:1", "--timeout_ms", "500", "load", path).err)

    # -- export

    def records(self, prefix, count):
        rng = random.Random(SEED)
        records = {prefix: b""}
        for _ in range(count):
            size = rng.choice([0, 1, 10, 100, 1000, 5000])
            raw = rng.randbytes(size)
            value = raw if rng.random() < 0.5 else base64.b64encode(raw) + b'",\r\n\\ \xc3\xa4'
            records[prefix + rng.randbytes(rng.randrange(1, 20))] = value
        return records

    def test_round_trips_of_binary_records(self):
        print(f"replay: PANDO_SEED={SEED} tests/integration/test_kvadmin.py")
        prefix = b"rt\xff"
        records = self.records(prefix, 500)
        lines = "".join(json.dumps({"key_b64": base64.b64encode(k).decode(), "value_b64": base64.b64encode(v).decode()})
                        + "\n" for k, v in records.items())
        self.kv("load", "-", stdin=lines.encode())
        scope = ["--hex", "--prefix", prefix.hex()]
        expected = sorted(records.items())

        jsonl = self.kv("export", *scope).raw
        got = []
        for line in jsonl.splitlines():
            row = json.loads(line)
            got.append(tuple(base64.b64decode(row[f + "_b64"]) if f + "_b64" in row else row[f].encode()
                             for f in ("key", "value")))
        self.assertEqual(got, expected)

        csv_file = self.root / "rt.csv"
        self.assertIn(f"{len(records)} records", self.kv("export", *scope, "-o", csv_file).out)
        b64_file = self.root / "rt64.csv"
        summary = self.kv("--json", "export", "--base64", "--prefix", base64.b64encode(prefix).decode(), "-o",
                          b64_file).json()
        self.assertEqual(summary["records"], len(records))
        self.assertEqual(summary["bytes"], b64_file.stat().st_size)
        parsed = list(csv.reader(io.StringIO(b64_file.read_text(), newline="")))
        self.assertEqual(parsed[0], ["key_b64", "value_b64", "version", "expires_at_ms"])
        self.assertEqual([(base64.b64decode(k), base64.b64decode(v)) for k, v, _, _ in parsed[1:]], expected)
        self.assertEqual(sorted(p.name for p in self.root.glob("rt*")), ["rt.csv", "rt.csv.manifest", "rt64.csv", "rt64.csv.manifest"],
                         "files were left over")

        other = NodeProcess(self.root / "other", NODE_FLAGS).start()
        self.addCleanup(other.kill)
        server = f"{other.host}:{other.port}"
        for source in (csv_file, b64_file, "-"):
            done = run("load", source, server=server, stdin=jsonl if source == "-" else b"")
            self.assertEqual(done.code, OK, done.err)
            self.assertEqual(run("export", server=server).raw, jsonl, f"after loading {source}")
            done = run("load", "-", server=server, stdin=jsonl.replace(b'"value', b'"value_b64": "", "other'))
            self.assertEqual(done.code, OK, done.err)  # empty the store, so that the next source is tested on its own

    def test_export_resumes(self):
        lines = "".join(json.dumps({"key": f"er/{i:05}", "value": "v" * 100}) + "\n" for i in range(3000))
        self.kv("load", "-", stdin=lines.encode())
        whole = self.kv("export", "--prefix", "er/").raw
        target = self.root / "er.jsonl"
        state = self.root / "er.jsonl.partial.state"
        command = [KVADMIN, "--server", self.server, "export", "--prefix", "er/", "-o", str(target), "--page-rows", "5",
                   "--save-every-mb", "0"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and process.poll() is None:
                if state.exists() and json.loads(state.read_text())["bytes"] > 0:
                    break
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
        self.assertTrue(state.exists(), "the export was not killed between its first save and its end")
        self.assertFalse(target.exists())
        done = self.kv("export", "--prefix", "e", "-o", target, "--resume", expect=USAGE)  # another range
        self.assertIn("prefix=er/ there, and prefix=e here", done.err)
        partial = self.root / "er.jsonl.partial"
        written = partial.read_bytes()
        partial.write_bytes(written.replace(b"er/00001", b"er/00009", 1))  # a change that keeps the length
        done = self.kv("export", "--prefix", "er/", "-o", target, "--resume", expect=CORRUPTION)
        self.assertIn("are not those that the export has written", done.err)
        partial.write_bytes(written)
        done = self.kv("export", "--prefix", "er/", "-o", target, "--resume")
        self.assertIn("resuming after", done.err)
        self.assertEqual(target.read_bytes(), whole)
        self.assertEqual(sorted(p.name for p in self.root.glob("er.jsonl*")), ["er.jsonl", "er.jsonl.manifest"])
        self.kv("export", "--resume", expect=USAGE)

    def test_delete_range_and_sizes(self):
        for i in range(30):
            self.kv("put", f"dr/{i:02}", "x" * i)
        sizes = self.kv("--json", "scan", "--prefix", "dr/", "--sizes-only").lines()
        self.assertEqual([(row["key"], row["value_bytes"]) for row in sizes], [(f"dr/{i:02}", i) for i in range(30)])
        self.assertIn("BYTES", self.kv("scan", "--prefix", "dr/", "--sizes_only").out)
        self.kv("scan", "--sizes-only", "--keys-only", expect=USAGE)
        version = sizes[9]["version"]
        self.assertEqual(self.kv("--json", "delete-range", "--prefix", "dr/", "--max-version", version).json()["removed"], 10)
        self.assertEqual(self.kv("delete-range", "--start", "dr/", "--end", "dr/15").out, "5 records removed\n")
        self.assertEqual(self.kv("count", "--prefix", "dr/").out.strip(), "15")
        self.assertIn("give --all", self.kv("delete-range", expect=USAGE).err)
        self.kv("delete-range", "--all", "--prefix", "dr/", expect=USAGE)
        self.kv("delete-range", "--prefix", "dr/", "--max-version", "1x", expect=USAGE)

    def test_watch(self):
        before = self.kv("--json", "put", "watch/a", "1").json()["version"]
        self.kv("put", "watch/b", "1")
        self.kv("delete", "watch/a")
        done = self.kv("--json", "watch", "--prefix", "watch/", "--after-version", before, "--once")
        self.assertEqual([(row["key"], row["removed"]) for row in done.lines()], [("watch/b", False), ("watch/a", True)])
        end = json.loads(done.err)
        self.assertEqual((sorted(end), end["changes"]), (["changes", "position"], 2))
        position = self.kv("watch", "--prefix", "watch/", "--after-version", before, "--once").err.rsplit(" ", 1)[1].strip()
        self.assertEqual(position, end["position"])
        self.kv("put", "watch/c", "1")
        done = self.kv("watch", "--prefix", "watch/", "--position", position, "--limit", "1")
        self.assertRegex(done.out, r"written  watch/c\n$")
        self.kv("watch", "--after-version", "-1", "--once", expect=USAGE)
        # It usually ends by Ctrl-C, and says where to go on.
        command = [KVADMIN, "--server", self.server, "watch", "--prefix", "watch/", "--after-version", before]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            for key in "b", "a", "c":
                self.assertIn(f"watch/{key}", process.stdout.readline())
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, -signal.SIGINT)
        self.assertRegex(err, r"3 changes; continue with --position \S+\n.*interrupted by SIGINT")
        self.kv("put", "watch/d", "1")
        position = re.search(r"--position (\S+)", err).group(1)
        self.assertRegex(self.kv("watch", "--prefix", "watch/", "--position", position, "--once").out, r"^\S+ .*watch/d\n$")

    # -- the node

    def test_status_hello_ping_checkpoint(self):
        status = self.kv("--json", "status").json()
        self.assertEqual(status["verdict"], "ok")
        self.assertEqual([p["id"] for p in status["partitions"]], [0, 1, 2, 3])
        table = self.kv("status").out
        self.assertEqual(table.splitlines()[0], "ok")
        self.assertIn(status["node_id"], table)
        self.assertEqual(self.kv("--json", "hello").json()["limits"]["max_key_bytes"], 2048)
        self.assertIn("max_value_bytes     1048576", self.kv("hello").out)
        self.assertRegex(self.kv("ping", "--count", "1").out, rf"{self.server}: [\d.]+ ms")
        self.assertEqual(len(self.kv("--json", "ping", "--interval_ms", "0").json()["ms"]), 3)
        self.kv("put", "cp", "x")
        self.assertEqual(self.kv("--json", "checkpoint").json(), {"server": self.server, "partitions": 4})

    def test_errors_have_codes_and_reasons(self):
        self.assertEqual(run().code, USAGE)
        self.assertEqual(run("frobnicate").code, USAGE)
        self.assertEqual(run("get").code, USAGE)
        self.assertEqual(run("get", "k", "--no-such-option").code, USAGE)
        self.assertIn("is not host:port", run("--server", "nowhere", "get", "k").err)
        unreachable = run("--server", "127.0.0.1:1", "get", "k")
        self.assertEqual(unreachable.code, FAILED)
        self.assertIn("cannot reach 127.0.0.1:1", unreachable.err)
        several = run("--timeout_ms", "2000", "ping", server="127.0.0.1:1,127.0.0.1:2")
        self.assertEqual(several.code, FAILED)
        self.assertIn("none of the servers 127.0.0.1:1,127.0.0.1:2 can be reached", several.err)
        as_json = run("--json", "--server", "127.0.0.1:1", "get", "k")
        self.assertEqual((as_json.code, as_json.out), (FAILED, ""))
        self.assertIn("cannot reach", json.loads(as_json.err)["error"]["message"])
        self.assertIn("the key is empty", self.kv("put", "", "x", expect=USAGE).err)
        self.assertIn("2048", self.kv("put", "k" * 2049, "x", expect=USAGE).err)

    def test_a_touch_without_a_condition_speaks_of_none(self):
        done = self.kv("touch", "tn/none", "--clear-ttl", expect=NO)
        self.assertEqual(done.err, 'not applied: there is no record "tn/none"\n')
        self.assertIn("condition", self.kv("touch", "tn/none", "--clear-ttl", "--if-exists", expect=NO).err)

    def test_help_has_examples_and_exit_codes(self):
        top = run("--help")
        self.assertEqual(top.code, OK)
        self.assertIn("Exit codes:", top.out)
        commands = ["get", "put", "delete", "delete-range", "increment", "touch", "watch", "scan", "count", "aggregate", "load", "export", "status", "checkpoint",
                    "check", "wal-dump", "hello", "ping"]
        for command in commands:
            self.assertRegex(top.out, rf"(?m)^  {command}[ ,]")
            self.assertIn("Example", run(command, "--help").out)

    def test_offline_commands_refuse_a_running_node(self):
        for command in ("check", "wal-dump"):
            done = self.kv(command, self.root / "data", expect=IN_USE)
            self.assertIn(str(self.root / "data"), done.err)


class OfflineTest(unittest.TestCase):
    """Tests check and wal-dump on the directory of a node that was killed."""

    def setUp(self):
        self.root = temporary_directory("kvadmin-offline")
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        self.node = NodeProcess(self.root / "data", NODE_FLAGS).start()
        self.addCleanup(self.node.kill)
        self.server = f"{self.node.host}:{self.node.port}"
        lines = "".join(json.dumps({"key": f"off/{i}", "value": "v" * 500}) + "\n" for i in range(2000))
        self.kv("load", "-", stdin=lines.encode())
        self.kv("checkpoint")

    def kv(self, *arguments, expect=OK, stdin=b""):
        done = run(*arguments, server=self.server, stdin=stdin)
        self.assertEqual(done.code, expect, f"kvadmin {arguments}: {done.out}{done.err}")
        return done

    def data_files(self):
        return sorted((self.root / "data").glob("partition-*/data"))

    def test_wal_dump(self):
        self.kv("put", "wd/colour", "blue", "--ttl-ms", "1000000")
        self.kv("increment", "wd/n", "--by=-7", "--if-absent")
        self.kv("delete", "wd/colour")
        self.node.kill()
        records = self.kv("--json", "wal-dump", self.root / "data").lines()
        summary = records.pop()["summary"]
        self.assertEqual(summary["records"], len(records))
        mine = [r for r in records if r.get("key", "").startswith("wd/")]
        self.assertEqual(sorted((r["op"], r["key"]) for r in mine),
                         [("increment", "wd/n"), ("put", "wd/colour"), ("remove", "wd/colour")])
        put = next(r for r in mine if r["op"] == "put")
        self.assertEqual(put["value"], "blue")
        self.assertGreater(put["expires_at_ms"], time.time() * 1000)
        increment = next(r for r in mine if r["op"] == "increment")
        self.assertEqual((increment["delta"], increment["condition"]), (-7, {"exists": False}))

        one = self.kv("--json", "wal-dump", self.root / "data", "--partition", put["partition"], "--from-lsn", put["lsn"],
                      "--to-lsn", put["lsn"]).lines()
        self.assertEqual([r.get("key") for r in one], ["wd/colour", None])
        text = self.kv("wal-dump", self.root / "data", "--partition", put["partition"])
        self.assertRegex(text.out, rf"(?m)^ *{put['partition']} +{put['lsn']} .* put +wd/colour = blue expires ")
        self.assertIn("the log ends in segment", self.kv("wal-dump", self.root / "data", "--summary").out)
        self.assertIn("the log ends in segment", self.kv("wal-dump", self.root / "data" / "wal-0").out)
        self.kv("wal-dump", "/no/such/directory", expect=USAGE)

    def test_check_of_a_sound_and_of_a_damaged_store(self):
        self.node.kill()
        before = {p: p.read_bytes() for p in self.data_files()}
        report = self.kv("--json", "check", self.root / "data").json()
        self.assertEqual(report["problems"], [])
        self.assertEqual(sum(p["records"] for p in report["partitions"]), 2000)
        for p in report["partitions"]:
            self.assertEqual(p["reachable_blocks"] + p["metadata_blocks"] + p["pending_free_blocks"] + p["free_blocks"],
                             p["file_blocks"])
        self.assertIn("sound: 2000 records", self.kv("check", self.root / "data").out)
        self.assertEqual(before, {p: p.read_bytes() for p in self.data_files()}, "check changed a file")

        # Damage every place that holds keys: some hold older copies of a leaf, to which nothing refers.
        path, content = next((p, c) for p, c in before.items() if b"off/" in c)
        path.write_bytes(content.replace(b"off/", b"oFf/"))
        done = self.kv("check", self.root / "data", expect=CORRUPTION)
        self.assertIn("PROBLEM", done.out)
        self.assertIn(str(path), done.out)
        self.assertGreater(self.kv("--json", "check", self.root / "data", expect=CORRUPTION).json()["problems_total"], 0)

    def test_check_as_a_user_who_may_not_read(self):
        """That is not damage."""
        if os.geteuid() != 0:
            self.skipTest("only root can become another user")
        self.node.kill()
        data = self.root / "data"
        file = data / "partition-00002/data"
        for path in (self.root, data, *data.rglob("*")):
            os.chmod(path, 0o755)
        os.chmod(file, 0o600)
        for command in ("check", "accept-loss"):
            done = subprocess.run([KVADMIN, command, str(data), *(["--partition", "2"] * (command != "check"))],
                                  capture_output=True, text=True, timeout=60, check=False, user=65534, cwd="/")
            self.assertEqual(done.returncode, FAILED, done.stdout + done.stderr)
            self.assertIn(f"{file}: user nobody may not read it (it belongs to user root)", done.stderr)
            self.assertNotIn("DAMAGED", done.stdout)

    def test_check_without_a_store(self):
        empty = self.root / "empty"
        empty.mkdir()
        self.assertIn(str(empty), self.kv("check", empty, expect=FAILED).err)
        self.kv("check", self.root / "missing", expect=USAGE)


if __name__ == "__main__":
    unittest.main(verbosity=2)
