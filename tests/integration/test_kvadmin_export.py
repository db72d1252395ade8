#!/usr/bin/python3
"""kvadmin export and report for reporting jobs: CSV and Parquet as other programs read them, parts that are read side by
side, resumed exports, through routers of a cluster whose masters move and whose nodes die, and the figures of a range.

Parquet is read by pyarrow, which Debian does not have: ./dev test installs it into build/pyarrow. PANDO_PYARROW names
another Python that has it.
"""

import base64
import csv
import datetime
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import unittest
import xml.dom.minidom

from cluster_process import Cluster
from kvadmin_harness import FLAGS, start, wait_until
from kvadmin_process import CORRUPTION, FAILED, IN_USE, KVADMIN, OK, USAGE, run
from node_process import ROOT, NodeProcess, temporary_directory
from router_process import RouterProcess

PYARROW = pathlib.Path(os.environ.get("PANDO_PYARROW") or ROOT / "build/pyarrow/bin/python")
SEED = int(os.environ.get("PANDO_SEED", random.randrange(1 << 32)))

READ_PARQUET = """
import base64, json, sys
import pyarrow.parquet as pq
file = pq.ParquetFile(sys.argv[1], page_checksum_verification=True)
table = file.read()
text = lambda b: base64.b64encode(b).decode()
groups = []
for i in range(file.metadata.num_row_groups):
    group = file.metadata.row_group(i)
    columns = []
    for c in range(group.num_columns):
        column, s = group.column(c), group.column(c).statistics
        columns.append({"compression": column.compression, "nulls": s.null_count, "has_min_max": s.has_min_max,
                        "values": s.num_values})
    key = group.column(0).statistics
    groups.append({"rows": group.num_rows, "bytes": group.total_byte_size, "columns": columns, "key_min": text(key.min_raw),
                   "key_max": text(key.max_raw)})
print(json.dumps({
    "schema": [[field.name, str(field.type), field.nullable] for field in table.schema],
    "groups": groups,
    "rows": [[text(k), text(v), version, expiry.timestamp() * 1000 if expiry else None]
             for k, v, version, expiry in zip(*(column.to_pylist() for column in table.columns))]}))
"""


def read_parquet(path):
    if not PYARROW.exists():
        raise AssertionError(f"{PYARROW} is missing, with which this test reads Parquet. ./dev test makes it; by hand: "
                             f"python3 -m venv build/pyarrow && build/pyarrow/bin/pip install pyarrow")
    done = subprocess.run([PYARROW, "-c", READ_PARQUET, path], capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    file = json.loads(done.stdout)
    file["rows"] = [(base64.b64decode(k), base64.b64decode(v), version, expiry) for k, v, version, expiry in file["rows"]]
    return file


def json_lines(records):
    """`records`: (key, value, expires_at_ms or 0)."""
    return "".join(json.dumps({"key_b64": base64.b64encode(k).decode(), "value_b64": base64.b64encode(v).decode(),
                               **({"expires_at_ms": expiry} if expiry else {})}) + "\n" for k, v, expiry in records).encode()


def manifest_of(path):
    return json.loads(pathlib.Path(f"{path}.manifest").read_text())


class AtOneNode(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        print(f"replay: PANDO_SEED={SEED} tests/integration/test_kvadmin_export.py")
        cls.directory = temporary_directory("export")
        cls.addClassCleanup(shutil.rmtree, cls.directory, ignore_errors=True)
        cls.node = NodeProcess(cls.directory / "node", [*FLAGS, "--memory_limit_mb=512"]).start()
        cls.addClassCleanup(cls.node.kill)
        cls.server = f"{cls.node.host}:{cls.node.port}"
        dice = random.Random(SEED)
        later = int(datetime.datetime.now().timestamp() * 1000) + 3600_000
        cls.odd = []  # keys and values with all bytes, and long keys whose statistics are cut
        for i in range(700):
            value = dice.choice([b"", b"plain", b'a "quoted", value\r\n', dice.randbytes(dice.randrange(3000)), "ä€".encode()])
            cls.odd.append((b"odd/%04d/" % i + dice.randbytes(dice.choice([0, 5, 300])), value,
                            later + i if i % 3 == 0 else 0))
        cls.odd.sort()
        cls.many = [(b"many/%06d" % i, b"%06d" % i + dice.randbytes(700).hex().encode(), 0) for i in range(40_000)]
        for records in cls.odd, cls.many:
            done = run("load", "-q", "-", server=cls.server, stdin=json_lines(records))
            assert done.code == OK, done.err

    def kv(self, *arguments, expect=OK):
        done = run(*arguments, server=self.server)
        self.assertEqual(done.code, expect, f"kvadmin {arguments}: {done.out}{done.err}")
        return done

    def rows(self, *arguments):
        return [json.loads(line) for line in self.kv("--json", "scan", "--limit", "0", *arguments).out.split("\n") if line]

    def test_csv(self):
        target = self.directory / "odd.csv"
        done = self.kv("export", "-o", target, "--prefix", "odd/")
        with open(target, newline="", encoding="latin-1") as file:
            rows = list(csv.reader(file, strict=True))
        self.assertEqual(rows[0], ["key", "value", "version", "expires_at_ms"])
        self.assertEqual([(k.encode("latin-1"), v.encode("latin-1"), int(e or 0)) for k, v, _, e in rows[1:]], self.odd)
        self.assertEqual([row[2] for row in rows[1:]], [row["version"] for row in self.rows("--prefix", "odd/")])
        self.assertTrue(target.read_bytes().endswith(b"\r\n"))
        strange = int(re.search(r"(\d+) records have keys or values that are not UTF-8", done.err).group(1))
        self.assertEqual(manifest_of(target)["records_not_utf8"], strange)

        def is_text(data):
            try:
                return data.decode() is not None
            except UnicodeDecodeError:
                return False

        self.assertEqual(strange, sum(not (is_text(k) and is_text(v)) for k, v, _ in self.odd))

    def test_parquet(self):
        for codec, options in ("ZSTD", []), ("LZ4", ["--compression", "lz4"]), ("UNCOMPRESSED", ["--compression", "none"]):
            target = self.directory / "odd.parquet"
            self.kv("export", "-o", target, "--prefix", "odd/", *options)
            file = read_parquet(target)
            self.assertEqual(file["schema"], [["key", "binary", False], ["value", "binary", False], ["version", "int64", False],
                                              ["expires_at_ms", "timestamp[ms, tz=UTC]", True]])
            self.assertEqual([(k, v, int(e or 0)) for k, v, _, e in file["rows"]], self.odd)
            self.assertEqual([row[2] for row in file["rows"]], [int(row["version"]) for row in self.rows("--prefix", "odd/")])
            self.assertEqual(len(file["groups"]), 1)
            group = file["groups"][0]
            self.assertEqual([column["nulls"] for column in group["columns"]], [0, 0, 0, sum(e == 0 for _, _, e in self.odd)])
            self.assertEqual({column["compression"] for column in group["columns"]}, {codec})
            least, most = base64.b64decode(group["key_min"]), base64.b64decode(group["key_max"])
            self.assertTrue(least <= self.odd[0][0] and self.odd[-1][0] <= most)
            self.assertLessEqual(max(len(least), len(most)), 64)
        damaged = bytearray(target.read_bytes())
        damaged[5000] ^= 1
        target.write_bytes(damaged)
        self.assertRaises(AssertionError, read_parquet, target)  # the CRC of the page
        self.assertIn("not Parquet", self.kv("load", target, expect=USAGE).err)

    def test_parts_are_read_side_by_side(self):
        sums = self.kv("--json", "aggregate").json()
        one = self.directory / "one.jsonl"
        self.kv("export", "-o", one, "--parallel", "1", "--snapshot", "now")
        expected = self.odd + self.many
        self.assertEqual(len(one.read_bytes().splitlines()), len(expected))
        for parallel in 2, 7:
            target = self.directory / f"{parallel}.jsonl"
            self.kv("export", "-o", target, "--parallel", parallel)
            self.assertEqual(target.read_bytes(), one.read_bytes())
            self.assertEqual({name: manifest_of(target)[name] for name in ("records", "bytes", "content_hash")},
                             {"records": sums["count"], "bytes": sums["bytes"], "content_hash": sums["content_hash"]})
        self.assertEqual(self.kv("export", "-q").raw, one.read_bytes())
        target = self.directory / "groups.parquet"
        self.kv("export", "-o", target, "--row-group-mb", "2", "--start", "many/000100", "--end", "many/039900")
        file = read_parquet(target)
        self.assertEqual([(k, v, 0) for k, v, _, _ in file["rows"]], self.many[100:39900])
        self.assertGreater(len(file["groups"]), 10)
        self.assertLess(max(group["bytes"] for group in file["groups"]), 5 << 20)
        self.assertEqual(self.kv("export", "-q", "--prefix", "nothing/").raw, b"")
        self.kv("export", "-q", "--prefix", "nothing/", "-o", self.directory / "nothing.parquet")
        self.assertEqual(read_parquet(self.directory / "nothing.parquet")["rows"], [])

    def test_an_interrupted_export_goes_on(self):
        for name in "resumed.parquet", "resumed.csv":
            target = self.directory / name
            whole = self.directory / f"whole-{name}"
            options = ["--prefix", "many/", "--save-every-mb", "0", "--page-rows", "300"]
            options += ["--row-group-mb", "1"] if "parquet" in name else []
            self.kv("export", "-q", "-o", whole, *options)
            state = self.directory / f"{name}.partial.state"
            with start("export", "-q", "-o", target, *options, server=self.server) as process:
                wait_until(lambda: process.poll() is not None or (state.exists() and json.loads(state.read_text())["rows"] > 3000),
                           "its first rows")
                self.assertIsNone(process.poll(), "it was too fast to be killed")
                process.kill()
            self.kv("export", "-q", "-o", target, "--prefix", "many/", "--resume",
                    *(["--compression", "none"] if "parquet" in name else ["--base64"]), expect=USAGE)
            done = self.kv("export", "-o", target, *options, "--resume")
            self.assertIn("resuming after", done.err)
            self.assertEqual({key: value for key, value in manifest_of(target).items() if key in ("records", "content_hash", "bytes")},
                             {key: value for key, value in manifest_of(whole).items() if key in ("records", "content_hash", "bytes")})
            if "parquet" in name:
                self.assertEqual([(k, v, 0) for k, v, _, _ in read_parquet(target)["rows"]], self.many)
            else:
                self.assertEqual(target.read_bytes(), whole.read_bytes())

    def test_files_of_parts(self):
        sums = self.kv("--json", "aggregate", "--prefix", "many/").json()
        whole = self.kv("export", "-q", "--prefix", "many/").raw
        target = self.directory / "parts"
        options = ["-o", target, "--prefix", "many/", "--parts", "5", "--page-rows", "200", "--save-every-mb", "0"]
        with start("export", "-q", *options, server=self.server) as process:
            wait_until(lambda: process.poll() is not None or (target / "part-00001.jsonl.partial.state").exists(), "a second file")
            self.assertIsNone(process.poll(), "it was too fast to be killed")
            process.kill()
        self.assertFalse((target / "manifest.json").exists())
        for instead, other, difference in (("5", ["4"], "parts=5 there, and parts=4 here"),
                                           ("many/", ["odd/"], "prefix=many/ there, and prefix=odd/ here"),
                                           ("5", ["5", "--latest"], "snapshot=now there, and latest here")):
            at = options.index(instead)
            done = self.kv("export", *options[:at], *other, *options[at + 1:], "--resume", expect=USAGE)
            self.assertIn(f"export.plan: this is of another export: {difference}", done.err)
        first = (target / "part-00000.jsonl").stat()
        self.kv("export", "-q", *options, "--resume")
        self.assertEqual((target / "part-00000.jsonl").stat().st_mtime_ns, first.st_mtime_ns)
        manifest = json.loads((target / "manifest.json").read_text())
        self.assertEqual((manifest["records"], manifest["bytes"], manifest["content_hash"], manifest["verified"]),
                         (sums["count"], sums["bytes"], sums["content_hash"], True))
        self.assertEqual([file["file"] for file in manifest["files"]], [f"part-{i:05}.jsonl" for i in range(5)])
        self.assertEqual(b"".join((target / file["file"]).read_bytes() for file in manifest["files"]), whole)
        self.assertFalse((target / "export.plan").exists())
        self.assertIn("holds a complete export", self.kv("export", *options, expect=FAILED).err)
        done = self.kv("--json", "export", *options, "--resume").json()
        self.assertEqual((done["records"], done["was_complete"], done["bytes"]), (sums["count"], True, len(whole)))
        self.assertIn("parts=5 there, and parts=4 here", self.kv("export", "-o", target, "--prefix", "many/", "--parts", "4", "--resume", expect=USAGE).err)
        (target / "part-00003.jsonl").rename(target / "away")
        self.assertIn("part-00003.jsonl: is gone", self.kv("export", *options, "--resume", expect=CORRUPTION).err)

        # What is in the way.
        file = self.directory / "parts-file"
        file.write_text("precious")
        link = self.directory / "parts-link"
        link.symlink_to(self.directory / "nothing")
        for name, why in ((file, "--parts writes a directory"), (link, "is a symbolic link to nothing"), (self.directory, "is not empty")):
            self.assertIn(f"{name}: {why}" if name != file else why,
                          self.kv("export", "-o", name, "--parts", "2", expect=FAILED).err)
        self.assertEqual(file.read_text(), "precious")

    def snapshots(self):
        return max(p["snapshots"] for p in self.kv("--json", "status").json()["partitions"])

    def kill(self, *command, until):
        with start("export", "-q", *command, server=self.server) as process:
            wait_until(lambda: process.poll() is not None or until(), "the moment to kill it")
            self.assertIsNone(process.poll(), "it was too fast to be killed")
            process.kill()

    def test_an_export_that_begins_anew_releases_the_snapshot_of_the_one_before(self):
        options = ["--prefix", "many/", "--page-rows", "100", "--save-every-mb"]
        wait_until(lambda: self.snapshots() == 0, "other tests leave no snapshot")
        target = self.directory / "anew.jsonl"
        state = pathlib.Path(f"{target}.partial.state")

        tokens = [""]

        def saved(has_rows):
            said = json.loads(state.read_text()) if state.exists() else {"rows": 0, "snapshot_b64": ""}
            return (said["rows"] > 0) == has_rows and said["snapshot_b64"] not in tokens

        for save, has_rows in (("0", True), ("0", True), ("1000", False)):
            self.kill("-o", target, *options, save, until=lambda has_rows=has_rows: saved(has_rows))
            tokens.append(json.loads(state.read_text())["snapshot_b64"])
            self.assertEqual(self.snapshots(), 1)
        done = self.kv("export", "-o", target, *options, "0", "--resume")
        self.assertIn(f"the interrupted export to {target} had saved no position, or ended before its manifest was written: "
                      "starting from the beginning", done.err)
        self.assertEqual(self.snapshots(), 0)

        target = self.directory / "anew-parts"
        options += ["0", "--parts", "3"]
        plan = target / "export.plan"

        def planned():
            try:
                return json.loads(plan.read_text())["snapshot_b64"] not in tokens
            except FileNotFoundError:
                return False

        for _ in range(2):
            self.kill("-o", target, *options, until=lambda: planned() and (target / "part-00001.jsonl.partial.state").exists())
            tokens.append(json.loads(plan.read_text())["snapshot_b64"])
            self.assertEqual(self.snapshots(), 1)
            (target / "part-00000.jsonl.manifest").unlink()
            (target / "part-00000.jsonl").write_text("an older one")
        (target / "precious").write_text("1")
        self.assertIn("precious: is not of the export", self.kv("export", "-o", target, *options, expect=FAILED).err)
        (target / "precious").unlink()
        with start("export", "-q", "-o", target, *options, server=self.server) as process:
            wait_until(lambda: process.poll() is not None or planned(), "its plan")
            done = run("export", "-o", target, *options, "--resume", server=self.server)
            self.assertEqual(done.code, IN_USE, done.err)
            self.assertEqual(process.wait(60), OK)
        self.assertEqual(sorted(path.name for path in target.iterdir()),
                         ["manifest.json"] + [f"part-{i:05}.jsonl{end}" for i in range(3) for end in ("", ".manifest")])
        self.assertEqual(json.loads((target / "manifest.json").read_text())["records"], len(self.many))
        self.assertEqual(self.snapshots(), 0)

    def test_a_complete_export_is_not_made_again(self):
        target = self.directory / "complete.csv"
        options = ["-o", target, "--prefix", "odd/"]
        self.assertIn("no interrupted export", self.kv("export", *options, "--resume").err)
        before = target.stat()
        done = self.kv("export", *options, "--resume")
        self.assertEqual(done.out, f"{target}: the export is complete already: 700 records, verified; nothing was read\n")
        self.assertEqual((target.stat().st_ino, target.stat().st_mtime_ns), (before.st_ino, before.st_mtime_ns))
        self.assertIn("prefix=odd/ there, and prefix=odd/0 here",
                      self.kv("export", "-o", target, "--prefix", "odd/0", "--resume", expect=USAGE).err)
        self.assertIn("latest here", self.kv("export", *options, "--latest", "--resume", expect=USAGE).err)
        target.write_bytes(b"x")
        self.kv("export", *options, "--resume", expect=CORRUPTION)
        self.kv("export", *options)
        self.assertEqual(target.stat().st_size, before.st_size)

    def test_options_that_would_be_ignored(self):
        for options in (["--latest", "--snapshot", "now"], ["--compression", "none"], ["--row-group-mb", "2", "--format", "csv"],
                        ["--start", "z", "--end", "a"]):
            self.kv("export", "-o", self.directory / "ignored.jsonl", *options, expect=USAGE)
        for command in ["scan"], ["count"], ["aggregate"], ["report"], ["delete-range"]:
            self.assertIn("--start z is above --end a", self.kv(*command, "--start", "z", "--end", "a", expect=USAGE).err)
        self.assertEqual(self.kv("count", "--start", "a", "--end", "a").out.strip(), "0")

    def test_no_room_for_the_last_write(self):
        """A file of as many pages as there are: only the end of it does not fit. What is there is said."""
        whole = self.kv("export", "-q", "--prefix", "many/0000").raw
        limit = ["/usr/bin/prlimit", f"--fsize={len(whole) - 10}"]
        target = self.directory / "short.jsonl"
        done = subprocess.run([*limit, KVADMIN, "--server", self.server, "export", "-o", target, "--prefix", "many/0000"],
                              capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, FAILED, done.stderr)
        self.assertRegex(done.stderr, "File too large.*; nothing was (exported|kept)")
        self.assertFalse(target.exists())
        self.assertEqual(self.snapshots(), 0)

    def test_report(self):
        expected = {}
        for records in self.odd, self.many:
            prefix = records[0][0].split(b"/")[0].decode() + "/"
            expected[prefix] = (len(records), sum(len(k) + len(v) for k, v, _ in records))
        sums = self.kv("--json", "aggregate").json()
        report = self.kv("--json", "report").json()
        self.assertEqual((report["records"], report["bytes"], report["content_hash"]),
                         (sums["count"], sums["bytes"], sums["content_hash"]))
        self.assertEqual([(p["prefix"], p["records"], p["bytes"]) for p in report["prefixes"]],
                         sorted(((p, *e) for p, e in expected.items()), key=lambda row: -row[2]))
        values = report["value_bytes"]
        sizes = [len(v) for _, v, _ in self.odd + self.many]
        self.assertEqual((values["measured"], values["sampled"], values["total"], values["largest"]),
                         (len(sizes), False, sum(sizes), max(sizes)))
        for bucket in values["histogram"]:
            self.assertEqual(bucket["records"], sum(bucket["from"] <= size <= bucket["to"] for size in sizes))
        self.assertEqual(sum(bucket["records"] for bucket in values["histogram"]), len(sizes))

        report = self.kv("--json", "report", "--prefix", "many/", "--prefix-bytes", "2", "--max-prefixes", "3", "--top", "2",
                         "--sample", "1000").json()
        self.assertEqual([(p["prefix"], p["records"]) for p in report["prefixes"]], [("many/00", 10000), ("many/01", 10000)])
        self.assertEqual((report["other_prefixes"]["records"], report["other_prefixes"]["prefixes"]), (10000, 1))
        self.assertEqual((report["not_looked_at"]["records"], report["not_looked_at"]["from"]), (10000, "many/030000"))
        self.assertTrue(report["value_bytes"]["sampled"])
        self.assertTrue(500 < report["value_bytes"]["measured"] <= 1000)
        self.assertEqual(report["value_bytes"]["p50"], 1406)

        table = self.kv("report", "--start", "many/000100", "--end", "many/000200").out
        self.assertRegex(table, r"(?m)^many/ +100 ")
        self.assertIn("1024 to 2047", table)
        picture = self.directory / "report.svg"
        self.kv("report", "--format", "svg", "-o", picture)
        self.assertEqual(xml.dom.minidom.parse(str(picture)).documentElement.tagName, "svg")
        self.assertIn("records       0\n", self.kv("report", "--prefix", "nothing/").out)

    def test_max_impact(self):
        target = self.directory / "gentle.jsonl"
        done = self.kv("--json", "export", "-o", target, "--prefix", "many/0000", "--max-impact", "1000")
        impact = done.json()["impact"]
        self.assertGreater(impact["p99_pausing_ms"], 0)
        self.assertEqual(impact["gets_failed"], 0)
        self.assertEqual(len(target.read_bytes().splitlines()), 100)
        self.kv("export", "--max-impact", "0", expect=USAGE)


class ThroughRouters(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = temporary_directory("export-routers")
        cls.addClassCleanup(shutil.rmtree, cls.directory, ignore_errors=True)
        cls.cluster = Cluster(cls.directory).start()
        cls.addClassCleanup(cls.cluster.kill)
        addresses = [node.address for node in cls.cluster.nodes.values()]
        cls.routers = [RouterProcess(cls.directory / f"router-{i}.log", addresses).start() for i in range(2)]
        for router in cls.routers:
            cls.addClassCleanup(router.kill)
            router.wait_http()
        cls.servers = ",".join(router.address for router in cls.routers)
        dice = random.Random(SEED)
        cls.records = [(b"r/%05d" % i, dice.randbytes(900).hex().encode(), 0) for i in range(10_000)]
        done = run("load", "-q", "-", server=cls.servers, stdin=json_lines(cls.records))
        assert done.code == OK, done.err

    def test_parquet_while_masters_move_and_a_router_dies(self):
        self.cluster.wait_well()
        target = self.directory / "all.parquet"
        state = self.directory / "all.parquet.partial.state"
        command = ["export", "-o", target, "--row-group-mb", "1", "--save-every-mb", "0", "--page-rows", "20"]
        with start(*command, server=self.servers, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            wait_until(lambda: process.poll() is not None or (state.exists() and json.loads(state.read_text())["rows"] > 100),
                       "its first rows")
            self.assertIsNone(process.poll(), "the export was too fast to be disturbed")
            for partition in (0, 3):
                self.assertEqual(run("failover", partition, "--topology", self.cluster.topology).code, OK)
            self.routers[0].kill()
            out, err = process.communicate(timeout=120)
        self.assertEqual(process.returncode, OK, out + err)
        self.routers[0].start().wait_http()
        self.assertEqual([(k, v, 0) for k, v, _, _ in read_parquet(target)["rows"]], self.records)
        sums = run("--json", "aggregate", server=self.routers[1].address).json()
        manifest = manifest_of(target)
        self.assertEqual((manifest["records"], manifest["bytes"], manifest["content_hash"], manifest["verified"]),
                         (sums["count"], sums["bytes"], sums["content_hash"], True))
        self.assertGreater(int(manifest["snapshot_version"]), 1 << 56)
        self.assertGreater(manifest["map_version"], 0)

    def test_report(self):
        self.cluster.wait_well()
        report = run("--json", "report", server=self.routers[1].address).json()
        self.assertEqual(report["prefixes"], [{"prefix": "r/", "records": 10_000, "bytes": 10_000 * 1807}])
        self.assertEqual(report["value_bytes"]["p99"], 1800)


if __name__ == "__main__":
    unittest.main()
