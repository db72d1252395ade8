#!/usr/bin/python3
"""Ranges and snapshots through real routers: scans, counts, splits, deletes and watches over all partitions, and
snapshots of the whole cluster, while masters move and die.
"""

import shutil
import threading
import time
import unittest

from cluster_process import Cluster
from kvadmin_process import OK, run
from node_process import CONTEXT, constants, temporary_directory, ttypes
from router_process import RouterProcess

PARTITIONS = 8


class Counters(threading.Thread):
    """Adds 1 to a counter of one partition and, once that is acknowledged, to one of another."""

    def __init__(self, router, number):
        super().__init__(daemon=True)
        self.router = router
        self.first, self.second = b"first/%d" % number, b"second/%d" % number
        self.stopping = threading.Event()
        self.value = 0
        self.error = None

    def run(self):
        try:
            with self.router.connect(timeout_s=30) as connection:
                while not self.stopping.is_set():
                    self.value += 1
                    for key in (self.first, self.second):
                        # A put may be repeated: it says the number.
                        self.put(connection, key, b"%d" % self.value)
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    @staticmethod
    def put(connection, key, value):
        deadline = time.monotonic() + 30
        while True:
            try:
                return connection.put(ttypes.Context(budget_ms=20000), ttypes.PutRequest(key=key, value=value))
            except ttypes.KvError as error:
                if error.code != constants.UNAVAILABLE or time.monotonic() > deadline:
                    raise

    def finish(self):
        self.stopping.set()
        self.join(60)
        assert not self.is_alive(), "a writer hangs"
        if self.error:
            raise self.error


class RouterRanges(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = temporary_directory("router-ranges")
        cls.cluster = Cluster(cls.directory, partitions=PARTITIONS).start()
        cls.router = RouterProcess(cls.directory / "router.log", [cls.cluster.nodes[1].address]).start()
        cls.router.wait_http()
        cls.records = {b"r/%05d" % i: b"value %d" % i for i in range(3000)}
        with cls.router.connect() as connection:
            keys = sorted(cls.records)
            for at in range(0, len(keys), 500):
                ops = [ttypes.WriteOp(kind=constants.OP_PUT, key=key, value=cls.records[key])
                       for key in keys[at:at + 500]]
                results = connection.writeBatch(ttypes.Context(budget_ms=30000), ttypes.WriteBatchRequest(ops=ops)).results
                assert all(result.applied for result in results), results[:3]

    @classmethod
    def tearDownClass(cls):
        cls.router.kill()
        cls.cluster.kill()
        shutil.rmtree(cls.directory, ignore_errors=True)

    def setUp(self):
        self.cluster.wait_well()
        self.connection = self.router.connect()
        self.addCleanup(self.connection.close)

    def scan(self, between=lambda: None, context=CONTEXT, **request):
        rows, cursor = [], b""
        while True:
            page = self.connection.scan(context, ttypes.ScanRequest(cursor=cursor, **request))
            rows += page.rows
            cursor = page.cursor
            if not cursor:
                return rows
            between()

    def move_masters(self):
        for partition in (0, 3, 6):
            self.assertEqual(run("failover", str(partition), "--topology", self.cluster.topology).code, OK)

    def test_scans_of_all_forms(self):
        expected = sorted(self.records)
        self.assertEqual([row.key for row in self.scan(prefix=b"r/")], expected)
        self.assertEqual([row.value for row in self.scan(prefix=b"r/", limit_rows=700)],
                         [self.records[key] for key in expected])
        self.assertEqual([row.key for row in self.scan(prefix=b"r/", reverse=True, limit_rows=999)], expected[::-1])
        rows = self.scan(start_key=b"r/00100", end_key=b"r/00200", keys_only=True)
        self.assertEqual([(row.key, row.value or b"") for row in rows], [(key, b"") for key in expected[100:200]])
        sizes = self.scan(prefix=b"r/000", sizes_only=True)
        self.assertEqual([row.value_bytes for row in sizes], [len(self.records[key]) for key in expected[:100]])
        self.assertEqual(self.scan(prefix=b"nothing/"), [])
        self.assertEqual(self.scan(start_key=b"r/2", end_key=b"r/1"), [])

    def test_slices_have_each_row_once(self):
        hello = self.connection.hello(CONTEXT, ttypes.HelloRequest(client_name="test", api_version=2))
        self.assertIn("slices", hello.features)
        expected = sorted(self.records)
        snapshot = self.connection.openSnapshot(CONTEXT, ttypes.OpenSnapshotRequest(ttl_ms=60000)).snapshot
        moves = [self.move_masters]

        def disturb():
            if moves:
                moves.pop()()

        for slices, options in ((3, {"limit_rows": 300}), (PARTITIONS, {"reverse": True}), (20, {"sizes_only": True}),
                                (50, {"keys_only": True, "snapshot": snapshot})):
            keys = []
            for number in range(slices):
                rows = self.scan(disturb, ttypes.Context(budget_ms=30000), prefix=b"r/", slices=slices, slice=number,
                                 **options)
                part = [row.key for row in rows]
                self.assertEqual(part, sorted(part, reverse=options.get("reverse", False)))
                keys += part
            self.assertEqual(sorted(keys), expected, f"{slices} slices")
        self.assertFalse(moves, "no slice had several pages")
        self.connection.releaseSnapshot(CONTEXT, ttypes.ReleaseSnapshotRequest(snapshot=snapshot))
        page = self.connection.scan(CONTEXT, ttypes.ScanRequest(prefix=b"r/", slices=3, slice=1, limit_rows=10))
        for request, code in ((ttypes.ScanRequest(slices=3, slice=3), constants.BAD_REQUEST),
                              (ttypes.ScanRequest(prefix=b"r/", slices=3, slice=2, cursor=page.cursor),
                               constants.BAD_CURSOR)):
            with self.assertRaises(ttypes.KvError) as caught:
                self.connection.scan(CONTEXT, request)
            self.assertEqual(caught.exception.code, code)

    def test_a_scan_goes_on_while_masters_move_and_die(self):
        expected = sorted(self.records)
        moves = [self.move_masters, lambda: self.cluster.nodes[3].kill_node(), lambda: self.cluster.nodes[3].start()]
        pages = [0]

        def disturb():
            if pages[0] % 4 == 0 and moves:
                moves.pop(0)()
            pages[0] += 1

        rows = self.scan(between=disturb, prefix=b"r/", limit_rows=100, context=ttypes.Context(budget_ms=30000))
        self.assertEqual([row.key for row in rows], expected)
        self.assertFalse(moves)
        self.cluster.wait_healed()

    def test_cursors_survive_a_router_and_are_bound_to_their_scan(self):
        page = self.connection.scan(CONTEXT, ttypes.ScanRequest(prefix=b"r/", limit_rows=10))
        other = RouterProcess(self.directory / "other.log", [self.cluster.nodes[2].address]).start()
        self.addCleanup(other.kill)
        other.wait_http()
        with other.connect() as connection:
            following = connection.scan(CONTEXT, ttypes.ScanRequest(prefix=b"r/", limit_rows=10, cursor=page.cursor))
            self.assertEqual(following.rows[0].key, b"r/00010")
            altered = bytearray(page.cursor)
            altered[len(altered) // 2] ^= 1
            for cursor, prefix in ((bytes(altered), b"r/"), (page.cursor, b"r/0"), (b"nonsense", b"r/")):
                with self.assertRaises(ttypes.KvError) as caught:
                    connection.scan(CONTEXT, ttypes.ScanRequest(prefix=prefix, cursor=cursor))
                self.assertEqual(caught.exception.code, constants.BAD_CURSOR)

    def test_counts_sums_and_splits(self):
        self.assertEqual(self.connection.count(CONTEXT, ttypes.CountRequest(prefix=b"r/")).count, 3000)
        sums = self.connection.aggregate(CONTEXT, ttypes.AggregateRequest(prefix=b"r/"))
        self.assertEqual((sums.count, sums.bytes), (3000, sum(len(k) + len(v) for k, v in self.records.items())))
        parts = self.connection.splitRange(CONTEXT, ttypes.SplitRangeRequest(prefix=b"r/", parts=7)).parts
        self.assertEqual(len(parts), 7)
        self.assertEqual(sum(part.count for part in parts), 3000)
        for part in parts:
            self.assertAlmostEqual(part.count, 3000 / 7, delta=150)
            rows = self.scan(start_key=part.start_key, end_key=part.end_key, keys_only=True)
            self.assertEqual(len([row for row in rows if row.key.startswith(b"r/")]), part.count)
        for before, after in zip(parts, parts[1:]):
            self.assertEqual(before.end_key, after.start_key)

    def test_delete_range(self):
        ops = [ttypes.WriteOp(kind=constants.OP_PUT, key=b"d/%04d" % i, value=b"x") for i in range(1000)]
        self.connection.writeBatch(CONTEXT, ttypes.WriteBatchRequest(ops=ops))
        removed, cursor = 0, b""
        while True:
            reply = self.connection.deleteRange(CONTEXT, ttypes.DeleteRangeRequest(
                prefix=b"d/", end_key=b"d/0900", limit_rows=300, cursor=cursor))
            removed += reply.removed
            cursor = reply.cursor
            if not cursor:
                break
        self.assertEqual(removed, 900)
        self.assertEqual(len(self.scan(prefix=b"d/")), 100)

    def test_watch(self):
        position = self.connection.watch(CONTEXT, ttypes.WatchRequest(prefix=b"w/")).position
        seen = set()
        keys = {b"w/%d" % i for i in range(40)}
        for key in sorted(keys):
            self.connection.put(CONTEXT, ttypes.PutRequest(key=key, value=b"x"))
        deadline = time.monotonic() + 60
        while seen != keys:
            self.assertLess(time.monotonic(), deadline, f"changes are missing: {keys - seen}")
            reply = self.connection.watch(CONTEXT, ttypes.WatchRequest(prefix=b"w/", position=position, wait_ms=1000))
            seen |= {change.key for change in reply.changes}
            position = reply.position

    def test_a_snapshot_is_one_moment(self):
        snapshot = self.connection.openSnapshot(ttypes.Context(budget_ms=20000), ttypes.OpenSnapshotRequest())
        self.addCleanup(lambda: self.connection.put(CONTEXT, ttypes.PutRequest(key=b"r/00007", value=b"value 7")))
        self.connection.put(CONTEXT, ttypes.PutRequest(key=b"r/00007", value=b"changed"))
        self.connection.put(CONTEXT, ttypes.PutRequest(key=b"r/new", value=b"new"))
        self.addCleanup(lambda: self.connection.remove(CONTEXT, ttypes.RemoveRequest(key=b"r/new")))
        token = snapshot.snapshot
        got = self.connection.get(CONTEXT, ttypes.GetRequest(key=b"r/00007", snapshot=token)).record
        self.assertEqual(got.value, b"value 7")
        self.assertFalse(self.connection.get(CONTEXT, ttypes.GetRequest(key=b"r/new", snapshot=token)).record.found)
        self.assertEqual(self.connection.count(CONTEXT, ttypes.CountRequest(prefix=b"r/", snapshot=token)).count, 3000)
        self.move_masters()
        rows = self.scan(prefix=b"r/", snapshot=token, limit_rows=500)
        self.assertEqual({row.key: row.value for row in rows}, self.records)
        self.assertTrue(all(row.version <= snapshot.version for row in rows))
        items = self.connection.multiGet(CONTEXT, ttypes.MultiGetRequest(keys=[b"r/00007", b"r/new"],
                                                                        snapshot=token)).items
        self.assertEqual([item.record.found for item in items], [True, False])
        renewed = self.connection.renewSnapshot(CONTEXT, ttypes.RenewSnapshotRequest(snapshot=token, ttl_ms=600000))
        self.assertGreater(renewed.expires_at_ms, snapshot.expires_at_ms)
        changes = self.scan(prefix=b"r/", snapshot=self.connection.openSnapshot(
            CONTEXT, ttypes.OpenSnapshotRequest()).snapshot, since=token)
        self.assertEqual({row.key for row in changes}, {b"r/00007", b"r/new"})
        self.assertTrue(self.connection.releaseSnapshot(CONTEXT, ttypes.ReleaseSnapshotRequest(snapshot=token)).existed)
        with self.assertRaises(ttypes.KvError) as caught:
            self.scan(prefix=b"r/", snapshot=token)
        self.assertEqual(caught.exception.code, constants.SNAPSHOT_GONE)

    def test_no_snapshot_has_an_effect_without_its_cause(self):
        """second <= first <= second + 1 in each, and two snapshots one after the other never go back (RS1, RS2)."""
        writers = [Counters(self.router, number) for number in range(4)]
        for writer in writers:
            writer.start()
        last = {}
        deadline = time.monotonic() + 12
        taken = 0
        killed = False
        while time.monotonic() < deadline:
            try:
                token = self.connection.openSnapshot(ttypes.Context(budget_ms=20000),
                                                     ttypes.OpenSnapshotRequest(ttl_ms=20000)).snapshot
            except ttypes.KvError as error:
                self.assertIn(error.code, (constants.UNAVAILABLE, constants.OVERLOADED, constants.DEADLINE), error)
                continue
            try:
                for writer in writers:
                    first, second = (int(item.record.value or 0) for item in self.connection.multiGet(
                        ttypes.Context(budget_ms=20000), ttypes.MultiGetRequest(keys=[writer.first, writer.second],
                                                                                snapshot=token)).items)
                    self.assertTrue(second <= first <= second + 1, (first, second))
                    self.assertGreaterEqual((first, second), last.get(writer.first, (0, 0)))
                    last[writer.first] = first, second
                taken += 1
            except ttypes.KvError as error:
                # A replica that was away when the mark was written may not have the snapshot.
                self.assertEqual(error.code, constants.SNAPSHOT_GONE, error)
            with self.subTest("release"):
                self.connection.releaseSnapshot(CONTEXT, ttypes.ReleaseSnapshotRequest(snapshot=token))
            if taken == 10 and not killed:
                killed = True
                self.cluster.nodes[2].kill_node()
                self.cluster.nodes[2].start()
        for writer in writers:
            writer.finish()
        print(f"{taken} snapshots")
        self.assertGreater(taken, 10)
        self.cluster.wait_healed()


if __name__ == "__main__":
    unittest.main()
