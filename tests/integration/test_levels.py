#!/usr/bin/python3
"""Levels and sessions on a cluster of three real nodes, and handovers that hold writes."""

import shutil
import threading
import time
import urllib.request

from cluster_process import Cluster, run_kvadmin
from node_process import Connection, constants, temporary_directory, ttypes

KEY = b"{levels}/key"


def context(level=0, session=b"", staleness_ms=0, budget_ms=20000):
    return ttypes.Context(level=level, session=session, max_staleness_ms=staleness_ms, budget_ms=budget_ms)


def error_of(call):
    try:
        call()
    except ttypes.KvError as error:
        return error
    return None


def put(value, key=KEY):
    return ttypes.PutRequest(key=key, value=value)


GET = ttypes.GetRequest(key=KEY)


class Nodes:
    """A connection to each node, and who is master of KEY's partition."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.connections = {}
        self.connect()

    def connect(self):
        for number, node in self.cluster.nodes.items():
            if node.process.poll() is None:
                self.connections[number] = Connection(node.host, node.port, timeout_s=30)

    def master(self):
        """The connection to the master."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for number, connection in self.connections.items():
                if self.cluster.nodes[number].process.poll() is not None:
                    continue
                if error_of(lambda c=connection: c.get(context(), GET)) is None:
                    return number, connection
            time.sleep(0.02)
        raise AssertionError("there is no master")

    def others(self):
        number, _ = self.master()
        return {n: c for n, c in self.connections.items()
                if n != number and self.cluster.nodes[n].process.poll() is None}

    def close(self):
        for connection in self.connections.values():
            connection.close()


def patiently(call, timeout_s=5):
    """Repeats a read that a replica cannot answer yet."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return call()
        except ttypes.KvError as error:
            assert error.code == constants.TOO_STALE and error.retryable, error
            assert time.monotonic() < deadline, error


def sessions_read_what_they_wrote(nodes):
    _, master = nodes.master()
    followers = nodes.others()
    assert len(followers) == 2
    token = b""
    stale = 0
    for i in range(200):
        value = b"%d" % i
        token = master.put(context(session=token), put(value)).context.session
        assert token
        for follower in followers.values():
            began = time.monotonic()
            reply = patiently(lambda c=follower, t=token: c.get(context(constants.LEVEL_SESSION, t), GET))
            stale += time.monotonic() - began > 0.2
            assert reply.record.value == value, f"{reply.record.value} after {value}"
            # What was read at one replica is there at the other.
            token = reply.context.session
    print(f"200 writes were read at both followers; {stale} reads waited for more than 200 ms")
    follower = next(iter(followers.values()))
    refused = error_of(lambda: follower.get(context(), GET))
    assert refused.code == constants.NOT_MASTER and refused.master, refused
    scan = ttypes.ScanRequest(prefix=b"{levels}")
    rows = patiently(lambda: follower.scan(context(constants.LEVEL_SESSION, token), scan)).rows
    assert [row.value for row in rows] == [b"199"]
    count = ttypes.CountRequest(prefix=b"{levels}")
    assert patiently(lambda: follower.count(context(constants.LEVEL_SESSION, token), count)).count == 1
    items = patiently(lambda: follower.multiGet(context(constants.LEVEL_SESSION, token),
                                                ttypes.MultiGetRequest(keys=[KEY]))).items
    assert items[0].record.value == b"199"
    for bad in (b"garbage", token[:-1], token[:-1] + bytes([token[-1] ^ 1])):
        for level in (0, constants.LEVEL_SESSION):
            refused = error_of(lambda b=bad, v=level: follower.get(context(v, b), GET))
            assert refused.code == constants.TOKEN_MISMATCH, refused


def bounded_reads(nodes):
    _, master = nodes.master()
    master.put(context(), put(b"bounded"))
    time.sleep(0.6)
    for follower in nodes.others().values():
        reply = patiently(lambda c=follower: c.get(context(constants.LEVEL_BOUNDED, staleness_ms=500), GET))
        assert reply.record.value == b"bounded"
        refused = error_of(lambda c=follower: c.get(context(constants.LEVEL_BOUNDED, staleness_ms=0), GET))
        assert refused.code == constants.TOO_STALE and refused.master, refused
    assert master.get(context(constants.LEVEL_BOUNDED, staleness_ms=0), GET).record.value == b"bounded"


def writes_at_levels(cluster, nodes):
    _, master = nodes.master()
    for level in (constants.LEVEL_ONE, constants.LEVEL_QUORUM, constants.LEVEL_ALL):
        token = master.put(context(level), put(b"level %d" % level)).context.session
        for follower in nodes.others().values():
            reply = patiently(lambda c=follower, t=token: c.get(context(constants.LEVEL_SESSION, t), GET))
            assert reply.record.value == b"level %d" % level
    increment = ttypes.IncrementRequest(key=b"{levels}/n", delta=1)
    refused = error_of(lambda: master.increment(context(constants.LEVEL_ONE), increment))
    assert refused.code == constants.BAD_REQUEST and refused.applied == constants.APPLIED_NO, refused

    victim = next(iter(nodes.others()))
    cluster.nodes[victim].kill_node()
    deadline = time.monotonic() + 30
    while True:
        # It waits for the dead node as long as that is in the ISR.
        refused = error_of(lambda: nodes.master()[1].put(context(constants.LEVEL_ALL, budget_ms=3000), put(b"all")))
        assert refused is not None, "a write at ALL was acknowledged with a node dead"
        if refused.applied == constants.APPLIED_NO and refused.code == constants.UNAVAILABLE:
            break
        assert time.monotonic() < deadline, refused
    master = nodes.master()[1]
    for level in (constants.LEVEL_ONE, constants.LEVEL_QUORUM):
        master.put(context(level), put(b"two are left"))
    cluster.nodes[victim].start()
    cluster.wait_healed()
    nodes.close()
    nodes.connect()
    deadline = time.monotonic() + 20
    while error := error_of(lambda: nodes.master()[1].put(context(constants.LEVEL_ALL), put(b"all again"))):
        assert time.monotonic() < deadline, error
        time.sleep(0.1)


def watches_need_the_lease(nodes):
    follower = next(iter(nodes.others().values()))
    for wait_ms in (0, 100):
        refused = error_of(lambda w=wait_ms: follower.watch(context(), ttypes.WatchRequest(prefix=b"{levels}",
                                                                                           wait_ms=w)))
        assert refused is not None and refused.code == constants.NOT_MASTER and refused.master, refused
    master = nodes.master()[1]
    assert not master.watch(context(), ttypes.WatchRequest(prefix=b"{levels}")).changes


class Incrementer(threading.Thread):
    """Adds 1 again and again, at the master that NOT_MASTER names. It is never in doubt during a planned handover."""

    def __init__(self, cluster, number):
        super().__init__(daemon=True)
        self.cluster = cluster
        self.request = ttypes.IncrementRequest(key=b"{levels}/count%d" % number, delta=1)
        self.done = self.refused = 0
        self.longest_s = 0.0
        self.error = None
        self.stopping = threading.Event()

    def run(self):
        try:
            connections = {node.address: Connection(node.host, node.port, timeout_s=30)
                           for node in self.cluster.nodes.values()}
            address = next(iter(connections))
            while not self.stopping.is_set():
                began = time.monotonic()
                try:
                    connections[address].increment(context(), self.request)
                    self.done += 1
                except ttypes.KvError as error:
                    assert error.code == constants.NOT_MASTER and error.applied == constants.APPLIED_NO, error
                    self.refused += 1
                    address = error.master or address
                    time.sleep(0.002)
                self.longest_s = max(self.longest_s, time.monotonic() - began)
        except BaseException as error:  # pylint: disable=broad-except
            self.error = error


def held_writes(cluster):
    total = 0
    for node in cluster.nodes.values():
        port = int(node.log.read_text(errors="replace").rsplit("serving http 127.0.0.1:", 1)[1].split(";")[0])
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        total += sum(int(float(line.split()[-1])) for line in page.splitlines()
                     if line.startswith("kv_replica_held_writes_total{"))
    return total


def handovers_hold_writes(cluster, nodes):
    writers = [Incrementer(cluster, number) for number in range(8)]
    for writer in writers:
        writer.start()
    time.sleep(0.5)
    addresses = ",".join(node.address for node in cluster.nodes.values())
    handovers = 0
    for _ in range(10):
        for partition in cluster.partitions():
            run_kvadmin("failover", str(partition), "--server", addresses)
            handovers += 1
    for writer in writers:
        writer.stopping.set()
    for writer in writers:
        writer.join(30)
        if writer.error:
            raise writer.error
    master = nodes.master()[1]
    for writer in writers:
        record = master.get(context(), ttypes.GetRequest(key=writer.request.key)).record
        assert int(record.value) == writer.done, f"{record.value} is not {writer.done}"
    held = held_writes(cluster)
    print(f"{sum(w.done for w in writers)} writes during {handovers} handovers, {held} held, "
          f"{sum(w.refused for w in writers)} sent on to another node, the longest took "
          f"{max(w.longest_s for w in writers):.3f} s")
    assert held > 0


def main():
    directory = temporary_directory("levels")
    cluster = Cluster(directory, partitions=4).start()
    try:
        cluster.wait_healed()
        nodes = Nodes(cluster)
        deadline = time.monotonic() + 20
        while error_of(lambda: nodes.master()[1].put(context(), put(b"first"))):
            assert time.monotonic() < deadline
        sessions_read_what_they_wrote(nodes)
        bounded_reads(nodes)
        watches_need_the_lease(nodes)
        writes_at_levels(cluster, nodes)
        handovers_hold_writes(cluster, nodes)
        nodes.close()
        cluster.stop()
    finally:
        cluster.kill()
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
