#!/usr/bin/python3
"""The disk of one node of a cluster is full: kvadmin cluster status says so, and what to do, until there is room again.

And the node starts again on a disk that has no byte left.

The limit is RLIMIT_FSIZE of that node, as in test_full_disk.py, and a file system of its own.
"""

import errno
import os
import shutil
import subprocess
import sys
import time

from cluster_process import Cluster
from kvadmin_process import FAILED, NO, OK, run
from node_process import CONTEXT, constants, temporary_directory, ttypes

LIMIT_BYTES = 48 << 20
BATCH, VALUE = 200, b"v" * 700
MAX_BATCHES = 3 * LIMIT_BYTES // (BATCH * len(VALUE))
TIMEOUT_S = 90  # a write that was refused shows for a minute
FULL = 3


def kv(cluster, *arguments, expect=OK):
    done = run("--json", *arguments, "--topology", cluster.topology)
    assert done.code == expect, f"kvadmin {arguments}: {done.out}{done.err}"
    return done


def wait_status(cluster, what, judge):
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        done = run("--json", "cluster", "status", "--topology", cluster.topology)
        lines = done.lines()
        if done.code in (OK, NO) and judge(lines[0]):
            return lines
        assert time.monotonic() < deadline, f"the status does not say that {what}: {done.out}"
        time.sleep(0.3)


class Filler:
    def __init__(self, cluster):
        self.cluster = cluster
        self.batches = 0

    def put_batch(self):
        """Whether there was room for it."""
        ops = [ttypes.WriteOp(kind=constants.OP_PUT, key=b"fill/%06d/%03d" % (self.batches, i), value=VALUE)
               for i in range(BATCH)]
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            codes = self.send(ops)
            if codes <= {constants.DISK_FULL}:
                break
            assert time.monotonic() < deadline, codes  # no master for so long
            time.sleep(0.1)
        self.batches += not codes
        return not codes

    def send(self, ops):
        """The codes of the errors. One partition has one master."""
        with self.cluster.nodes[self.cluster.partitions()[0]["master"]].connect() as connection:
            results = connection.writeBatch(CONTEXT, ttypes.WriteBatchRequest(ops=ops)).results
        return {result.error.code for result in results if result.error is not None}

    def fill(self, until):
        """Writes until `until` says so, or there is no room."""
        while self.put_batch() and not until():
            assert self.batches < MAX_BATCHES, "the disk is never full"


def expect_full(cluster, lines):
    address = cluster.nodes[FULL].address
    assert f"node {FULL} ({address}): the disk is full; writes are refused in 1 partition" in lines[0]["cause"], lines
    node = next(line["node"] for line in lines if line.get("node", {}).get("id") == FULL)
    assert node["disk_full_partitions"] == 1 and "the disk is full" in node["trouble"], node
    assert "catch up by themselves" not in lines[0]["next"], lines[0]
    assert f"add space to the disk of node {FULL} ({address})" in lines[0]["next"], lines[0]
    assert "drain" not in lines[0]["next"], lines[0]


def is_full(line):
    return "the disk is full" in line["cause"]


def full_follower_and_master(cluster):
    if cluster.partitions()[0]["master"] == FULL:
        kv(cluster, "drain", FULL)
    filler = Filler(cluster)
    filler.fill(lambda: len(cluster.partitions()[0]["isr"]) < 3)
    lines = wait_status(cluster, "the disk of a follower is full", is_full)
    assert lines[0]["verdict"] == "degraded", lines[0]
    expect_full(cluster, lines)
    print(f"  full after {filler.batches} batches: {lines[0]['cause']}", flush=True)
    if len(cluster.partitions()[0]["isr"]) == 3:
        kv(cluster, "failover", 0, "--to", FULL)
        filler.fill(lambda: False)
        lines = wait_status(cluster, "the disk of a master is full", is_full)
        expect_full(cluster, lines)
        assert f"stop node {FULL}: the others go on without it" in lines[0]["next"], lines[0]
        kv(cluster, "drain", FULL)
    # Without so many records there is room.
    leader = cluster.nodes[cluster.partitions()[0]["master"]].address
    done = run("delete-range", "--prefix", "fill/", server=leader)
    assert done.code == OK, done.err
    deadline = time.monotonic() + TIMEOUT_S
    while not filler.put_batch():
        assert time.monotonic() < deadline, "puts are still refused although there is room"
        time.sleep(1)
    cluster.wait_well(timeout_s=TIMEOUT_S)


def install_on_a_full_disk(cluster):
    """The node is to get more than it has room for: whoever waits for that is told why it does not come."""
    if cluster.partitions()[0]["master"] == FULL:
        kv(cluster, "drain", FULL)
    kv(cluster, "replica", "remove", 0, FULL)
    data = cluster.nodes[cluster.partitions()[0]["master"]].data_dir / "partition-00000" / "data"
    Filler(cluster).fill(lambda: data.stat().st_size > LIMIT_BYTES + (8 << 20))
    refused = kv(cluster, "replica", "add", 0, FULL, "--timeout-s", 20, expect=FAILED).err
    name = f"node {FULL} ({cluster.nodes[FULL].address})"
    assert f"{name} could not install its replica, and tries again: DISK_FULL" in refused, refused
    lines = wait_status(cluster, "a replica cannot be installed", lambda line: "cannot install" in line["cause"])
    assert f"{name} cannot install 1 replica: DISK_FULL" in lines[0]["cause"], lines
    assert f"kvadmin replica remove 0 {FULL}" in lines[0]["next"], lines[0]
    kv(cluster, "replica", "remove", 0, FULL)


# -- a node starts again when nothing is left on its disk, and the others have gone on without it


def mounted(directory, megabytes):
    """A file system of its own; False: this user, or this kernel, cannot have one for direct I/O."""
    directory.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", directory], capture_output=True,
                      check=False).returncode != 0:
        return False
    try:
        os.close(os.open(directory / "probe", os.O_CREAT | os.O_RDWR | os.O_DIRECT))
        (directory / "probe").unlink()
        return True
    except OSError:
        unmount(directory)
        return False


def unmount(directory):
    subprocess.run(["umount", "-l", directory], check=False)


def fill_to_the_last_byte(directory):
    with open(directory / "other", "wb", buffering=0) as other:
        for size in 1 << 20, 4096, 1:
            try:
                while other.write(b"x" * size) == size:
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC, error


def start_on_a_full_disk():
    directory = temporary_directory("cluster-start-full")
    own = directory / f"node-{FULL}"
    if not mounted(own, 256):
        print("  no file system can be mounted for one node; this part is left out", flush=True)
        shutil.rmtree(directory, ignore_errors=True)
        return
    cluster = Cluster(directory, partitions=4, flags=["--log_budget_mb=64"])
    try:
        cluster.start()
        cluster.wait_well()
        client = cluster.client()
        for i in range(200):
            client.call(b"k%d" % i, "put", ttypes.PutRequest(key=b"k%d" % i, value=VALUE))
        fill_to_the_last_byte(own)
        for _ in range(3):  # each start stores that it was one
            cluster.nodes[FULL].kill()
            for i in range(20):
                client.call(b"k%d" % i, "put", ttypes.PutRequest(key=b"k%d" % i, value=b"new"))
            cluster.nodes[FULL].start()
            cluster.wait_healed()
        (own / "other").unlink()
        cluster.wait_well(timeout_s=TIMEOUT_S)
        done = run("verify", server=",".join(node.address for node in cluster.nodes.values()))
        assert done.code == OK, done.out + done.err
    finally:
        cluster.kill()
        unmount(own)
    shutil.rmtree(directory, ignore_errors=True)


def main():
    start_on_a_full_disk()
    directory = temporary_directory("cluster-full-disk")
    cluster = Cluster(directory, partitions=1,
                      flags=["--log_budget_mb=64", "--release_space_after_s=1", "--checkpoint_interval_s=5"])
    cluster.nodes[FULL].prefix = ["prlimit", f"--fsize={LIMIT_BYTES}"]
    cluster.start()
    cluster.wait_well()
    try:
        full_follower_and_master(cluster)
        install_on_a_full_disk(cluster)
    finally:
        cluster.kill()
    shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
