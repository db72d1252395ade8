#!/usr/bin/python3
"""A cluster of three real nodes: writes and reads go on through the death of each node, and nothing acknowledged is
lost. Afterwards every partition has its whole in-sync set again.
"""

import os
import shutil
import signal
import threading
import time

from cluster_process import Cluster, Refused
from node_process import temporary_directory

KEYS = 200


class Writer(threading.Thread):
    """Puts rising numbers to its keys, and knows what was acknowledged and what may have been written."""

    def __init__(self, cluster, number):
        super().__init__(daemon=True)
        self.client = cluster.client()
        self.keys = [b"writer%d/%d" % (number, i) for i in range(KEYS)]
        self.acknowledged = {}
        self.maybe = {}
        self.longest_s = 0.0
        self.writes = 0
        self.stopping = threading.Event()
        self.error = None

    def run(self):
        try:
            round_number = 0
            while not self.stopping.is_set():
                round_number += 1
                for key in self.keys:
                    if self.stopping.is_set():
                        break
                    value = b"%09d" % round_number
                    began = time.monotonic()
                    self.maybe[key] = value
                    self.client.put(key, value)
                    self.acknowledged[key] = value
                    self.longest_s = max(self.longest_s, time.monotonic() - began)
                    self.writes += 1
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    def finish(self):
        self.stopping.set()
        self.join(60)
        assert not self.is_alive(), "a writer hangs"
        if self.error:
            raise self.error

    def verify(self):
        for key, maybe in self.maybe.items():
            found = self.client.get(key)
            allowed = {self.acknowledged.get(key), maybe}
            assert found in allowed, f"{key} holds {found}, and not one of {allowed}"


def every_node_dies_in_turn(cluster):
    writers = [Writer(cluster, number) for number in range(4)]
    for writer in writers:
        writer.start()
    time.sleep(1)
    for node in cluster.nodes.values():
        node.kill_node()
        time.sleep(1.5)
        node.start()
        cluster.wait_healed()
    for writer in writers:
        writer.finish()
    for writer in writers:
        writer.verify()
    longest = max(writer.longest_s for writer in writers)
    print(f"{sum(writer.writes for writer in writers)} writes; the longest took {longest:.3f} s")
    assert longest < 10, "a write waited for too long"


def one_write_after_another(cluster, disturb, limit_s):
    """Returns the longest time that a write took while `disturb(node)` went on, for each node in turn."""
    longest = 0
    for node in list(cluster.nodes.values()):
        writer = Writer(cluster, 10)
        writer.start()
        time.sleep(0.3)
        disturb(node)
        time.sleep(limit_s / 2)
        writer.finish()
        writer.verify()
        longest = max(longest, writer.longest_s)
        if node.process.poll() is not None:
            node.start()
        cluster.wait_healed()
        time.sleep(1.2)  # until then it promises nothing, so it cannot help the others
    return longest


def stops_hand_over(cluster):
    longest = one_write_after_another(cluster, lambda node: node.stop(), 2)
    print(f"nodes stop in good order: the longest write took {longest:.3f} s")
    assert longest < 2


def a_supervisor_signals_all_processes(cluster):
    """SIGTERM to the guard and to the node at once is one request, and ends in good order."""
    node = next(iter(cluster.nodes.values()))
    os.kill(node.node_pid(), signal.SIGTERM)
    node.stop()
    node.start()
    cluster.wait_healed()


def hosts_fall_silent(cluster):
    """Nobody tells of the death: the leases must run out."""
    longest = one_write_after_another(cluster, lambda node: node.kill(), 6)
    print(f"hosts fall silent: the longest write took {longest:.3f} s")
    assert longest < 5


def a_minority_refuses(cluster):
    """With two of three nodes dead, writes are refused, and what was acknowledged is there when they are back."""
    client = cluster.client(budget_s=3)
    client.put(b"before", b"1")
    nodes = list(cluster.nodes.values())
    for node in nodes[:2]:
        node.kill()
    try:
        client.put(b"before", b"2")
        raise AssertionError("a write was acknowledged by a minority")
    except Refused:
        pass
    for node in nodes[:2]:
        node.launch()
    for node in nodes[:2]:
        node.wait_ready()
    cluster.wait_healed()
    client.budget_s = 20
    assert client.get(b"before") in (b"1", b"2")
    client.close()


def all_at_once(cluster):
    """Everything loses its power and comes back."""
    client = cluster.client()
    for i in range(100):
        client.put(b"all%d" % i, b"%d" % i)
    cluster.kill()
    cluster.start()
    for i in range(100):
        assert client.get(b"all%d" % i) == b"%d" % i
    cluster.wait_healed()
    client.close()


def main():
    directory = temporary_directory("cluster")
    cluster = Cluster(directory).start()
    try:
        cluster.wait_healed()
        every_node_dies_in_turn(cluster)
        stops_hand_over(cluster)
        a_supervisor_signals_all_processes(cluster)
        hosts_fall_silent(cluster)
        a_minority_refuses(cluster)
        all_at_once(cluster)
        cluster.stop()
    finally:
        cluster.kill()
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
