"""Tests of what needs no server: python -m unittest discover clients/python/tests -p test_unit.py"""

import asyncio
import os
import socket
import struct
import threading
import time
import unittest
from unittest import mock

import pando
from pando import _codec as codec
from pando import _core as core
from pando import _requests as requests
from pando._async_connection import AsyncConnection
from pando._connection import Connection, Pool
from pando._generated import Kv, constants, ttypes
from pando.errors import Applied, server_error
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.Thrift import TMessageType
from thrift.transport.TTransport import TMemoryBuffer


def attempts(call, timeout_ms=10000):
    one = core.Core([("127.0.0.1", 1)], core.Defaults())
    return core.Attempts(one, call, timeout_ms, None)


def server(*features):
    return core.Server(ttypes.HelloReply(features=list(features), now_ms=1_000_000))


PUT = requests.put(pando.Put(b"k", b"v"))
GET = requests.get(b"k", None)


class AddressTest(unittest.TestCase):
    def test_forms(self):
        self.assertEqual(core.parse_addresses("a:1, b:2"), [("a", 1), ("b", 2)])
        self.assertEqual(core.parse_addresses(["[::1]:7450"]), [("::1", 7450)])
        for wrong in ("", "host", "host:", ":1", "host:port", []):
            with self.assertRaises(ValueError, msg=wrong):
                core.parse_addresses(wrong)

    def test_the_one_that_works_comes_first_and_the_failed_one_last(self):
        addresses = [("a", 1), ("b", 2), ("c", 3)]
        book = core.AddressBook(addresses)
        self.assertEqual(sorted(book.order()), addresses)
        book.worked(("b", 2))
        self.assertEqual(book.order()[0], ("b", 2))
        self.assertFalse(book.avoids(("b", 2)))
        book.failed(("b", 2))
        self.assertEqual(book.order()[-1], ("b", 2))
        self.assertTrue(book.avoids(("b", 2)))
        for address in addresses:
            book.failed(address)
        self.assertFalse(book.avoids(("b", 2)))  # no other is better


class RequestTest(unittest.TestCase):
    def test_text_is_refused(self):
        with self.assertRaisesRegex(TypeError, "encode"):
            requests.get("text", None)
        self.assertEqual(requests.get(bytearray(b"k"), None).request.key, b"k")

    def test_expiry_and_conditions(self):
        put = requests.put(pando.Put(b"k", b"v", ttl_ms=5, if_value=b"")).request
        self.assertEqual((put.ttl_mode, put.ttl_ms, put.condition.value), (constants.TTL_SET, 5, b""))
        self.assertIsNone(put.condition.version)
        self.assertIsNone(PUT.request.condition)
        self.assertEqual(PUT.request.ttl_mode, constants.TTL_KEEP)
        with self.assertRaises(pando.BadRequestError):
            requests.put(pando.Put(b"k", b"v", ttl_ms=5, expires_at_ms=7))
        with self.assertRaises(pando.BadRequestError):
            requests.put(pando.Put(b"k", b"v", ttl="never"))

    def test_a_scan_asks_for_no_more_rows_than_its_limit(self):
        spec = requests.ScanSpec(requests.Range(), limit=10, page_rows=4)
        state = core.ScanState(spec, b"")
        asked = []
        while not state.finished:
            asked.append(state.call().request.limit_rows)
            state.took(pando.Page([pando.Row(b"k", b"", 1)] * asked[-1], b"cursor"))
        self.assertEqual(asked, [4, 4, 2])
        self.assertEqual(state.next_cursor, b"cursor")

    def test_errors_have_classes(self):
        for code, kind in ((1, pando.BadRequestError), (8, pando.UnavailableError), (12, pando.SnapshotGoneError),
                           (9, pando.DeadlineError), (21, pando.SessionLostError), (99, pando.PandoError)):
            self.assertIs(type(server_error(code, "")), kind)
        self.assertEqual(server_error(99, "", applied=7).applied, Applied.UNKNOWN)


class AttemptsTest(unittest.TestCase):
    def test_a_write_keeps_its_name(self):
        tries = attempts(PUT)
        first = tries.context(server("idempotent_writes"))
        tries.failed(pando.TransportError("lost", sent=True))
        again = tries.context(server("idempotent_writes"))
        self.assertEqual((first.client_id, first.sequence, first.first_sent_ms),
                         (again.client_id, again.sequence, again.first_sent_ms))
        self.assertEqual((len(first.client_id), first.sequence), (16, 1))

    def test_a_lane_is_used_again_only_after_a_known_outcome(self):
        tries = attempts(PUT)
        lane = tries.context(server("idempotent_writes")).client_id
        tries.result(ttypes.WriteResult(applied=True))
        tries.end()
        more = core.Attempts(tries.core, PUT, 10000, None)
        context = more.context(server("idempotent_writes"))
        self.assertEqual((context.client_id, context.sequence), (lane, 2))
        more.failed(pando.TransportError("lost", sent=True))
        more.end()
        last = core.Attempts(tries.core, PUT, 10000, None).context(server("idempotent_writes"))
        self.assertNotEqual(last.client_id, lane)

    def test_a_batch_with_an_unknown_op_costs_its_lane(self):
        call = requests.write_batch([pando.Put(b"k", b"v")], False, ())
        tries = attempts(call)
        tries.context(server("idempotent_writes"))
        error = ttypes.KvError(code=10, message="", applied=0)
        tries.result(ttypes.WriteBatchReply(results=[ttypes.WriteResult(applied=False, error=error)]))
        tries.end()
        self.assertEqual(tries.core._lanes, [])  # pylint: disable=protected-access

    def test_old_servers_get_no_names_and_lost_writes_are_not_repeated(self):
        tries = attempts(PUT)
        self.assertIsNone(tries.context(server()).client_id)
        with self.assertRaises(pando.TransportError) as caught:
            tries.failed(pando.TransportError("lost", sent=True))
        self.assertEqual(caught.exception.applied, Applied.UNKNOWN)
        attempts(GET).failed(pando.TransportError("lost", sent=True))  # but reads are

    def test_backoff_doubles_with_jitter(self):
        tries = attempts(GET)
        for longest in (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0, 1.0):
            wait = tries.failed(pando.UnavailableError(10, "", retryable=True))
            self.assertTrue(0 <= wait <= longest, (wait, longest))
        self.assertEqual(tries.failed(pando.UnavailableError(8, "", retryable=True, retry_after_ms=700)), 0.7)

    def test_deadline(self):
        for call, sent, applied in ((PUT, True, Applied.UNKNOWN), (PUT, False, Applied.NO), (GET, True, Applied.NO)):
            tries = attempts(call, timeout_ms=0)
            tries.context(server("idempotent_writes"))
            with self.assertRaises(pando.DeadlineError) as caught:
                tries.failed(pando.TransportError("lost", sent=sent))
            self.assertEqual((caught.exception.applied, caught.exception.tries), (applied, 1))
            self.assertIsInstance(caught.exception.cause, pando.TransportError)

    def test_the_servers_clock_counts(self):
        now_ms = attempts(PUT).context(server("idempotent_writes")).first_sent_ms
        self.assertTrue(1_000_000 <= now_ms < 1_010_000)

    def test_hlc_and_sessions(self):
        one = core.Core([("127.0.0.1", 1)], core.Defaults())
        session = core.SessionState()
        tries = core.Attempts(one, GET, 10000, session)
        for hlc in (5, 9, 7):
            tries.result(ttypes.GetReply(ttypes.Record(found=False), ttypes.ReplyContext(session=b"t", hlc=hlc)))
        context = core.Attempts(one, GET, 10000, session).context(server("clocks"))
        self.assertEqual((context.hlc, context.session), (9, b"t"))
        self.assertIsNone(core.Attempts(one, GET, 10000, None).context(server()).hlc)


    def test_a_session_that_has_seen_too_much_reads_at_the_masters(self):
        session = core.SessionState()
        session.saw(PUT, ttypes.ReplyContext(session=b"t"))
        session.saw(requests.write_batch([], False, ()), None)
        session.saw(requests.get(b"k", b"snapshot"), ttypes.ReplyContext(hlc=1))
        self.assertEqual((session.token, session.read_level()), (b"t", pando.Level.SESSION))
        session.saw(GET, ttypes.ReplyContext(hlc=1))
        self.assertEqual(session.read_level(), pando.Level.LINEARIZABLE)

    def test_reads_of_snapshots_go_to_the_master(self):
        defaults = core.Defaults(read_level=pando.Level.BOUNDED, max_staleness_ms=5)
        for snapshot, level, chosen in ((None, None, 5), (b"s", None, 0), (b"s", pando.Level.SESSION, 6)):
            call = requests.with_level(requests.get(b"k", snapshot), level, None, defaults)
            self.assertEqual(call.level, chosen)


class CodecTest(unittest.TestCase):
    @staticmethod
    def reply(method, result, sequence=1, kind=TMessageType.REPLY):
        transport = TMemoryBuffer()
        protocol = TBinaryProtocol(transport)
        protocol.writeMessageBegin(method, kind, sequence)
        result.write(protocol)
        return transport.getvalue()

    def test_replies(self):
        body = self.reply("get", Kv.get_result(success=ttypes.GetReply(ttypes.Record(True, b"\xff\x00", 1 << 62))))
        record = codec.Reply(body).result("get").record
        self.assertEqual((record.value, record.version), (b"\xff\x00", 1 << 62))
        with self.assertRaises(pando.ProtocolError):
            codec.Reply(body).result("put")
        for size in range(len(body)):
            with self.assertRaises(pando.ProtocolError):
                codec.Reply(body[:size]).result("get")
        with self.assertRaises(codec.ServerRefused):
            codec.Reply(self.reply("get", Kv.get_result(error=ttypes.KvError(1)))).result("get")
        with self.assertRaises(pando.ProtocolError):
            codec.frame_bytes(struct.pack(">I", 0x7fffffff))


class PoolTest(unittest.TestCase):
    """Against a server that says hello and nothing else."""

    def setUp(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()[:2]
        self.addCleanup(self.listener.close)
        self.accepted = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.accepted.append(client)
            size, = struct.unpack(">I", client.recv(4, socket.MSG_WAITALL))
            client.recv(size, socket.MSG_WAITALL)
            body = CodecTest.reply("hello", Kv.hello_result(success=ttypes.HelloReply(now_ms=1)))
            client.sendall(struct.pack(">I", len(body)) + body)

    def pool(self, size):
        pool = Pool(core.AddressBook([self.address]), size, 1.0, "")
        self.addCleanup(pool.close)
        return pool

    def test_connections_are_used_again_and_never_too_many(self):
        pool = self.pool(2)
        deadline = time.monotonic() + 5
        one, two = pool.acquire(deadline), pool.acquire(deadline)
        with self.assertRaisesRegex(pando.TransportError, "in use"):
            pool.acquire(time.monotonic() + 0.05)
        pool.release(one)
        self.assertIs(pool.acquire(deadline), one)
        pool.discard(two)
        self.assertIsNot(pool.acquire(deadline), two)

    def test_a_connection_that_the_server_has_closed_is_noticed(self):
        pool = self.pool(1)
        one = pool.acquire(time.monotonic() + 5)
        pool.release(one)
        self.accepted[0].close()
        deadline = time.monotonic() + 5
        while one.is_usable() and time.monotonic() < deadline:
            time.sleep(0.001)
        self.assertIsNot(pool.acquire(deadline), one)

    def test_a_connection_that_is_reset_at_once_is_an_error_of_transport(self):
        connect, open_connection = socket.create_connection, asyncio.open_connection

        def connect_and_lose(*args, **kwargs):
            sock = connect(*args, **kwargs)
            sock.close()
            return sock

        async def open_and_lose(*args, **kwargs):
            reader, writer = await open_connection(*args, **kwargs)
            writer.transport.abort()
            while writer.get_extra_info("socket").fileno() >= 0:
                await asyncio.sleep(0)
            return reader, writer

        with mock.patch("socket.create_connection", connect_and_lose), self.assertRaises(pando.TransportError) as sync:
            Connection(self.address, 5.0, "")
        with mock.patch("asyncio.open_connection", open_and_lose), self.assertRaises(pando.TransportError) as later:
            asyncio.run(AsyncConnection.connect(self.address, 5.0, "", []))
        for raised in sync.exception, later.exception:
            self.assertIs(raised.applied, Applied.NO)
            self.assertIn(f"cannot connect to {self.address[0]}:{self.address[1]}", str(raised))

    def test_a_call_may_have_any_time(self):
        for timeout_ms in (1e12, float("inf")):
            self.assertLessEqual(attempts(GET, timeout_ms).remaining_s(), 24 * 3600)
        with pando.Client("%s:%d" % self.address, timeout_ms=10**12, connect_timeout_ms=10**12) as client:
            client._pool.release(client._pool.acquire(attempts(GET, 10**12).deadline))

    def test_a_watch_ends_with_its_client(self):
        client = pando.Client("%s:%d" % self.address)
        watch = pando.Watch(client, b"", 1, b"", None)
        waiting = threading.Thread(target=lambda: self.assertRaises(pando.ClosedError, watch.poll, 60000))
        waiting.start()
        while not watch._connection:
            time.sleep(0.001)
        client.close()
        waiting.join(5)
        self.assertFalse(waiting.is_alive())
        self.assertRaises(pando.ClosedError, watch.poll)

    def test_a_child_does_not_use_the_connection_of_its_parents_watch(self):
        with pando.Client("%s:%d" % self.address) as client:
            watch = pando.Watch(client, b"", 1, b"", None)
            watch._connection = client._pool.connect(time.monotonic() + 5)
            child = os.fork()
            if not child:
                os._exit(watch._connection is not None)
            self.assertEqual(os.waitpid(child, 0)[1], 0)
            self.assertTrue(watch._connection.is_usable())
            watch.close()

    def test_cancelled_calls_do_not_use_up_the_pool(self):
        async def run():
            async with pando.AsyncClient("%s:%d" % self.address, pool_size=1, timeout_ms=60000) as client:
                for count in (1, 2):
                    calls = [asyncio.ensure_future(client.get(b"k")) for _ in range(128)]
                    while len(self.accepted) < count or not client._pool._connections or len(
                            client._pool._connections[-1]._waiting) < 128:
                        await asyncio.sleep(0.001)
                    for call in calls:
                        call.cancel()
                    await asyncio.gather(*calls, return_exceptions=True)
        asyncio.run(asyncio.wait_for(run(), 20))

    def test_closed(self):
        pool = self.pool(1)
        pool.close()
        with self.assertRaises(pando.ClosedError):
            pool.acquire(time.monotonic() + 5)


if __name__ == "__main__":
    unittest.main(verbosity=2)
