"""The cluster of the conformance suite, and the server that runners ask to break it and to mend it."""

import json
import random
import socket
import socketserver
import threading

from case_files import expression_bytes
from cluster_process import Cluster, ClusterClient
from kvadmin_process import OK, run
from node_process import CONTEXT, ttypes
from proxy import Proxy
from router_process import RouterProcess

RULES = ("cut", "alter", "hold", "delay", "answer", "part")  # of the proxy


class TestCluster:
    """Three nodes and two routers."""

    def __init__(self, directory):
        self.directory = directory
        self.cluster = Cluster(directory, partitions=8)
        self.routers = []
        self.proxy = None
        self.lock = threading.Lock()  # one action at a time

    def start(self):
        self.cluster.start()
        for number in range(2):
            listen = f"127.0.0.1:{free_port()}"  # also after a restart
            self.routers.append(RouterProcess(self.directory / f"router-{number}.log", [], listen=listen))
            self.start_router(number)
        for router in self.routers:
            router.wait_http()
        self.cluster.wait_well()
        return self

    def start_router(self, number):
        router = self.routers[number]
        # Nodes that were restarted have other ports.
        router.nodes = [node.address for node in self.cluster.nodes.values()]
        router.start()

    def stop(self):
        self.drop_proxy()
        for router in self.routers:
            router.kill()
        self.cluster.kill()

    def drop_proxy(self):
        if self.proxy:
            self.proxy.close()
            self.proxy = None

    def delete_all(self):
        with self.routers[0].connect() as router:
            request = ttypes.DeleteRangeRequest()
            while True:
                request.cursor = router.deleteRange(CONTEXT, request).cursor
                if not request.cursor:
                    return

    def master_of(self, key):
        """The node that is master of the key's partition."""
        client = ClusterClient(self.cluster, among=[n for n in self.cluster.nodes.values() if runs(n)])
        try:
            client.get(key)
            address = client.masters[key]
            return next((number, node) for number, node in self.cluster.nodes.items() if node.address == address)
        finally:
            client.close()

    # Each action is a method: do_ACTION(request) returns what the answer has besides `ok`.

    def act(self, request):
        action = request.get("action", "")
        if action in RULES:
            self.need_proxy().add_rule(request)
            return {}
        method = getattr(self, f"do_{action}", None)
        if not method:
            raise ValueError(f"there is no action {action!r}")
        return method(request) or {}

    def need_proxy(self):
        if not self.proxy:
            raise ValueError("there is no proxy: the case lacks `through: proxy`")
        return self.proxy

    def do_status(self, _):
        return {"routers": [router.address for router in self.routers],
                "nodes": [node.address for node in self.cluster.nodes.values()]}

    def do_kill_router(self, request):
        self.routers[request.get("router", 0)].kill()

    def do_start_router(self, request):
        number = request.get("router", 0)
        if not runs(self.routers[number]):
            self.start_router(number)
            self.routers[number].wait_http()

    def do_restart_router(self, request):
        end(self.routers[request.get("router", 0)], request)
        self.do_start_router(request)

    def do_restart_all_routers(self, request):
        for router in self.routers:
            end(router, request)
        for number in range(len(self.routers)):
            self.start_router(number)
        for router in self.routers:
            router.wait_http()

    def do_kill_master(self, request):
        key = expression_bytes(request["key"])
        number, node = self.master_of(key)
        node.kill_node()
        if request.get("wait"):
            self.master_of(key)
        return {"node": number}

    def do_stop_master(self, request):
        number, node = self.master_of(expression_bytes(request["key"]))
        node.stop()
        return {"node": number}

    def do_move_master(self, request):
        # Which partition has the key is not known here, so the node hands over all that it leads.
        number, _ = self.master_of(expression_bytes(request["key"]))
        for partition, entry in self.cluster.partitions().items():
            if entry["master"] == number:
                done = run("failover", partition, "--topology", self.cluster.topology)
                # An election may have been quicker than the handover: the master has moved all the same.
                if done.code != OK and self.cluster.partitions()[partition]["master"] in (number, 0):
                    raise AssertionError(f"kvadmin failover {partition}: {done.out}{done.err}")
        return {"node": number}

    def do_start_nodes(self, _):
        dead = [node for node in self.cluster.nodes.values() if not runs(node)]
        for node in dead:
            node.launch()
        for node in dead:
            node.wait_ready()
        return {"started": len(dead)}

    def do_heal(self, request):
        self.drop_proxy()
        dead = [number for number, router in enumerate(self.routers) if not runs(router)]
        if self.do_start_nodes(request)["started"]:
            self.cluster.wait_well()
        for number in dead:
            self.start_router(number)
        for router in self.routers:
            router.wait_http()

    def do_proxy(self, _):
        self.drop_proxy()
        self.proxy = Proxy(lambda: (self.routers[0].host, self.routers[0].port))
        return {"address": self.proxy.address}

    def do_close_connections(self, _):
        self.need_proxy().close_connections()

    def do_refuse_connections(self, request):
        self.need_proxy().refuse = request.get("times", 1)

    def do_shift_clock(self, request):
        self.need_proxy().clock_shift_ms = request["ms"]
        self.proxy.close_connections()

    def do_observed(self, request):
        return self.need_proxy().observed(request.get("method"))

    def do_forget(self, _):
        self.need_proxy().requests.clear()


def free_port():
    """A port that the system gives nobody who asks for any port, so that it is still free when a router starts again."""
    while True:
        port = random.randrange(15000, 32000)
        try:
            socket.create_server(("127.0.0.1", port)).close()
            return port
        except OSError:
            continue


def runs(process):
    return process.process and process.process.poll() is None


def end(router, request):
    if not runs(router):
        return
    if request.get("how", "kill") == "stop":
        router.stop()
    else:
        router.kill()


class Handler(socketserver.StreamRequestHandler):
    """Answers lines of JSON."""

    def handle(self):
        for line in self.rfile:
            test_cluster = self.server.test_cluster
            try:
                with test_cluster.lock:
                    answer = {"ok": True, **test_cluster.act(json.loads(line))}
            except Exception as error:  # pylint: disable=broad-except
                answer = {"ok": False, "error": repr(error)}
            self.wfile.write(json.dumps(answer).encode() + b"\n")


class ControlServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, test_cluster):
        super().__init__(("127.0.0.1", 0), Handler)
        self.test_cluster = test_cluster
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self):
        return "%s:%d" % self.server_address[:2]
