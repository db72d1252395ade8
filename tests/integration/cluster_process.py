"""Starts clusters of kvnode processes on this machine, and calls them as a client that follows NOT_MASTER.

The nodes bind to 127.0.0.1 on free ports and find each other in a file topology. A node's main process is its guard;
`node_pid` is the process that serves.
"""

import json
import os
import pathlib
import signal
import threading
import time

from kvadmin_process import OK, run
from node_process import (BIN_DIR, CONTEXT, Connection, NodeProcess, TTransport, constants, run_kvadmin, ttypes)

HEAL_TIMEOUT_S = 60


class ClusterNode(NodeProcess):
    """One node of a cluster."""

    def node_pid(self):
        """The process that serves: the child of the guard, or the process itself with --guard=off."""
        try:
            children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        except OSError:
            children = []
        return int(children[0]) if children else self.process.pid

    def kill_node(self):
        """Kills the process that serves, with SIGKILL, and waits until its guard has ended too."""
        os.kill(self.node_pid(), signal.SIGKILL)
        self.process.wait(30)

    def kill(self):
        """Kills both, the guard first, as if the machine had lost its power: nobody is told."""
        if self.process and self.process.poll() is None:
            pid = self.node_pid()
            self.process.send_signal(signal.SIGSTOP)  # so that the guard notices nothing
            for victim in {self.process.pid, pid}:
                try:
                    os.kill(victim, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.process.wait()
            self.wait_gone(pid)
        elif self.process:
            self.process.wait()

    @staticmethod
    def wait_gone(pid):
        """Until the process holds no port any more. It is no child of this one, so there is nothing to wait for."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
                threads = os.listdir(f"/proc/{pid}/task")
            except OSError:
                return
            if state in "ZX" and len(threads) <= 1:
                return
            time.sleep(0.002)
        raise AssertionError(f"the process {pid} does not end")

    @property
    def address(self):
        return f"{self.host}:{self.port}"


class Cluster:
    """Nodes 1 to `nodes` in `directory`."""

    def __init__(self, directory, nodes=3, partitions=8, replicas=3, flags=(), topology=None):
        self.directory = pathlib.Path(directory)
        self.topology = topology or f"file:{self.directory / 'topology'}"
        self.nodes = {}
        for node in range(1, nodes + 1):
            self.nodes[node] = ClusterNode(self.directory / f"node-{node}",
                                           [f"--topology={self.topology}", f"--node_id={node}", "--reactors=1",
                                            "--memory_limit_mb=256", "--log_budget_mb=128", *flags])
        if self.topology.startswith("file:"):
            pathlib.Path(self.topology[5:]).mkdir(exist_ok=True)
        ids = ",".join(map(str, self.nodes))
        run_kvadmin("cluster", "init", "--topology", self.topology, "--nodes", ids, "--partitions", partitions,
                    "--replicas", replicas)

    def start(self):
        for node in self.nodes.values():
            node.launch()
        for node in self.nodes.values():
            node.wait_ready()
        return self

    def stop(self):
        for node in self.nodes.values():
            if node.process and node.process.poll() is None:
                node.stop()

    def kill(self):
        for node in self.nodes.values():
            node.kill()

    def partitions(self):
        """What the topology says of each partition, by ID."""
        lines = run_kvadmin("cluster", "show", "--topology", self.topology, "--json").stdout.splitlines()
        records = [json.loads(line).get("partition") for line in lines]
        return {record["id"]: record for record in records if record}

    def wait_healed(self, replicas=3, timeout_s=HEAL_TIMEOUT_S):
        """Waits until every partition has so many replicas in sync."""
        deadline = time.monotonic() + timeout_s
        while True:
            partitions = self.partitions()
            sizes = [len(partition["isr"]) for partition in partitions.values()]
            if all(size == replicas for size in sizes):
                return partitions
            assert time.monotonic() < deadline, f"the in-sync sets do not heal: {sizes}"
            time.sleep(0.1)

    def wait_well(self, timeout_s=HEAL_TIMEOUT_S):
        """Waits until kvadmin cluster status says that all is well."""
        deadline = time.monotonic() + timeout_s
        while (done := run("--json", "cluster", "status", "--topology", self.topology)).code != OK:
            assert time.monotonic() < deadline, f"the cluster does not become well: {done.out}{done.err}"
            time.sleep(0.2)

    def client(self, **options):
        return ClusterClient(self, **options)


class Refused(Exception):
    """The request certainly has no effect, and no node has accepted it in time."""


class Unknown(Exception):
    """It is unknown whether the write took effect."""


class ClusterClient:
    """One connection to each node. Sends a request to the node that NOT_MASTER has named last for its key."""

    def __init__(self, cluster, budget_s=20, among=None):
        """`among`: the nodes that are asked who is master; without it, all. A stopped one does not answer for seconds."""
        self.cluster = cluster
        self.among = among
        self.budget_s = budget_s
        self.connections = {}
        self.masters = {}  # of keys

    def call(self, key, method, request, safe=True):
        """Calls until a node accepts. `safe`: the request may be sent again after its answer was lost."""
        deadline = time.monotonic() + self.budget_s
        addresses = [node.address for node in self.among or self.cluster.nodes.values() if node.port]
        turn = hash((key, threading.get_ident()))
        # What the master has said counts for more than who is master: after a refusal another node is asked, which names
        # the same one again.
        why = refusal = None
        while time.monotonic() < deadline:
            address = self.masters.get(key) or addresses[turn % len(addresses)]
            turn += 1
            try:
                connection = self.connect(address)
            except TTransport.TTransportException as error:
                why = error
                self.masters.pop(key, None)
                time.sleep(0.005)
                continue
            try:
                result = getattr(connection, method)(CONTEXT, request)
                self.masters[key] = address
                return result
            except ttypes.KvError as error:
                why = error
                self.masters.pop(key, None)
                if error.code == constants.NOT_MASTER and error.master:
                    self.masters[key] = error.master
                if error.code != constants.NOT_MASTER:
                    refusal = error
                if error.applied == constants.APPLIED_UNKNOWN and method not in ("get",) and not safe:
                    raise Unknown() from error
                time.sleep(0.005)
            except (TTransport.TTransportException, OSError, EOFError) as error:
                why = error
                self.drop(address)
                self.masters.pop(key, None)
                if not safe:
                    raise Unknown() from error
        raise Refused(f"{method} {key}: {refusal or why}")

    def connect(self, address):
        if address not in self.connections:
            host, port = address.rsplit(":", 1)
            self.connections[address] = Connection(host, int(port), timeout_s=5)
        return self.connections[address]

    def drop(self, address):
        connection = self.connections.pop(address, None)
        if connection:
            connection.close()

    def put(self, key, value):
        return self.call(key, "put", ttypes.PutRequest(key=key, value=value))

    def get(self, key):
        record = self.call(key, "get", ttypes.GetRequest(key=key)).record
        return record.value if record.found else None

    def increment(self, key, delta=1):
        """Not repeated if its answer is lost: Unknown."""
        return self.call(key, "increment", ttypes.IncrementRequest(key=key, delta=delta), safe=False).number

    def close(self):
        for address in list(self.connections):
            self.drop(address)


__all__ = ["BIN_DIR", "Cluster", "ClusterClient", "ClusterNode", "HEAL_TIMEOUT_S", "Refused", "Unknown"]
