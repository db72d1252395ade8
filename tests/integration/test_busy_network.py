#!/usr/bin/python3
"""Tests greedy clients: more connections than the process may have descriptors, and slow readers."""

import resource
import shutil
import socket
import stat
import time
import unittest

from node_process import BIN_DIR, CONTEXT, NodeProcess, temporary_directory, ttypes
from test_protocol import RawConnection, get_call, metric

DESCRIPTORS = 1024
IDLE_CONNECTIONS = 1100
PUT_BYTES = 30 << 20
VALUE_BYTES = 1 << 20
STALL_TIMEOUT_S = 4
READ_BYTES = 12_000
READ_INTERVAL_S = 0.1


class DescriptorsTest(unittest.TestCase):
    """The soft and the hard limit are 1024 descriptors, and 1100 connections are idle."""

    def setUp(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard < 2 * DESCRIPTORS:
            self.skipTest(f"this process may open only {hard} descriptors")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * DESCRIPTORS), hard))
        self.directory = temporary_directory("descriptors")
        limited = self.directory / "kvnode-limited"
        limited.write_text(f"#!/bin/sh\nulimit -Sn {DESCRIPTORS} && ulimit -Hn {DESCRIPTORS} && exec {BIN_DIR}/kvnode \"$@\"\n")
        limited.chmod(limited.stat().st_mode | stat.S_IXUSR)
        self.node = NodeProcess(self.directory / "data", binary=limited).start()

    def tearDown(self):
        self.node.kill()
        shutil.rmtree(self.directory)

    def test_the_node_lives_and_serves(self):
        limit = metric(self.node, "kv_rpc_connection_limit_count")
        reserved = metric(self.node, "kv_process_reserved_descriptors_count")
        self.assertEqual(metric(self.node, "kv_process_descriptor_limit_count"), DESCRIPTORS)
        self.assertLessEqual(limit + reserved, DESCRIPTORS)
        self.assertIn(f"{int(limit)} are possible", self.node.output())
        with self.node.connect() as kv:
            idle = []
            for _ in range(IDLE_CONNECTIONS):
                idle.append(socket.create_connection((self.node.host, self.node.port), 30))
            for i in range(PUT_BYTES // VALUE_BYTES):
                kv.put(CONTEXT, ttypes.PutRequest(b"key%d" % i, bytes([i]) * VALUE_BYTES))
            self.assertLessEqual(metric(self.node, "kv_rpc_connections_count"), DESCRIPTORS - reserved)
            self.assertGreater(metric(self.node, "kv_rpc_refused_connections_total"), 0)
            for connection in idle:
                connection.close()
            # Connections that waited in the backlog are accepted first; then there is room for new ones.
            deadline = time.monotonic() + 60
            while metric(self.node, "kv_rpc_connections_count") > 1 and time.monotonic() < deadline:
                time.sleep(0.1)
            with self.node.connect() as other:
                for i in range(PUT_BYTES // VALUE_BYTES):
                    record = other.get(CONTEXT, ttypes.GetRequest(b"key%d" % i)).record
                    self.assertEqual(record.value, bytes([i]) * VALUE_BYTES)
        self.node.stop()


class SlowReaderTest(unittest.TestCase):
    def setUp(self):
        self.directory = temporary_directory("slow")
        self.node = NodeProcess(self.directory / "data", [f"--stall_timeout_s={STALL_TIMEOUT_S}"]).start()

    def tearDown(self):
        self.node.kill()
        shutil.rmtree(self.directory)

    def test_a_slow_but_steady_reader_is_served(self):
        with self.node.connect() as kv:
            kv.put(CONTEXT, ttypes.PutRequest(b"large", b"x" * VALUE_BYTES))
        raw = RawConnection.__new__(RawConnection)
        raw.pending = b""
        raw.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.socket.settimeout(30)
        raw.socket.connect((self.node.host, self.node.port))
        deadline = time.monotonic() + 3 * STALL_TIMEOUT_S
        with raw:
            for i in range(8):  # more than the socket buffers hold, so that the node always has a send in progress
                raw.send(get_call(b"large", i))
            while time.monotonic() < deadline:  # about 120 KB/s: less than one send within the stall timeout
                self.assertTrue(raw.socket.recv(READ_BYTES), "the node closed the connection of a steady reader")
                time.sleep(READ_INTERVAL_S)
        self.assertEqual(metric(self.node, "kv_rpc_stalled_connections_total"), 0)
        self.node.stop()


if __name__ == "__main__":
    unittest.main(verbosity=2)
