#!/usr/bin/python3
"""A real router and nodes of more than one cluster, or servers that are no nodes: nothing goes to another cluster than
the router's own, and the router says what is wrong.
"""

import json
import re
import shutil
import socket
import subprocess
import time
import unittest
import urllib.error
import urllib.request

from cluster_process import BIN_DIR, Cluster
from node_process import CONTEXT, NodeProcess, constants, temporary_directory, ttypes
from router_process import RouterProcess

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return unused.getsockname()[1]


def readyz(router):
    """The status and the text of its answer."""
    try:
        with urllib.request.urlopen(f"http://{router.http}/readyz", timeout=10) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def fetch(router, page):
    with urllib.request.urlopen(f"http://{router.http}{page}", timeout=10) as reply:
        return reply.read().decode()


class RouterIdentity(unittest.TestCase):
    def setUp(self):
        self.directory = temporary_directory("router-identity")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def store(self, name, port):
        """A node that is in no cluster, so its store is one of its own."""
        node = NodeProcess(self.directory / name, ["--partitions=4"])
        self.addCleanup(node.kill)
        self.start_at(node, port)
        return node

    def start_at(self, node, port, http_port=-1):
        node.launch_command([BIN_DIR / "kvnode", "--data_dir", node.data_dir, "--listen", f"127.0.0.1:{port}",
                             "--http_port", http_port, "--logtostderr", "--reactors=1", "--memory_limit_mb=256",
                             *node.flags])
        node.wait_ready()

    def router(self, name, nodes, reactors=4):
        router = RouterProcess(self.directory / f"{name}.log", nodes, ["--reactors", str(reactors)]).start()
        self.addCleanup(router.kill)
        return router

    def wait_readyz(self, router, code, *parts):
        deadline = time.monotonic() + 30
        while True:
            status, text = readyz(router)
            if status == code and all(part in text for part in parts):
                return text
            self.assertLess(time.monotonic(), deadline, f"{status} {text}\n{router.output()}")
            time.sleep(0.05)

    def wait_foreign(self, router, count, *parts):
        """Until /status and the metric say so of that many nodes."""
        deadline = time.monotonic() + 30
        while True:
            foreign = json.loads(fetch(router, "/status"))["foreign_nodes"]
            gauge = re.search(r"^kv_router_foreign_nodes_count (\d+)$", fetch(router, "/metrics"), re.MULTILINE)
            text = json.dumps(foreign)
            if len(foreign) == count and int(gauge.group(1)) == count and all(part in text for part in parts):
                return
            self.assertLess(time.monotonic(), deadline, f"{text} {gauge}\n{router.output()}")
            time.sleep(0.05)

    @staticmethod
    def cluster_of(node):
        with node.connect() as connection:
            return connection.hello(CONTEXT, ttypes.HelloRequest()).cluster_id

    def count(self, node):
        with node.connect() as connection:
            return connection.count(CONTEXT, ttypes.CountRequest()).count

    def test_nodes_of_two_clusters_end_the_start(self):
        (self.directory / "cluster").mkdir()
        cluster = Cluster(self.directory / "cluster", nodes=3, partitions=4)
        cluster.start()
        self.addCleanup(cluster.kill)
        other = self.store("other", free_port())
        member = cluster.nodes[1]
        clusters = [self.cluster_of(member), self.cluster_of(other)]
        for name in clusters:
            self.assertRegex(name, UUID)
        self.assertEqual(clusters[0], self.cluster_of(cluster.nodes[2]))
        nodes = [member.address, f"127.0.0.1:{other.port}"]
        done = subprocess.run([BIN_DIR / "kvrouter", "--nodes", ",".join(nodes), "--listen=127.0.0.1:0",
                               "--http_port=-1", "--logtostderr"], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertNotIn("kvrouter ready", done.stdout)
        for part in (*nodes, *clusters, "Name only nodes of one cluster in --nodes"):
            self.assertIn(part, done.stderr)

    def test_a_node_of_another_cluster_comes_later(self):
        first, port = self.store("first", free_port()), free_port()
        router = self.router("later", [f"127.0.0.1:{first.port}", f"127.0.0.1:{port}"])
        self.wait_readyz(router, 200)
        other = self.store("other", port)
        self.wait_foreign(router, 1, f"127.0.0.1:{port}", self.cluster_of(first), self.cluster_of(other))
        # One wrong address must not take all routers out of a load balancer.
        self.assertEqual(readyz(router)[0], 200)
        # Whichever reactor a connection is on, it serves the first cluster.
        for i in range(16):
            with router.connect() as connection:
                connection.put(CONTEXT, ttypes.PutRequest(key=b"k", value=b"%d" % i))
            with router.connect() as connection:
                self.assertEqual(connection.get(CONTEXT, ttypes.GetRequest(key=b"k")).record.value, b"%d" % i)
        self.assertEqual((self.count(first), self.count(other)), (1, 0))

    def test_another_cluster_takes_the_addresses(self):
        first = self.store("first", free_port())
        router = self.router("taken", [f"127.0.0.1:{first.port}"])
        self.wait_readyz(router, 200)
        with router.connect() as connection:
            for i in range(20):
                connection.put(CONTEXT, ttypes.PutRequest(key=b"k%d" % i, value=b"old"))
            first.stop()
            other = self.store("other", first.port)
            ids = [self.cluster_of(other)]
            text = self.wait_readyz(router, 503, ids[0])
            ids += [name for name in UUID.findall(text) if name != ids[0]]
            for i in range(20):
                with self.assertRaises(ttypes.KvError) as caught:
                    connection.put(ttypes.Context(budget_ms=300), ttypes.PutRequest(key=b"k%d" % i, value=b"new"))
                self.assertEqual((caught.exception.code, caught.exception.applied),
                                 (constants.UNAVAILABLE, constants.APPLIED_NO))
                for part in (f"127.0.0.1:{first.port}", *ids[:2], "restart the router"):
                    self.assertIn(part, caught.exception.message)
            self.assertEqual(self.count(other), 0)
            self.assertIn("belongs to the cluster", router.output())
            # It finds its cluster again.
            other.stop()
            self.start_at(first, first.port)
            self.wait_readyz(router, 200)
            self.assertEqual(connection.get(CONTEXT, ttypes.GetRequest(key=b"k1")).record.value, b"old")

    def test_servers_that_are_no_nodes(self):
        port, http_port = free_port(), free_port()
        node = NodeProcess(self.directory / "node", ["--partitions=4"])
        self.addCleanup(node.kill)
        self.start_at(node, port, http_port)
        good = self.router("good", [f"127.0.0.1:{port}"], reactors=1)
        self.assertNotIn("without a map", good.output())
        for name, address, expected in (("http", f"127.0.0.1:{http_port}", "answers HTTP"),
                                        ("router", good.address, "this is a router, and --nodes must name nodes")):
            router = self.router(name, [address], reactors=1)
            self.assertIn("kvrouter ready, but without a map of the cluster so far", router.output())
            text = self.wait_readyz(router, 503, expected)
            self.assertEqual(text.count(address), 1, text)
            deadline = time.monotonic() + 30
            while f"no map of the cluster: {address}" not in router.output():
                self.assertLess(time.monotonic(), deadline, router.output())
                time.sleep(0.05)
            with router.connect() as connection:
                with self.assertRaises(ttypes.KvError) as caught:
                    connection.put(ttypes.Context(budget_ms=300), ttypes.PutRequest(key=b"k", value=b"v"))
            self.assertEqual(caught.exception.applied, constants.APPLIED_NO)
            self.assertIn(expected, caught.exception.message)
            self.assertNotIn("carried out", caught.exception.message)


if __name__ == "__main__":
    unittest.main()
