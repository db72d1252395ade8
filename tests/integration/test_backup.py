"""Tests snapshots and backups on real nodes with two reactors: what a snapshot shows while writes continue; full and
incremental backups that are taken under load, restored, checked, damaged, and mistaken for each other."""

import json
import pathlib
import random
import shutil
import threading
import unittest

from kvadmin_process import CORRUPTION, FAILED, NO, OK, USAGE, run
from node_process import CONTEXT, NodeProcess, constants, temporary_directory, ttypes

FLAGS = ["--reactors=2", "--memory_limit_mb=192", "--partitions=4"]

def put(client, key, value):
    client.put(CONTEXT, ttypes.PutRequest(key=key.encode(), value=value))


class Counters(threading.Thread):
    """Increments numbered keys in turn, round after round, each after the previous one was acknowledged."""

    def __init__(self, node, name, keys):
        super().__init__(daemon=True)
        self.client = node.connect()
        self.names = [f"chain/{name}/{i:02}" for i in range(keys)]
        self.rounds = 0
        self.changed = threading.Condition()
        self.ending = threading.Event()
        self.error = None

    def run(self):
        try:
            while not self.ending.is_set():
                with self.changed:
                    self.rounds += 1
                    self.changed.notify_all()
                for name in self.names:
                    put(self.client, name, str(self.rounds).encode())
        except Exception as error:  # pylint: disable=broad-except
            with self.changed:
                self.error = error
                self.changed.notify_all()

    def wait_for_round(self, number):
        with self.changed:
            assert self.changed.wait_for(lambda: self.error or self.rounds >= number, timeout=60)

    def finish(self):
        self.ending.set()
        self.join(60)
        assert not self.is_alive()
        if self.error:
            raise self.error


class BackupTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.root = temporary_directory("backup")
        cls.addClassCleanup(shutil.rmtree, cls.root, ignore_errors=True)

    def node(self, name):
        node = NodeProcess(self.root / name, FLAGS).start()
        self.addCleanup(node.kill)
        return node

    def kv(self, node, *arguments, expect=OK, stdin=b""):
        done = run(*arguments, server=f"{node.host}:{node.port}" if node else None, stdin=stdin)
        self.assertEqual(done.code, expect, f"kvadmin {arguments}: {done.out}{done.err}")
        return done

    def load(self, node, first, count, value_of):
        lines = [json.dumps({"key": f"row/{i:06}", "value": value_of(i)}) + "\n" for i in range(first, first + count)]
        self.kv(node, "load", "-", stdin="".join(lines).encode())

    def test_a_snapshot_is_one_moment(self):
        node = self.node("moment")
        writers = [Counters(node, name, 20) for name in "abc"]
        for writer in writers:
            writer.start()
        client = node.connect()
        for i in range(15):
            for writer in writers:
                writer.wait_for_round(1 + i // 5)
            snapshot = client.openSnapshot(CONTEXT, ttypes.OpenSnapshotRequest(ttl_ms=60_000))
            request = ttypes.ScanRequest(prefix=b"chain/", snapshot=snapshot.snapshot)
            first = client.scan(CONTEXT, request).rows
            for writer in writers:
                seen = {row.key.decode(): int(row.value) for row in first}
                numbers = [seen.get(name, 0) for name in writer.names]
                for earlier, later in zip(numbers, numbers[1:]):
                    self.assertLessEqual(later, earlier, f"an effect without its cause: {numbers}")
                self.assertGreaterEqual(numbers[-1], numbers[0] - 1, numbers)
            again = client.scan(CONTEXT, request).rows
            self.assertEqual([(r.key, r.value, r.version) for r in first], [(r.key, r.value, r.version) for r in again])
            self.assertTrue(all(row.version <= snapshot.version for row in first))
            self.assertTrue(client.releaseSnapshot(
                CONTEXT, ttypes.ReleaseSnapshotRequest(snapshot=snapshot.snapshot)).existed)
            with self.assertRaises(ttypes.KvError) as gone:
                client.scan(CONTEXT, request)
            self.assertEqual(gone.exception.code, constants.SNAPSHOT_GONE)
        for writer in writers:
            writer.finish()
            self.assertGreater(writer.rounds, 2)
        node.stop()

    def test_snapshot_commands(self):
        node = self.node("commands")
        self.load(node, 0, 1000, lambda i: f"old {i}")
        token = self.kv(node, "snapshot", "open", "--ttl-s", "600").out.strip()
        self.load(node, 500, 1000, lambda i: f"new {i}")
        self.kv(node, "delete", "row/000007")
        self.assertEqual(self.kv(node, "count", "--snapshot", token).out.split()[0], "1000")
        self.assertEqual(self.kv(node, "get", "row/000700", "--snapshot", token).out, "old 700\n")
        self.assertEqual(self.kv(node, "get", "row/000700").out, "new 700\n")
        rows = self.kv(node, "--json", "scan", "--snapshot", token, "--limit", "0").lines()
        self.assertEqual([r["value"] for r in rows], [f"old {i}" for i in range(1000)])
        changes = self.kv(node, "--json", "diff", token, "--limit", "0").lines()
        self.assertEqual([c["key"] for c in changes], ["row/000007"] + [f"row/{i:06}" for i in range(500, 1500)])
        self.assertEqual([c["key"] for c in changes if c.get("removed")], ["row/000007"])
        self.assertEqual(changes[1]["value"], "new 500")
        parts = self.kv(node, "--json", "split", "--parts", "4", "--snapshot", token).lines()
        self.assertEqual(sum(p["count"] for p in parts), 1000)
        self.assertEqual(len(parts), 4)
        exported = self.kv(node, "export", "--snapshot", token).out.splitlines()
        self.assertEqual(len(exported), 1000)
        self.kv(node, "snapshot", "renew", token)
        status = self.kv(node, "--json", "status").json()
        self.assertEqual({p["snapshots"] for p in status["partitions"]}, {1})
        self.assertEqual(self.kv(node, "snapshot", "release", token).out, "released\n")
        self.kv(node, "snapshot", "release", token, expect=NO)
        self.assertIn("expired or was released", self.kv(node, "count", "--snapshot", token, expect=FAILED).err)
        self.kv(node, "count", "--snapshot", "AAAA", expect=USAGE)
        node.stop()

    def exported(self, node):
        return self.kv(node, "--json", "aggregate").json(), self.kv(node, "export").raw

    def test_backups_under_load(self):
        node = self.node("source")
        big = "x" * 30_000
        self.load(node, 0, 20_000, lambda i: big[:20_000 + i] if i % 500 == 0 else f"first {i} " + "v" * (i % 300))
        writer = Counters(node, "w", 50)
        writer.start()
        full, second, third = self.root / "full", self.root / "second", self.root / "third"
        report = self.kv(node, "--json", "backup", full).json()
        self.assertGreaterEqual(report["records"], 20_000)
        writer.finish()
        # From here on, the expected states are known.
        self.load(node, 100, 300, lambda i: f"second {i}")
        state_second = self.exported(node)
        small = self.kv(node, "--json", "backup", second, "--base", full).json()
        self.assertLess(small["bytes"], report["bytes"] / 5, "an incremental backup should be as small as its changes")
        self.kv(node, "delete", "row/000500")
        self.load(node, 19_000, 3_000, lambda i: big if i % 700 == 0 else f"third {i}")
        node.kill()  # the next backup continues from the recovered state
        node = self.node("source")
        state_third = self.exported(node)
        self.kv(node, "backup", third, "--base", second)
        nothing = self.kv(node, "--json", "backup", self.root / "fourth", "--base", third).json()
        self.assertLess(nothing["pages"], 40, "only the pages of the last checkpoint should have changed")
        node.stop()

        for directory, chain in (full, 1), (second, 2), (third, 3), (self.root / "fourth", 4):
            checked = self.kv(None, "--json", "check", "--backup", directory).json()
            self.assertEqual((checked["problems_total"], checked["backups"]), (0, chain))
        for directory, state in (second, state_second), (third, state_third), (self.root / "fourth", state_third):
            data = self.root / (directory.name + "-restored")
            restored = self.kv(None, "--json", "restore", directory, data).json()
            self.assertEqual(restored["records"], state[0]["count"])
            self.assertIn("sound", self.kv(None, "check", data).out)
            copy = self.node(data.name)
            self.assertEqual(self.exported(copy), state)
            self.load(copy, 0, 500, lambda i: f"after {i}")  # the restored store accepts writes
            copy.kill()
            copy = self.node(data.name)
            self.assertEqual(self.kv(copy, "get", "row/000123").out, "after 123\n")
            copy.stop()
            self.assertIn("sound", self.kv(None, "check", data).out)
        self.mistakes(full, second, third)

    def mistakes(self, full, second, third):
        """Wrong bases, missing bases, and damage: each is reported, and none is restored."""
        self.kv(None, "restore", third, self.root / "third-restored", expect=FAILED)  # a store exists there
        self.kv(None, "check", "--backup", self.root, expect=FAILED)
        copy = self.node("third-restored")
        self.load(copy, 0, 2_000, lambda i: f"another history {i}")
        self.kv(copy, "checkpoint")
        self.kv(copy, "backup", full, expect=FAILED)  # the directory is not empty
        # The copy has diverged since `third`: both have the same partitions and the same generations.
        self.kv(copy, "backup", self.root / "branch", "--base", third)
        self.assertEqual(self.kv(None, "--json", "check", "--backup", self.root / "branch").json()["problems_total"], 0)
        wrong = run("backup", self.root / "wrong", "--base", self.root / "fourth", server=f"{copy.host}:{copy.port}")
        if wrong.code == OK:  # the only changes in `fourth` are those that both histories share
            self.kv(None, "check", "--backup", self.root / "wrong")
        copy.stop()
        # A base that is missing, and one that is another backup.
        moved = self.root / "moved"
        full.rename(moved)
        self.assertIn("put the base backup there", self.kv(None, "check", "--backup", second, expect=FAILED).err)
        shutil.copytree(second, full)
        self.assertIn("is based on", self.kv(None, "check", "--backup", second, expect=USAGE).err)
        shutil.rmtree(full)
        moved.rename(full)
        # A changed byte in any file of the chain.
        dice = random.Random(1)
        for directory in (third, full):
            for path in sorted(pathlib.Path(directory).iterdir()):
                content = bytearray(path.read_bytes())
                # Avoid the padding after the header, the index, and the trailer, which no checksum covers.
                at = dice.randrange(4096, len(content) - 8192) if path.suffix == ".pages" and len(content) > 20_000 else 20
                content[at] ^= 1 << dice.randrange(8)
                original = path.read_bytes()
                path.write_bytes(content)
                done = run("check", "--backup", third)
                path.write_bytes(original)
                if directory == third:
                    self.assertEqual(done.code, CORRUPTION, f"{path} at {at}: {done.out}{done.err}")
                else:  # a page of the base may have been replaced since
                    self.assertIn(done.code, (OK, CORRUPTION), f"{path} at {at}: {done.out}{done.err}")
        self.kv(None, "check", "--backup", third)


if __name__ == "__main__":
    unittest.main(verbosity=2)
