#!/usr/bin/python3
"""A cluster grows by a node and is rid of another one while clients work through two routers: no client sees an error,
the history is linearizable, and a scan of everything finds every record at each moment. Prints how long operations took
meanwhile.
"""

import base64
import json
import os
import shutil
import threading
import time
import types
import unittest

from cluster_process import Cluster, ClusterNode
from fault_cluster import Workload
from kvadmin_process import OK, run
from node_process import temporary_directory, ttypes
from router_process import RouterProcess

PARTITIONS, RECORDS = 8, 8000
FLAGS = ("--install_mb_per_s=2",)
HEAL_TIMEOUT_S = 120
QUIET_OPERATIONS = 2000  # of the phases in which nothing happens


class FullScans(threading.Thread):
    """Reads all records through a router, again and again."""

    def __init__(self, router, records):
        super().__init__(daemon=True)
        self.router = router
        self.records = records
        self.stopping = threading.Event()
        self.scans = 0
        self.error = None

    def run(self):
        try:
            with self.router.connect(timeout_s=60) as connection:
                while not self.stopping.is_set():
                    self.scan(connection)
                    self.scans += 1
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    def scan(self, connection):
        cursor, at = b"", 0
        while True:
            page = connection.scan(ttypes.Context(budget_ms=30000),
                                   ttypes.ScanRequest(prefix=b"row/", limit_rows=1000, cursor=cursor))
            for row in page.rows:
                assert (row.key, row.value) == self.records[at], f"row {at} is {row.key}"
                at += 1
            cursor = page.cursor
            if not cursor:
                break
        assert at == len(self.records), f"a scan of everything found {at} rows of {len(self.records)}"

    def finish(self):
        self.stopping.set()
        self.join(120)
        assert not self.is_alive(), "a scan hangs"
        if self.error:
            raise self.error


class RouterGrowth(unittest.TestCase):
    def setUp(self):
        self.directory = temporary_directory("router-growth")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.cluster = Cluster(self.directory, partitions=PARTITIONS, flags=FLAGS).start()
        self.addCleanup(self.cluster.kill)
        self.cluster.wait_well()
        nodes = [node.address for node in self.cluster.nodes.values()]
        self.routers = []
        for number in (1, 2):
            router = RouterProcess(self.directory / f"router-{number}.log", nodes).start()
            self.addCleanup(router.kill)
            self.routers.append(router.wait_http())
        self.records = [(b"row/%06d" % i, base64.b64encode(os.urandom(750))) for i in range(RECORDS)]

    def load(self):
        rows = self.directory / "rows.jsonl"
        with open(rows, "w", encoding="ascii") as file:
            for key, value in self.records:
                file.write(json.dumps({"key": key.decode(), "value": value.decode()}) + "\n")
        done = run("--json", "load", "-q", rows, server=self.routers[0].address)
        self.assertEqual(done.code, OK, done.err)
        for node in self.cluster.nodes.values():  # so that their files show what they hold
            self.assertEqual(run("checkpoint", server=node.address).code, OK)

    def kv(self, *arguments):
        done = run("--json", *arguments, "--topology", self.cluster.topology)
        self.assertEqual(done.code, OK, f"kvadmin {arguments}: {done.out}{done.err}")
        return done

    def quiet_phase(self, load):
        load.begin_phase()
        until = load.figures["finished"] + QUIET_OPERATIONS
        deadline = time.monotonic() + HEAL_TIMEOUT_S
        while load.figures["finished"] < until:
            self.assertLess(time.monotonic(), deadline, f"the clients are slow: {load.figures}")
            self.assertTrue(load.running(), load.said)
            time.sleep(0.05)

    def add_node_4(self):
        self.kv("node", "add", "--id", "4", "--zone", "d")
        first = self.cluster.nodes[1]
        self.cluster.nodes[4] = ClusterNode(self.directory / "node-4",
                                            [first.flags[0], "--node_id=4", *first.flags[2:]]).start()
        self.cluster.wait_well()
        plan = self.directory / "grow.plan"
        self.kv("rebalance", "plan", "-o", plan)
        moved = self.kv("rebalance", "apply", plan).lines()[-1]
        self.assertEqual(moved["done"], moved["moves"])
        self.assertGreater(moved["moves"], 2)

    def drain_node_2(self):
        self.kv("node", "drain", "2", "-o", self.directory / "drain.plan")
        held = [p for p in self.cluster.partitions().values() for r in p["isr"] + p["evicted"] if r["node"] == 2]
        self.assertEqual(held, [])

    def test_grows_and_shrinks_without_an_error(self):
        self.load()
        clients = types.SimpleNamespace(directory=self.directory,
                                        addresses=lambda: [router.address for router in self.routers])
        # Writes have names: on a busy machine a master may fall as well, and then the router sends them again.
        load = Workload(clients, threads=4, keys=24, think_ms=3, budget_ms=20000, all_named=1)
        load.wait_serving(60)
        scans = FullScans(self.routers[1], self.records)
        scans.start()
        phases = ["before"]
        for name, change in (("a quiet phase", None), ("a node comes", self.add_node_4), ("a quiet phase", None),
                             ("a node is drained", self.drain_node_2), ("a quiet phase", None)):
            phases.append(name)
            if change is None:
                self.quiet_phase(load)
            else:
                load.begin_phase()
                change()
        scans.finish()
        errors, error = load.figures["errors"], load.figures["error"]
        print(load.finish())
        self.assertEqual(errors, 0, error)
        for name, phase in zip(phases, load.phases):
            print(f"  {name}: {phase['operations']} operations, p50 {phase['p50_us']} us, p99 {phase['p99_us']} us, "
                  f"longest {phase['max_us'] / 1000:.0f} ms")
        print(f"  {scans.scans} scans of all {RECORDS} records")
        self.assertGreater(scans.scans, 3)
        with self.routers[0].connect() as connection:
            count = connection.count(ttypes.Context(budget_ms=20000), ttypes.CountRequest(prefix=b"row/"))
            self.assertEqual(count.count, RECORDS)


if __name__ == "__main__":
    unittest.main()
