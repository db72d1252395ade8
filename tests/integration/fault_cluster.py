"""A cluster of three nodes with guards on hosts of their own, with etcd if wanted, and clients that never stop.

The clients are the program cluster_workload: it records what they ask and are told, and judges in the end whether the
history is linearizable, which includes that nothing acknowledged is lost and that named writes are applied once.
"""

import contextlib
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import threading
import time
import urllib.request

from cluster_process import HEAL_TIMEOUT_S, Cluster
from fault_network import Network, skip
from node_process import BIN_DIR, ROOT

NODES = (1, 2, 3)
ETCDS = ("e1", "e2", "e3")
PARTITIONS = 4


class Etcd:
    """A cluster of three servers."""

    def __init__(self, network, directory):
        self.network = network
        self.directory = pathlib.Path(directory)
        built = ROOT / "build" / "etcd" / "etcd"
        self.program = os.environ.get("PANDO_ETCD") or (built if built.exists() else shutil.which("etcd"))
        if not self.program:
            skip("there is no etcd (Debian: etcd-server)")
        self.processes = {}
        self.topology = "etcd://" + ",".join(f"{network.hosts[name].address}:2379" for name in ETCDS) + "/faults"

    def launch(self, names=ETCDS):
        urls = {name: f"http://{self.network.hosts[name].address}" for name in ETCDS}
        for name in names:
            with open(self.directory / f"{name}.log", "ab") as log:
                self.processes[name] = subprocess.Popen(
                    [*self.network.hosts[name].prefix, self.program, "--name", name, "--data-dir", self.directory / name,
                     "--listen-client-urls", f"{urls[name]}:2379", "--advertise-client-urls", f"{urls[name]}:2379",
                     "--listen-peer-urls", f"{urls[name]}:2380", "--initial-advertise-peer-urls", f"{urls[name]}:2380",
                     "--initial-cluster", ",".join(f"{other}={url}:2380" for other, url in urls.items())],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def start(self, names=ETCDS):
        self.launch(names)
        self.wait_serving(names)

    def wait_serving(self, names=ETCDS):
        """Returns when they serve, for which most of the three must run."""
        deadline = time.monotonic() + 30
        while not all(self.serves(f"http://{self.network.hosts[name].address}:2379/health") for name in names):
            assert time.monotonic() < deadline, f"etcd does not serve; see {self.directory}/e*.log"
            time.sleep(0.05)

    @staticmethod
    def serves(url):
        with contextlib.suppress(OSError, ValueError):
            with urllib.request.urlopen(url, timeout=1) as answer:
                return json.load(answer)["health"] == "true"
        return False

    def kill(self, names=ETCDS):
        for name in names:
            self.processes[name].kill()
            self.processes[name].wait()


class FaultCluster(Cluster):
    """The node with the ID i is on the host ni."""

    def __init__(self, directory, with_etcd=False, flags=()):
        directory = pathlib.Path(directory)
        self.network = Network([f"n{i}" for i in NODES] + list(ETCDS if with_etcd else ()))
        self.etcd = Etcd(self.network, directory) if with_etcd else None
        if self.etcd:
            self.etcd.start()
        super().__init__(directory, partitions=PARTITIONS, flags=flags,
                         topology=self.etcd.topology if self.etcd else None)
        self.lives = {number: 0 for number in NODES}
        for number, node in self.nodes.items():
            host = self.network.hosts[f"n{number}"]
            node.prefix = host.prefix
            node.flags += [f"--listen={host.address}:7420", "--http_port=7421", f"--peer_listen={host.address}:7430"]

    def addresses(self):
        return [f"{self.network.hosts[f'n{number}'].address}:7420" for number in NODES]

    def launch_node(self, number):
        """Does not wait until it is ready. Keeps what the last process has logged."""
        node = self.nodes[number]
        self.lives[number] += 1
        if node.log.exists():
            node.log.rename(node.log.with_suffix(f".{self.lives[number]}"))
        node.launch()

    def start_node(self, number):
        self.launch_node(number)
        self.nodes[number].wait_ready()

    def kill_node(self, number):
        """Only the process that serves. Its guard tells the others."""
        self.nodes[number].kill_node()

    def kill_host(self, number):
        """The guard too. Nobody is told."""
        self.nodes[number].kill()

    def stop_node(self, number):
        self.nodes[number].stop()

    def pause(self, number):
        """Returns when every thread of the process has stopped, which is some time after the signal."""
        pid = self.nodes[number].node_pid()
        os.kill(pid, signal.SIGSTOP)
        threads = list(pathlib.Path(f"/proc/{pid}/task").iterdir())
        while any((thread / "stat").read_text().rsplit(")", 1)[1].split()[0] != "T" for thread in threads):
            time.sleep(0.001)
        return pid

    @staticmethod
    def replicas_in(partitions):
        """The UUIDs of the replicas of each node, by node."""
        found = {number: set() for number in NODES}
        for record in partitions.values():
            for members in ("isr", "evicted", "learners"):
                for replica in record[members]:
                    found[replica["node"]].add(replica["replica"])
        return found

    def masters(self):
        """The node that is master, by partition. A partition that has never had a master is missing."""
        return {i: record["master"] for i, record in self.partitions().items() if record["master"]}

    def replicas(self):
        return self.replicas_in(self.partitions())

    def is_healed(self, partitions, gone=frozenset()):
        """Whether all replicas are in sync, nothing is on its way in or out, and those in `gone` are no longer there:
        for half a second, the topology still calls a node in sync whose disk was lost."""
        return (all((len(p["isr"]), len(p["evicted"]), len(p["learners"])) == (3, 0, 0) for p in partitions.values())
                and not any(uuids & gone for uuids in self.replicas_in(partitions).values()))

    def wait_healed(self, gone=frozenset(), timeout_s=2 * HEAL_TIMEOUT_S):  # pylint: disable=arguments-renamed
        deadline = time.monotonic() + timeout_s
        while True:
            partitions = self.partitions()
            if self.is_healed(partitions, gone):
                return partitions
            sizes = [(len(p["isr"]), len(p["evicted"]), len(p["learners"])) for p in partitions.values()]
            assert time.monotonic() < deadline, \
                f"the in-sync sets do not heal (in sync, evicted, learners): {sizes}; logs are in {self.directory}"
            time.sleep(0.1)


class Workload:
    """Clients at work, from the moment when it is made."""

    seeds = itertools.count(1)

    def __init__(self, cluster, **options):
        options.setdefault("seed", next(self.seeds))
        self.history = cluster.directory / "history.txt"
        flags = [f"--{name}={value}" for name, value in options.items()]
        self.process = subprocess.Popen(
            [BIN_DIR / "cluster_workload", ",".join(cluster.addresses()), f"--history={self.history}", *flags],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.began = time.monotonic()
        self.figures, self.figures_at = {}, 0
        self.said = []
        self.phases = []  # how long the operations of each phase took
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            if line.startswith('{"phase"'):
                self.phases.append(json.loads(line))
            elif line.startswith("{"):
                self.figures, self.figures_at = json.loads(line), time.monotonic()
            else:
                self.said.append(line)

    def begin_phase(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def running(self):
        return self.process.poll() is None and self.figures.get("state") != "judged"

    def wait_serving(self, limit_s, what="the cluster"):
        """Waits until an operation on every key was finished after now; fails after limit_s. Returns the time."""
        began = time.monotonic()
        while True:
            took = time.monotonic() - began
            if self.figures_at > began and self.figures["stalled_ms"] < (self.figures_at - began) * 1000:
                return took
            assert self.process.poll() is None, f"the clients have ended:\n{''.join(self.said)}"
            assert took < limit_s, f"{what} does not serve all keys after {took:.1f} s: {self.figures}"
            time.sleep(0.02)

    def finish(self):
        """Heal the cluster first. Fails if the history is not right."""
        took = time.monotonic() - self.began
        self.process.stdin.close()
        code = self.process.wait(300)
        self.reader.join()
        assert code == 0, f"the history is judged {code}; it is in {self.history}\n{''.join(self.said)}"
        figures = self.figures
        return (f"{figures['finished']} operations in {took:.0f} s, {figures['unknown']} of unknown outcome, "
                f"{figures['refused']} refused: linearizable")


__all__ = ["ETCDS", "NODES", "FaultCluster", "Workload"]


def run_alone(test, cluster, serving_s):
    """Runs a directed test with clients of its own, which are served within so many seconds before it begins."""
    began = time.monotonic()
    print(test.__name__, flush=True)
    load = Workload(cluster)
    load.wait_serving(serving_s)
    test(cluster, load)
    print(f"  {load.finish()}; {time.monotonic() - began:.1f} s", flush=True)
