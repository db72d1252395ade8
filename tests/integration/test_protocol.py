#!/usr/bin/python3
"""Tests the wire protocol with the stock Python Thrift library and raw sockets: every method over both protocols,
pipelining, bad input of every kind, slow readers, and ten thousand idle connections."""

import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
import unittest
import urllib.error
import urllib.request

from node_process import Admin, BIN_DIR, CONTEXT, Kv, NodeProcess, TTransport, constants, temporary_directory, ttypes
from thrift.protocol import TBinaryProtocol, TCompactProtocol
from thrift.Thrift import TApplicationException, TMessageType

IDLE_CONNECTIONS = 10_000
MAX_FRAME_BYTES = 4 << 20
STALL_TIMEOUT_S = 4


def frame(payload):
    return struct.pack(">I", len(payload)) + payload


def encode_call(method, args, seqid=1, compact=False, kind=TMessageType.CALL):
    """Returns one framed call as bytes."""
    buffer = TTransport.TMemoryBuffer()
    protocol = (TCompactProtocol.TCompactProtocol if compact else TBinaryProtocol.TBinaryProtocol)(buffer)
    protocol.writeMessageBegin(method, kind, seqid)
    args.write(protocol)
    protocol.writeMessageEnd()
    return frame(buffer.getvalue())


def get_call(key, seqid=1, compact=False, kind=TMessageType.CALL):
    return encode_call("get", Kv.get_args(ttypes.Context(), ttypes.GetRequest(key)), seqid, compact, kind)


class RawConnection:
    """A socket that splits replies into frames."""

    def __init__(self, node, timeout_s=30):
        self.socket = socket.create_connection((node.host, node.port), timeout_s)
        self.pending = b""

    def send(self, data):
        self.socket.sendall(data)

    def read_frame(self):
        """Returns the payload of the next frame, or None at the end of the stream."""
        while len(self.pending) < 4 or len(self.pending) < 4 + struct.unpack(">I", self.pending[:4])[0]:
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self.pending += data
        length = struct.unpack(">I", self.pending[:4])[0]
        payload, self.pending = self.pending[4:4 + length], self.pending[4 + length:]
        return payload

    def read_reply(self, result):
        """Returns (sequence id, result struct) of the next reply; raises an exception of the server."""
        payload = self.read_frame()
        assert payload is not None, "the connection was closed"
        make = TCompactProtocol.TCompactProtocol if payload[0] == 0x82 else TBinaryProtocol.TBinaryProtocol
        protocol = make(TTransport.TMemoryBuffer(payload))
        _, kind, seqid = protocol.readMessageBegin()
        if kind == TMessageType.EXCEPTION:
            error = TApplicationException()
            error.read(protocol)
            raise error
        result.read(protocol)
        return seqid, result

    def closed_by_server(self):
        return self.read_frame() is None

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def metric(node, name):
    """Returns the sum of a metric over its labels."""
    http_port = int(re.search(r"http \S+?:(\d+)", node.output()).group(1))
    text = urllib.request.urlopen(f"http://127.0.0.1:{http_port}/metrics", timeout=10).read().decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(re.escape(name) + r"[ {]", line))


class ProtocolTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = temporary_directory("protocol")
        cls.node = NodeProcess(cls.directory / "data",
                               ["--memory_limit_mb=256", f"--stall_timeout_s={STALL_TIMEOUT_S}"]).start()

    @classmethod
    def tearDownClass(cls):
        cls.node.stop()
        shutil.rmtree(cls.directory)

    def refused(self, code, text, call, *args):
        with self.assertRaises(ttypes.KvError) as caught:
            call(*args)
        self.assertEqual(caught.exception.code, code, caught.exception)
        self.assertIsNone(caught.exception.context)
        self.assertIn(text, caught.exception.message)
        self.assertEqual(caught.exception.applied, constants.APPLIED_NO)
        return caught.exception

    # -- methods, over both protocols

    def test_every_method(self):
        for compact in (False, True):
            with self.subTest(compact=compact), self.node.connect(compact=compact) as kv:
                self.every_method(kv, b"compact/" if compact else b"binary/")

    def every_method(self, kv, p):
        hello = kv.hello(CONTEXT, ttypes.HelloRequest("test", 1))
        self.assertEqual(hello.limits.max_key_bytes, 2048)
        self.assertEqual(hello.partitions, 16)
        self.assertEqual(hello.api_version, 2)
        if hasattr(hello, "cluster_id"):  # a client of the previous interface does not know it
            self.assertEqual(hello.cluster_id, hello.node_id)  # it is in no cluster

        self.assertFalse(kv.get(CONTEXT, ttypes.GetRequest(p + b"none")).record.found)
        put = kv.put(CONTEXT, ttypes.PutRequest(p + b"a", b"one"))
        self.assertTrue(put.applied and not put.existed and put.version > 0)
        record = kv.get(CONTEXT, ttypes.GetRequest(p + b"a")).record
        self.assertEqual((record.found, record.value, record.version), (True, b"one", put.version))

        stale = ttypes.Condition(version=put.version - 1)
        failed = kv.put(CONTEXT, ttypes.PutRequest(p + b"a", b"no", condition=stale))
        self.assertFalse(failed.applied)
        self.assertEqual(failed.current.value, b"one")
        self.assertTrue(kv.put(CONTEXT, ttypes.PutRequest(p + b"a", b"two", ttypes.Condition(value=b"one"))).applied)
        self.assertFalse(kv.put(CONTEXT, ttypes.PutRequest(p + b"a", b"x", ttypes.Condition(exists=False))).applied)

        soon = kv.put(CONTEXT, ttypes.PutRequest(p + b"ttl", b"x", None, constants.TTL_SET, 100))
        self.assertTrue(soon.applied)
        self.assertGreater(kv.get(CONTEXT, ttypes.GetRequest(p + b"ttl")).record.expires_at_ms, time.time() * 1000 - 60_000)

        self.assertEqual(kv.increment(CONTEXT, ttypes.IncrementRequest(p + b"n", 41)).number, 41)
        self.assertEqual(kv.increment(CONTEXT, ttypes.IncrementRequest(p + b"n", 1)).number, 42)
        self.refused(constants.BAD_REQUEST, "not a decimal", kv.increment, CONTEXT, ttypes.IncrementRequest(p + b"a", 1))
        kv.put(CONTEXT, ttypes.PutRequest(p + b"top", b"9223372036854775807"))
        self.refused(constants.BAD_REQUEST, "range of 64-bit", kv.increment, CONTEXT,
                     ttypes.IncrementRequest(p + b"top", 1))

        ops = [ttypes.WriteOp(constants.OP_PUT, p + b"batch%03d" % i, b"v%d" % i) for i in range(100)]
        ops.append(ttypes.WriteOp(constants.OP_REMOVE, p + b"batch000"))
        ops.append(ttypes.WriteOp(constants.OP_INCREMENT, p + b"n", delta=8))
        results = kv.writeBatch(CONTEXT, ttypes.WriteBatchRequest(ops)).results
        self.assertTrue(all(result.applied for result in results))
        self.assertTrue(results[100].existed)
        self.assertEqual(results[101].number, 50)

        keys = [p + b"batch%03d" % i for i in range(100)]
        items = kv.multiGet(CONTEXT, ttypes.MultiGetRequest(keys)).items
        self.assertEqual([item.record.found for item in items], [False] + [True] * 99)
        self.assertEqual(items[7].record.value, b"v7")

        self.assertEqual(kv.count(CONTEXT, ttypes.CountRequest(prefix=p + b"batch")).count, 99)
        sums = kv.aggregate(CONTEXT, ttypes.AggregateRequest(prefix=p + b"batch"))
        held = sum(len(key) + len(item.record.value) for key, item in zip(keys[1:], items[1:], strict=True))
        self.assertEqual((sums.count, sums.bytes), (99, held))
        rest = kv.aggregate(CONTEXT, ttypes.AggregateRequest(start_key=keys[2], end_key=keys[50]))
        self.assertEqual(rest.count, 48)
        self.assertNotEqual(rest.content_hash, sums.content_hash)
        rows = kv.scan(CONTEXT, ttypes.ScanRequest(prefix=p + b"batch")).rows
        self.assertEqual([row.key for row in rows], keys[1:])

        self.assertTrue(kv.remove(CONTEXT, ttypes.RemoveRequest(p + b"a")).existed)
        self.assertFalse(kv.get(CONTEXT, ttypes.GetRequest(p + b"a")).record.found)
        self.assertFalse(kv.remove(CONTEXT, ttypes.RemoveRequest(p + b"a", ttypes.Condition(exists=True))).applied)

    def test_what_this_node_cannot_do_is_refused(self):
        """A request for something that this node cannot do gets an error; it is never ignored."""
        bad, request = constants.BAD_REQUEST, ttypes.GetRequest(b"k")
        with self.node.connect() as kv:
            for code, context in ((bad, ttypes.Context(name_space="other")),
                                  (constants.DENIED, ttypes.Context(principal="root")),
                                  (constants.TOKEN_MISMATCH, ttypes.Context(session=b"elsewhere")),
                                  (bad, ttypes.Context(hlc=1)),
                                  (bad, ttypes.Context(max_staleness_ms=100)),
                                  (bad, ttypes.Context(level=7))):
                self.refused(code, "", kv.get, context, request)
                self.refused(code, "", kv.put, context, ttypes.PutRequest(b"k", b"v"))
                self.refused(code, "", kv.scan, context, ttypes.ScanRequest())
                self.refused(code, "", kv.hello, context, ttypes.HelloRequest())
                with self.node.connect(service=Admin) as admin:
                    self.refused(code, "", admin.status, context)
                    self.refused(code, "", admin.checkpoint, context)
                    self.refused(code, "", admin.scrub, context, ttypes.ScrubRequest())
            for hello in (ttypes.HelloRequest(identity="me"), ttypes.HelloRequest(credential=b"secret")):
                self.refused(constants.UNAUTHENTICATED, "cannot verify", kv.hello, CONTEXT, hello)
            self.assertFalse(kv.get(CONTEXT, ttypes.GetRequest(b"k")).record.found, "nothing was written")
            reply = kv.hello(CONTEXT, ttypes.HelloRequest(features=["something_of_tomorrow"]))
            self.assertEqual((reply.accepted_features, reply.identity), ([], ""))

    def test_watch(self):
        with self.node.connect() as kv, self.node.connect() as waiting:
            start = kv.watch(CONTEXT, ttypes.WatchRequest(b"watched/")).position
            put = kv.put(CONTEXT, ttypes.PutRequest(b"watched/a", b"1"))
            kv.put(CONTEXT, ttypes.PutRequest(b"elsewhere", b"1"))
            kv.remove(CONTEXT, ttypes.RemoveRequest(b"watched/a"))
            reply = kv.watch(CONTEXT, ttypes.WatchRequest(b"watched/", start))
            self.assertEqual([(c.key, c.removed) for c in reply.changes], [(b"watched/a", False), (b"watched/a", True)])
            self.assertEqual(reply.changes[0].version, put.version)
            written = threading.Timer(0.3, kv.put, (CONTEXT, ttypes.PutRequest(b"watched/b", b"2")))
            written.start()
            begin = time.monotonic()
            reply = waiting.watch(CONTEXT, ttypes.WatchRequest(b"watched/", reply.position, wait_ms=8000))
            self.assertEqual([c.key for c in reply.changes], [b"watched/b"])
            self.assertLess(time.monotonic() - begin, 5)
            written.join()
            reply = waiting.watch(CONTEXT, ttypes.WatchRequest(b"watched/", reply.position, wait_ms=100))
            self.assertEqual(reply.changes, [])
            self.refused(constants.BAD_CURSOR, "another prefix", kv.watch, CONTEXT,
                         ttypes.WatchRequest(b"other/", reply.position))

    def test_delete_range(self):
        with self.node.connect() as kv:
            ops = [ttypes.WriteOp(constants.OP_PUT, b"range/%04d" % i, b"v" * (i % 50)) for i in range(1000)]
            kv.writeBatch(CONTEXT, ttypes.WriteBatchRequest(ops))
            rows, scan = [], ttypes.ScanRequest(prefix=b"range/", sizes_only=True)
            while scan.cursor or not rows:
                page = kv.scan(CONTEXT, scan)
                rows += page.rows
                scan.cursor = page.cursor
                if not page.cursor:
                    break
            self.assertEqual([(row.key, row.value, row.value_bytes) for row in rows],
                             [(op.key, b"", len(op.value)) for op in ops])
            snapshot = kv.openSnapshot(CONTEXT, ttypes.OpenSnapshotRequest())
            kv.put(CONTEXT, ttypes.PutRequest(b"range/0007", b"newer"))
            removed, request = 0, ttypes.DeleteRangeRequest(prefix=b"range/", limit_rows=300,
                                                            max_version=snapshot.version)
            while True:
                reply = kv.deleteRange(CONTEXT, request)
                removed += reply.removed
                request.cursor = reply.cursor
                if not reply.cursor:
                    break
            self.assertEqual(removed, 999)
            rest = kv.scan(CONTEXT, ttypes.ScanRequest(prefix=b"range/")).rows
            self.assertEqual([(row.key, row.value) for row in rest], [(b"range/0007", b"newer")])
            keys = [op.key for op in ops[:20]]
            items = kv.multiGet(CONTEXT, ttypes.MultiGetRequest(keys, snapshot.snapshot)).items
            self.assertEqual([item.record.value for item in items], [op.value for op in ops[:20]])
            kv.releaseSnapshot(CONTEXT, ttypes.ReleaseSnapshotRequest(snapshot.snapshot))

    def test_admin(self):
        with self.node.connect(service=Admin) as admin:
            status = admin.status(CONTEXT)
            self.assertEqual(status.verdict, "ok")
            self.assertEqual([partition.id for partition in status.partitions], list(range(16)))
            self.assertEqual(admin.checkpoint(CONTEXT).partitions, 16)

    def test_scans_page_by_page(self):
        with self.node.connect() as kv:
            ops = [ttypes.WriteOp(constants.OP_PUT, b"page/%04d" % i, b"v" * (i % 50)) for i in range(1000)]
            kv.writeBatch(CONTEXT, ttypes.WriteBatchRequest(ops))
            for reverse in (False, True):
                request = ttypes.ScanRequest(prefix=b"page/", reverse=reverse, limit_rows=37)
                keys = []
                while True:
                    page = kv.scan(CONTEXT, request)
                    self.assertLessEqual(len(page.rows), 37)
                    keys += [row.key for row in page.rows]
                    if not page.cursor:
                        break
                    request.cursor = page.cursor
                self.assertEqual(keys, [op.key for op in sorted(ops, key=lambda op: op.key, reverse=reverse)])
            page = kv.scan(CONTEXT, ttypes.ScanRequest(b"page/0010", b"page/0020", keys_only=True))
            self.assertEqual([(row.key, row.value) for row in page.rows],
                             [(b"page/%04d" % i, b"") for i in range(10, 20)])
            first = kv.scan(CONTEXT, ttypes.ScanRequest(prefix=b"page/", limit_bytes=1))
            self.assertEqual(len(first.rows), 1)
            changed = bytearray(first.cursor)
            changed[5] ^= 1
            self.refused(constants.BAD_CURSOR, "checksum", kv.scan, CONTEXT,
                         ttypes.ScanRequest(prefix=b"page/", cursor=bytes(changed)))
            self.refused(constants.BAD_CURSOR, "another range", kv.scan, CONTEXT,
                         ttypes.ScanRequest(prefix=b"pag", cursor=first.cursor))

    # -- limits

    def test_limits_are_named(self):
        bad, large = constants.BAD_REQUEST, constants.TOO_LARGE
        with self.node.connect() as kv:
            self.refused(bad, "1 to 2048 bytes", kv.get, CONTEXT, ttypes.GetRequest(b""))
            self.refused(bad, "1 to 2048 bytes", kv.put, CONTEXT, ttypes.PutRequest(b"", b"v"))
            self.refused(large, "2049 bytes; the limit is 2048", kv.get, CONTEXT, ttypes.GetRequest(b"k" * 2049))
            self.refused(large, "2049 bytes; the limit is 2048", kv.put, CONTEXT, ttypes.PutRequest(b"k" * 2049, b"v"))
            self.refused(large, "1048577 bytes; the limit is 1048576", kv.put, CONTEXT,
                         ttypes.PutRequest(b"k", b"v" * ((1 << 20) + 1)))
            self.refused(large, "1025 keys; the limit is 1024", kv.multiGet, CONTEXT,
                         ttypes.MultiGetRequest([b"k"] * 1025))
            self.refused(large, "1025 ops; the limit is 1024", kv.writeBatch, CONTEXT,
                         ttypes.WriteBatchRequest([ttypes.WriteOp(1, b"k", b"v")] * 1025))
            self.refused(large, "the limit is 2097152", kv.writeBatch, CONTEXT,
                         ttypes.WriteBatchRequest([ttypes.WriteOp(1, b"k%d" % i, b"v" * (1 << 20)) for i in range(3)]))
            self.refused(bad, "limit_rows is -1", kv.scan, CONTEXT, ttypes.ScanRequest(limit_rows=-1))
            # Requests exactly at the limits succeed.
            key, value = b"k" * 2048, bytes(range(256)) * 4096
            self.assertTrue(kv.put(CONTEXT, ttypes.PutRequest(key, value)).applied)
            self.assertEqual(kv.get(CONTEXT, ttypes.GetRequest(key)).record.value, value)
            self.assertTrue(kv.remove(CONTEXT, ttypes.RemoveRequest(key)).applied)

    def test_small_pages_take_shorter_keys(self):
        directory = temporary_directory("small-pages")
        node = NodeProcess(directory / "data", ["--memory_limit_mb=256", "--page_bytes=4096"]).start()
        with node.connect() as kv:
            self.assertEqual(kv.hello(CONTEXT, ttypes.HelloRequest()).limits.max_key_bytes, 1024)
            self.refused(constants.BAD_REQUEST, "of this store", kv.put, CONTEXT, ttypes.PutRequest(b"k" * 1025, b"v"))
            self.assertTrue(kv.put(CONTEXT, ttypes.PutRequest(b"k" * 1024, b"v")).applied)
            self.assertEqual(kv.count(CONTEXT, ttypes.CountRequest()).count, 1)
        node.stop()
        shutil.rmtree(directory)

    # -- the stream

    def test_pipelined_replies_come_in_order(self):
        with self.node.connect() as kv:
            for i in range(64):
                kv.put(CONTEXT, ttypes.PutRequest(b"pipe%d" % i, b"v%d" % i))
        with RawConnection(self.node) as raw:
            count = 3000
            calls = []
            for i in range(count):
                if i % 5 == 0:
                    args = Kv.put_args(ttypes.Context(), ttypes.PutRequest(b"pipe-written", b"%d" % i))
                    calls.append(encode_call("put", args, i, compact=i % 2 == 0))
                else:
                    calls.append(get_call(b"pipe%d" % (i % 64), i, compact=i % 2 == 0))
            data = b"".join(calls)
            for start in range(0, len(data), 7001):  # splits frames at arbitrary places
                raw.send(data[start:start + 7001])
            for i in range(count):
                seqid, reply = raw.read_reply(Kv.put_result() if i % 5 == 0 else Kv.get_result())
                self.assertEqual(seqid, i)
                if i % 5:
                    self.assertEqual(reply.success.record.value, b"v%d" % (i % 64))

    def test_bytes_one_at_a_time(self):
        with RawConnection(self.node) as raw:
            raw.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in get_call(b"x", 9):
                raw.send(bytes([byte]))
            self.assertEqual(raw.read_reply(Kv.get_result())[0], 9)

    def test_unknown_methods_and_bad_arguments_leave_the_connection_alive(self):
        with RawConnection(self.node) as raw:
            raw.send(encode_call("frobnicate", Kv.get_args(), 1))
            with self.assertRaises(TApplicationException) as caught:
                raw.read_reply(Kv.get_result())
            self.assertEqual(caught.exception.type, TApplicationException.UNKNOWN_METHOD)
            self.assertIn("frobnicate", caught.exception.message)
            whole = get_call(b"key")[4:]
            raw.send(frame(whole[:-6]))
            with self.assertRaises(TApplicationException) as caught:
                raw.read_reply(Kv.get_result())
            self.assertEqual(caught.exception.type, TApplicationException.PROTOCOL_ERROR)
            # A string whose length field says a gigabyte.
            raw.send(frame(whole.replace(struct.pack(">I", 3) + b"key", struct.pack(">I", 1 << 30) + b"key")))
            with self.assertRaises(TApplicationException) as caught:
                raw.read_reply(Kv.get_result())
            self.assertIn("longer than the frame", caught.exception.message)
            raw.send(get_call(b"nobody waits", 3, kind=TMessageType.ONEWAY) + get_call(b"x", 4))
            self.assertEqual(raw.read_reply(Kv.get_result())[0], 4)

    def test_garbage_is_closed(self):
        for garbage in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x80\x01\x00\x01\x00\x00\x00\x03get\x00\x00\x00\x01",
                        b"\0\0\0\0", frame(b"\xde\xad\xbe\xef" * 10), b"\xff" * 5000, frame(b"\x80\x02\x00\x01aaaaaaaa")):
            with self.subTest(garbage=garbage[:12]), RawConnection(self.node) as raw:
                raw.send(garbage)
                self.assertTrue(raw.closed_by_server())
        with self.node.connect() as kv:
            kv.hello(CONTEXT, ttypes.HelloRequest())

    def test_a_frame_over_the_limit_is_named_and_closed(self):
        with RawConnection(self.node) as raw:
            call = get_call(b"k" * 100, 5)
            raw.send(struct.pack(">I", MAX_FRAME_BYTES + 1) + call[4:] + b"x" * 200_000)
            _, reply = raw.read_reply(Kv.get_result())
            self.assertEqual(reply.error.code, constants.TOO_LARGE)
            self.assertIn("the limit is 4194304", reply.error.message)
            self.assertTrue(raw.closed_by_server())

    def test_half_frames_that_do_not_move_are_closed(self):
        with RawConnection(self.node) as raw:
            raw.send(get_call(b"key")[:11])
            start = time.monotonic()
            self.assertTrue(raw.closed_by_server())
            self.assertGreater(time.monotonic() - start, STALL_TIMEOUT_S - 1.5)

    def test_a_slow_reader_is_bounded_and_closed(self):
        with self.node.connect() as kv:
            kv.put(CONTEXT, ttypes.PutRequest(b"large", b"x" * (1 << 20)))
        before = self.node.resident_bytes()
        closed = metric(self.node, "kv_rpc_stalled_connections_total")
        readers = [RawConnection(self.node) for _ in range(4)]
        for raw in readers:
            raw.socket.settimeout(2)
            try:
                for i in range(2000):  # requests two gigabytes of replies, which nobody reads
                    raw.send(get_call(b"large", i))
            except (TimeoutError, ConnectionError):
                pass
        self.assertLess(self.node.resident_bytes() - before, 64 << 20)
        deadline = time.monotonic() + 4 * STALL_TIMEOUT_S
        while metric(self.node, "kv_rpc_stalled_connections_total") < closed + 4 and time.monotonic() < deadline:
            time.sleep(0.2)
        self.assertGreaterEqual(metric(self.node, "kv_rpc_stalled_connections_total"), closed + 4)
        for raw in readers:
            raw.close()
        with self.node.connect() as kv:
            self.assertTrue(kv.get(CONTEXT, ttypes.GetRequest(b"large")).record.found)

    def test_deadlines(self):
        with self.node.connect() as kv:
            self.refused(constants.BAD_REQUEST, "budget_ms is -1", kv.get, ttypes.Context(budget_ms=-1),
                         ttypes.GetRequest(b"k"))
            self.assertTrue(kv.put(ttypes.Context(budget_ms=60_000), ttypes.PutRequest(b"in time", b"v")).applied)

    def test_ten_thousand_idle_connections(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        count = min(IDLE_CONNECTIONS, hard - 200)
        before = self.node.resident_bytes()
        sockets = []
        try:
            for _ in range(count):
                sockets.append(socket.create_connection((self.node.host, self.node.port), 30))
            call = get_call(b"idle", 1)
            for s in sockets[::10]:
                s.sendall(call)
            for s in sockets[::10]:
                self.assertTrue(s.recv(4096))
            per_connection = (self.node.resident_bytes() - before) / count
            self.assertLess(per_connection, 4096, "bytes of memory for each idle connection")
            with self.node.connect() as kv:
                start = time.monotonic()
                for _ in range(200):
                    kv.get(CONTEXT, ttypes.GetRequest(b"idle"))
                self.assertLess(time.monotonic() - start, 10)
            print(f"{count} idle connections, {per_connection:.0f} bytes each")
        finally:
            for s in sockets:
                s.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def test_http(self):
        http_port = int(re.search(r"http \S+?:(\d+)", self.node.output()).group(1))
        for path, text in (("healthz", b"ok\n"), ("readyz", b"ready\n")):
            self.assertEqual(urllib.request.urlopen(f"http://127.0.0.1:{http_port}/{path}", timeout=10).read(), text)
        with self.assertRaises(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://127.0.0.1:{http_port}/nothing", timeout=10)
        self.assertGreater(metric(self.node, "kv_process_resident_bytes"), 1 << 20)
        self.assertGreater(metric(self.node, "kv_rpc_accepted_connections_total"), 0)


class StartTest(unittest.TestCase):
    """With flags or a directory that cannot work, a node prints one precise line and exits with 1."""

    def setUp(self):
        self.directory = temporary_directory("start")
        self.node = NodeProcess(self.directory / "data")

    def tearDown(self):
        self.node.kill()
        shutil.rmtree(self.directory)

    def cannot_start(self, text, *flags):
        done = subprocess.run([BIN_DIR / "kvnode", "--listen=127.0.0.1:0", "--http_port=0", *map(str, flags)],
                              capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn(text, done.stderr)

    def test_flags(self):
        data = f"--data_dir={self.directory}/x"
        self.cannot_start("--data_dir is required")
        self.cannot_start("--partitions=12; it must be a power of two", data, "--partitions=12")
        self.cannot_start("--memory_limit_mb=1 is too small", data, "--memory_limit_mb=1")
        self.cannot_start("--log_budget_mb=0 is too small", data, "--log_budget_mb=0")
        self.cannot_start("--log_budget_records=1 is too small", data, "--log_budget_records=1")
        self.cannot_start("the log cannot be written there: No such file", data, f"--log_dir={self.directory}/none")
        self.cannot_start("--reactors=17, but the new store would have --partitions=16", data, "--reactors=17")
        self.cannot_start("is not host:port", data, "--listen=nowhere")
        self.cannot_start("Its host is that of --listen: give an address", data, "--listen=192.0.2.1:0")
        self.cannot_start("--replace_after_s=1h; it must be a whole number of seconds, without letters, from 1 to 2592000, or 0",
                          data, "--replace_after_s=1h")
        self.cannot_start("--install_mb_per_s=-3; it must be a whole number of MiB/s, from 1 to", data, "--install_mb_per_s",
                          "-3")
        self.cannot_start("unknown command line flag", data, "--no_such_flag=1")
        self.cannot_start("is not a flag", data, "stray")
        help_text = subprocess.run([BIN_DIR / "kvnode", "--help"], capture_output=True, text=True, check=True).stdout
        self.assertIn("--memory_limit_mb", help_text)

    def test_data_directories(self):
        data = f"--data_dir={self.node.data_dir}"
        self.node.flags = ["--partitions=4", "--reactors=1"]
        self.node.start()
        self.cannot_start(str(self.node.data_dir), data)  # locked
        self.cannot_start(f"127.0.0.1:{self.node.port}", f"--data_dir={self.directory}/other",
                          f"--listen=127.0.0.1:{self.node.port}", "--reactors=2")
        self.node.stop()
        self.cannot_start("the store was created with --partitions=4, not 8; leave the flag out", data, "--partitions=8")
        for reactors in (2, 3, 1):  # another number of reactors is possible
            self.node.flags = ["--partitions=4", f"--reactors={reactors}"]
            self.node.start()
            with self.node.connect(service=Admin) as admin:
                self.assertEqual(admin.status(CONTEXT).reactors, reactors)
            self.node.stop()
        meta = self.node.data_dir / "store.meta"
        good = meta.read_bytes()
        for bad in (good[:len(good) // 2], bytes([good[0] ^ 1]) + good[1:], good[:40] + bytes([good[40] ^ 4]) + good[41:], b""):
            meta.write_bytes(bad)
            self.cannot_start("store.meta", data)
        meta.write_bytes(good)
        self.node.start()
        self.node.stop()

    def test_signals_and_connections_over_the_limit(self):
        self.node.flags = ["--max_connections=3"]
        self.node.start()
        held = [self.node.connect() for _ in range(3)]
        for kv in held:
            self.addCleanup(kv.close)
        for kv in held:
            kv.hello(CONTEXT, ttypes.HelloRequest())
        with self.node.connect() as late:
            with self.assertRaises(ttypes.KvError) as caught:
                late.get(CONTEXT, ttypes.GetRequest(b"k"))
            self.assertEqual(caught.exception.code, constants.OVERLOADED)
            self.assertIn("3 connections open, which is the limit set by --max_connections", caught.exception.message)
            self.assertTrue(caught.exception.retryable)
        held[0].put(CONTEXT, ttypes.PutRequest(b"k", b"v"))
        self.node.process.send_signal(signal.SIGINT)
        self.assertEqual(self.node.process.wait(60), 0, self.node.output())
        self.node.flags = []
        self.node.start()
        with self.node.connect() as kv:
            self.assertEqual(kv.get(CONTEXT, ttypes.GetRequest(b"k")).record.value, b"v")
        self.node.stop()


if __name__ == "__main__":
    unittest.main(verbosity=2)
