#!/usr/bin/env python3
"""Turns the package index that ./dev up has loaded into a report: packages and sizes by section, from one snapshot.

    report.py [HOST:PORT,HOST:PORT] [--top N] [--plot FILE.png|.svg|.pdf] [--parquet FILE] [--duckdb FILE]

--plot needs matplotlib, --parquet pyarrow, and --duckdb both pyarrow and duckdb (pip install ...). Every row of the
snapshot is read; the report says whether their number is that which the cluster counts.
"""

import argparse
import collections
import sys
import time

import pando
from packages import ROUTERS, is_package, parse, section

BAR_WIDTH = 40


def columns(row):
    """The columns of a package, for Parquet and DuckDB."""
    if not is_package(row):
        return None
    fields = parse(row.value)
    return {"package": row.key.decode(), "section": section(fields), "priority": fields.get("Priority"),
            "maintainer": fields.get("Maintainer"), "installed_kb": int(fields.get("Installed-Size") or 0),
            "download_bytes": int(fields.get("Size") or 0), "version": row.version}


class Group:
    """The packages of one section."""

    def __init__(self):
        self.packages = self.installed_kb = self.download_bytes = 0
        self.largest = ("", 0)

    def add(self, package):
        self.packages += 1
        self.installed_kb += package["installed_kb"]
        self.download_bytes += package["download_bytes"]
        self.largest = max(self.largest, (package["package"], package["installed_kb"]), key=lambda pair: pair[1])


def group(rows):
    groups, count = collections.defaultdict(Group), 0
    for row in rows:
        count += 1
        package = columns(row)
        if package:
            groups[package["section"]].add(package)
    return sorted(groups.items(), key=lambda item: -item[1].installed_kb), count


def print_report(groups, top):
    widest = groups[0][1].installed_kb or 1
    print(f"{'section':<16}{'packages':>9}{'installed':>11}{'download':>11}  largest")
    for name, found in groups[:top]:
        bar = "#" * max(1, round(BAR_WIDTH * found.installed_kb / widest))
        print(f"{name:<16}{found.packages:>9,}{found.installed_kb / 1e6:>8.2f} GB{found.download_bytes / 1e9:>8.2f} GB"
              f"  {found.largest[0]:<28} {bar}")
    others = groups[top:]
    if others:
        print(f"and {len(others)} more sections with {sum(g.packages for _, g in others):,} packages")
    total = [g for _, g in groups]
    print(f"{'all':<16}{sum(g.packages for g in total):>9,}{sum(g.installed_kb for g in total) / 1e6:>8.2f} GB"
          f"{sum(g.download_bytes for g in total) / 1e9:>8.2f} GB")


def plot(groups, top, path):
    try:
        import matplotlib
        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        sys.exit("--plot needs matplotlib: pip install matplotlib")
    shown = groups[:top][::-1]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 0.32 * len(shown) + 1.5), sharey=True)
    names = [name for name, _ in shown]
    left.barh(names, [g.installed_kb / 1e6 for _, g in shown], color="#4477aa")
    left.set_xlabel("installed size, GB")
    right.barh(names, [g.packages for _, g in shown], color="#cc6677")
    right.set_xlabel("packages")
    figure.suptitle("Debian packages by section")
    figure.tight_layout()
    figure.savefig(path)
    print(f"the plot is in {path}")


def write_files(snapshot, options):
    if options.parquet:
        from pando import tables
        rows = tables.write_parquet(snapshot.scan(), options.parquet, parse=columns)
        print(f"{rows:,} packages are in {options.parquet}")
    if options.duckdb:
        import duckdb
        from pando import tables
        with duckdb.connect(options.duckdb) as connection:
            connection.execute("DROP TABLE IF EXISTS packages")
            tables.to_duckdb(snapshot.scan(), connection, "packages", parse=columns)
            answer = connection.execute("SELECT section, median(installed_kb)::BIGINT AS median_kb FROM packages "
                                        "GROUP BY section ORDER BY median_kb DESC LIMIT 3").fetchall()
        print(f"the table packages is in {options.duckdb}; the sections with the largest medians: {answer}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("addresses", metavar="HOST:PORT,HOST:PORT", nargs="?", default=ROUTERS)
    parser.add_argument("--top", type=int, default=12)
    parser.add_argument("--plot")
    parser.add_argument("--parquet")
    parser.add_argument("--duckdb")
    options = parser.parse_args()
    with pando.Client(options.addresses, client_name="report") as client, client.snapshot() as snapshot:
        began = time.monotonic()
        groups, rows = group(snapshot.scan())
        seconds = time.monotonic() - began
        if not groups:
            sys.exit("there are no packages; ./dev up loads them")
        print_report(groups, options.top)
        counted = snapshot.aggregate()
        agree = "as many as" if counted.count == rows else f"NOT the {counted.count:,} that"
        print(f"{rows:,} records in {seconds:.1f} s, {agree} the cluster counts in this snapshot"
              f" ({counted.bytes / 1e6:.1f} MB, content hash {counted.content_hash & (1 << 64) - 1:016x})")
        if options.plot:
            plot(groups, options.top, options.plot)
        write_files(snapshot, options)
    return 0 if counted.count == rows else 1


if __name__ == "__main__":
    sys.exit(main())
