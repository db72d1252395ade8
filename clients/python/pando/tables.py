"""Scans as Arrow batches, pandas data frames, DuckDB tables and Parquet files. Needs pyarrow (pip install pyarrow).

    with client.snapshot() as snapshot:
        for batch in tables.arrow_batches(snapshot.scan(prefix=b"orders/")):
            ...
        tables.write_parquet(snapshot.scan(prefix=b"orders/"), "orders.parquet")

Without `parse` the columns are key and value (binary), version, and expires_at_ms (0 = never). With it, they are what it
makes of each row: a dict of columns, or None to leave the row out. Memory: one page of rows at a time, unless the result
is a whole data frame.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Optional, Tuple, Union

from .client import Scan
from .types import Row

if TYPE_CHECKING:
    import pandas
    import pyarrow

Parse = Callable[[Row], Optional[Dict[str, Any]]]


def _pyarrow() -> Any:
    try:
        import pyarrow  # pylint: disable=import-outside-toplevel
    except ImportError as error:
        raise ImportError("this needs pyarrow: pip install pyarrow") from error
    return pyarrow


def row_schema() -> "pyarrow.Schema":
    """The columns without `parse`."""
    pa = _pyarrow()
    return pa.schema([("key", pa.binary()), ("value", pa.binary()), ("version", pa.int64()),
                      ("expires_at_ms", pa.int64())])


def arrow_batches(scan: Scan, *, parse: Optional[Parse] = None,
                  schema: Optional["pyarrow.Schema"] = None) -> Iterator["pyarrow.RecordBatch"]:
    """A record batch for each page of the scan. Without a schema, `parse` decides it with the first batch."""
    pa = _pyarrow()
    plain = row_schema()
    for page in scan.pages():
        if parse is None:
            columns: List[Tuple[Any, ...]] = list(zip(*(row[:4] for row in page.rows)))
            if columns:
                yield pa.RecordBatch.from_arrays([pa.array(c, t) for c, t in zip(columns, plain.types)], schema=plain)
            continue
        parsed = [fields for row in page.rows if (fields := parse(row)) is not None]
        if parsed:
            batch = pa.RecordBatch.from_pylist(parsed, schema=schema)
            schema = batch.schema
            yield batch


def to_arrow(scan: Scan, *, parse: Optional[Parse] = None, schema: Optional["pyarrow.Schema"] = None) -> "pyarrow.Table":
    """All rows of the scan as one table."""
    pa = _pyarrow()
    batches = list(arrow_batches(scan, parse=parse, schema=schema))
    if batches:
        return pa.Table.from_batches(batches)
    return (schema or (row_schema() if parse is None else pa.schema([]))).empty_table()


def to_pandas(scan: Scan, *, parse: Optional[Parse] = None) -> "pandas.DataFrame":
    """All rows of the scan as a data frame. Needs pyarrow and pandas."""
    return to_arrow(scan, parse=parse).to_pandas()


def write_parquet(scan: Scan, path: Union[str, "os.PathLike[str]"], *, parse: Optional[Parse] = None,
                  schema: Optional["pyarrow.Schema"] = None, **options: Any) -> int:
    """Writes all rows to a Parquet file, and returns how many. The file appears when it is complete. `options`: of
    pyarrow.parquet.ParquetWriter, such as compression="zstd"."""
    pa = _pyarrow()
    from pyarrow import parquet  # pylint: disable=import-outside-toplevel
    if parse is None:
        schema = row_schema()
    unfinished = f"{os.fspath(path)}.part"
    rows, writer = 0, None
    try:
        for batch in arrow_batches(scan, parse=parse, schema=schema):
            writer = writer or parquet.ParquetWriter(unfinished, batch.schema, **options)
            writer.write_batch(batch)
            rows += batch.num_rows
        writer = writer or parquet.ParquetWriter(unfinished, schema or pa.schema([]), **options)
        writer.close()
        os.replace(unfinished, path)
    except BaseException:
        if writer:
            writer.close()
        if os.path.exists(unfinished):
            os.remove(unfinished)
        raise
    return rows


def to_duckdb(scan: Scan, connection: Any, table: str, *, parse: Optional[Parse] = None,
              schema: Optional["pyarrow.Schema"] = None) -> int:
    """Makes a DuckDB table of the rows, batch by batch, and returns how many. Needs pyarrow and duckdb.

    `connection`: from duckdb.connect(). The table must not exist; if the scan fails, it does not.
    """
    pa = _pyarrow()
    quoted = '"' + table.replace('"', '""') + '"'
    rows, created = 0, False
    connection.begin()
    try:
        for batch in arrow_batches(scan, parse=parse, schema=schema):
            connection.register("pando_batch", pa.Table.from_batches([batch]))
            verb = f"INSERT INTO {quoted}" if created else f"CREATE TABLE {quoted} AS"
            connection.execute(f"{verb} SELECT * FROM pando_batch")
            connection.unregister("pando_batch")
            created = True
            rows += batch.num_rows
        if not created and (parse is None or schema is not None):
            connection.register("pando_batch", (schema or row_schema()).empty_table())
            connection.execute(f"CREATE TABLE {quoted} AS SELECT * FROM pando_batch")
            connection.unregister("pando_batch")
        connection.commit()
    except BaseException:
        connection.rollback()
        raise
    return rows


__all__ = ["arrow_batches", "row_schema", "to_arrow", "to_duckdb", "to_pandas", "write_parquet"]
