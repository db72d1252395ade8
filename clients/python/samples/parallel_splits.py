#!/usr/bin/env python3
"""Reads a snapshot with several processes, a part of the key range each: which packages do most others depend on?

    parallel_splits.py [HOST:PORT,HOST:PORT] [--workers N] [--parts N]

The parent opens the snapshot and keeps it alive. A worker needs only the snapshot's token and the bounds of a part, so it
could run on another machine. Each checks that it has read as many rows as the part has.
"""

import argparse
import collections
import multiprocessing
import os
import time

import pando
from packages import ROUTERS, dependencies, is_package, parse

_client = None  # of a worker


def begin(addresses):
    global _client
    _client = pando.Client(addresses, client_name="parallel-splits")


def count_dependencies(task):
    token, part = task
    rows, counts = 0, collections.Counter()
    for row in _client.scan(start=part.start, end=part.end, snapshot=token):
        rows += 1
        if is_package(row):
            counts.update(dependencies(parse(row.value)))
    if rows != part.count:
        raise AssertionError(f"the part from {part.start!r} has {part.count} rows, and {rows} were read")
    return os.getpid(), rows, counts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("addresses", metavar="HOST:PORT,HOST:PORT", nargs="?", default=ROUTERS)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--parts", type=int, default=16)
    options = parser.parse_args()
    with pando.Client(options.addresses) as client, client.snapshot() as snapshot:
        parts = snapshot.split_range(options.parts)
        began, rows, counts, by_worker = time.monotonic(), 0, collections.Counter(), collections.Counter()
        with multiprocessing.Pool(options.workers, begin, (options.addresses,)) as workers:
            for worker, read, found in workers.imap_unordered(count_dependencies,
                                                              [(snapshot.token, part) for part in parts]):
                rows += read
                counts.update(found)
                by_worker[worker] += read
        seconds = time.monotonic() - began
        assert rows == snapshot.count(), "the parts do not cover the snapshot"
    for name, number in counts.most_common(10):
        print(f"{number:>7,} packages depend on {name}")
    shares = ", ".join(f"{share:,}" for share in sorted(by_worker.values(), reverse=True))
    print(f"{rows:,} rows in {len(parts)} parts by {len(by_worker)} workers ({shares}) in {seconds:.1f} s")


if __name__ == "__main__":
    main()
