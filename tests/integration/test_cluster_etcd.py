#!/usr/bin/python3
"""A cluster of three real nodes and three real etcd servers, each on a host of its own, while clients work: etcd
restarts, is cut off from a node, and is away while a master dies. Then random faults of both. After each fault the
cluster must serve again in time; in the end the history of the clients must be linearizable.

    tests/integration/test_cluster_etcd.py [NAME...] [--seed S] [--seconds N]
"""

import argparse
import random
import shutil
import sys
import time

from fault_network import enter

enter()
# pylint: disable=wrong-import-position
from fault_cluster import ETCDS, NODES, FaultCluster, run_alone  # noqa: E402
from node_process import temporary_directory  # noqa: E402
from random_faults import RandomFaults  # noqa: E402

TOLD_S, LATE_S = 8, 20


def etcd_servers_restart(cluster, load):
    """One after the other, with kill -9; a master dies each time."""
    longest = 0
    for name, number in zip(ETCDS, NODES):
        cluster.etcd.kill([name])
        cluster.kill_node(number)
        longest = max(longest, load.wait_serving(LATE_S))
        cluster.etcd.start([name])
        cluster.start_node(number)
        cluster.wait_healed()
    print(f"  serves after {longest:.2f} s")


def a_node_is_cut_from_etcd(cluster, load):
    """It goes on as master. If another node dies, its partitions wait for that node, because it can change nobody's
    role: an error of the topology ends no mastership. They go on when the node is back, still without etcd."""
    cut = cluster.masters()[0]
    for name in ETCDS:
        cluster.network.cut(f"n{cut}", name)
    time.sleep(1)
    alone = load.wait_serving(TOLD_S)
    victim = next(number for number in NODES if number != cut)
    cluster.kill_node(victim)
    cluster.start_node(victim)
    took = load.wait_serving(LATE_S)
    cluster.network.heal()
    cluster.wait_healed()
    print(f"  serves after {alone:.2f} s, and {took:.2f} s after another node was killed and started")


def etcd_is_away(cluster, load):
    """For ten seconds. What needs no change goes on. A master that dies meanwhile is replaced when etcd is back."""
    masters = cluster.masters()
    cluster.etcd.kill()
    went_on = load.wait_serving(TOLD_S, "the cluster without etcd")
    cluster.kill_node(masters[0])
    time.sleep(10)
    stalled_ms = load.figures["stalled_ms"]
    assert stalled_ms > 5000, "a master died without etcd, and yet all keys were served"
    cluster.etcd.start()
    took = load.wait_serving(LATE_S)
    cluster.start_node(masters[0])
    cluster.wait_healed()
    print(f"  serves after {went_on:.2f} s without etcd, and {took:.2f} s after it was back")


DIRECTED = (etcd_servers_restart, a_node_is_cut_from_etcd, etcd_is_away)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--seconds", type=float, default=12, help="of the random faults")
    options = parser.parse_args()
    directory = temporary_directory("cluster_etcd")
    cluster = FaultCluster(directory, with_etcd=True, flags=["--log_budget_mb=64"])
    cluster.start()
    cluster.wait_healed()
    for test in DIRECTED:
        if not options.names or test.__name__ in options.names:
            run_alone(test, cluster, LATE_S)
    if not options.names or "random" in options.names:
        RandomFaults(cluster, options.seed).run(options.seconds)
    cluster.stop()
    cluster.etcd.kill()
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
