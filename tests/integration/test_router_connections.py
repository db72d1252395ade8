#!/usr/bin/python3
"""Ten thousand clients are connected to one router. Each is answered, the router's memory stays bounded, those that go
leave nothing behind, and one more than is allowed is refused with an error.
"""

import os
import resource
import shutil
import socket
import struct
import sys
import time
import unittest

from cluster_process import Cluster
from node_process import CONTEXT, Kv, TBinaryProtocol, TTransport, constants, temporary_directory, ttypes
from router_process import RouterProcess

CONNECTIONS, SPARE = 10000, 500
AT_ONCE = 200  # requests under way
MAX_BYTES_EACH = 8192  # of the router's memory
SKIPPED = 77


def request_frame():
    """A get of a key, as a frame."""
    buffer = TTransport.TMemoryBuffer()
    Kv.Client(TBinaryProtocol.TBinaryProtocol(buffer)).send_get(CONTEXT, ttypes.GetRequest(key=b"key"))
    body = buffer.getvalue()
    return struct.pack(">I", len(body)) + body


def read_frame(connection):
    header = b""
    while len(header) < 4:
        more = connection.recv(4 - len(header))
        if not more:
            raise EOFError("the router closed a connection")
        header += more
    left, body = struct.unpack(">I", header)[0], b""
    while len(body) < left:
        more = connection.recv(left - len(body))
        if not more:
            raise EOFError("the router closed a connection")
        body += more
    return body


def reply_of(body):
    client = Kv.Client(TBinaryProtocol.TBinaryProtocol(TTransport.TMemoryBuffer(body)))
    return client.recv_get()


class RouterConnections(unittest.TestCase):
    def setUp(self):
        self.directory = temporary_directory("router-connections")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.cluster = Cluster(self.directory, partitions=4).start()
        self.addCleanup(self.cluster.kill)
        self.cluster.wait_well()
        self.router = self.start_router("router", CONNECTIONS + 1)
        self.connections = []
        self.addCleanup(lambda: [connection.close() for connection in self.connections])

    def start_router(self, name, max_connections):
        router = RouterProcess(self.directory / f"{name}.log", [self.cluster.nodes[1].address],
                               flags=(f"--max_connections={max_connections}",)).start()
        self.addCleanup(router.kill)
        return router.wait_http()

    def resident_bytes(self):
        with open(f"/proc/{self.router.process.pid}/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.router.process.pid}/fd"))

    def ask_all(self, connections):
        """Each connection asks once. Returns the longest time that AT_ONCE of them took."""
        frame, longest = request_frame(), 0.0
        for at in range(0, len(connections), AT_ONCE):
            began = time.monotonic()
            some = connections[at:at + AT_ONCE]
            for connection in some:
                connection.sendall(frame)
            for connection in some:
                self.assertEqual(reply_of(read_frame(connection)).record.value, b"value")
            longest = max(longest, time.monotonic() - began)
        return longest

    def test_ten_thousand(self):
        with self.router.connect() as client:
            client.put(CONTEXT, ttypes.PutRequest(key=b"key", value=b"value"))
        before_bytes, before_descriptors = self.resident_bytes(), self.descriptors()
        for _ in range(CONNECTIONS):
            connection = socket.create_connection((self.router.host, self.router.port), timeout=60)
            self.connections.append(connection)
        self.ask_all(self.connections)
        longest = self.ask_all(self.connections)
        each = (self.resident_bytes() - before_bytes) / CONNECTIONS
        print(f"{CONNECTIONS} connections: {each:.0f} bytes of memory each; {AT_ONCE} gets at once took at most "
              f"{longest * 1000:.0f} ms")
        self.assertLess(each, MAX_BYTES_EACH)
        # Most go without a word, in the middle of a request.
        frame = request_frame()
        gone, self.connections = self.connections[:-100], self.connections[-100:]
        for connection in gone:
            connection.sendall(frame[:20])
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        deadline = time.monotonic() + 60
        while self.descriptors() > before_descriptors + 200:
            self.assertLess(time.monotonic(), deadline, f"{self.descriptors()} descriptors are open")
            time.sleep(0.05)
        self.ask_all(self.connections)

    def test_one_too_many(self):
        """Nobody has been idle for so long that he has to make room."""
        router = self.start_router("small", 4)
        clients = [router.connect() for _ in range(4)]
        self.addCleanup(lambda: [client.close() for client in clients])
        for client in clients:
            client.get(CONTEXT, ttypes.GetRequest(key=b"key"))
        with router.connect() as refused:
            with self.assertRaises(ttypes.KvError) as caught:
                refused.get(CONTEXT, ttypes.GetRequest(key=b"key"))
        self.assertEqual(caught.exception.code, constants.OVERLOADED)
        for client in clients:
            client.get(CONTEXT, ttypes.GetRequest(key=b"key"))


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < CONNECTIONS + 2 * 2048 + SPARE:
        print(f"skipped: this process may open {hard} files")
        sys.exit(SKIPPED)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    unittest.main()
