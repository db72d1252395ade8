"""Tests of pando.tables without a server: python -m unittest discover clients/python/tests -p test_tables.py

What is not installed is skipped: pyarrow, pandas, duckdb.
"""

import importlib.util
import os
import tempfile
import unittest

from pando import _requests as requests
from pando import tables, types
from pando._core import ScanState
from pando.client import Scan

ROWS = [types.Row(b"k%02d" % i, b"\xff%d" % i, 2**53 + i, i % 2, False, None) for i in range(25)]


def needs(*names):
    missing = [name for name in names if not importlib.util.find_spec(name)]
    return unittest.skipIf(missing, f"not installed: {', '.join(missing)}")


def scan(rows=tuple(ROWS), page_rows=10, fail_after=None):
    """A scan of these rows in pages. fail_after: as many pages, and then an error."""
    pages = [list(rows[i:i + page_rows]) for i in range(0, len(rows), page_rows)] or [[]]

    def read(call):
        at = int(call.request.cursor or b"0")
        if at == fail_after:
            raise ConnectionError("as the test wants it")
        return types.Page(pages[at], b"%d" % (at + 1) if at + 1 < len(pages) else b"")

    return Scan(read, ScanState(requests.ScanSpec(requests.Range()), b""))


def even(row):
    number = int(row.key[1:])
    return None if number % 2 else {"name": row.key.decode(), "number": number}


@needs("pyarrow")
class TablesTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = os.path.join(directory.name, "rows.parquet")

    def test_arrow(self):
        batches = list(tables.arrow_batches(scan()))
        self.assertEqual([batch.num_rows for batch in batches], [10, 10, 5])
        table = tables.to_arrow(scan())
        self.assertEqual(table.schema, tables.row_schema())
        self.assertEqual([tuple(row.values()) for row in table.to_pylist()], [row[:4] for row in ROWS])
        self.assertEqual(tables.to_arrow(scan(rows=())).schema, tables.row_schema())

    def test_arrow_parsed(self):
        table = tables.to_arrow(scan(), parse=even)
        self.assertEqual(table.to_pylist(), [{"name": f"k{i:02d}", "number": i} for i in range(0, 25, 2)])
        self.assertEqual(tables.to_arrow(scan(), parse=lambda row: None).num_rows, 0)

    def test_parquet(self):
        from pyarrow import parquet
        self.assertEqual(tables.write_parquet(scan(), self.path, compression="zstd"), 25)
        self.assertTrue(parquet.read_table(self.path).equals(tables.to_arrow(scan())))
        self.assertEqual(tables.write_parquet(scan(rows=()), self.path), 0)
        self.assertEqual(parquet.read_table(self.path).num_rows, 0)
        self.assertEqual(tables.write_parquet(scan(), self.path, parse=even), 13)

    def test_a_parquet_file_appears_when_it_is_complete(self):
        with self.assertRaises(ConnectionError):
            tables.write_parquet(scan(fail_after=1), self.path)
        self.assertEqual(os.listdir(os.path.dirname(self.path)), [])

    @needs("pandas")
    def test_pandas(self):
        frame = tables.to_pandas(scan())
        self.assertEqual(list(frame["key"]), [row.key for row in ROWS])
        self.assertEqual(list(frame["version"]), [row.version for row in ROWS])

    @needs("duckdb")
    def test_duckdb(self):
        import duckdb
        with duckdb.connect() as connection:
            self.assertEqual(tables.to_duckdb(scan(), connection, 'the "rows"'), 25)
            query = 'SELECT key, value, version, expires_at_ms FROM "the ""rows""" ORDER BY key'
            self.assertEqual(connection.execute(query).fetchall(), [row[:4] for row in ROWS])
            with self.assertRaises(ConnectionError):
                tables.to_duckdb(scan(fail_after=1), connection, "half")
            self.assertEqual(connection.execute("SHOW TABLES").fetchall(), [('the "rows"',)])
            self.assertEqual(tables.to_duckdb(scan(rows=()), connection, "empty"), 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
