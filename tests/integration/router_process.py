"""Starts, kills and stops kvrouter processes on free ports of 127.0.0.1, and writes through them under names."""

import re
import threading
import time
import urllib.error
import urllib.request
import uuid

from cluster_process import BIN_DIR
from node_process import Connection, NodeProcess, TTransport, constants, ttypes


class RouterProcess(NodeProcess):
    """One kvrouter. `nodes`: addresses of nodes of the cluster."""

    HTTP = re.compile(rb"http (\d+\.\d+\.\d+\.\d+:\d+)")

    def __init__(self, log, nodes, flags=(), listen="127.0.0.1:0"):
        super().__init__(log, flags, BIN_DIR / "kvrouter")
        self.log = log
        self.nodes = list(nodes)
        self.listen = listen

    def launch(self):
        self.launch_command([self.binary, "--nodes", ",".join(self.nodes), "--listen", self.listen, "--http_port", "0",
                             "--reactors", "1", "--logtostderr", *self.flags])

    def http_status(self, path):
        try:
            with urllib.request.urlopen(f"http://{self.http}{path}", timeout=10) as reply:
                return reply.status
        except urllib.error.HTTPError as error:
            return error.code

    def wait_http(self, status=200, path="/readyz"):
        deadline = time.monotonic() + 60
        while self.http_status(path) != status:
            assert time.monotonic() < deadline, f"{path} does not come to answer {status}: {self.output()}"
            time.sleep(0.02)
        return self

    @property
    def address(self):
        return f"{self.host}:{self.port}"

    @property
    def http(self):
        return self.HTTP.search(self.log.read_bytes()).group(1).decode()


class NamedWriter(threading.Thread):
    """Adds to counters in a lane, through any of several routers. A lost answer is asked for again under the same name,
    so every addition counts once; whatever else the routers answer is an error.
    """

    def __init__(self, routers, number, keys=50):
        super().__init__(daemon=True)
        self.routers = routers
        self.keys = [b"counter/%d/%d" % (number, i) for i in range(keys)]
        self.lane = uuid.uuid4().bytes
        self.sequence = 0
        self.sums = {key: 0 for key in self.keys}
        self.errors = []
        self.lost_connections = 0
        self.longest_s = 0.0
        self.stopping = threading.Event()
        self.connection = None
        self.turn = number

    def connect(self):
        deadline = time.monotonic() + 30
        while True:
            router = self.routers[self.turn % len(self.routers)]
            self.turn += 1
            try:
                self.connection = Connection(router.host, router.port, timeout_s=30)
                return
            except TTransport.TTransportException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def add(self, key):
        self.sequence += 1
        context = ttypes.Context(budget_ms=20000, client_id=self.lane, sequence=self.sequence,
                                 first_sent_ms=int(time.time() * 1000))
        request = ttypes.IncrementRequest(key=key, delta=1)
        while True:
            if not self.connection:
                self.connect()
            try:
                return self.connection.increment(context, request).number
            except (TTransport.TTransportException, OSError, EOFError):
                self.lost_connections += 1
                self.connection.close()
                self.connection = None

    def run(self):
        while not self.stopping.is_set():
            for key in self.keys:
                if self.stopping.is_set():
                    break
                began = time.monotonic()
                try:
                    number = self.add(key)
                    self.sums[key] += 1
                    if number != self.sums[key]:
                        self.errors.append(f"{key} is {number} after {self.sums[key]} additions")
                        self.sums[key] = number
                except Exception as error:  # pylint: disable=broad-except
                    self.errors.append(repr(error))
                self.longest_s = max(self.longest_s, time.monotonic() - began)

    def finish(self):
        self.stopping.set()
        self.join(60)
        assert not self.is_alive(), "a writer hangs"
        assert not self.errors, f"{len(self.errors)} errors: {self.errors[:3]}"
        return sum(self.sums.values())


__all__ = ["NamedWriter", "RouterProcess", "constants"]
