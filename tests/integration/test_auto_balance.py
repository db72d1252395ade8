#!/usr/bin/python3
"""With --auto_balance=on, masterships leave a node that has all the traffic, and a new node gets replicas, by themselves;
with --auto_balance=log the node that decides only says so. All nodes tell how many nodes are wanted. No client sees an
error, and nothing that was acknowledged is lost. A node that drains gets nothing.
"""

import json
import re
import shutil
import threading
import time
import unittest
import urllib.error
import urllib.request

from cluster_process import Cluster, ClusterNode
from kvadmin_process import OK, run
from node_process import CONTEXT, temporary_directory, ttypes
from router_process import RouterProcess
from test_cluster import Writer

PARTITIONS = 8
KEYS = [b"key/%d" % i for i in range(200)]
HTTP = re.compile(r"http (\d+\.\d+\.\d+\.\d+:\d+)")


class Reader(threading.Thread):
    """Reads all keys again and again, through a router. The nodes answer from memory."""

    def __init__(self, router):
        super().__init__(daemon=True)
        self.connection = router.connect()
        self.stopping = threading.Event()
        self.error = None

    def run(self):
        try:
            while not self.stopping.wait(0.01):
                items = self.connection.multiGet(ttypes.Context(budget_ms=20000), ttypes.MultiGetRequest(keys=KEYS)).items
                assert all(item.record.value == b"value" for item in items), "a record is missing"
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    def finish(self):
        self.stopping.set()
        self.join(30)
        self.connection.close()
        if self.error:
            raise self.error


class AutoBalance(unittest.TestCase):
    def start(self, mode, nodes=3):
        directory = temporary_directory("auto-balance")
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        flags = [f"--auto_balance={mode}", "--balance_moves_per_minute=60"]
        self.cluster = Cluster(directory, nodes=nodes, partitions=PARTITIONS, flags=flags).start()
        self.addCleanup(self.cluster.kill)
        self.router = RouterProcess(directory / "router.log", [n.address for n in self.cluster.nodes.values()]).start()
        self.addCleanup(self.router.kill)
        self.router.wait_http()
        self.cluster.wait_well()
        with self.router.connect() as connection:
            for key in KEYS:
                connection.put(CONTEXT, ttypes.PutRequest(key=key, value=b"value"))

    def masters(self):
        """The node of the master of each partition."""
        return {partition: record["master"] for partition, record in self.cluster.partitions().items()}

    def wait(self, what, holds, timeout_s=90):
        deadline = time.monotonic() + timeout_s
        while not holds():
            self.assertLess(time.monotonic(), deadline, f"{what}: {self.masters()}")
            time.sleep(0.2)

    def http(self, node, path):
        address = HTTP.search(self.cluster.nodes[node].log.read_text(errors="replace")).group(1)
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def give_all_to_node_1(self, nodes_that_hold_it=False):
        """Or, if it does not hold them all, those that it holds."""
        for partition, record in self.cluster.partitions().items():
            if nodes_that_hold_it and 1 not in [r["node"] for r in record["isr"]]:
                continue
            done = run("failover", partition, "--to", 1, "--topology", self.cluster.topology)
            self.assertEqual(done.code, OK, done.err)
        if not nodes_that_hold_it:
            self.assertEqual(set(self.masters().values()), {1})

    def logged(self, text):
        return [n for n, node in self.cluster.nodes.items() if text in node.log.read_text(errors="replace")]

    def test_on(self):
        self.start("on")
        self.give_all_to_node_1()
        reader = Reader(self.router)
        reader.start()
        self.wait("node 1 leads all", lambda: len(set(self.masters().values())) == 3 and
                  list(self.masters().values()).count(1) <= PARTITIONS // 2)
        reader.finish()
        self.wait_wanted()
        page = self.page(self.decider())
        self.assertEqual({node["node"] for node in page["nodes"]}, {1, 2, 3}, page)
        self.assertTrue(all(node["requests_per_s"] > 0 and node["latency_ms"] > 0 for node in page["nodes"]), page)

    def test_a_new_node(self):
        self.start("on")
        reader = Reader(self.router)
        writers = [Writer(self.cluster, number) for number in range(2)]
        for thread in [reader, *writers]:
            thread.client = self.cluster.client(among=list(self.cluster.nodes.values()))
            thread.start()
        before = self.masters()
        done = run("node", "add", "--id", 4, "--topology", self.cluster.topology)
        self.assertEqual(done.code, OK, done.err)
        self.cluster.nodes[4] = ClusterNode(self.cluster.directory / "node-4", [
            self.cluster.nodes[1].flags[0], "--node_id=4", *self.cluster.nodes[1].flags[2:]]).start()
        self.wait("node 4 gets no traffic", lambda: 4 in self.masters().values(), 150)
        # The replicas that have moved have left where they were.
        self.wait("more replicas than there should be", lambda: all(
            len(p["isr"]) == 3 and not p["learners"] and not p["evicted"] for p in self.cluster.partitions().values()))
        for thread in [reader, *writers]:
            thread.finish()
        self.cluster.wait_well()
        # No mastership could help, because node 4 held nothing.
        self.assertTrue(self.logged("; a replica goes to node 4"))
        self.assertTrue(any("\nkv_balancer_moves_total 0" not in self.http(n, "/metrics")[1] for n in self.cluster.nodes))
        moved = {p for p, node in self.masters().items() if node == 4}
        held = {p: {r["node"] for r in record["isr"]} for p, record in self.cluster.partitions().items()}
        for partition in moved:
            self.assertNotEqual(held[partition], {1, 2, 3})
            self.assertNotIn(before[partition], held[partition], "the node that led it keeps its replica")
        # What was written while replicas moved is there, and all replicas are equal.
        for writer in writers:
            self.assertGreater(writer.writes, 100)
            writer.verify()
        done = run("verify", "--topology", self.cluster.topology)
        self.assertEqual(done.code, OK, done.out + done.err)
        with self.router.connect() as connection:
            items = connection.multiGet(CONTEXT, ttypes.MultiGetRequest(keys=KEYS)).items
            self.assertEqual({item.record.value for item in items}, {b"value"})

    def test_a_drain(self):
        self.start("on", nodes=4)
        self.give_all_to_node_1(nodes_that_hold_it=True)
        reader = Reader(self.router)
        reader.start()
        self.wait("nothing moves", lambda: self.logged("goes to node"))
        done = run("node", "drain", 2, "-o", self.cluster.directory / "drain.plan", "--topology", self.cluster.topology)
        self.assertEqual(done.code, OK, done.out + done.err)
        held = lambda: {r["node"] for p in self.cluster.partitions().values() for r in p["isr"]}
        self.assertNotIn(2, held())
        # Its load stays below the mean, and it gets nothing.
        self.wait("node 1 leads too much", lambda: list(self.masters().values()).count(1) <= PARTITIONS // 2)
        self.assertNotIn(2, held())
        reader.finish()
        self.cluster.wait_well()

    def page(self, node):
        status, text = self.http(node, "/wanted_nodes")
        return json.loads(text) if status == 200 else {}

    def decider(self):
        return self.page(1)["decided_by"]

    def wait_wanted(self):
        """All nodes say the same, as a page and as a metric."""
        for node in self.cluster.nodes:
            self.wait("a node does not know how many are wanted", lambda n=node: self.page(n))
            page = self.page(node)
            self.assertEqual((page["wanted_nodes"], page["active_nodes"]), (3, 3), page)
            self.wait("the metric", lambda n=node: "\npando_wanted_nodes 3" in self.http(n, "/metrics")[1])

    def test_log(self):
        self.start("log")
        self.give_all_to_node_1()
        reader = Reader(self.router)
        reader.start()
        self.wait("nobody says what would move", lambda: self.logged("nothing is done, because of --auto_balance=log"))
        reader.finish()
        self.assertEqual(set(self.masters().values()), {1})
        self.wait_wanted()
        # Another node decides once the first one is away, and as soon as it measures all of them.
        decider = self.decider()
        self.cluster.nodes[decider].kill()
        others = [node for node in self.cluster.nodes if node != decider]
        self.wait("nobody else holds the key", lambda: any(
            "\nkv_controller_holds 1" in self.http(node, "/metrics")[1] for node in others))
        self.cluster.nodes[decider].start()
        self.wait("nobody else decides", lambda: self.page(others[0]).get("decided_by") in others)
        self.assertEqual(self.page(others[0])["wanted_nodes"], 3)

    def test_off(self):
        self.start("off")
        status, text = self.http(1, "/wanted_nodes")
        self.assertEqual(status, 503)
        self.assertIn("--auto_balance=log", text)
        self.assertNotIn("pando_wanted_nodes", self.http(1, "/metrics")[1])
        # No node takes the key.
        done = run("--json", "cluster", "status", "--topology", self.cluster.topology)
        controller = next(json.loads(line)["controller"] for line in done.out.splitlines() if '"controller"' in line)
        self.assertEqual(controller["holder"], 0)


if __name__ == "__main__":
    unittest.main()
