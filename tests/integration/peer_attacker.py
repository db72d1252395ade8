"""Somebody on the network who sends what he likes to the ports for nodes of a cluster. What he has to know of the
cluster, anybody may read from its topology or its client ports.
"""

import ctypes
import ctypes.util
import json
import socket
import struct
import time
import uuid

from node_process import run_kvadmin

MAGIC = 0x524545504f444e50
HELLO, HELLO_REPLY, MESSAGES, DEATH_NOTICE, PING, PONG = range(1, 7)
HEARTBEAT, HEARTBEAT_ACK, ALIGN_REQUEST, ALIGN_REPLY, APPEND, APPEND_ACK, FENCED, PROMISE_REQUEST, PROMISE_REPLY, \
    CAMPAIGN_NOW, RESIGN, CONDEMN, INSTALL_OFFER = range(1, 14)
MAX = 2**64 - 1

_xxh = ctypes.CDLL(ctypes.util.find_library("xxhash") or "libxxhash.so.0")
_xxh.XXH3_64bits_withSeed.restype = ctypes.c_uint64
_xxh.XXH3_64bits_withSeed.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]


def frame(kind, body=b"", length=None):
    head = struct.pack("<IBBH", len(body) if length is None else length, kind, 0, 0)
    checksum = _xxh.XXH3_64bits_withSeed(body, len(body), struct.unpack("<Q", head)[0])
    return head + struct.pack("<Q", checksum) + body


def uuid_bytes(value):
    number = uuid.UUID(value).int
    return struct.pack("<QQ", number >> 64, number & MAX)


def message(kind, partition, sender, receiver, body):
    """`body`: bytes, or a tuple of u64."""
    if not isinstance(body, bytes):
        body = struct.pack(f"<{len(body)}Q", *body)
    return struct.pack("<IBBHII", 48 + len(body), kind, 0, 0, partition, 0) + uuid_bytes(sender) + \
        uuid_bytes(receiver) + body


class Target:
    """What the topology says of a cluster."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.refresh()

    def refresh(self):
        lines = run_kvadmin("cluster", "show", "--topology", self.cluster.topology, "--json").stdout.splitlines()
        values = [json.loads(line) for line in lines]
        self.cluster_id = next(v["cluster"]["cluster_id"] for v in values if "cluster" in v)
        self.nodes = {v["node"]["id"]: v["node"] for v in values if "node" in v}
        self.partitions = {v["partition"]["id"]: v["partition"] for v in values if "partition" in v}
        return self

    def address(self, node, reactor=0):
        host, port = self.nodes[node]["peer_addresses"][reactor].rsplit(":", 1)
        return host, int(port)

    def hello(self, sender, receiver, **change):
        fields = {"magic": MAGIC, "protocol_min": 1, "protocol_max": 1, "protocol": 1, "flags": 0,
                  "cluster_id": self.cluster_id, "from": sender, "to": receiver, "from_reactor": 0, "to_reactor": 0,
                  "incarnation": self.nodes[sender]["starts"] if sender in self.nodes else 1}
        fields.update(change)
        body = struct.pack("<QIIII", *(fields[name] for name in
                                       ("magic", "protocol_min", "protocol_max", "protocol", "flags")))
        body += uuid_bytes(fields["cluster_id"])
        body += struct.pack("<IIIIQ", *(fields[name] for name in
                                        ("from", "to", "from_reactor", "to_reactor", "incarnation")))
        return frame(HELLO, body)

    def replica(self, partition, node):
        record = self.partitions[partition]
        for replica in record["isr"] + record.get("evicted", []) + record.get("learners", []):
            if replica["node"] == node:
                return replica["replica"]
        return None

    def connect(self, node, timeout_s=5):
        connection = socket.create_connection(self.address(node), timeout_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def greet(self, sender, receiver, **change):
        """A connection whose hello was sent, and the verdict and the text of the answer."""
        connection = self.connect(receiver)
        connection.sendall(self.hello(sender, receiver, **change))
        return connection, read_verdict(connection)

    def pose(self, sender, receiver):
        """The same, as the next process of the sender: one of its present process is not accepted while that is heard."""
        return self.greet(sender, receiver, incarnation=self.nodes[sender]["starts"] + 1)

    def death_notice(self, node, incarnation):
        return frame(DEATH_NOTICE, struct.pack("<IIQ", node, 0, incarnation))


def read_frame(connection):
    head = read_exactly(connection, 16)
    return head[4], read_exactly(connection, struct.unpack_from("<I", head)[0])


def read_exactly(connection, size):
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise EOFError(f"the connection ended after {len(data)} of {size} bytes")
        data += piece
    return data


def read_verdict(connection):
    """(verdict, text), or (None, why) if the connection ended."""
    try:
        kind, body = read_frame(connection)
    except (EOFError, OSError) as error:
        return None, str(error)
    assert kind == HELLO_REPLY, kind
    return struct.unpack_from("<I", body)[0], body[24:].decode(errors="replace")


def is_closed(connection, within_s=5):
    """Whether the other end closes the connection in time; what it sends before does not matter."""
    deadline = time.monotonic() + within_s
    try:
        while time.monotonic() < deadline:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            if not connection.recv(65536):
                return True
    except socket.timeout:
        return False
    except OSError:
        return True
    return False
