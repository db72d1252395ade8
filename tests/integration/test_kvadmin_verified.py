#!/usr/bin/python3
"""kvadmin scan --verify and export compare what came with what the store counts: at a server that leaves rows out or
alters them, and through routers of a cluster while clients write, masters move, and routers and nodes die.
"""

import csv
import itertools
import json
import pathlib
import random
import re
import shutil
import subprocess
import time
import unittest

from cluster_process import Cluster
from kvadmin_harness import FLAGS, FakeServer, start, wait_until
from kvadmin_process import CORRUPTION, FAILED, OK, USAGE, run
from node_process import CONTEXT, NodeProcess, temporary_directory, ttypes
from router_process import NamedWriter, RouterProcess

RECORDS = 4000


class Liar(FakeServer):
    """Passes requests on to a node, and lets `alter` change the rows of each page of a scan."""

    def __init__(self, node, alter=lambda rows: None):
        super().__init__(None)
        self.node = node
        self.alter = alter
        self.scans = 0
        self.released = 0

    def _ask(self, method, request):
        with self.node.connect() as connection:
            return getattr(connection, method)(CONTEXT, request)

    def scan(self, _context, request):
        reply = self._ask("scan", request)
        self.scans += 1
        self.alter(reply.rows)
        return reply

    def releaseSnapshot(self, _context, request):
        self.released += 1
        return self._ask("releaseSnapshot", request)

    def __getattr__(self, method):
        if method in ("aggregate", "count", "openSnapshot", "renewSnapshot"):
            return lambda _context, request: self._ask(method, request)
        raise AttributeError(method)


class AtOneNode(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = temporary_directory("verified")
        cls.addClassCleanup(shutil.rmtree, cls.directory, ignore_errors=True)
        cls.node = NodeProcess(cls.directory / "node", FLAGS).start()
        cls.addClassCleanup(cls.node.kill)
        dice = random.Random(1)
        lines = "".join(json.dumps({"key": f"row/{i:05}", "value": "v" * dice.randrange(100),
                                    **({"ttl_ms": 3600_000} if i % 7 == 0 else {})}) + "\n" for i in range(RECORDS))
        lines += json.dumps({"key": "large", "value": "x" * 300_000}) + "\n"
        done = run("load", "-q", "-", server=cls.server(), stdin=lines.encode())
        assert done.code == OK, done.err

    @classmethod
    def server(cls):
        return f"{cls.node.host}:{cls.node.port}"

    def liar(self, alter=lambda rows: None):
        liar = Liar(self.node, alter)
        self.addCleanup(liar.close)
        return liar

    def test_scan(self):
        sums = run("--json", "aggregate", "--prefix", "row/", server=self.server()).json()
        done = run("--json", "scan", "--verify", "--limit", "0", "--prefix", "row/", server=self.server())
        self.assertEqual(done.code, OK, done.err)
        self.assertEqual(done.lines()[-1], {"verified": {"records": sums["count"], "bytes": sums["bytes"],
                                                         "content_hash": sums["content_hash"]}})
        self.assertEqual(len(done.lines()), RECORDS + 1)
        for options in (["--limit", "0"], ["--reverse", "--limit", "0"], ["--limit", "7"], ["--reverse"],
                        ["--start", "row/00100", "--end", "row/00200", "--limit", "150"], ["--prefix", "nothing/"]):
            done = run("scan", "--verify", *options, server=self.server())
            self.assertEqual(done.code, OK, f"{options}: {done.err}")
            self.assertIn("verified: ", done.err)
        self.assertIn("there are more: use --limit 0",
                      run("scan", "--verify", "--limit", "5", server=self.server()).err)
        for options in (["--keys-only"], ["--sizes-only"], ["--cursor", "AAAA"]):
            self.assertEqual(run("scan", "--verify", *options, server=self.server()).code, USAGE, options)

    def test_a_server_that_leaves_out_or_alters_rows(self):
        def drop(rows):
            del rows[len(rows) // 2]

        def repeat(rows):
            rows.append(rows[-1])

        def alter(rows):
            rows[0].value = rows[0].value[:-1] + b"X"

        def make_older(rows):
            rows[-1].version -= 1

        def make_eternal(rows):
            for row in rows:
                row.expires_at_ms = 0

        for lie in (drop, repeat, alter, make_older, make_eternal):
            liar = self.liar(lie)
            done = run("scan", "--verify", "--limit", "0", "--prefix", "row/", server=liar.address)
            self.assertEqual(done.code, CORRUPTION, f"{lie}: {done.err}")
            self.assertIn("not what the store counts there at the same snapshot", done.err)
            self.assertEqual(liar.released, 1)
            target = self.directory / "lie.jsonl"
            done = run("export", "-q", "-o", target, server=liar.address)
            self.assertEqual(done.code, CORRUPTION, f"{lie}: {done.err}")
            self.assertFalse(list(self.directory.glob("lie*")), "an export that is wrong was kept")
            done = run("export", "-q", server=liar.address)
            self.assertEqual(done.code, CORRUPTION, f"{lie}: {done.err}")
            # That keys ascend is seen without the sums.
            unverified = run("export", "-q", "--no-verify", server=liar.address)
            self.assertEqual(unverified.code, CORRUPTION if lie is repeat else OK, f"{lie}: {unverified.err}")
            self.assertEqual(run("scan", "--limit", "0", server=liar.address).code, OK)

    def test_an_export_goes_on_before_the_part_that_was_wrong(self):
        liar = self.liar()

        def drop_late(rows):
            if liar.scans == 30:
                del rows[0]

        liar.alter = drop_late
        target = self.directory / "late.jsonl"
        options = ["-q", "-o", target, "--prefix", "row/", "--page-rows", "100", "--save-every-mb", "0"]
        done = run("export", *options, server=liar.address)
        self.assertEqual(done.code, CORRUPTION, done.err)
        kept = int(re.search(r"(\d+) records are in", done.err).group(1))
        self.assertTrue(1000 < kept < RECORDS, done.err)
        done = run("export", *options, "--resume", server=liar.address)
        self.assertEqual(done.code, OK, done.err)
        self.assertEqual(target.read_bytes(), run("export", "-q", "--prefix", "row/", server=self.server()).raw)

    def test_manifest(self):
        target = self.directory / "m.csv"
        sums = run("--json", "aggregate", "--prefix", "row/", server=self.server()).json()
        done = run("--json", "export", "-o", target, "--prefix", "row/", server=self.server())
        self.assertEqual((done.code, done.json()["verified"]), (OK, True), done.err)
        manifest = json.loads(pathlib.Path(f"{target}.manifest").read_text())
        version = manifest.pop("snapshot_version")
        self.assertGreater(int(version), 1 << 56)
        node = run("--json", "hello", server=self.server()).json()["node_id"]
        self.assertRegex(manifest.pop("file_hash"), "^[0-9a-f]{16}$")
        self.assertEqual(manifest.pop("export"), f"node={node} csv start= end= prefix={b'row/'.hex()} snapshot=")
        self.assertEqual(manifest, {"pando_export": 1, "file_bytes": target.stat().st_size, "format": "csv", "base64": False,
                                    "from": node, "prefix": "row/", "records": RECORDS, "verified": True,
                                    "bytes": sums["bytes"], "content_hash": sums["content_hash"]})
        with open(target, newline="", encoding="utf-8") as rows:
            self.assertEqual(len(list(csv.reader(rows))), RECORDS + 1)
        # load compares the file with it: one byte has changed.
        self.assertEqual(run("load", "-q", target, server=self.server()).code, OK)
        whole = target.read_bytes()
        target.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
        done = run("load", "-q", target, server=self.server())
        self.assertEqual(done.code, CORRUPTION, done.err)
        self.assertIn("this is not the file that was exported", done.err)
        target.write_bytes(whole)
        done = run("export", "-q", "-o", target, "--latest", server=self.server())
        self.assertEqual(done.code, OK, done.err)
        manifest = json.loads(pathlib.Path(f"{target}.manifest").read_text())
        self.assertFalse(manifest["verified"])
        self.assertNotIn("snapshot_version", manifest)
        for path in self.directory.glob("m.csv*"):
            path.unlink()

    def test_an_export_waits_for_a_node_only_so_long(self):
        node = NodeProcess(self.directory / "away", FLAGS).start()
        self.addCleanup(node.kill)
        lines = "".join(json.dumps({"key": f"{i:06}", "value": "v"}) + "\n" for i in range(20000))
        self.assertEqual(run("load", "-q", "-", server=f"{node.host}:{node.port}", stdin=lines.encode()).code, OK)
        target = self.directory / "away.jsonl"
        with start("export", "-q", "-o", target, "--page-rows", "1", "--save-every-mb", "0", "--retry-s", "1",
                   server=f"{node.host}:{node.port}") as process:
            partial = self.directory / "away.jsonl.partial"
            wait_until(lambda: partial.exists() and partial.stat().st_size > 0, "its first rows")
            node.kill()
            began = time.monotonic()
            _, err = process.communicate(timeout=60)
            self.assertEqual(process.returncode, FAILED, err)
            self.assertLess(time.monotonic() - began, 30)
            self.assertIn(b"--resume continues there", err)


class ThroughRouters(unittest.TestCase):
    numbers = itertools.count()  # of writers, each of which has its own records

    @classmethod
    def setUpClass(cls):
        cls.directory = temporary_directory("verified-routers")
        cls.addClassCleanup(shutil.rmtree, cls.directory, ignore_errors=True)
        cls.cluster = Cluster(cls.directory).start()
        cls.addClassCleanup(cls.cluster.kill)
        addresses = [node.address for node in cls.cluster.nodes.values()]
        cls.routers = [RouterProcess(cls.directory / f"router-{i}.log", addresses).start() for i in range(2)]
        for router in cls.routers:
            cls.addClassCleanup(router.kill)
            router.wait_http()
        cls.records = {f"r/{i:05}": f"value {i}" for i in range(RECORDS)}
        lines = "".join(json.dumps({"key": k, "value": v}) + "\n" for k, v in cls.records.items())
        done = run("load", "-q", "-", server=cls.servers(), stdin=lines.encode())
        assert done.code == OK, done.err

    @classmethod
    def servers(cls):
        return ",".join(router.address for router in cls.routers)

    def setUp(self):
        self.cluster.wait_well()

    def export(self, name, disturb, *options):
        """Exports all while clients write, and calls disturb() once it has begun."""
        target = self.directory / name
        writers = [NamedWriter(self.routers, next(self.numbers)) for _ in range(2)]
        for writer in writers:
            writer.start()
        wait_until(lambda: all(sum(writer.sums.values()) > 20 for writer in writers), "the writers")
        command = ["export", "-o", target, "--page-rows", "20", "--save-every-mb", "0", *options]
        with start(*command, server=self.servers(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            state = self.directory / f"{name}.partial.state"
            wait_until(lambda: process.poll() is not None or (state.exists() and json.loads(state.read_text())["rows"] > 100),
                       "its first rows")
            try:
                disturb(process)
                out, err = process.communicate(timeout=120)
            finally:
                process.kill()
            code = process.returncode
        for writer in writers:
            writer.finish()
        return target, code, out.decode(), err.decode()

    def check(self, target):
        rows = [json.loads(line) for line in target.read_text().splitlines()]
        keys = [row["key"] for row in rows]
        self.assertEqual(keys, sorted(set(keys)))
        self.assertEqual({row["key"]: row["value"] for row in rows if row["key"].startswith("r/")}, self.records)
        manifest = json.loads(pathlib.Path(f"{target}.manifest").read_text())
        self.assertEqual((manifest["records"], manifest["verified"]), (len(rows), True))
        self.assertTrue(manifest["from"].startswith("router of cluster "), manifest)

    def test_commands_that_ask_nodes_name_the_router(self):
        for command in ["cluster", "status"], ["status"], ["failover", "0"], ["verify"], ["rebalance", "--masters"]:
            done = run(*command, server=self.routers[0].address)
            self.assertEqual(done.code, FAILED, done.err)
            self.assertIn(f"{self.routers[0].address} is a router, and this command asks nodes: name some nodes", done.err)

    def test_a_node_names_a_partition_that_it_does_not_lead(self):
        node = self.cluster.nodes[1].address
        done = run("count", server=node)
        self.assertEqual(done.code, FAILED, done.err)
        self.assertNotIn(f" at {node}", done.err)  # it is asked, and would not name itself

    def test_export_while_masters_move_and_a_node_and_a_router_die(self):
        def disturb(process):
            self.assertIsNone(process.poll(), "the export was too fast to be disturbed")
            for partition in (0, 3):
                self.assertEqual(run("failover", partition, "--topology", self.cluster.topology).code, OK)
            self.cluster.nodes[2].kill_node()
            self.cluster.nodes[2].start()
            self.routers[0].kill()

        target, code, out, err = self.export("all.jsonl", disturb)
        self.routers[0].start().wait_http()
        if code == FAILED and "SNAPSHOT_GONE" in err:
            # A node that was away when the snapshot was taken cannot show it. What there is must say so.
            self.assertIn("start the export again", err)
            self.cluster.wait_well()
            target, code, out, err = self.export("all.jsonl", lambda process: None)
        self.assertEqual(code, OK, out + err)
        self.assertIn("verified", out)
        self.check(target)
        self.cluster.wait_healed()

    def test_all_routers_are_away_for_a_moment(self):
        def disturb(process):
            self.assertIsNone(process.poll(), "the export was too fast to be disturbed")
            for router in self.routers:
                router.kill()
                router.listen = router.address
            for router in self.routers:
                router.start().wait_http()

        target, code, out, err = self.export("away.jsonl", disturb)
        self.assertEqual(code, OK, out + err)
        self.check(target)

    def test_an_interrupted_export_goes_on_through_another_router(self):
        target, code, _, err = self.export("resumed.jsonl", lambda process: process.terminate())
        self.assertNotEqual(code, OK)
        self.assertIn("--resume continues there", err)
        done = run("export", "-q", "-o", target, "--resume", server=self.routers[1].address)
        self.assertEqual(done.code, OK, done.err)
        self.check(target)

    def test_scan(self):
        done = run("--json", "scan", "--verify", "--limit", "0", "--prefix", "r/", server=self.servers())
        self.assertEqual(done.code, OK, done.err)
        sums = run("--json", "aggregate", "--prefix", "r/", server=self.servers()).json()
        self.assertEqual(done.lines()[-1]["verified"], {"records": sums["count"], "bytes": sums["bytes"],
                                                        "content_hash": sums["content_hash"]})


if __name__ == "__main__":
    unittest.main()
