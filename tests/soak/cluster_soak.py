#!/usr/bin/python3
"""Runs a cluster of three nodes and three etcd servers, each on a host of its own, under random faults: kill -9, pauses,
lost packets, wiped disks, old images of disks, and etcd that is away. Clients work until they have finished so many
operations. It passes if their history is linearizable, which includes that no acknowledged write was lost, and the
cluster heals.

    ./dev soak cluster [--operations N] [--seed S] [--file-topology] [--rounds N] [--minutes N]
"""

import argparse
import pathlib
import random
import shutil
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
# pylint: disable=wrong-import-position
from fault_network import enter  # noqa: E402

enter()
from fault_cluster import FaultCluster  # noqa: E402
from node_process import temporary_directory  # noqa: E402
from random_faults import RandomFaults  # noqa: E402

REPORT_S = 10


class Reporter:
    def __init__(self):
        self.began = self.reported = time.monotonic()

    def __call__(self, figures, story):
        now = time.monotonic()
        if now - self.reported >= REPORT_S:
            self.reported = now
            print(f"  {now - self.began:6.0f} s: {figures['finished']} operations, {len(story)} events; "
                  f"last: {story[-1].strip() if story else ''}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operations", type=int, default=200_000)
    parser.add_argument("--minutes", type=float, help="end earlier, after this time")
    parser.add_argument("--rounds", type=int, default=1, help="each with a cluster and a seed of its own")
    parser.add_argument("--think-ms", type=int, default=4, help="pause of each of 16 clients between operations")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--file-topology", action="store_true", help="instead of etcd")
    options = parser.parse_args()
    for seed in range(options.seed, options.seed + options.rounds):
        directory = temporary_directory("cluster_soak")
        cluster = FaultCluster(directory, with_etcd=not options.file_topology, flags=["--log_budget_mb=64"])
        cluster.start()
        cluster.wait_healed()
        RandomFaults(cluster, seed, most_at_once=2, pauses_s=(0.1, 1, 2)).run(
            seconds=options.minutes and 60 * options.minutes, operations=options.operations, report=Reporter(),
            think_ms=options.think_ms)
        cluster.stop()
        if cluster.etcd:
            cluster.etcd.kill()
        cluster.network.remove()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
