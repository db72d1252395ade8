#!/usr/bin/env python3
"""E2: tests that a node stays within --memory_limit_mb, whatever its clients request.

The test sends hundreds of requests of each type, at their limits, pipelined on many connections at once. Some clients
do not read their replies, some stop in the middle of a frame. The peak of resident memory (VmHWM) must stay below the
limit plus 10 %. The node must answer meanwhile and afterward. It must serve hello, status, and releaseSnapshot even
while it refuses everything else for lack of memory.

With --measure, the test prints the peaks of all kinds of load, and never fails because of them.
"""

import argparse
import pathlib
import re
import selectors
import shutil
import socket
import struct
import sys
import time

import node_process
from node_process import CONTEXT, Admin, Kv, NodeProcess, TTransport, constants, ttypes
from thrift.protocol import TBinaryProtocol

LIMIT_MB = 128
ALLOWED_BYTES = LIMIT_MB * 1.1 * (1 << 20)
PARTITIONS = 64
VALUE_BYTES = 1 << 20
MAX_FRAME_BYTES = 4 << 20
LARGE_KEYS = 100
LONG_KEYS = 6000
PHASE_LIMIT_S = 20


def frame(service, method, *arguments):
    """Returns one framed call as bytes."""
    memory = TTransport.TMemoryBuffer()
    protocol = TBinaryProtocol.TBinaryProtocol(memory)
    getattr(service.Client(protocol), "send_" + method)(*arguments)
    body = memory.getvalue()
    return struct.pack(">i", len(body)) + body


class Peer:
    """One connection that sends its bytes and counts the frames that come back."""

    def __init__(self, node, data, lazy):
        self.socket = socket.create_connection((node.host, node.port))
        if lazy:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        self.socket.setblocking(False)
        self.data = memoryview(data)
        self.sent = self.frames = 0
        self.head = b""
        self.left = 0
        self.largest = 0
        self.closed = False

    def send(self):
        try:
            self.sent += self.socket.send(self.data[self.sent:self.sent + (1 << 20)])
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True

    def receive(self):
        try:
            data = self.socket.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.closed = True
        at = 0
        while at < len(data):
            if self.left == 0:
                take = min(4 - len(self.head), len(data) - at)
                self.head += data[at:at + take]
                at += take
                if len(self.head) == 4:
                    self.left = struct.unpack(">i", self.head)[0]
                    self.largest = max(self.largest, self.left)
                    self.head = b""
            else:
                take = min(self.left, len(data) - at)
                self.left -= take
                at += take
                self.frames += self.left == 0


class Load:
    """Measures the peaks of one node under one kind of load after another."""

    def __init__(self, node, measure):
        self.node = node
        self.measure = measure
        self.failures = []

    def peak_bytes(self):
        status = pathlib.Path(f"/proc/{self.node.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) * 1024

    def check(self, name, begin, note):
        peak = self.peak_bytes()
        print(f"  {name:44} peak {peak / (1 << 20):7.1f} MiB  {time.monotonic() - begin:5.1f} s  {note}", flush=True)
        pathlib.Path(f"/proc/{self.node.process.pid}/clear_refs").write_text("5")
        if peak > ALLOWED_BYTES:
            self.failures.append(f"{name}: {peak} bytes")

    def run(self, name, frames, connections, pipelined, lazy_s=0.0):
        """Sends `pipelined` frames, in turn, on each of `connections`; reads nothing during the first `lazy_s`."""
        begin = time.monotonic()
        peers = []
        for i in range(connections):
            data = b"".join(frames[(i * pipelined + j) % len(frames)] for j in range(pipelined))
            peers.append(Peer(self.node, data, lazy_s > 0))
        self.drive(peers, pipelined, begin, lazy_s)
        answered = sum(peer.frames for peer in peers)
        unanswered = sum(pipelined - peer.frames for peer in peers if not peer.closed)
        self.check(name, begin, f"{answered} of {connections * pipelined} answered")
        for peer in peers:
            if peer.largest > MAX_FRAME_BYTES:
                self.failures.append(f"{name}: a reply of {peer.largest} bytes")
                break
        if unanswered:
            self.failures.append(f"{name}: {unanswered} requests were not answered")
        for peer in peers:
            peer.socket.close()

    def expect_service(self, name):
        """Checks that the memory of clients that are gone is soon available again."""
        deadline = time.monotonic() + 30
        while True:
            try:
                with self.node.connect() as client:
                    found = client.get(CONTEXT, ttypes.GetRequest(key=b"long%06d" % 1 + b"k" * 2000)).record
                    assert found.value == b"v", f"after {name}: {found}"
                    return
            except ttypes.KvError as error:
                if not error.retryable or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    @staticmethod
    def drive(peers, pipelined, begin, lazy_s):
        selector = selectors.DefaultSelector()
        for peer in peers:
            selector.register(peer.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, peer)
        open_peers = len(peers)
        while open_peers and time.monotonic() - begin < PHASE_LIMIT_S + lazy_s:
            reading = time.monotonic() - begin >= lazy_s
            ready = selector.select(0.05)
            idle = True
            for key, events in ready:
                peer = key.data
                if events & selectors.EVENT_WRITE:
                    peer.send()
                    idle = False
                    if peer.sent == len(peer.data):
                        selector.modify(peer.socket, selectors.EVENT_READ, peer)
                if events & selectors.EVENT_READ and reading:
                    peer.receive()
                    idle = False
                if peer.frames == pipelined or peer.closed:
                    selector.unregister(peer.socket)
                    open_peers -= 1
            if idle and not reading:
                time.sleep(0.01)
        selector.close()


def fill(node):
    """Writes large values, more than one for each partition, and long keys."""
    with node.connect() as client:
        for i in range(LARGE_KEYS):
            client.put(CONTEXT, ttypes.PutRequest(key=b"large%03d" % i, value=bytes([i]) * VALUE_BYTES))
        for first in range(0, LONG_KEYS, 500):
            ops = [ttypes.WriteOp(kind=constants.OP_PUT, key=b"long%06d" % i + b"k" * 2000, value=b"v")
                   for i in range(first, first + 500)]
            client.writeBatch(CONTEXT, ttypes.WriteBatchRequest(ops=ops))


def kinds(snapshot):
    """Yields (name, frames, connections, pipelined, seconds without reading)."""
    large = [b"large%03d" % i for i in range(LARGE_KEYS)]
    absent = ttypes.Condition(exists=False)
    scan = frame(Kv, "scan", CONTEXT, ttypes.ScanRequest(limit_rows=1))
    refused = [ttypes.WriteOp(kind=constants.OP_PUT, key=key, value=b"", condition=absent) for key in large]
    tiny = [ttypes.WriteOp(kind=constants.OP_REMOVE, key=b"%d" % i) for i in range(1000)]
    yield "scans of one row", [scan], 40, 4, 0.0
    yield "scans of all rows", [frame(Kv, "scan", CONTEXT, ttypes.ScanRequest())], 100, 4, 0.5
    yield ("scans of keys", [frame(Kv, "scan", CONTEXT, ttypes.ScanRequest(keys_only=True, start_key=b"long"))], 100, 4,
           0.5)
    yield ("batches of refused ops",
           [frame(Kv, "writeBatch", CONTEXT, ttypes.WriteBatchRequest(ops=refused))], 20, 1, 0.0)
    yield ("refused puts", [frame(Kv, "put", CONTEXT, ttypes.PutRequest(key=key, value=b"", condition=absent))
                            for key in large], 100, 3, 0.5)
    yield ("batches of tiny ops", [frame(Kv, "writeBatch", CONTEXT, ttypes.WriteBatchRequest(ops=tiny))], 100, 8, 0.0)
    yield ("batches of 16,000 empty ops",
           [frame(Kv, "writeBatch", CONTEXT, ttypes.WriteBatchRequest(ops=[ttypes.WriteOp()] * 16000))], 100, 4, 0.0)
    yield "multiGets", [frame(Kv, "multiGet", CONTEXT, ttypes.MultiGetRequest(keys=large))], 100, 4, 0.5
    yield "gets", [frame(Kv, "get", CONTEXT, ttypes.GetRequest(key=key)) for key in large], 200, 5, 0.5
    yield ("gets of long keys, none read",
           [frame(Kv, "get", CONTEXT, ttypes.GetRequest(key=b"long%06d" % i + b"k" * 2000)) for i in range(1000)], 200,
           200, 1.0)
    yield ("puts", [frame(Kv, "put", CONTEXT, ttypes.PutRequest(key=b"put%d" % i, value=b"p" * VALUE_BYTES))
                    for i in range(8)], 60, 2, 0.0)
    yield ("splitRanges", [frame(Kv, "splitRange", CONTEXT, ttypes.SplitRangeRequest(parts=256, start_key=b"long"))],
           40, 2, 0.0)
    yield "counts", [frame(Kv, "count", CONTEXT, ttypes.CountRequest(start_key=b"m"))], 200, 100, 0.0
    yield ("readPages", [frame(Admin, "readPages", CONTEXT, ttypes.ReadPagesRequest(snapshot=snapshot, partition=i))
                         for i in range(PARTITIONS)], 64, 4, 0.5)
    yield "status", [frame(Admin, "status", CONTEXT)], 100, 20, 0.5
    yield "hello", [frame(Kv, "hello", CONTEXT, ttypes.HelloRequest())], 200, 500, 0.5


def exhaust(load, node, snapshot):
    """Partial frames take all of the memory for requests: the node still serves what an operator needs."""
    begin = time.monotonic()
    half = struct.pack(">i", MAX_FRAME_BYTES) + frame(Kv, "get", CONTEXT, ttypes.GetRequest(key=b"k"))[4:20]
    peers = [Peer(node, half + bytes(1 << 20), False) for _ in range(200)]
    selector = selectors.DefaultSelector()
    for peer in peers:
        selector.register(peer.socket, selectors.EVENT_WRITE, peer)
    while selector.get_map():
        for key, _ in selector.select(1):
            key.data.send()
            if key.data.sent == len(key.data.data) or key.data.closed:
                selector.unregister(key.data.socket)
    with node.connect() as client, node.connect(service=Admin) as admin:
        try:
            client.scan(CONTEXT, ttypes.ScanRequest())
            load.failures.append("exhausted: a scan was served, so memory was not exhausted")
        except ttypes.KvError as error:
            if error.code != constants.OVERLOADED or not error.retryable:
                load.failures.append(f"exhausted: a scan was refused with {error}")
        client.hello(CONTEXT, ttypes.HelloRequest())
        if len(admin.status(CONTEXT).partitions) != PARTITIONS:
            load.failures.append("exhausted: status does not list all partitions")
        if not client.releaseSnapshot(CONTEXT, ttypes.ReleaseSnapshotRequest(snapshot=snapshot)).existed:
            load.failures.append("exhausted: the snapshot was gone before it was released")
    load.check("half frames", begin, f"{len(peers)} connections")
    for peer in peers:
        peer.socket.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--binary", type=pathlib.Path)
    parser.add_argument("--only", help="run only kinds of load whose name contains this")
    options = parser.parse_args()
    directory = node_process.temporary_directory("memory")
    node = NodeProcess(directory / "data", binary=options.binary,
                       flags=[f"--memory_limit_mb={LIMIT_MB}", f"--partitions={PARTITIONS}", "--reactors=2"])
    node.start()
    load = Load(node, options.measure)
    begin = time.monotonic()
    fill(node)
    load.check("filling it", begin, "")
    with node.connect() as client:
        snapshot = client.openSnapshot(CONTEXT, ttypes.OpenSnapshotRequest(ttl_ms=600_000)).snapshot
    for name, frames, connections, pipelined, lazy_s in kinds(snapshot):
        if options.only and options.only not in name:
            continue
        load.run(name, frames, connections, pipelined, lazy_s)
        load.expect_service(name)
    if not options.only:
        exhaust(load, node, snapshot)
    node.stop()
    shutil.rmtree(directory, ignore_errors=True)
    if load.failures and not options.measure:
        sys.exit("FAILED: with a limit of %d MiB\n  %s" % (LIMIT_MB, "\n  ".join(load.failures)))
    print("PASSED" if not load.failures else "would fail:\n  " + "\n  ".join(load.failures))


if __name__ == "__main__":
    main()
