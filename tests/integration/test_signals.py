#!/usr/bin/python3
"""Tests signals during recovery, while a node serves, and while it stops."""

import http.client
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
import unittest

from node_process import CONTEXT, Kv, NodeProcess, TTransport, temporary_directory, ttypes
from thrift.protocol import TBinaryProtocol
from thrift.Thrift import TMessageType

RECORDS, BATCH = 200_000, 1000
STOPPED, ENGINE_FAILED, STOP_CUT_SHORT = 0, 2, 3
AT_ONCE_S = 5  # far below any timeout of an orderly stop


def readiness(node):
    """Returns the status code of /readyz, or None while the node has not said where it serves HTTP."""
    match = re.search(r"serving http \S+?:(\d+)", node.output())
    if not match:
        return None
    connection = http.client.HTTPConnection("127.0.0.1", int(match.group(1)), timeout=10)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    finally:
        connection.close()


def get_frame(key):
    buffer = TTransport.TMemoryBuffer()
    protocol = TBinaryProtocol.TBinaryProtocol(buffer)
    protocol.writeMessageBegin("get", TMessageType.CALL, 1)
    Kv.get_args(ttypes.Context(), ttypes.GetRequest(key)).write(protocol)
    protocol.writeMessageEnd()
    return struct.pack(">I", len(buffer.getvalue())) + buffer.getvalue()


class SignalTest(unittest.TestCase):
    def setUp(self):
        self.directory = temporary_directory("signals")
        self.node = NodeProcess(pathlib.Path(self.directory) / "data")

    def tearDown(self):
        self.node.kill()
        shutil.rmtree(self.directory)

    def unread_replies(self, kv):
        """Returns a connection with replies that nobody reads, which keep an orderly stop waiting."""
        kv.put(CONTEXT, ttypes.PutRequest(b"k", b"x" * (1 << 20)))
        reader = socket.create_connection((self.node.host, self.node.port))
        reader.sendall(get_frame(b"k") * 64)
        self.assertEqual(len(reader.recv(1)), 1, "the node has begun to answer")
        return reader

    def test_sigterm_during_recovery(self):
        self.node.flags = ["--checkpoint_interval_s", "3600"]
        self.node.start()
        with self.node.connect() as kv:
            for first in range(0, RECORDS, BATCH):
                kv.writeBatch(CONTEXT, ttypes.WriteBatchRequest([
                    ttypes.WriteOp(kind=1, key=b"%08d" % i, value=b"v") for i in range(first, first + BATCH)]))
        self.node.kill()

        self.node.launch()
        while (status := readiness(self.node)) is None:
            self.assertIsNone(self.node.process.poll(), self.node.output())
        self.assertEqual(status, 503, "recovery ended before the test could look; raise RECORDS")
        begin = time.monotonic()
        self.node.process.send_signal(signal.SIGTERM)
        self.assertEqual(self.node.process.wait(60), STOPPED)
        self.assertLess(time.monotonic() - begin, AT_ONCE_S)
        self.assertNotIn("kvnode ready", self.node.output())
        self.assertIn("before it was ready", self.node.output())

        self.node.start()
        with self.node.connect() as kv:
            self.assertEqual(kv.count(CONTEXT, ttypes.CountRequest()).count, RECORDS)
        self.node.stop()

    def test_sighup_is_ignored_under_nohup(self):
        inherited = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        try:
            self.node.start()
        finally:
            signal.signal(signal.SIGHUP, inherited)
        self.node.process.send_signal(signal.SIGHUP)
        with self.node.connect() as kv:
            kv.put(CONTEXT, ttypes.PutRequest(b"k", b"v"))
        self.assertIsNone(self.node.process.poll(), self.node.output())
        self.node.stop()

    def test_second_sigterm_ends_at_once(self):
        self.node.flags = ["--shutdown_timeout_ms", "120000"]
        self.node.start()
        with self.node.connect() as kv:
            with self.unread_replies(kv):
                self.node.process.send_signal(signal.SIGTERM)
                with self.assertRaises(subprocess.TimeoutExpired, msg=self.node.output()):
                    self.node.process.wait(1)
                begin = time.monotonic()
                self.node.process.send_signal(signal.SIGTERM)
                self.assertEqual(self.node.process.wait(60), STOP_CUT_SHORT)
                self.assertLess(time.monotonic() - begin, AT_ONCE_S)
        self.node.flags = []
        self.node.start()
        with self.node.connect() as kv:
            self.assertEqual(kv.count(CONTEXT, ttypes.CountRequest()).count, 1)
        self.node.stop()

    def test_a_failed_node_that_does_not_stop_is_ended(self):
        self.node.flags = ["--shutdown_timeout_ms", "120000"]
        self.node.start()
        with self.node.connect() as kv:
            with self.unread_replies(kv):
                (self.node.data_dir / "lock").unlink()
                deadline = time.monotonic() + 60
                while "stopping because the storage engine failed" not in self.node.output():
                    self.assertIsNone(self.node.process.poll(), self.node.output())
                    self.assertLess(time.monotonic(), deadline, self.node.output())
                    time.sleep(0.01)
                with self.assertRaises(subprocess.TimeoutExpired, msg=self.node.output()):
                    self.node.process.wait(1)
                begin = time.monotonic()
                self.node.process.send_signal(signal.SIGALRM)  # as its own alarm will, minutes later
                self.assertEqual(self.node.process.wait(60), ENGINE_FAILED, self.node.output())
                self.assertLess(time.monotonic() - begin, AT_ONCE_S)
        self.assertIn("did not stop in time", self.node.output())


if __name__ == "__main__":
    unittest.main()
