#!/usr/bin/python3
"""Replicas that need a copy of their master's pages get one, while clients write: a node that was down until the log
did not hold any more what it missed, and a node whose directory was emptied. Nothing acknowledged is lost, and every
node comes to hold the same.
"""

import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

from cluster_process import HEAL_TIMEOUT_S, Cluster
from node_process import CONTEXT, ROOT, Admin, temporary_directory, ttypes
from test_cluster import Writer


def _generate():
    directory = tempfile.mkdtemp(prefix="pando-py-cluster-")
    subprocess.run(["thrift", "--gen", "py", "-out", directory, str(ROOT / "thrift" / "cluster.thrift")], check=True)
    sys.path.insert(0, directory)


_generate()
# pylint: disable=wrong-import-position
from pando_cluster import Cluster as ClusterService  # noqa: E402
from pando_cluster import ttypes as cluster_types  # noqa: E402

logging.getLogger("thrift").setLevel(logging.CRITICAL)  # it logs every refused connection

PARTITIONS = 4
# The log keeps about this much for a follower that is away (EngineOptions::reader_retained_bytes), and its budget.
LOG_MB = 64 + 64
VALUE = os.urandom(64 << 10)


def records(cluster):
    """The newest records of the partitions in the file topology, by ID."""
    found = {}
    for path in pathlib.Path(cluster.topology.removeprefix("file:")).glob("partition.*"):
        _, partition, revision = path.name.split(".")
        if int(revision) > found.get(int(partition), (0, None))[0]:
            found[int(partition)] = (int(revision), path)
    return {partition: json.loads(path.read_text().split("\n", 1)[1]) for partition, (_, path) in found.items()}


def replicas_on(cluster, number):
    """The UUIDs of the replicas of a node."""
    return {replica["replica"] for record in records(cluster).values()
            for members in ("isr", "evicted", "learners") for replica in record[members] if replica["node"] == number}


def wait_healed(cluster, replicas=3, gone=frozenset()):
    """Waits until every partition has its whole in-sync set, no other replica, and none of those in `gone`. Returns
    the records."""
    deadline = time.monotonic() + 2 * HEAL_TIMEOUT_S
    while True:
        try:
            now = records(cluster)
            sizes = {p: (len(r["isr"]), len(r["evicted"]), len(r["learners"])) for p, r in now.items()}
        except FileNotFoundError:
            continue  # an old revision was removed meanwhile
        left = {r["replica"] for record in now.values() for r in record["isr"]} & gone
        if not left and all(size == (replicas, 0, 0) for size in sizes.values()):
            return now
        assert time.monotonic() < deadline, f"the in-sync sets do not heal: {sizes}; {len(left)} old replicas are left"
        time.sleep(0.1)


def replicas_of(node):
    with node.connect(service=ClusterService) as connection:
        return {status.partition: status for status in connection.replicas(CONTEXT).replicas}


def metric(node, name):
    port = int(node.log.read_text(errors="replace").split("serving http 127.0.0.1:")[1].split(";")[0])
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name + " ") or line.startswith(name + "{"))


def fill(cluster, megabytes, threads=4):
    """Writes so much to keys of its own, and returns what they hold."""
    written = {}

    def put(number):
        client = cluster.client()
        for i in range(number, megabytes * 16, threads):
            key, value = b"fill/%06d" % (i % 400), b"%08d" % i + VALUE
            client.put(key, value)
            written[key] = value
        client.close()

    workers = [threading.Thread(target=put, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(written) == min(400, megabytes * 16), "a thread that fills has failed"
    return written


def checkpoint(node):
    with node.connect(service=Admin) as connection:
        connection.checkpoint(CONTEXT)


def hand_all_to(cluster, target):
    """Makes one node master of all partitions."""
    number = next(n for n, node in cluster.nodes.items() if node is target)
    deadline = time.monotonic() + HEAL_TIMEOUT_S
    for partition in range(PARTITIONS):
        while True:
            record = records(cluster)[partition]
            master = next(r["node"] for r in record["isr"] if r["replica"] == record["master"])
            if master == number:
                break
            assert time.monotonic() < deadline, f"partition {partition} is not handed over"
            try:
                with cluster.nodes[master].connect(service=ClusterService) as connection:
                    connection.handover(CONTEXT, cluster_types.HandoverRequest(partition=partition, node=number))
            except ttypes.KvError:
                time.sleep(0.2)


def verify_on(cluster, node, written, writers):
    """As master of everything, the node answers with what was acknowledged."""
    hand_all_to(cluster, node)
    client = cluster.client()
    for key, value in written.items():
        assert client.get(key) == value, f"{key} holds something else"
    client.close()
    for writer in writers:
        writer.verify()


def started_writers(cluster, count=2):
    writers = [Writer(cluster, number) for number in range(count)]
    for writer in writers:
        writer.start()
    return writers


def a_node_that_was_down(cluster):
    """It keeps its replicas' UUIDs."""
    before = records(cluster)
    writers = started_writers(cluster)
    time.sleep(0.5)
    victim = cluster.nodes[2]
    victim.kill_node()
    time.sleep(1)
    written = fill(cluster, LOG_MB)
    for node in (cluster.nodes[1], cluster.nodes[3]):
        checkpoint(node)
    victim.start()
    after = wait_healed(cluster)
    installed = metric(victim, "kv_install_installed_total")
    assert installed > 0, "the log still held what the node missed, so nothing was tried"
    for partition, record in after.items():
        uuids = [{r["replica"] for r in ours["isr"] + ours["evicted"]} for ours in (before[partition], record)]
        assert uuids[0] == uuids[1], f"partition {partition} has other replicas than before"
    time.sleep(0.5)
    for writer in writers:
        writer.finish()
    verify_on(cluster, victim, written, writers)
    print(f"a node that was down: {installed:.0f} of {PARTITIONS} partitions installed, "
          f"{metric(victim, 'kv_install_received_bytes_total') / (1 << 20):.1f} MiB of pages, "
          f"{sum(writer.writes for writer in writers)} writes meanwhile")
    return written


def an_emptied_directory(cluster, written):
    """Its replicas are others from then on."""
    before = replicas_on(cluster, 3)
    writers = started_writers(cluster)
    time.sleep(0.5)
    victim = cluster.nodes[3]
    victim.kill()
    shutil.rmtree(victim.data_dir)
    victim.start()
    wait_healed(cluster, gone=before)
    assert len(replicas_on(cluster, 3)) == PARTITIONS
    assert metric(victim, "kv_install_installed_total") == PARTITIONS
    time.sleep(0.5)
    for writer in writers:
        writer.finish()
    verify_on(cluster, victim, written, writers)
    print(f"an emptied directory: {sum(writer.writes for writer in writers)} writes meanwhile")


def a_restored_directory(cluster, written):
    """An old copy of a directory is put back: its replicas are others too, and get what they have missed."""
    before = replicas_on(cluster, 1)
    victim = cluster.nodes[1]
    victim.stop()
    copy = victim.data_dir.with_name("copy")
    shutil.copytree(victim.data_dir, copy)
    victim.start()
    writers = started_writers(cluster)
    wait_healed(cluster)
    victim.kill()
    shutil.rmtree(victim.data_dir)
    copy.rename(victim.data_dir)
    victim.start()
    wait_healed(cluster, gone=before)
    assert len(replicas_on(cluster, 1)) == PARTITIONS
    for writer in writers:
        writer.finish()
    verify_on(cluster, victim, written, writers)
    print(f"a restored directory: {sum(writer.writes for writer in writers)} writes meanwhile")


def it_dies_while_it_is_installed(cluster, written):
    """The node that is installed is killed again and again, and so is a master."""
    before = replicas_on(cluster, 2)
    writers = started_writers(cluster)
    victim = cluster.nodes[2]
    victim.kill()
    shutil.rmtree(victim.data_dir)
    victim.flags.append("--install_mb_per_s=8")
    for pause_s in (0.3, 1.0, 2.0):
        victim.start()
        time.sleep(pause_s)
        seen = replicas_of(victim)
        print("  roles before it is killed:", sorted(status.role for status in seen.values()))
        victim.kill_node()
    victim.start()
    time.sleep(1)
    cluster.nodes[3].kill_node()
    time.sleep(0.5)
    cluster.nodes[3].start()
    wait_healed(cluster, gone=before)
    for writer in writers:
        writer.finish()
    verify_on(cluster, victim, written, writers)
    print(f"one that dies meanwhile: {sum(writer.writes for writer in writers)} writes")


def main():
    directory = temporary_directory("cluster_install")
    cluster = Cluster(directory, partitions=PARTITIONS, flags=["--log_budget_mb=64", "--checkpoint_interval_s=2"])
    cluster.start()
    try:
        wait_healed(cluster)
        written = a_node_that_was_down(cluster)
        an_emptied_directory(cluster, written)
        a_restored_directory(cluster, written)
        it_dies_while_it_is_installed(cluster, written)
        cluster.stop()
    finally:
        cluster.kill()
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
