#!/usr/bin/python3
"""Somebody without a password speaks to the ports for nodes of a cluster. Connections are not authenticated, so who
forges messages well is believed; but what is malformed, out of reach, or repeated must neither end nor wedge nor fill
a node, and what is not true must pass. After each attack every partition takes writes and has its whole in-sync set.
"""

import os
import pathlib
import re
import shutil
import socket
import struct
import threading
import time

from cluster_process import Cluster
from node_process import temporary_directory
from peer_attacker import (ALIGN_REPLY, APPEND, APPEND_ACK, CAMPAIGN_NOW, CONDEMN, DEATH_NOTICE, FENCED, HEARTBEAT,
                           HEARTBEAT_ACK, HELLO, INSTALL_OFFER, MAX, MESSAGES, PING, PROMISE_REPLY, PROMISE_REQUEST,
                           RESIGN, Target, frame, is_closed, message)

NODES = (1, 2, 3)
PAIRS = [(a, b) for a in NODES for b in NODES if a != b]
NEVER = 2**63 - 1


def log_lines(cluster):
    return {number: node.log.read_bytes().count(b"\n") for number, node in cluster.nodes.items()}


def resident_mb(node):
    status = pathlib.Path(f"/proc/{node.node_pid()}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) // 1024


def expect_well(cluster, what, limit_s=15):
    for number, node in cluster.nodes.items():
        assert node.process.poll() is None, f"{what}: node {number} has ended:\n{node.output()}"
    began = time.monotonic()
    client = cluster.client(budget_s=limit_s)
    for i in range(64):
        client.put(b"%s/%d" % (what.encode(), i), b"value")
    client.close()
    cluster.wait_healed(timeout_s=limit_s)
    print(f"{what}: well after {time.monotonic() - began:.1f} s")


def send_messages(target, kinds):
    """From each node to each other one, for all partitions; `kinds` makes (kind, body) of the epoch."""
    target.refresh()
    for sender, receiver in PAIRS:
        connection, verdict = target.pose(sender, receiver)
        assert verdict == (1, ""), verdict
        bodies = [message(kind, partition, target.replica(partition, sender), target.replica(partition, receiver), body)
                  for partition, record in target.partitions.items() for kind, body in kinds(record["epoch"])]
        connection.sendall(frame(MESSAGES, b"".join(bodies)))
        time.sleep(0.02)
        connection.close()


def garbage(target):
    hello = target.hello(1, 2)
    for data in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 5000, b"\xff" * 5000, hello[:20], hello + hello,
                 frame(HELLO, b"x" * 64), frame(HELLO, length=MAX >> 32), frame(MESSAGES, b"x" * 100), frame(PING),
                 hello + frame(MESSAGES, b"x" * 100), hello + frame(MESSAGES, length=MAX >> 32)):
        with target.connect(2) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            assert is_closed(connection, 12), data[:30]


def claims(target):
    """A hello ends what is connected with older processes, but only one that may be true, and only while it lasts."""
    for change in ({"incarnation": MAX}, {"from_reactor": 1}, {"from_reactor": MAX >> 32}, {"protocol": 0},
                   {"cluster_id": "00000000-0000-0001-0000-000000000002"}, {"to_reactor": 1}):
        connection, (verdict, why) = target.greet(1, 2, **change)
        assert verdict not in (None, 1) and why, (change, verdict, why)
        connection.close()
    connection, (verdict, why) = target.greet(1, 2)
    assert verdict is None, f"the connection of a process that is heard was given to another one: {verdict} {why}"
    connection.close()
    connection, (verdict, why) = target.pose(1, 2)
    assert verdict == 1, (verdict, why)
    connection.close()


def out_of_reach(target):
    """What is as large as it can be. An epoch that is promised stays so, and the topology must be able to hold it."""
    point = struct.pack("<3Q", MAX, MAX, MAX)
    for highest in (MAX, MAX - 1, 2**53):
        send_messages(target, lambda epoch, highest=highest: [
            (FENCED, (epoch, highest)),
            (PROMISE_REPLY, struct.pack("<3Q", epoch, highest, MAX) + point + struct.pack("<II", 3, 0)),
            (PROMISE_REQUEST, (highest, MAX)), (HEARTBEAT, (highest, 1, 1, MAX, 0, 0)),
            (APPEND, struct.pack("<5Q", highest, 0, 0, 0, MAX) + b"units" * 20),
            (APPEND, struct.pack("<5Q", epoch, highest, MAX, MAX, MAX) + b"units" * 20),
            (APPEND_ACK, struct.pack("<2Q", epoch, 1) + point + struct.pack("<2QII", MAX, MAX, 1, 0)),
            (ALIGN_REPLY, struct.pack("<3Q", epoch, MAX, 1) + point + point + struct.pack("<QIIQQQ", MAX, 2, 1, highest,
                                                                                       MAX, MAX)),
            (INSTALL_OFFER, (highest, MAX)), (CAMPAIGN_NOW, (epoch,)), (RESIGN, (epoch, 1, MAX)),
            (CONDEMN, (highest, 1)), (HEARTBEAT_ACK, (epoch, 1, NEVER, 1, NEVER, 1))])


def false_deaths(target, cluster):
    before = log_lines(cluster)
    for sender, receiver in PAIRS:
        for incarnation in (target.nodes[sender]["starts"], MAX):
            connection, _ = target.greet(sender, receiver, flags=1)
            try:
                connection.sendall(frame(DEATH_NOTICE, struct.pack("<IIQ", sender, 0, incarnation)) * 1000)
            except OSError:
                pass  # one is enough
            connection.close()
    time.sleep(0.5)
    for number, lines in log_lines(cluster).items():
        assert lines - before[number] < 200, f"node {number} has logged {lines - before[number]} lines"


def flood(target, cluster):
    """News that make a node read the topology, and promises that it has to store, faster than it can."""
    target.refresh()
    begun = resident_mb(cluster.nodes[2])
    most = begun
    for bodies in ([(RESIGN, (1, 1, MAX))] * 50_000, [(PROMISE_REQUEST, (1000 + i, MAX)) for i in range(50_000)]):
        body = b"".join(message(kind, 0, target.replica(0, 1), target.replica(0, 2), fields) for kind, fields in bodies)
        data = frame(MESSAGES, body)
        for _ in range(8):
            connection, _ = target.pose(1, 2)
            try:
                connection.sendall(data)
            except OSError:
                pass  # the node itself has connected again
            connection.close()
            most = max(most, resident_mb(cluster.nodes[2]))
    print(f"flood: {begun} MiB before, {most} MiB at most")
    assert most < 256, "a node has grown beyond its limit"


def strangers(target, cluster):
    """Connections that say nothing, as fast as they can be opened, while a node starts."""
    stopping = threading.Event()

    def connect():
        kept = []
        while not stopping.is_set():
            try:
                kept.append(target.connect(2, 1))
            except OSError:
                pass
            if len(kept) > 100:
                kept.pop(0).close()

    threads = [threading.Thread(target=connect, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    cluster.nodes[3].kill_node()
    cluster.nodes[3].start()
    began = time.monotonic()
    try:
        cluster.wait_healed(timeout_s=30)
        print(f"strangers: a node that starts is in sync after {time.monotonic() - began:.1f} s")
        descriptors = len(os.listdir(f"/proc/{cluster.nodes[2].node_pid()}/fd"))
        assert descriptors < 300, f"{descriptors} descriptors are open"
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def main():
    directory = temporary_directory("peer-port")
    cluster = Cluster(directory).start()
    try:
        cluster.wait_healed()
        target = Target(cluster)
        expect_well(cluster, "quiet")
        for attack in (garbage, claims, out_of_reach):
            attack(target)
            expect_well(cluster, attack.__name__)
        for attack in (false_deaths, flood, strangers):
            attack(target, cluster)
            expect_well(cluster, attack.__name__)
        cluster.nodes[1].kill_node()
        cluster.nodes[1].start()
        expect_well(cluster, "another node dies")
        cluster.stop()
    finally:
        cluster.kill()
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
