"""Tests of what the conformance suite cannot ask of every language: forks, threads, tasks, and tables.

    PANDO_ADDRESSES=127.0.0.1:7450 python clients/python/tests/test_with_server.py

It changes keys under py-test/ only.
"""

import asyncio
import multiprocessing
import os
import tempfile
import threading
import time
import unittest

import pando

ADDRESSES = os.environ.get("PANDO_ADDRESSES", "127.0.0.1:7450")


def add_in_child(client, key, times, results):
    for _ in range(times):
        client.increment(key)
    results.put(len({lane.client_id for lane in client._core._lanes}))  # pylint: disable=protected-access


class ThreadsTest(unittest.TestCase):
    def setUp(self):
        self.client = pando.Client(ADDRESSES, pool_size=4, client_name="test")
        self.addCleanup(self.client.close)
        self.client.delete_range(prefix=b"py-test/")

    def test_a_fork_makes_its_own_connections_and_names(self):
        self.assertEqual(self.client.increment(b"py-test/fork"), 1)
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        children = [context.Process(target=add_in_child, args=(self.client, b"py-test/fork", 20, results))
                    for _ in range(3)]
        for child in children:
            child.start()
        for _ in range(20):
            self.client.increment(b"py-test/fork")
        for child in children:
            child.join(30)
            self.assertEqual(child.exitcode, 0)
        self.assertEqual(self.client.get(b"py-test/fork").value, b"81")

    def test_more_threads_than_connections(self):
        threads = [threading.Thread(target=lambda: [self.client.increment(b"py-test/n") for _ in range(20)])
                   for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(self.client.get(b"py-test/n").value, b"240")

    def test_a_session_is_carried_to_another_client(self):
        session = self.client.session()
        session.put(b"py-test/s", b"x")
        with pando.Client(ADDRESSES) as other:
            carried = other.session()
            carried.token = session.token
            self.assertEqual(carried.get(b"py-test/s").value, b"x")

    def test_a_watch_that_waits_is_closed(self):
        watch = self.client.watch(b"py-test/")
        errors = []

        def follow():
            try:
                for change in watch:
                    errors.append(change)
            except pando.ClosedError as error:
                errors.append(error)
        thread = threading.Thread(target=follow)
        thread.start()
        self.client.put(b"py-test/w", b"x")
        deadline = time.monotonic() + 10
        while not errors and time.monotonic() < deadline:
            time.sleep(0.005)
        watch.close()
        thread.join(10)
        self.assertFalse(thread.is_alive())
        self.assertEqual(errors[0].key, b"py-test/w")
        self.assertIsInstance(errors[1], pando.ClosedError)

    def test_the_cursor_of_a_scan_that_stops_gives_no_row_up(self):
        self.client.write_batch([pando.Put(b"py-test/c%02d" % i, b"") for i in range(50)])
        scan = self.client.scan(prefix=b"py-test/c", page_rows=20)
        seen = [next(scan).key for _ in range(25)]
        rest = [row.key for row in self.client.scan(prefix=b"py-test/c", cursor=scan.cursor)]
        self.assertEqual(len(set(seen) | set(rest)), 50)
        self.assertEqual(rest[0], b"py-test/c20")  # the page that was begun comes again

    def test_advice_and_text_keys(self):
        with self.assertRaises(pando.BadRequestError) as caught:
            self.client.put(b"", b"")
        self.assertIn("Change the request", str(caught.exception))
        with self.assertRaises(TypeError):
            self.client.put("py-test/text", b"")

    def test_tables(self):
        try:
            from pando import tables
            import pyarrow.parquet as parquet
        except ImportError:
            self.skipTest("pyarrow is not installed")
        self.client.write_batch([pando.Put(b"py-test/t%03d" % i, b"%d" % i) for i in range(250)])

        def scan():
            return self.client.scan(prefix=b"py-test/t", page_rows=100)
        self.assertEqual([batch.num_rows for batch in tables.arrow_batches(scan())], [100, 100, 50])
        numbers = tables.to_arrow(scan(), parse=lambda row: {"n": int(row.value)} if row.value != b"7" else None)
        self.assertEqual((numbers.num_rows, sum(numbers["n"].to_pylist())), (249, 249 * 125 - 7))
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "t.parquet")
            self.assertEqual(tables.write_parquet(scan(), path), 250)
            self.assertEqual(parquet.read_table(path)["key"][3].as_py(), b"py-test/t003")
            self.assertEqual(os.listdir(directory), ["t.parquet"])
            self.assertEqual(tables.write_parquet(self.client.scan(prefix=b"py-test/none"), path), 0)
            self.assertEqual(parquet.read_table(path).num_rows, 0)
        try:
            import pandas  # noqa: F401  pylint: disable=unused-import
            import duckdb
        except ImportError:
            return
        self.assertEqual(tables.to_pandas(scan()).shape, (250, 4))
        with duckdb.connect() as connection:
            self.assertEqual(tables.to_duckdb(scan(), connection, 'a "b"'), 250)
            self.assertEqual(connection.execute('SELECT count(*) FROM "a ""b"""').fetchone(), (250,))


class TasksTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.client = pando.AsyncClient(ADDRESSES, pool_size=2)
        await self.client.delete_range(prefix=b"py-test/")

    async def asyncTearDown(self):
        await self.client.close()

    async def test_many_calls_share_connections(self):
        numbers = await asyncio.gather(*(self.client.increment(b"py-test/many") for _ in range(500)))
        self.assertEqual(sorted(numbers), list(range(1, 501)))
        self.assertLessEqual(len(self.client._pool._connections), 2)  # pylint: disable=protected-access

    async def test_a_cancelled_call_leaves_the_others(self):
        watch = await self.client.watch(b"py-test/never")
        waiting = asyncio.ensure_future(watch.poll(wait_ms=60000))
        calls = [asyncio.ensure_future(self.client.increment(b"py-test/cancel%d" % i)) for i in range(100)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        others = await asyncio.gather(*calls[1::2])
        self.assertEqual(others, [1] * 50)
        waiting.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await waiting
        for i in range(200):
            self.assertIsNone(await self.client.get(b"py-test/none%d" % i))
        await watch.close()

    async def test_snapshot_scan_and_watch(self):
        await self.client.batch().put(b"py-test/a", b"1").put(b"py-test/b", b"2").write()
        async with await self.client.snapshot() as snapshot:
            await self.client.remove(b"py-test/a")
            self.assertEqual([row.key async for row in snapshot.scan(prefix=b"py-test/")], [b"py-test/a", b"py-test/b"])
            async with await self.client.watch(b"py-test/", after_version=snapshot.version) as watch:
                async for change in watch:
                    self.assertEqual((change.key, change.removed), (b"py-test/a", True))
                    break

    async def test_a_watch_that_waits_is_closed(self):
        watch = await self.client.watch(b"py-test/")
        waiting = asyncio.ensure_future(watch.poll(wait_ms=60000))
        await asyncio.sleep(0.05)
        await watch.close()
        with self.assertRaises(pando.ClosedError):
            await waiting


if __name__ == "__main__":
    unittest.main(verbosity=2)
