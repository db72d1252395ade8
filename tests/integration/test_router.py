#!/usr/bin/python3
"""A real router in front of a cluster of three real nodes: requests of keys and batches, through deaths and handovers
of masters and of routers.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
import unittest
import urllib.request

from cluster_process import BIN_DIR, Cluster
from kvadmin_process import OK, run
from node_process import CONTEXT, NodeProcess, constants, temporary_directory, ttypes
from router_process import NamedWriter, RouterProcess

PARTITIONS = 8


class Router(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = temporary_directory("router")
        cls.cluster = Cluster(cls.directory, partitions=PARTITIONS).start()
        addresses = [node.address for node in cls.cluster.nodes.values()]
        # Each knows one node, and finds the others.
        cls.routers = [RouterProcess(cls.directory / f"router-{i}.log", [addresses[i]]).start() for i in range(2)]
        for router in cls.routers:
            router.wait_http()

    @classmethod
    def tearDownClass(cls):
        for router in cls.routers:
            router.kill()
        cls.cluster.kill()
        shutil.rmtree(cls.directory, ignore_errors=True)

    def setUp(self):
        self.cluster.wait_well()

    def connect(self, number=0, **options):
        connection = self.routers[number].connect(**options)
        self.addCleanup(connection.close)
        return connection

    def test_status_page(self):
        router = self.routers[0]
        with urllib.request.urlopen(f"http://{router.http}/", timeout=10) as reply:
            self.assertEqual(reply.headers["Content-Type"], "text/html; charset=utf-8")
            page = reply.read().decode()
        with urllib.request.urlopen(f"http://{router.http}/status", timeout=10) as reply:
            status = json.load(reply)
        self.assertEqual(status["partitions"], PARTITIONS)
        self.assertEqual(status["partitions_without_master"], [])
        self.assertEqual(sum(node["masters"] for node in status["nodes"]), PARTITIONS)
        for node in self.cluster.nodes.values():
            self.assertIn(f"<td>{node.address}</td>", page)
        self.assertNotIn("<script", page)

    def test_all_requests_of_keys(self):
        for compact in (False, True):
            router = self.connect(compact=compact)
            for i in range(100):
                key = b"k%d" % i
                self.assertTrue(router.put(CONTEXT, ttypes.PutRequest(key=key, value=b"v%d" % i)).applied)
                self.assertEqual(router.get(CONTEXT, ttypes.GetRequest(key=key)).record.value, b"v%d" % i)
            refused = router.put(CONTEXT, ttypes.PutRequest(key=b"k1", value=b"x",
                                                            condition=ttypes.Condition(value=b"other")))
            self.assertFalse(refused.applied)
            self.assertEqual(refused.current.value, b"v1")
            self.assertEqual(router.increment(CONTEXT, ttypes.IncrementRequest(key=b"n", delta=5)).number, 5)
            touched = router.touch(CONTEXT, ttypes.TouchRequest(key=b"n", ttl_mode=constants.TTL_SET, ttl_ms=100000))
            self.assertTrue(touched.applied)
            self.assertTrue(router.remove(CONTEXT, ttypes.RemoveRequest(key=b"n")).existed)
            with self.assertRaises(ttypes.KvError) as caught:
                router.put(CONTEXT, ttypes.PutRequest(key=b"", value=b"x"))
            self.assertEqual(caught.exception.code, constants.BAD_REQUEST)
            with self.assertRaises(ttypes.KvError) as caught:
                router.put(CONTEXT, ttypes.PutRequest(key=b"k" * 3000, value=b"x"))
            self.assertEqual(caught.exception.code, constants.TOO_LARGE)

    def test_batches(self):
        router = self.connect()
        ops = [ttypes.WriteOp(kind=constants.OP_PUT, key=b"b%d" % i, value=b"%d" % i) for i in range(500)]
        ops.append(ttypes.WriteOp(kind=constants.OP_PUT, key=b"b0", value=b"last"))  # in order
        results = router.writeBatch(CONTEXT, ttypes.WriteBatchRequest(ops=ops)).results
        self.assertTrue(all(result.applied for result in results))
        keys = [op.key for op in ops[:500]] + [b"nothing"]
        items = router.multiGet(CONTEXT, ttypes.MultiGetRequest(keys=keys)).items
        self.assertEqual([item.record.value for item in items[:500]], [b"last"] + [b"%d" % i for i in range(1, 500)])
        self.assertFalse(items[500].record.found)
        # Conditions over several keys of one tag, and over keys of more than one.
        swap = ttypes.WriteBatchRequest(
            ops=[ttypes.WriteOp(kind=constants.OP_PUT, key=b"{t}a", value=b"1")],
            conditions=[ttypes.KeyCondition(key=b"{t}b", condition=ttypes.Condition(exists=False))])
        self.assertTrue(router.writeBatch(CONTEXT, swap).results[0].applied)
        swap.conditions[0].condition.exists = True
        reply = router.writeBatch(CONTEXT, swap)
        self.assertEqual((reply.results[0].applied, len(reply.failed_conditions)), (False, 1))
        swap.conditions[0].key = b"other"
        with self.assertRaises(ttypes.KvError) as caught:
            router.writeBatch(CONTEXT, swap)
        self.assertEqual(caught.exception.code, constants.BAD_REQUEST)
        too_many = ttypes.MultiGetRequest(keys=[b"k"] * 1500)
        with self.assertRaises(ttypes.KvError) as caught:
            router.multiGet(CONTEXT, too_many)
        self.assertEqual(caught.exception.code, constants.TOO_LARGE)
        self.assertEqual(router.multiGet(CONTEXT, ttypes.MultiGetRequest(keys=[])).items, [])

    def test_sessions_cover_what_was_read_of_all_nodes(self):
        router = self.connect()
        keys = [b"s%d" % i for i in range(50)]
        ops = [ttypes.WriteOp(kind=constants.OP_PUT, key=key, value=b"new") for key in keys]
        session = router.writeBatch(CONTEXT, ttypes.WriteBatchRequest(ops=ops)).context.session
        # Any replica may answer, and none may show less than what was written.
        context = ttypes.Context(level=constants.LEVEL_SESSION, session=session)
        for _ in range(20):
            for key in keys[:10]:
                self.assertEqual(router.get(context, ttypes.GetRequest(key=key)).record.value, b"new")
            items = router.multiGet(context, ttypes.MultiGetRequest(keys=keys)).items
            self.assertTrue(all(item.record.value == b"new" for item in items))

    def test_failovers_and_handovers_without_an_error(self):
        writers = [NamedWriter(self.routers[:1], number) for number in range(3)]
        for writer in writers:
            writer.start()
        for node in (1, 2):
            self.assertEqual(run("failover", "0", "--topology", self.cluster.topology).code, OK)
            self.cluster.nodes[node].kill_node()
            time.sleep(1)
            self.cluster.nodes[node].start()
            self.cluster.wait_healed()
        self.cluster.nodes[3].stop()  # hands over
        self.cluster.nodes[3].start()
        self.cluster.wait_healed()
        total = sum(writer.finish() for writer in writers)
        self.assertGreater(total, 100)
        self.check_sums(writers)

    def check_sums(self, writers):
        router = self.connect()
        for writer in writers:
            items = router.multiGet(CONTEXT, ttypes.MultiGetRequest(keys=writer.keys)).items
            self.assertEqual({key: int(item.record.value or 0) for key, item in zip(writer.keys, items)}, writer.sums)

    def test_routers_die_in_turn(self):
        """Clients that know both see nothing but connections that ended."""
        writers = [NamedWriter(self.routers, 10 + number) for number in range(3)]
        for writer in writers:
            writer.start()
        for router in self.routers:
            time.sleep(0.5)
            router.listen = router.address  # the same port again
            router.nodes = [node.address for node in self.cluster.nodes.values()]  # others have restarted them
            router.kill()
            router.start()
            router.wait_http()
        time.sleep(0.5)
        total = sum(writer.finish() for writer in writers)
        self.assertGreater(total, 100)
        self.assertGreater(sum(writer.lost_connections for writer in writers), 0)
        self.check_sums(writers)

    def test_a_router_drains(self):
        """SIGTERM: what runs is answered, and the process ends with 0."""
        router = RouterProcess(self.directory / "draining.log", [self.cluster.nodes[1].address]).start()
        router.wait_http()
        results = []

        def write(number):
            with router.connect() as connection:
                for i in range(100000):
                    try:
                        connection.put(CONTEXT, ttypes.PutRequest(key=b"d%d" % number, value=b"%d" % i))
                    except ttypes.KvError as error:
                        results.append(error)
                    except Exception:  # pylint: disable=broad-except
                        return  # the connection has ended between two requests

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        router.stop()
        for thread in threads:
            thread.join(30)
            self.assertFalse(thread.is_alive())
        for error in results:  # of requests that came too late
            self.assertEqual((error.code, error.applied), (constants.UNAVAILABLE, constants.APPLIED_NO), error)

    def test_one_stalled_node_stalls_no_other(self):
        slow = RouterProcess(self.directory / "stalled.log", [self.cluster.nodes[1].address]).start()
        self.addCleanup(slow.kill)
        slow.wait_http()
        show = self.cluster.partitions()
        self.assertEqual(len(show), PARTITIONS)
        victim = self.cluster.nodes[2]
        with slow.connect() as connection:
            keys = [b"st%d" % i for i in range(200)]
            for key in keys:
                connection.put(CONTEXT, ttypes.PutRequest(key=key, value=b"v"))
            pid = victim.node_pid()
            os.kill(pid, signal.SIGSTOP)
            try:
                # Well before the others can have taken over: a read of a key elsewhere is as fast as before.
                began = time.monotonic()
                quick = 0
                for key in keys:
                    if time.monotonic() - began > 0.5:
                        break
                    context = ttypes.Context(budget_ms=20)
                    try:
                        connection.get(context, ttypes.GetRequest(key=key))
                        quick += 1
                    except ttypes.KvError as error:
                        self.assertIn(error.code, (constants.DEADLINE, constants.UNAVAILABLE))
                self.assertGreater(quick, 0)
                # And then all of them are there again, whoever is master now.
                for key in keys:
                    context = ttypes.Context(budget_ms=20000)
                    self.assertEqual(connection.get(context, ttypes.GetRequest(key=key)).record.value, b"v")
            finally:
                os.kill(pid, signal.SIGCONT)
        self.cluster.wait_healed()

    def test_bad_flags(self):
        for flags, expected in (
            ([], "--nodes is missing"),
            (["--nodes=nowhere"], "--nodes: "),
            (["--nodes=127.0.0.1:1,,"], "--nodes: "),
            (["--nodes=127.0.0.1:1;127.0.0.1:2"], "several addresses are separated by commas"),
            (["--nodes=http://127.0.0.1:1"], "leave out what is before the host"),
            (["--nodes=127.0.0.1:1", "--listen=127.0.0.1:99999"], "--listen: "),
            (["--nodes=127.0.0.1:1", "--memory_limit_mb=1"], "--memory_limit_mb=1"),
            (["--nodes=127.0.0.1:1", "--http_port=70000"], "--http_port=70000"),
            (["--nodes=127.0.0.1:1", "--listen=127.0.0.1:7450", "--http_port=7450"], "both name port 7450"),
            (["--nodes=127.0.0.1:1", "--idle_timeout_s=1h"], "a whole number of seconds, without letters, from 1 to"),
            (["--nodes=127.0.0.1:1", "--log_dir=/nonexistent/dir"], "--log_dir=/nonexistent/dir"),
            (["--nodes=127.0.0.1:1", "extra"], "\"extra\" is not a flag"),
        ):
            done = subprocess.run([BIN_DIR / "kvrouter", *flags], capture_output=True, text=True, timeout=60, check=False)
            self.assertEqual(done.returncode, 1, flags)
            self.assertIn(expected, done.stderr)
        taken = socket.create_server(("127.0.0.1", 0))
        with taken:
            port = taken.getsockname()[1]
            done = subprocess.run([BIN_DIR / "kvrouter", "--nodes=127.0.0.1:1", f"--listen=127.0.0.1:{port}",
                                   "--http_port=-1"], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(str(port), done.stderr)

    def test_without_a_node(self):
        """Nothing listens there: it starts, says so, and serves as soon as a node does."""
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = unused.getsockname()[1]
        router = RouterProcess(self.directory / "alone.log", [f"127.0.0.1:{port}"]).start()
        self.addCleanup(router.kill)
        self.assertEqual(router.http_status("/readyz"), 503)
        self.assertEqual(router.http_status("/healthz"), 200)
        with router.connect() as connection:
            with self.assertRaises(ttypes.KvError) as caught:
                connection.get(ttypes.Context(budget_ms=300), ttypes.GetRequest(key=b"k"))
            self.assertEqual(caught.exception.code, constants.UNAVAILABLE)
            self.assertIn("no map of the cluster", caught.exception.message)
            self.assertIn(f"127.0.0.1:{port}", caught.exception.message)
            # A single node, which belongs to no cluster, is enough.
            node = NodeProcess(self.directory / "single", ["--partitions=4"])
            node.launch_command([BIN_DIR / "kvnode", "--data_dir", node.data_dir, "--listen", f"127.0.0.1:{port}",
                                 "--http_port", "-1", "--logtostderr"])
            node.wait_ready()
            self.addCleanup(node.kill)
            router.wait_http()
            connection.put(CONTEXT, ttypes.PutRequest(key=b"k", value=b"v"))
            self.assertEqual(connection.get(CONTEXT, ttypes.GetRequest(key=b"k")).record.value, b"v")

    def test_garbage(self):
        router = self.routers[0]
        for nonsense in (b"GET / HTTP/1.0\r\n\r\n", b"\xff" * 64, struct.pack(">I", 0x7fffffff), b"\0\0\0\4abcd",
                         struct.pack(">I", 40) + b"\x80\x01\0\1\0\0\0\3get\0\0\0\1\x0c\0\1"):
            with socket.create_connection((router.host, router.port)) as raw:
                raw.sendall(nonsense)
                raw.shutdown(socket.SHUT_WR)
                raw.settimeout(30)
                while raw.recv(65536):
                    pass
        with router.connect() as connection:
            self.assertFalse(connection.get(CONTEXT, ttypes.GetRequest(key=b"never")).record.found)

    def test_a_client_that_stops_reading(self):
        """It can take only a bounded part of the router's memory, and no time of others."""
        router = RouterProcess(self.directory / "unread.log", [self.cluster.nodes[1].address],
                               ["--memory_limit_mb=128"]).start()
        self.addCleanup(router.kill)
        router.wait_http()
        with router.connect() as connection:
            connection.put(CONTEXT, ttypes.PutRequest(key=b"big", value=b"x" * 1000000))
        request = pathlib.Path(self.directory / "request")
        frame = self.encode_get(b"big")
        request.write_bytes(frame)

        def connect():
            raw = socket.create_connection((router.host, router.port))
            raw.setblocking(False)
            return raw

        sockets = [connect() for _ in range(20)]
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            for i, raw in enumerate(sockets):
                try:
                    raw.send(frame * 20)
                except BlockingIOError:
                    pass
                except ConnectionError:  # while memory is short, it closes who reads least; such a client comes again
                    raw.close()
                    sockets[i] = connect()
            time.sleep(0.05)
        self.assertLess(router.resident_bytes(), 256 << 20)
        with router.connect() as connection:
            record = None
            while record is None:
                try:
                    record = connection.get(CONTEXT, ttypes.GetRequest(key=b"small")).record
                except ttypes.KvError as error:
                    self.assertEqual(error.code, constants.OVERLOADED)
                    time.sleep(0.05)
        for raw in sockets:
            raw.close()

    @staticmethod
    def encode_get(key):
        body = (b"\x80\x01\0\1\0\0\0\3get\0\0\0\1" + b"\x0c\0\1\0" + b"\x0c\0\2\x0b\0\1" + struct.pack(">I", len(key)) + key +
                b"\0\0")
        return struct.pack(">I", len(body)) + body


if __name__ == "__main__":
    unittest.main()
