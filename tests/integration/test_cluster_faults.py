#!/usr/bin/python3
"""A cluster of three real nodes on hosts of their own, with a file topology, under one fault after the other, and then
under a random mixture of them, while clients work. After each fault the cluster must serve again in time; in the end
the history of the clients must be linearizable.

    tests/integration/test_cluster_faults.py [NAME...] [--seed S] [--seconds N]
"""

import argparse
import os
import random
import shutil
import signal
import sys
import time

from fault_network import enter

enter()
# pylint: disable=wrong-import-position
from cluster_process import Refused  # noqa: E402
from fault_cluster import NODES, FaultCluster, Workload  # noqa: E402
from fault_network import SmallDisk, Throttle  # noqa: E402
from node_process import CONTEXT, temporary_directory, ttypes  # noqa: E402
from random_faults import RandomFaults  # noqa: E402

# What a partition may be without an answer. A death that a guard reports takes no lease; other faults take one, of a
# second, and connections that have lost packets need a while until they are tried again. Machines are busy.
TOLD_S, UNTOLD_S, NETWORK_S = 5, 10, 15
MIB = 1 << 20
DISK_MB = 400


def the_node_is_killed(cluster, load):
    """kill -9 of the process; its guard tells the others."""
    longest = 0
    for number in NODES:
        cluster.kill_node(number)
        longest = max(longest, load.wait_serving(TOLD_S))
        cluster.start_node(number)
        cluster.wait_healed()
    print(f"  serves after {longest:.2f} s")


def the_host_is_killed(cluster, load):
    """The guard is killed too, so the leases must run out."""
    number = cluster.masters()[0]
    cluster.kill_host(number)
    print(f"  serves after {load.wait_serving(UNTOLD_S):.2f} s")
    cluster.start_node(number)
    cluster.wait_healed()


def put_anywhere(connections, key, value):
    """Does not go where NOT_MASTER sends it: that node is paused."""
    deadline = time.monotonic() + UNTOLD_S
    while True:
        for connection in connections:
            try:
                return connection.put(CONTEXT, ttypes.PutRequest(key=key, value=value))
            except ttypes.KvError as error:
                assert time.monotonic() < deadline, f"no other node has become master of {key}: {error}"
        time.sleep(0.01)


def a_paused_master_reads_nothing_old(cluster, load):
    """A master is stopped for longer than its lease, and reads are waiting at it when it goes on. Meanwhile another one
    has written. The answers must be what was written, or errors."""
    keys = [b"paused/%d" % i for i in range(24)]
    client = cluster.client()
    for key in keys:
        client.put(key, b"old")
    victim = cluster.masters()[0]
    node = cluster.nodes[victim]
    mine = [key for key in keys if client.masters[key] == node.address]
    assert mine, f"node {victim} is master of no key"
    connections = {key: node.connect(timeout_s=30) for key in mine}
    for key, connection in connections.items():
        assert connection.get(CONTEXT, ttypes.GetRequest(key=key)).record.value == b"old"
    pid = cluster.pause(victim)
    for key, connection in connections.items():
        connection.send_get(ttypes.Context(budget_ms=60000), ttypes.GetRequest(key=key))
    others = [other.connect(timeout_s=5) for other in cluster.nodes.values() if other is not node]
    for key in mine:
        put_anywhere(others, key, b"new")
    print(f"  serves after {load.wait_serving(UNTOLD_S):.2f} s")
    os.kill(pid, signal.SIGCONT)
    answers = []
    for key, connection in connections.items():
        try:
            record = connection.recv_get().record
            answers.append(record.value)
        except ttypes.KvError as error:
            answers.append(error.code)
    assert b"old" not in answers, f"a stale read: {answers}"
    print(f"  the paused master answered {sorted(set(map(str, answers)))}")
    for connection in (client, *others, *connections.values()):
        connection.close()
    cluster.wait_healed()


def one_direction_is_lost(cluster, load):
    """A master cannot send to the others, and then a master cannot hear the others."""
    took = []
    for outgoing in (True, False):
        victim = cluster.masters()[1]
        for other in NODES:
            if other != victim:
                cluster.network.lose(*((f"n{victim}", f"n{other}") if outgoing else (f"n{other}", f"n{victim}")))
        took.append(load.wait_serving(NETWORK_S))
        cluster.network.heal()
        cluster.wait_healed()
    print(f"  serves after {took[0]:.2f} s if a master is not heard, {took[1]:.2f} s if it hears nothing")


def two_nodes_are_cut(cluster, load):
    """The third hears both."""
    cluster.network.cut("n1", "n2")
    took = load.wait_serving(NETWORK_S)
    time.sleep(1)
    again = load.wait_serving(NETWORK_S)
    cluster.network.heal()
    cluster.wait_healed()
    print(f"  serves after {took:.2f} s, and still, after {again:.2f} s more")


def a_disk_is_wiped(cluster, load):
    """A node comes back with an empty directory: other replicas, which get everything from the others."""
    before = cluster.replicas()[2]
    cluster.kill_host(2)
    shutil.rmtree(cluster.nodes[2].data_dir)
    cluster.start_node(2)
    cluster.wait_healed(gone=before)
    load.wait_serving(NETWORK_S)


def an_old_image_is_restored(cluster, load):
    """A node comes back with the directory that it had a while ago: its replicas are other ones too."""
    node = cluster.nodes[1]
    image = node.data_dir.with_name("image")
    cluster.kill_host(1)
    shutil.copytree(node.data_dir, image)
    cluster.start_node(1)
    cluster.wait_healed()
    load.wait_serving(NETWORK_S)
    before = cluster.replicas()[1]
    cluster.kill_host(1)
    shutil.rmtree(node.data_dir)
    image.rename(node.data_dir)
    cluster.start_node(1)
    cluster.wait_healed(gone=before)
    load.wait_serving(NETWORK_S)


class Filler:
    """Puts large values, and knows which were acknowledged."""

    def __init__(self, cluster):
        self.client = cluster.client(budget_s=3)
        self.held = []

    def fill(self, megabytes):
        """Returns whether all was accepted."""
        for _ in range(megabytes * 16):
            key = b"fill/%05d" % len(self.held)
            try:
                self.client.put(key, os.urandom(64 << 10))
            except Refused as error:
                assert "disk" in str(error).lower(), f"a put was refused, and not for a full disk: {error}"
                return False
            self.held.append(key)
        return True

    def remove(self, count):
        for _ in range(count):
            key = self.held.pop()
            self.client.call(key, "remove", ttypes.RemoveRequest(key=key))


def a_disk_is_full(cluster, load):
    """The disk of one node is full. Puts are refused with DISK_FULL, or that node is no longer in sync; nothing else
    stops, removes work, and all is well when there is room again."""
    disk = cluster.small_disk
    ballast = disk.directory / "ballast"
    with open(ballast, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(disk.free_bytes() - 24 * MIB, MIB))
    filler = Filler(cluster)
    accepted = filler.fill(DISK_MB)  # its files may have room inside, but not for more than the whole disk holds
    sizes = sorted(len(p["isr"]) for p in cluster.partitions().values())
    assert not accepted or sizes[0] < 3, "the disk is not full at all"
    filler.remove(len(filler.held) // 2)
    load.wait_serving(NETWORK_S)
    assert all(node.process.poll() is None for node in cluster.nodes.values()), "a node has ended"
    full = disk.free_bytes() / MIB
    ballast.unlink()
    deadline = time.monotonic() + 30
    while not filler.fill(1):
        assert time.monotonic() < deadline, "puts are still refused although there is room"
    cluster.wait_healed()
    filler.remove(len(filler.held))
    filler.client.close()
    print(f"  {full:.1f} MiB free: puts were {'accepted without that node' if accepted else 'refused'}; in sync {sizes}")


def a_disk_is_slow(cluster, load):
    """The disk of one node does two writes in a second. The others go on without it."""
    throttle = Throttle(cluster.small_disk)
    if throttle.why_not:
        print(f"  left out: {throttle.why_not}")
        return
    throttle.limit(cluster.nodes[3].node_pid(), 2)
    took = load.wait_serving(NETWORK_S)
    time.sleep(2)
    again = load.wait_serving(NETWORK_S)
    throttle.lift()
    cluster.wait_healed()
    print(f"  serves after {took:.2f} s, and still, after {again:.2f} s more")


DIRECTED = (the_node_is_killed, the_host_is_killed, a_paused_master_reads_nothing_old, one_direction_is_lost,
            two_nodes_are_cut, a_disk_is_slow, a_disk_is_wiped, an_old_image_is_restored)


def put_on_small_disk(cluster, number):
    """The directory of this node is on a file system of its own, if that is possible."""
    disk = SmallDisk(cluster.directory / "disk.img", cluster.directory / "disk", DISK_MB)
    if not disk.why_not:
        cluster.nodes[number].data_dir = disk.directory / "data"
    return disk


def run_alone(test, cluster, names):
    if names and test.__name__ not in names:
        return
    if test in (a_disk_is_full, a_disk_is_slow) and cluster.small_disk.why_not:
        print(f"{test.__name__}: left out, no loop device: {cluster.small_disk.why_not}", flush=True)
        return
    began = time.monotonic()
    print(test.__name__, flush=True)
    load = Workload(cluster)
    load.wait_serving(NETWORK_S)
    test(cluster, load)
    print(f"  {load.finish()}; {time.monotonic() - began:.1f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--seconds", type=float, default=12, help="of the random faults")
    options = parser.parse_args()
    directory = temporary_directory("cluster_faults")
    cluster = FaultCluster(directory, flags=["--log_budget_mb=64", "--release_space_after_s=1"])
    cluster.small_disk = put_on_small_disk(cluster, 3)
    cluster.start()
    cluster.wait_healed()
    for test in DIRECTED:
        run_alone(test, cluster, options.names)
    if not options.names or "random" in options.names:
        RandomFaults(cluster, options.seed).run(options.seconds)
    # Last: it leaves files of which the small disk cannot hold two.
    run_alone(a_disk_is_full, cluster, options.names)
    cluster.stop()
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
