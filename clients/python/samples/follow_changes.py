#!/usr/bin/env python3
"""Keeps a derived table up to date: packages by section, in an SQLite file, as the records in Pando change.

    follow_changes.py [HOST:PORT,HOST:PORT] [--table FILE] [--prefix P] [--seconds S]
    follow_changes.py --every S ...         # compare snapshots every S seconds, and do not watch

It begins with a scan of a snapshot, and then watches from the snapshot's version, so nothing falls between the two. The
position of the watch is stored in the transaction that stores what was made of the changes: stopped at any moment and
started again, it goes on where it was. If it was away for too long (FeedGoneError), it begins anew.

With --every it keeps a snapshot open, and reads only what has changed since, which takes time in proportion to the
changes. That also works when they come faster than one cares to follow.
"""

import argparse
import sqlite3
import time

import pando
from packages import ROUTERS, is_package, parse, section

SCHEMA = """
CREATE TABLE IF NOT EXISTS packages (key BLOB PRIMARY KEY, section TEXT NOT NULL, installed_kb INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS by_section ON packages (section);
CREATE TABLE IF NOT EXISTS progress (id INTEGER PRIMARY KEY CHECK (id = 0), position BLOB NOT NULL);
"""


class Table:
    """The derived table."""

    def __init__(self, path):
        self.db = sqlite3.connect(path)
        self.db.executescript(SCHEMA)

    def store(self, key, record):
        """The record of a key as it is now; None = there is none."""
        if record is None or not is_package(record):
            self.db.execute("DELETE FROM packages WHERE key = ?", (key,))
        else:
            fields = parse(record.value)
            self.db.execute("REPLACE INTO packages VALUES (?, ?, ?)",
                            (key, section(fields), int(fields.get("Installed-Size") or 0)))

    @property
    def position(self):
        row = self.db.execute("SELECT position FROM progress").fetchone()
        return row[0] if row else b""

    @position.setter
    def position(self, position):
        self.db.execute("REPLACE INTO progress VALUES (0, ?)", (position,))

    def show(self, why):
        packages, sections = self.db.execute("SELECT count(*), count(DISTINCT section) FROM packages").fetchone()
        top = self.db.execute("SELECT section, count(*) AS n FROM packages GROUP BY section ORDER BY n DESC, section LIMIT 3")
        largest = ", ".join(f"{name} {number:,}" for name, number in top)
        print(f"{packages:,} packages in {sections} sections ({largest}): {why}", flush=True)


def rebuild(snapshot, table, prefix):
    """Makes the table anew from a snapshot."""
    with table.db:
        table.db.execute("DELETE FROM packages")
        for row in snapshot.scan(prefix=prefix):
            table.store(row.key, row)
    table.show("from a snapshot")


def follow_watch(client, table, options):
    prefix, end = options.prefix.encode(), time.monotonic() + options.seconds
    position, version = table.position, 0
    if not position:
        with client.snapshot() as snapshot:
            rebuild(snapshot, table, prefix)
            version = snapshot.version
    with client.watch(prefix, position=position, after_version=version) as watch:
        if position:
            table.show("goes on where it was")
        ended = False
        while not ended:
            left_s = max(end - time.monotonic(), 0)
            ended = left_s == 0
            changes = watch.poll(wait_ms=int(min(left_s, 10) * 1000), limit=500)
            keys = list(dict.fromkeys(change.key for change in changes))
            records = client.multi_get(keys)
            with table.db:  # one transaction: the changes, and that they were seen
                for key, record in zip(keys, records):
                    table.store(key, record)
                table.position = watch.position
            if changes:
                table.show(f"{len(changes)} changes, the last one of {changes[-1].key.decode(errors='replace')}")


def follow_snapshots(client, table, options):
    prefix, end = options.prefix.encode(), time.monotonic() + options.seconds
    old = client.snapshot()
    try:
        rebuild(old, table, prefix)
        ended = False
        while not ended:
            time.sleep(options.every)
            new = client.snapshot()
            changed = 0
            with table.db:
                for row in new.scan(prefix=prefix, since=old):
                    table.store(row.key, None if row.removed else row)
                    changed += 1
            old, gone = new, old
            gone.release()
            ended = time.monotonic() + options.every > end
            table.show(f"{changed} changed records since the last snapshot")
    finally:
        old.release()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("addresses", metavar="HOST:PORT,HOST:PORT", nargs="?", default=ROUTERS)
    parser.add_argument("--table", default=":memory:", help="the SQLite file (default: in memory)")
    parser.add_argument("--prefix", default="")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--every", type=float, metavar="S")
    options = parser.parse_args()
    table = Table(options.table)
    try:
        with pando.Client(options.addresses, client_name="follow-changes") as client:
            while True:
                try:
                    (follow_snapshots if options.every else follow_watch)(client, table, options)
                    return
                except pando.FeedGoneError:
                    table.position = b""
                except pando.SnapshotGoneError:
                    print("a snapshot is gone; beginning anew", flush=True)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
