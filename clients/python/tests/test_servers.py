"""Tests of both clients against scripted servers: python -m unittest discover clients/python/tests -p test_servers.py

Whom a client asks next, what it sends again, and what it says of it.
"""

import asyncio
import concurrent.futures
import linecache
import socket
import struct
import sys
import threading
import time
import unittest

import pando
from pando import _batch, _core as core
from pando._generated import Kv, ttypes
from pando.errors import Applied
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.Thrift import TApplicationException, TMessageType
from thrift.transport.TTransport import TMemoryBuffer

NOT_MASTER, OVERLOADED, UNAVAILABLE, DISK_FULL, DENIED = 5, 8, 10, 15, 4
NO, UNKNOWN = Applied.NO, Applied.UNKNOWN
FEATURES = ["clocks", "idempotent_writes", "out_of_order_replies"]


class FakeServer:
    """Answers each request but hello with what `answer(method, arguments)` returns: a reply struct, a KvError, a
    TApplicationException, or None to close the connection. Threads: one for each connection. `hello`: the answer to
    hello, if it is another one than usual."""

    def __init__(self, answer):
        self.answer = answer
        self.hello = None
        self.requests = []  # (method, arguments), without hello
        self.connections = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.address = "%s:%d" % self._listener.getsockname()[:2]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        for sock in [self._listener, *self.connections]:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            sock.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        try:
            while self._serve_one(client):
                pass
        except (OSError, struct.error):
            pass
        client.close()

    def _serve_one(self, client):
        size, = struct.unpack(">I", client.recv(4, socket.MSG_WAITALL))
        protocol = TBinaryProtocol(TMemoryBuffer(client.recv(size, socket.MSG_WAITALL)))
        method, _, sequence = protocol.readMessageBegin()
        arguments = getattr(Kv, f"{method}_args")()
        arguments.read(protocol)
        if method == "hello":
            answer = self.hello or ttypes.HelloReply(now_ms=1_000_000, features=FEATURES,
                                                     accepted_features=arguments.request.features)
        else:
            self.requests.append((method, arguments))
            answer = self.answer(method, arguments)
        if answer is None:
            return False
        kind = TMessageType.EXCEPTION if isinstance(answer, TApplicationException) else TMessageType.REPLY
        if isinstance(answer, ttypes.KvError):
            answer = getattr(Kv, f"{method}_result")(error=answer)
        elif kind == TMessageType.REPLY:
            answer = getattr(Kv, f"{method}_result")(success=answer)
        transport = TMemoryBuffer()
        to = TBinaryProtocol(transport)
        to.writeMessageBegin(method, kind, sequence)
        answer.write(to)
        body = transport.getvalue()
        client.sendall(struct.pack(">I", len(body)) + body)
        return True


def script(*answers):
    """One after the other, and the last one from then on."""
    left = list(answers)
    return lambda method, arguments: left.pop(0) if len(left) > 1 else left[0]


def failure(code, applied=NO, retryable=True, retry_after_ms=1, master=None):
    return ttypes.KvError(code, "told to", int(applied), retryable, retry_after_ms, master)


def failed(*args, **kwargs):
    return ttypes.WriteResult(applied=False, error=failure(*args, **kwargs))


def applied(version=1):
    return ttypes.WriteResult(applied=True, version=version)


def ops(*results):
    return ttypes.WriteBatchReply(results=list(results))


TWO_PUTS = [pando.Put(b"1", b"x"), pando.Put(b"2", b"x")]


class Blocking:
    """A Client."""

    def __init__(self, servers, **options):
        self.client = pando.Client([server.address for server in servers], **options)

    def call(self, method, *args, **kwargs):
        return getattr(self.client, method)(*args, **kwargs)

    def watch(self, *args):
        return self.client.watch(*args).position

    def session(self):
        return self.client.session()

    def begin(self, session, method, *args, **kwargs):
        """A call in the background; `end` returns what came of it, or its error."""
        call = concurrent.futures.Future()

        def run():
            try:
                call.set_result(getattr(session, method)(*args, **kwargs))
            except pando.PandoError as error:
                call.set_result(error)
        threading.Thread(target=run, daemon=True).start()
        return call

    def end(self, call):
        return call.result(30)

    def turn(self, seconds=0.01):
        """Lets others run for so long."""
        time.sleep(seconds)

    def close(self):
        self.client.close()


class Asyncio:
    """An AsyncClient, with a loop of its own."""

    def __init__(self, servers, **options):
        self.loop = asyncio.new_event_loop()
        self.client = pando.AsyncClient([server.address for server in servers], **options)

    def call(self, method, *args, **kwargs):
        return self.loop.run_until_complete(asyncio.wait_for(getattr(self.client, method)(*args, **kwargs), 30))

    def watch(self, *args):
        return self.call("watch", *args).position

    def session(self):
        return self.client.session()

    def begin(self, session, method, *args, **kwargs):
        """As of Blocking."""
        return self.loop.create_task(getattr(session, method)(*args, **kwargs))

    def end(self, call):
        done, = self.loop.run_until_complete(asyncio.wait_for(asyncio.gather(call, return_exceptions=True), 30))
        return done

    def turn(self, seconds=0.01):
        """Lets the loop run for so long."""
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def close(self):
        self.call("close")
        self.loop.close()


class AddressTest(unittest.TestCase):
    def test_a_server_refers_to_others_that_the_user_gave(self):
        a, b, c = addresses = [("a", 1), ("b", 1), ("::1", 1)]
        book = core.AddressBook(addresses)
        self.assertEqual(book.refer(a, "[::1]:1"), (c, True))
        self.assertEqual(book.order()[0], c)  # later calls go there too
        self.assertEqual(book.refer(c, "stranger:1"), (a, False))
        self.assertEqual(book.order()[0], a)
        self.assertEqual(book.refer(a, ""), (b, False))
        self.assertEqual(book.refer(b, "b:1"), (c, False))  # it names itself
        book.failed(a)
        self.assertEqual(book.refer(b, "a:1"), (c, False))  # it failed lately
        self.assertEqual(core.AddressBook([a]).refer(a, "b:1"), (None, False))


class ServersTest:
    """The tests, for each kind of client."""

    kind = None

    def server(self, answer):
        server = FakeServer(answer)
        self.addCleanup(server.close)
        return server

    def open(self, *servers, **options):
        opened = self.kind(servers, **options)
        self.addCleanup(opened.close)
        return opened

    def test_a_master_is_followed(self):
        master = self.server(script(applied()))
        other = self.server(script(failure(NOT_MASTER, master=master.address, retry_after_ms=2000)))
        for _ in range(6):  # a client begins with any of its addresses
            client = self.open(other, master, timeout_ms=1000)
            self.assertTrue(client.call("put", b"k", b"v").applied)
        self.assertEqual(len(master.requests), 6)

    def test_a_master_is_followed_without_a_wait_unless_it_was_asked_already(self):
        names = {}
        one = self.server(lambda *_: failure(NOT_MASTER, master=names["two"], retry_after_ms=150))
        two = self.server(lambda *_: failure(NOT_MASTER, master=names["one"], retry_after_ms=150))
        names.update(one=one.address, two=two.address)
        client = self.open(one, two, timeout_ms=400)
        with self.assertRaises(pando.DeadlineError) as caught:
            client.call("get", b"k")
        self.assertEqual(caught.exception.cause.name, "NOT_MASTER")
        self.assertEqual(caught.exception.tries, 4)  # at 0, 0, 150 and 300 ms

    def test_an_address_that_the_user_did_not_give_is_not_asked(self):
        stranger = self.server(script(applied()))
        server = self.server(script(failure(NOT_MASTER, master=stranger.address)))
        client = self.open(server, timeout_ms=150)
        with self.assertRaises(pando.DeadlineError) as caught:
            client.call("put", b"k", b"v")
        self.assertEqual((caught.exception.cause.master, caught.exception.applied), (stranger.address, NO))
        self.assertEqual(stranger.connections, [])

    def test_without_a_known_master_the_next_address_is_asked(self):
        for refusal in (failure(NOT_MASTER), failure(NOT_MASTER, master="127.0.0.1:1"), failure(UNAVAILABLE)):
            good, bad = self.server(script(applied())), self.server(script(refusal))
            for _ in range(4):
                self.assertTrue(self.open(bad, good, timeout_ms=3000).call("put", b"k", b"v").applied)

    def test_the_masters_of_several_keys_are_asked_one_after_the_other(self):
        names = {}

        def serve(mine, other):
            def answer(method, arguments):
                refusal = failure(NOT_MASTER, master=names[other], retry_after_ms=20)
                if method == "multiGet":
                    found = ttypes.MultiGetItem(record=ttypes.Record(True, mine, 1))
                    return ttypes.MultiGetReply([found if key == mine else ttypes.MultiGetItem(error=refusal)
                                                 for key in arguments.request.keys])
                return ops(*(applied(7) if op.key == mine else ttypes.WriteResult(error=refusal)
                             for op in arguments.request.ops))
            return answer
        one, two = self.server(serve(b"1", "two")), self.server(serve(b"2", "one"))
        names.update(one=one.address, two=two.address)
        client = self.open(one, two, timeout_ms=2000)
        records = client.call("multi_get", [b"2", b"1"])
        self.assertEqual([record.value for record in records], [b"2", b"1"])
        self.assertEqual(len(one.requests) + len(two.requests), 2)
        self.assertTrue(client.call("write_batch", TWO_PUTS).applied)
        self.assertEqual(len(one.requests) + len(two.requests), 4)

    def test_a_watch_leaves_a_server_that_cannot_serve_it(self):
        good = self.server(script(ttypes.WatchReply(changes=[], position=b"p")))
        bad = self.server(script(failure(UNAVAILABLE)))
        for _ in range(4):
            self.assertEqual(self.open(bad, good, timeout_ms=3000).watch(b""), b"p")

    def test_connections_to_several_addresses_do_not_displace_each_other(self):
        turn = {}

        def serve(name):
            def answer(*_):
                if turn["name"] == name:
                    return applied()
                return failure(NOT_MASTER, master=turn["address"])
            return answer
        servers = {name: self.server(serve(name)) for name in ("one", "two")}
        client = self.open(*servers.values(), timeout_ms=2000, pool_size=2)
        for i in range(20):
            turn["name"] = ("one", "two")[i % 2]
            turn["address"] = servers[turn["name"]].address
            self.assertTrue(client.call("put", b"k", b"v").applied)
        self.assertEqual([len(server.connections) for server in servers.values()], [1, 1])

    # -- batches

    def batch(self, *answers, **options):
        """What came of two puts, and the server."""
        server = self.server(script(*answers))
        return self.open(server, **options).call("write_batch", TWO_PUTS), server

    def test_a_batch_that_failed_in_part_is_sent_again_under_the_same_name(self):
        result, server = self.batch(ops(applied(7), failed(UNAVAILABLE, UNKNOWN)),
                                    ops(failed(UNAVAILABLE, UNKNOWN, False), applied(8)))
        self.assertEqual([r.version for r in result.results], [7, 8])  # what was decided stays
        first, again = (arguments.context for _, arguments in server.requests)
        self.assertEqual((first.client_id, first.sequence, first.first_sent_ms),
                         (again.client_id, again.sequence, again.first_sent_ms))

    def test_what_failed_is_judged_anew_with_each_try(self):
        result, _ = self.batch(ops(failed(DISK_FULL, NO, False), failed(OVERLOADED)),
                               ops(applied(3), failed(DISK_FULL, NO, False)))
        self.assertTrue(result.results[0].applied)
        self.assertEqual((result.results[1].error.code, result.results[1].error.applied), (DISK_FULL, NO))

    def test_a_batch_ends_with_its_results_when_time_is_over(self):
        result, server = self.batch(ops(applied(7), failed(UNAVAILABLE)), timeout_ms=100)
        self.assertTrue(result.results[0].applied)
        self.assertEqual(result.results[1].error.applied, NO)
        self.assertGreater(len(server.requests), 1)
        result, _ = self.batch(ops(applied(7), failed(UNAVAILABLE)), None, timeout_ms=100)
        self.assertTrue(result.results[0].applied)
        self.assertEqual((result.results[1].error.code, result.results[1].error.applied), (UNAVAILABLE, UNKNOWN))

    def test_a_batch_ends_with_its_results_when_the_whole_is_refused(self):
        result, _ = self.batch(ops(applied(7), failed(UNAVAILABLE)), failure(DENIED, NO, False))
        self.assertTrue(result.results[0].applied)
        self.assertEqual((result.results[1].error.code, result.results[1].error.applied), (DENIED, NO))
        with self.assertRaises(pando.PandoError) as caught:
            self.batch(failure(DENIED, NO, False))
        self.assertEqual(caught.exception.applied, NO)

    def test_an_op_is_unknown_if_any_try_may_have_applied_it(self):
        result, _ = self.batch(ops(failed(UNAVAILABLE, UNKNOWN), applied(7)), ops(failed(DISK_FULL, NO, False), applied(7)))
        self.assertEqual((result.results[0].error.code, result.results[0].error.applied), (DISK_FULL, UNKNOWN))
        result, _ = self.batch(None, ops(applied(7), failed(DISK_FULL, NO, False)))
        self.assertEqual(result.results[1].error.applied, UNKNOWN)

    def test_a_batch_without_a_name_is_sent_again_only_if_nothing_was_applied(self):
        level = {"write_level": pando.Level.ONE}
        for first in (applied(7), failed(UNAVAILABLE, UNKNOWN)):
            _, server = self.batch(ops(first, failed(OVERLOADED)), **level)
            self.assertEqual(len(server.requests), 1)
        result, _ = self.batch(ops(failed(OVERLOADED), failed(DISK_FULL, NO, False)), ops(applied(), applied()), **level)
        self.assertTrue(result.applied)

    def test_a_failed_condition_tells_that_its_value_was_left_out(self):
        for omitted in (True, False):
            met = ttypes.FailedCondition(0, ttypes.Record(True, b"", 7), omitted)
            result, server = self.batch(None, ttypes.WriteBatchReply(results=[], failed_conditions=[met]))
            self.assertEqual(len(server.requests), 2)  # the first answer was lost
            self.assertEqual(result.failed_conditions, [pando.FailedCondition(0, pando.Record(b"", 7), omitted)])

    # -- sessions

    def silent(self):
        """A server that does not answer, until the returned event is set."""
        told = threading.Event()
        self.addCleanup(told.set)

        def answer(*_):
            told.wait(20)
            return applied()
        return self.server(answer), told

    def test_a_call_waits_for_its_turn_no_longer_than_its_timeout(self):
        server, told = self.silent()
        client = self.open(server, timeout_ms=20000)
        session = client.session()
        long = client.begin(session, "put", b"k", b"v")
        while not server.requests:
            client.turn(0.001)
        short = [client.begin(session, "put", b"k", b"v", timeout_ms=50) for _ in range(3)]
        for call in short:
            error = client.end(call)
            self.assertIsInstance(error, pando.DeadlineError)
            self.assertEqual((error.applied, error.tries), (NO, 0))
            self.assertRegex(str(error), "within 50 ms.*another call of the session")
        told.set()
        self.assertTrue(client.end(long).applied)
        self.assertTrue(client.end(client.begin(session, "put", b"k", b"v")).applied)
        self.assertEqual(len(server.requests), 2)

    # -- whether the caller may make the call again

    def test_a_write_of_unknown_outcome_is_not_retryable(self):
        for answer, options in ((None, {"timeout_ms": 100}), (failure(DENIED, UNKNOWN, True), {"timeout_ms": 100}),
                                (None, {"write_level": pando.Level.ONE})):
            client = self.open(self.server(script(answer)), **options)
            for method, arguments in (("put", (b"k", b"v")), ("write_batch", (TWO_PUTS,))):
                with self.assertRaises(pando.PandoError) as caught:
                    client.call(method, *arguments)
                self.assertEqual((caught.exception.applied, caught.exception.retryable), (UNKNOWN, False), method)
        for answer, method, outcome in ((None, "get", NO), (failure(OVERLOADED), "remove", NO),
                                        (None, "delete_range", UNKNOWN)):
            client = self.open(self.server(script(answer)), timeout_ms=100)
            with self.assertRaises(pando.PandoError) as caught:
                client.call(method, **({} if method == "delete_range" else {"key": b"k"}))
            self.assertEqual((caught.exception.applied, caught.exception.retryable), (outcome, True), method)

    def test_an_op_of_unknown_outcome_is_not_retryable(self):
        known = ops(failed(OVERLOADED), failed(UNAVAILABLE, UNKNOWN))
        level = {"write_level": pando.Level.ONE}
        for answers, options in (((known,), {"timeout_ms": 100}), ((known,), level)):
            result, _ = self.batch(*answers, **options)
            self.assertEqual([(r.error.applied, r.error.retryable) for r in result.results],
                             [(NO, True), (UNKNOWN, False)])
        result, _ = self.batch(ops(applied(), failed(UNAVAILABLE)), None, timeout_ms=100)
        self.assertEqual((result.results[1].error.applied, result.results[1].error.retryable), (UNKNOWN, False))

    # -- Thrift's own exception

    def test_exceptions(self):
        for kind in (1, 2, 7, 8, 9, 10):
            server = self.server(script(TApplicationException(kind, "told to"), applied()))
            client = self.open(server)
            with self.assertRaises(pando.BadRequestError, msg=kind) as caught:
                client.call("put", b"k", b"v")
            self.assertEqual((caught.exception.applied, len(server.requests)), (NO, 1))
            client.call("put", b"k", b"v")
            self.assertEqual(len(server.connections), 1)
        for kind in (0, 6, 77):
            server = self.server(script(TApplicationException(kind, "told to")))
            client = self.open(server)
            for method, outcome in (("put", UNKNOWN), ("get", NO)):
                with self.assertRaises(pando.InternalError, msg=kind) as caught:
                    client.call(method, *((b"k", b"v") if method == "put" else (b"k",)))
                self.assertEqual(caught.exception.applied, outcome)
            self.assertEqual(len(server.requests), 2)
        for kind in (3, 4, 5):
            server = self.server(script(TApplicationException(kind, "told to"), applied()))
            self.assertTrue(self.open(server).call("put", b"k", b"v").applied)
            self.assertEqual((len(server.requests), len(server.connections)), (2, 2), msg=kind)
        server = self.server(script(applied()))
        server.hello = TApplicationException(6, "told to")
        with self.assertRaises(pando.InternalError) as caught:
            self.open(server).call("put", b"k", b"v")
        self.assertEqual(caught.exception.applied, NO)  # the put was not sent


class InterruptAt:
    """Raises KeyboardInterrupt before the line with this number that runs in the client, or in what it uses to wait. Not at
    a `with`, which Python does not interrupt between taking a lock and the block, nor between the block and giving it back.
    """

    def __init__(self, number):
        self.left = number

    def __call__(self, frame, event, _):
        name = frame.f_code.co_filename
        if "/pando/" not in name and not name.endswith("/threading.py"):
            return None
        if event == "line" and not linecache.getline(name, frame.f_lineno).lstrip().startswith("with "):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self


class BlockingTest(ServersTest, unittest.TestCase):
    kind = Blocking

    def test_an_interrupt_at_any_line_does_not_use_up_the_pool(self):
        server = self.server(script(applied()))
        client = self.open(server, pool_size=1, timeout_ms=2000).client
        pool = client._pool  # pylint: disable=protected-access
        for fresh in (True, False):  # whether a connection must be made
            number, interrupted = 0, True
            while interrupted:
                number += 1
                while fresh and pool._idle:  # pylint: disable=protected-access
                    pool._idle.pop().close()  # pylint: disable=protected-access
                sys.settrace(InterruptAt(number))
                try:
                    interrupted = not client.put(b"k", b"v").applied
                except KeyboardInterrupt:
                    pass
                finally:
                    sys.settrace(None)
                self.assertFalse(pool._lock.locked(), f"after line {number}")  # pylint: disable=protected-access
                self.assertEqual(pool.lent, 0, f"after line {number}")
                self.assertTrue(client.put(b"k", b"v").applied)
            self.assertGreater(number, 30)
        names = [(arguments.context.client_id, arguments.context.sequence) for _, arguments in server.requests]
        self.assertEqual(len(names), len(set(names)))  # no name was used twice


    def test_an_interrupt_at_any_line_does_not_keep_the_turn_of_a_session(self):
        client = self.open(self.server(script(applied())), timeout_ms=5000)
        session = client.session()
        number, interrupted = 0, True
        while interrupted:
            number += 1
            sys.settrace(InterruptAt(number))
            try:
                interrupted = not session.put(b"k", b"v").applied
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(None)
            self.assertTrue(session.put(b"k", b"v", timeout_ms=5000).applied, f"after line {number}")
        self.assertGreater(number, 30)


class AsyncioTest(ServersTest, unittest.TestCase):
    kind = Asyncio

    def test_a_cancelled_call_of_a_session_leaves_the_turns_of_the_others(self):
        server, told = self.silent()
        client = self.open(server, timeout_ms=20000)
        session = client.session()
        calls = [client.begin(session, "put", b"%d" % i, b"v") for i in range(4)]
        while not server.requests:
            client.turn(0.001)
        calls[1].cancel()
        client.turn(0.001)
        told.set()
        client.end(calls[0])  # then it is the turn of the third
        calls[2].cancel()
        self.assertTrue(client.end(calls[3]).applied)
        self.assertTrue(client.end(client.begin(session, "put", b"k", b"v")).applied)

    def test_a_watch_that_was_forgotten_costs_no_connection(self):
        server = self.server(script(ttypes.WatchReply(changes=[], position=b"p")))
        client = self.open(server)
        for _ in range(5):
            client.watch(b"")
        client.turn()
        self.assertEqual(asyncio.all_tasks(client.loop), set())

    def test_a_snapshot_that_was_forgotten_is_not_renewed(self):
        server = self.server(script(ttypes.SnapshotReply(snapshot=b"s", version=1, expires_at_ms=1)))
        client = self.open(server)
        snapshot = client.call("snapshot", 30)
        while len(server.requests) < 3:
            client.turn(0.001)
        del snapshot
        client.turn(0.1)  # a renewal that is under way ends
        renewed = len(server.requests)
        client.turn(0.1)
        self.assertEqual(len(server.requests), renewed)
        self.assertEqual(len(asyncio.all_tasks(client.loop)), 1)  # of the connection

    def test_no_task_is_left_after_close(self):
        server = self.server(script(applied(), ttypes.WatchReply(changes=[], position=b"p")))
        client = self.open(server)
        client.call("put", b"k", b"v")
        client.watch(b"")
        client.call("close")
        self.assertEqual(asyncio.all_tasks(client.loop), set())

    def test_nothing_is_written_to_a_connection_that_is_lost(self):
        server = self.server(script(applied()))
        client = self.open(server)
        client.call("put", b"k", b"v")
        connection, = client.client._pool._connections  # pylint: disable=protected-access

        async def lose_and_call():
            connection._writer.transport.abort()  # pylint: disable=protected-access
            self.assertFalse(connection.is_usable())
            with self.assertRaises(pando.TransportError) as caught:
                await connection.call("get", ttypes.Context(), ttypes.GetRequest(b"k"), 1)
            self.assertFalse(caught.exception.sent)
        client.loop.run_until_complete(lose_and_call())
        self.assertTrue(client.call("put", b"k", b"v").applied)


class BatchOutcomeTest(unittest.TestCase):
    def test_failed_conditions_replace_what_was_said_before(self):
        outcome = _batch.BatchOutcome()
        error = pando.UnavailableError(UNAVAILABLE, "", applied=NO, retryable=True)
        outcome.add(pando.BatchResult([pando.WriteResult(False, error=error)], []))
        conditions = [pando.FailedCondition(0, None)]
        self.assertEqual(outcome.add(pando.BatchResult([], conditions)), pando.BatchResult([], conditions))
        self.assertIsNone(outcome.reason_to_repeat(True))


if __name__ == "__main__":
    unittest.main(verbosity=2)
