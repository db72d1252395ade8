#!/usr/bin/python3
"""Runs a cluster of three Pando nodes and two routers on this machine, for ./dev up and ./dev down.

    tools/dev_cluster.py up [--etcd]      start whichever process does not run, and wait until all replicas are in sync
    tools/dev_cluster.py down             stop all processes: the routers, the nodes one after the other, etcd last
    tools/dev_cluster.py running          exit with 0 if any process runs
    tools/dev_cluster.py kill-master KEY  kill -9 the master of the partition that holds the key, and print its node

The first `up` also loads the records of RUN_DIR/packages.jsonl through a router, and shows that the death of a master
loses none of them. An `up` that has started something ends with a report: how many packages there are, of which sections. RUN_DIR/cluster.json says what runs: {"topology", "nodes": [{"id", "listen", "http", "pid",
"data_dir"}], "routers": [{"id", "listen", "http", "pid", "log_dir"}]}. A node's "pid" is the process that serves; its
parent, the guard, is "guard" (src/node/guard.h).

Environment: PANDO_BIN_DIR (default build/release/bin), PANDO_RUN_DIR (default run), PANDO_LISTEN and PANDO_HTTP_PORT of
the first node (the others take the ports 10 and 20 higher, the routers those 30 and 40 higher; port 0 takes any free
ones), PANDO_ETCD (the etcd program; default build/etcd/etcd, and then /usr/bin/etcd).
"""

import argparse
import collections
import contextlib
import fcntl
import json
import os
import pathlib
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

from cluster_client import ClusterClient, NoAnswer, replicas_of_node

ROOT = pathlib.Path(__file__).resolve().parents[1]
BIN_DIR = pathlib.Path(os.environ.get("PANDO_BIN_DIR", ROOT / "build" / "release" / "bin")).absolute()
RUN_DIR = pathlib.Path(os.environ.get("PANDO_RUN_DIR", ROOT / "run")).absolute()
# As a user calls it for the same directory.
DEV = f"PANDO_RUN_DIR={shlex.quote(os.environ['PANDO_RUN_DIR'])} ./dev" if "PANDO_RUN_DIR" in os.environ else "./dev"
LISTEN = os.environ.get("PANDO_LISTEN", "127.0.0.1:7420")
HTTP_PORT = int(os.environ.get("PANDO_HTTP_PORT", "7421"))
STATE = RUN_DIR / "cluster.json"
RECORDS = RUN_DIR / "packages.jsonl"
LOGS = RUN_DIR / "log"

NODES, PARTITIONS, REPLICAS, ROUTERS = 3, 16, 3, 2
PORT_STEP, ETCD_PORT_STEP = 10, 100  # between the nodes, and from the first node to etcd
START_TIMEOUT_S, HEAL_TIMEOUT_S, STOP_TIMEOUT_S, KILL_TIMEOUT_S = 60, 60, 60, 10
READY = re.compile(r"(?:kvnode|kvrouter) ready: thrift ([^ ]+), (?:http ([^ ]+), )?")
PROBE_TTL_MS = 600_000
PROBE_PREFIX = "{dev-up}/"
SECTION = re.compile(r"^Section: *(\S+)", re.MULTILINE)
REPORTED_SECTIONS = 8
PROBE_AFTER_S = 0.5  # the probe goes on for this long after the new master's first answer


class Failure(Exception):
    """What `up` or `down` could not do, and what to do about it."""


def write_line(line, stream):
    try:
        print(line, file=stream, flush=True)
    except BrokenPipeError:  # whoever reads, as head does, has enough; the work goes on
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def say(message):
    bold, plain = ("\033[1m", "\033[0m") if sys.stderr.isatty() else ("", "")
    write_line(f"{bold}== {message}{plain}", sys.stderr)


def tell(message):
    write_line(message, sys.stdout)


def shown(path):
    """The path as it is short for who stands in the repository."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def count(number, what):
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def wait_until(condition, timeout_s):
    """Whether the condition has come true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


# -- processes

def runs(pid, directory):
    """Whether the process runs and has `directory` among its arguments: it is ours, and no other with its number."""
    if not pid:
        return False
    try:
        return str(directory).encode() in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def child_of(pid):
    try:
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return None
    return int(children[0]) if children else None


def start_process(command, output, directory):
    """Starts a process that outlives this one and its terminal. Once it has returned, `runs` is right about it."""
    with open(output, "wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    # The kernel shows the arguments of a program a moment after it has begun.
    wait_until(lambda: runs(process.pid, directory) or process.poll() is not None, START_TIMEOUT_S)
    return process


def stop_process(name, pids, directory):
    """Stops one program that consists of these processes, of which the first passes SIGTERM on. Returns whether it
    has stopped in order, or did not run."""
    pids = [pid for pid in pids if runs(pid, directory)]
    if not pids:
        return True
    began = time.monotonic()
    os.kill(pids[0], signal.SIGTERM)
    gone = lambda: not any(runs(pid, directory) for pid in pids)
    if wait_until(gone, STOP_TIMEOUT_S):
        tell(f"stopped {name} (pid {pids[-1]}) in {time.monotonic() - began:.1f} s")
        return True
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(gone, KILL_TIMEOUT_S)
    tell(f"{name} (pid {pids[-1]}) still ran {STOP_TIMEOUT_S} s after SIGTERM, and was killed; see {shown(LOGS)}")
    return False


class State:
    """What cluster.json says."""

    def __init__(self):
        self.value = {"topology": None, "nodes": [], "routers": []}
        if STATE.exists():
            self.value = json.loads(STATE.read_text(encoding="utf-8"))

    def save(self):
        temporary = STATE.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.value, indent=2) + "\n", encoding="utf-8")
        temporary.replace(STATE)

    @property
    def topology(self):
        return self.value["topology"]

    @property
    def nodes(self):
        return self.value["nodes"]

    @property
    def etcd(self):
        return self.value.get("etcd")

    @property
    def routers(self):
        return self.value.setdefault("routers", [])

    def addresses(self):
        return [node["listen"] for node in self.nodes]

    def entrances(self):
        """Where clients go: the routers."""
        return [router["listen"] for router in self.routers]

    def at(self, address):
        """The node that listens there."""
        return next(node for node in self.nodes if node["listen"] == address)

    def runs(self):
        """The nodes of which at least the guard runs."""
        return [node for node in self.nodes if node_runs(node) or guard_runs(node)]


def node_runs(node):
    return runs(node["pid"], node["data_dir"])


def router_runs(router):
    return runs(router["pid"], router["log_dir"])


def guard_runs(node):
    return runs(node["guard"], node["data_dir"])


def etcd_runs(state):
    return bool(state.etcd) and runs(state.etcd["pid"], state.etcd["data_dir"])


@contextlib.contextmanager
def alone():
    """One ./dev up or ./dev down at a time."""
    RUN_DIR.mkdir(parents=True, exist_ok=True)
    with open(RUN_DIR / "lock", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(f"another ./dev up or ./dev down is at work in {shown(RUN_DIR)}: wait for it") from None
        yield


def kvadmin(*arguments, check=True):
    command = list(map(str, arguments))
    done = subprocess.run([BIN_DIR / "kvadmin", *command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          check=False)
    if check and done.returncode != 0:
        raise Failure(f"kvadmin {' '.join(command)} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


def show(state, *arguments):
    """Shows a command and what it prints."""
    command = list(map(str, arguments))
    tell(f"\n$ kvadmin {' '.join(command)}")
    if arguments[0] != "cluster":
        command = ["--server", ",".join(state.entrances()), *command]
    if subprocess.run([BIN_DIR / "kvadmin", *command], stdin=subprocess.DEVNULL, check=False).returncode != 0:
        raise Failure("this command failed; what it says is above")


# -- the topology

def free_ports():
    """Two ports that are free, below those that the kernel gives to connections."""
    while True:
        port = random.randrange(20000, 32000, 2)
        with contextlib.ExitStack() as stack:
            try:
                for i in range(2):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port + i))
                return port, port + 1
            except OSError:
                continue


def plan_etcd(state):
    first = int(LISTEN.rsplit(":", 1)[1])
    client, peer = (first + ETCD_PORT_STEP, first + ETCD_PORT_STEP + 1) if first else free_ports()
    state.value["etcd"] = {"client": client, "peer": peer, "pid": None, "data_dir": str(RUN_DIR / "etcd")}
    return f"etcd://127.0.0.1:{client}/dev"


def start_etcd(state):
    """One etcd that is a cluster of its own. A real cluster needs three, on three machines."""
    etcd = state.etcd
    program = os.environ.get("PANDO_ETCD")
    if not program:
        built = ROOT / "build" / "etcd" / "etcd"
        program = built if built.exists() else "/usr/bin/etcd"
    url, peer = f"http://127.0.0.1:{etcd['client']}", f"http://127.0.0.1:{etcd['peer']}"
    output = LOGS / "etcd.out"
    process = start_process(
        [program, "--name", "pando", "--data-dir", etcd["data_dir"], "--listen-client-urls", url,
         "--advertise-client-urls", url, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
         "--initial-cluster", f"pando={peer}"], output, etcd["data_dir"])
    etcd["pid"] = process.pid
    state.save()

    def serves():
        if process.poll() is not None:
            raise Failure(f"etcd ended with {process.returncode}; see {shown(output)}")
        with contextlib.suppress(OSError, ValueError):
            with urllib.request.urlopen(f"{url}/health", timeout=1) as answer:
                return json.load(answer)["health"] == "true"
        return False

    if not wait_until(serves, START_TIMEOUT_S):
        raise Failure(f"etcd does not serve on {url} after {START_TIMEOUT_S} s; see {shown(output)}")
    tell(f"etcd serves on {url} (pid {process.pid})")


def plan(state, with_etcd):
    """Decides where the topology of a new cluster is, and which nodes it has."""
    if state.topology:
        if with_etcd and not state.etcd:
            raise Failure(f"the cluster in {shown(RUN_DIR)} keeps its map in {state.topology}, and not in etcd. To "
                          f"begin anew: {DEV} down; rm -r {shown(RUN_DIR)}; {DEV} up --etcd")
        return
    state.value["topology"] = plan_etcd(state) if with_etcd else f"file:{RUN_DIR / 'topology'}"
    for index in range(NODES):
        state.nodes.append({"id": index + 1, "listen": None, "http": None, "pid": None,
                            "data_dir": str(RUN_DIR / f"node-{index + 1}"), "guard": None})
    state.save()


def plan_routers(state):
    while len(state.routers) < ROUTERS:
        number = len(state.routers) + 1
        state.routers.append({"id": number, "listen": None, "http": None, "pid": None,
                              "log_dir": str(LOGS / f"router-{number}")})


def create_cluster(state):
    """Writes the map of a new cluster, or goes on with what an interrupted run has written of it."""
    if state.value.get("created"):
        return
    if not state.etcd:
        (RUN_DIR / "topology").mkdir(exist_ok=True)
    nodes = ",".join(str(node["id"]) for node in state.nodes)
    kvadmin("cluster", "init", "--topology", state.topology, "--nodes", nodes, "--partitions", PARTITIONS, "--replicas",
            REPLICAS)
    state.value["created"] = True
    state.save()


# -- the nodes

def ports_of(number):
    """The addresses at which the node with this ID is to listen: the same at each start, unless any free ports are
    wanted. The routers follow the nodes."""
    host, port = LISTEN.rsplit(":", 1)
    step = PORT_STEP * (number - 1)
    http = HTTP_PORT + step if HTTP_PORT > 0 else HTTP_PORT
    return f"{host}:{int(port) + step if int(port) else 0}", http


def output_of(node):
    return LOGS / f"node-{node['id']}.out"


def launch_node(state, node):
    """Starts a node; wait_ready waits for it."""
    logs = LOGS / f"node-{node['id']}"
    logs.mkdir(parents=True, exist_ok=True)
    listen, http_port = ports_of(node["id"])
    process = start_process(
        [BIN_DIR / "kvnode", "--data_dir", node["data_dir"], "--topology", state.topology, "--node_id", str(node["id"]),
         "--listen", listen, "--http_port", str(http_port), "--reactors", "1", "--memory_limit_mb", "512",
         "--log_budget_mb", "128", "--log_dir", logs], output_of(node), node["data_dir"])
    node["guard"], node["pid"] = process.pid, None
    state.save()


def wait_ready(node):
    """Waits until the node serves, and learns its addresses and the process that does."""
    output = output_of(node)

    def ready():
        found = READY.search(output.read_text(encoding="utf-8", errors="replace"))
        if not found and not guard_runs(node):
            said = output.read_text(encoding="utf-8", errors="replace").strip()
            raise Failure(f"node {node['id']} did not start; see {shown(LOGS / output.stem)}. It said:\n{said}")
        return found

    if not wait_until(ready, START_TIMEOUT_S):
        raise Failure(f"node {node['id']} is not ready after {START_TIMEOUT_S} s; see {shown(LOGS / output.stem)}")
    node["listen"], node["http"] = ready().groups()
    node["pid"] = child_of(node["guard"]) or node["guard"]


def start_nodes(state):
    """Starts the nodes that do not run, all at the same time."""
    missing = [node for node in state.nodes if not node_runs(node)]
    for node in missing:
        # The guard of a node that was killed ends once it has told the other nodes. A node that an interrupted run has
        # started has a guard, and no pid yet.
        if node["pid"] and not wait_until(lambda n=node: not guard_runs(n), KILL_TIMEOUT_S):
            raise Failure(f"node {node['id']} has ended, but its guard (pid {node['guard']}) has not: kill that too")
        if not guard_runs(node):
            launch_node(state, node)
    for node in missing:
        wait_ready(node)
        state.save()
        metrics = f", metrics on http://{node['http']}/metrics" if node["http"] else ""
        tell(f"node {node['id']} serves on {node['listen']} (pid {node['pid']}{metrics})")


def start_routers(state):
    """Starts the routers that do not run. They keep nothing, so nothing else is to be done for them."""
    for router in [router for router in state.routers if not router_runs(router)]:
        pathlib.Path(router["log_dir"]).mkdir(parents=True, exist_ok=True)
        listen, http_port = ports_of(NODES + router["id"])
        output = LOGS / f"router-{router['id']}.out"
        process = start_process(
            [BIN_DIR / "kvrouter", "--nodes", ",".join(state.addresses()), "--listen", listen, "--http_port",
             str(http_port), "--reactors", "1", "--memory_limit_mb", "256", "--log_dir", router["log_dir"]], output,
            router["log_dir"])

        def ready(process=process, output=output, router=router):
            said = output.read_text(encoding="utf-8", errors="replace")
            if process.poll() is not None:
                raise Failure(f"router {router['id']} did not start; see {shown(LOGS)}. It said:\n{said.strip()}")
            return READY.search(said)

        if not wait_until(ready, START_TIMEOUT_S):
            raise Failure(f"router {router['id']} is not ready after {START_TIMEOUT_S} s; see {shown(output)}")
        router["pid"] = process.pid
        router["listen"], router["http"] = ready().groups()
        state.save()
        metrics = f", metrics on http://{router['http']}/metrics" if router["http"] else ""
        tell(f"router {router['id']} serves on {router['listen']} (pid {router['pid']}{metrics})")


def masters(state):
    """By partition: its node, and whether all of its replicas are in sync, as the masters that serve now say."""
    found = {}
    for node in state.nodes:
        for replica in replicas_of_node(node["listen"]) if node_runs(node) else []:
            if replica.role == "master":
                found[replica.partition] = node["id"], replica.in_sync == replica.replicas
    return found


def wait_healed(state):
    """Waits until every partition has a master and all of its replicas in sync. Returns how long that took."""
    began = time.monotonic()

    def healed():
        for node in state.nodes:
            if not node_runs(node):
                raise Failure(f"node {node['id']} has ended; see {shown(output_of(node))} and {shown(LOGS)}")
        found = masters(state)
        return len(found) == PARTITIONS and all(in_sync for _, in_sync in found.values())

    if not wait_until(healed, HEAL_TIMEOUT_S):
        found = masters(state)
        without = [p for p in range(PARTITIONS) if p not in found]
        behind = [p for p, (_, in_sync) in sorted(found.items()) if not in_sync]
        raise Failure(f"the cluster is not whole after {HEAL_TIMEOUT_S} s. Partitions without a master: "
                      f"{without or 'none'}; with a replica that is not in sync: {behind or 'none'}.\nSee "
                      f"{shown(LOGS)}, and {shown(BIN_DIR / 'kvadmin')} cluster show --topology {state.topology}")
    return time.monotonic() - began


# -- what the first ./dev up shows

def load_records(state):
    say("loading the Debian package index through a router: the key is the name of a package, the value is its stanza")
    command = [BIN_DIR / "kvadmin", "--server", state.entrances()[0], "load", RECORDS]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise Failure("the package index could not be loaded; ./dev up tries again")
    state.value["loaded"] = True
    state.save()


def expected_records():
    with open(RECORDS, encoding="utf-8") as lines:
        return {record["key"].encode(): record["value"].encode() for record in map(json.loads, lines)}


def read_back(state):
    """Reads each record of the package index through a router. Returns whether all are there, as they were loaded."""
    expected = expected_records()
    began = time.monotonic()
    missing, other, reached, wide = [], [], 0, sys.stderr.isatty()
    asked = ClusterClient(state.entrances())
    for reached, (key, value) in enumerate(asked.read_back(expected), 1):
        if value is None:
            missing.append(key)
        elif value != expected[key]:
            other.append(key)
        if wide and reached % 5000 == 0:
            print(f"\r{reached:,} of {len(expected):,} read", end="", file=sys.stderr, flush=True)
    asked.close()
    if wide:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    unchanged = reached - len(missing) - len(other)
    tell(f"{unchanged:,} of {count(len(expected), 'record')} are there and unchanged (read in "
         f"{time.monotonic() - began:.1f} s)")
    for keys, what in (missing, "not there"), (other, "there with another value than was loaded"):
        if keys:
            examples = ", ".join(key.decode() for key in keys[:5])
            tell(f"{count(len(keys), 'record')} {'is' if len(keys) == 1 else 'are'} {what}: {examples}"
                 + (", ..." if len(keys) > 5 else ""))
    return not missing and not other


def section_of(stanza):
    found = SECTION.search(stanza)
    return found.group(1).rsplit("/", 1)[-1] if found else "(none)"


def show_report(state):
    """Counts what the cluster holds: all of one moment, through a router, as kvadmin export has verified it."""
    began = time.monotonic()
    command = [BIN_DIR / "kvadmin", "--server", ",".join(state.entrances()), "--json", "export", "-q"]
    packages, total, sections = 0, 0, collections.defaultdict(lambda: [0, 0])
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as export:
        for line in export.stdout:
            record = json.loads(line)
            key, stanza = record.get("key", ""), record.get("value", "")
            if key.startswith(PROBE_PREFIX) or not stanza.startswith("Package:"):
                continue
            size = len(key.encode()) + len(stanza.encode())
            packages += 1
            total += size
            section = sections[section_of(stanza)]
            section[0] += 1
            section[1] += size
        error = export.stderr.read()
    if export.returncode != 0:
        raise Failure(f"the cluster cannot be read: {error.strip()}")
    say("what the cluster holds: a snapshot through a router, compared with the sums that the nodes keep")
    tell(f"{count(packages, 'package')}, {total / 2**20:.1f} MiB, in {count(len(sections), 'section')} (read and "
         f"verified in {time.monotonic() - began:.1f} s)")
    tell(f"{'SECTION':16} {'PACKAGES':>9} {'MiB':>7}")
    ranked = sorted(sections.items(), key=lambda item: (-item[1][0], item[0]))
    shown_sections = ranked[:REPORTED_SECTIONS]
    others = [value for _, value in ranked[REPORTED_SECTIONS:]]
    if others:
        shown_sections.append((f"{len(others)} others", [sum(n for n, _ in others), sum(b for _, b in others)]))
    for name, (number, size) in shown_sections:
        tell(f"{name:16} {number:>9,} {size / 2**20:>7.1f}")


class Probe(threading.Thread):
    """A client that writes records to one partition, one after the other, and knows when each was acknowledged, and by
    whom."""

    def __init__(self, state):
        super().__init__(daemon=True)
        self._client = ClusterClient(state.addresses())
        self._prefix = f"{PROBE_PREFIX}{time.time_ns()}/"  # the tag in braces puts all into one partition
        self.master = self._client.get(self._key(0))[1]
        self.acknowledged = []  # (when, by which address), by number
        self.stopping = threading.Event()
        self.error = None

    def _key(self, number):
        return f"{self._prefix}{number:06}".encode()

    def run(self):
        try:
            while not self.stopping.is_set():
                number = len(self.acknowledged)
                address = self._client.put(self._key(number), b"%d" % number, PROBE_TTL_MS)
                self.acknowledged.append((time.monotonic(), address))
                time.sleep(0.001)
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    def first_answer_of_another(self):
        """When another node than the first master has acknowledged a write, and which; or None."""
        return next((answer for answer in self.acknowledged if answer[1] != self.master), None)

    def finish(self):
        """Ends, and returns how many writes were acknowledged and are not there."""
        self.stopping.set()
        self.join()
        keys = {self._key(number): b"%d" % number for number in range(len(self.acknowledged))}
        lost = sum(value != keys[key] for key, value in self._client.read_back(keys))
        self._client.close()
        return lost


def kill(node):
    os.kill(node["pid"], signal.SIGKILL)
    if not wait_until(lambda: not node_runs(node), KILL_TIMEOUT_S):
        raise Failure(f"node {node['id']} (pid {node['pid']}) still runs after SIGKILL")


def show_failover(state):
    """Kills a master while a client writes, and checks what the client sees and what is there afterwards."""
    probe = Probe(state)
    victim = state.at(probe.master)
    led = sum(node == victim["id"] for node, _ in masters(state).values())
    probe.start()
    if not wait_until(lambda: len(probe.acknowledged) >= 100 or probe.error, HEAL_TIMEOUT_S):
        raise Failure(f"the cluster has acknowledged only {count(len(probe.acknowledged), 'write')} within "
                      f"{HEAL_TIMEOUT_S} s; see {shown(LOGS)}")
    say(f"kill -9 {victim['pid']}: that is node {victim['id']}, the master of {led} of the {PARTITIONS} partitions. "
        "Meanwhile a client writes to one of them")
    before = len(probe.acknowledged)
    killed = time.monotonic()
    kill(victim)
    healed = wait_until(lambda: probe.first_answer_of_another() or probe.error, HEAL_TIMEOUT_S)
    if probe.error or not healed:
        raise Failure(f"no other node took over from node {victim['id']}: {probe.error or 'the client still waits'}. "
                      f"See {shown(LOGS)}, and ./dev up again")
    taken_over, address = probe.first_answer_of_another()
    time.sleep(PROBE_AFTER_S)
    lost = probe.finish()
    if probe.error:
        raise Failure(f"the client failed after the takeover: {probe.error}; see {shown(LOGS)}")
    tell(f"node {state.at(address)['id']} took over: the partition was without a master for "
         f"{1000 * (taken_over - killed):.0f} ms, from the kill to the next acknowledged write")
    tell(f"{before:,} writes were acknowledged before the kill and {len(probe.acknowledged) - before:,} after it; "
         + (f"{lost:,} of them are LOST" if lost else "all of them are there"))
    say("reading all records back, from the two nodes that are left")
    if not read_back(state) or lost:
        raise Failure(f"acknowledged records are lost. This must never happen: keep {shown(RUN_DIR)}, and report it")
    say(f"starting node {victim['id']} again")
    start_nodes(state)
    took_s = wait_healed(state)
    tell(f"all {PARTITIONS} partitions have three replicas in sync again, {took_s:.1f} s after node {victim['id']} was "
         "back")


# -- commands

def tell_masters(state, took_s):
    leads = collections.Counter(node for node, _ in masters(state).values())
    each = ", ".join(f"{leads[node['id']]} on node {node['id']}" for node in state.nodes)
    tell(f"all {PARTITIONS} partitions have three replicas in sync after {took_s:.1f} s; masters: {each}")


def tell_how_to_go_on(state):
    admin, servers = shown(BIN_DIR / "kvadmin"), ",".join(state.entrances())
    others = ", ".join(f"node {node['id']}: {node['pid']}" for node in state.nodes[1:])
    tell(f"""
The cluster is up: three nodes, {PARTITIONS} partitions, {REPLICAS} replicas of each, and two routers, at
{" and ".join(state.entrances())}. Data and logs are in {shown(RUN_DIR)}; {shown(STATE)} says what runs, and has
the pids.

  {admin} --server {servers} get bash
  {admin} cluster show --topology {state.topology}
  kill -9 {state.nodes[0]['pid']}    # node 1 ({others}); the cluster goes on, and {DEV} up starts the node again
  {DEV} down            # stops all; the data stays""")


def cmd_up(options):
    with alone():
        LOGS.mkdir(parents=True, exist_ok=True)
        state = State()
        plan(state, options.etcd)
        plan_routers(state)
        missing = [node for node in state.nodes if not node_runs(node)]
        whole = not missing and all(map(router_runs, state.routers))
        if whole and (etcd_runs(state) or not state.etcd) and state.value.get("loaded"):
            wait_healed(state)
            tell(f"the cluster is already up: all {NODES} nodes, both routers{' and etcd' if state.etcd else ''} run, and "
                 "every replica is in sync; nothing was changed")
            tell_how_to_go_on(state)
            return
        where = "an etcd" if state.etcd else f"files, in {shown(RUN_DIR / 'topology')}"
        which = ", ".join(str(node["id"]) for node in missing) or "none"
        say(f"starting the nodes that do not run: {which}. The map of the cluster is in {where}")
        if state.etcd and not etcd_runs(state):
            start_etcd(state)
        create_cluster(state)
        start_nodes(state)
        tell_masters(state, wait_healed(state))
        start_routers(state)
        if state.value.get("loaded"):
            say("reading all records back")
            if not read_back(state):
                tell("If you have not removed or changed them yourself, this must never happen: please report it.")
        else:
            load_records(state)
            show(state, "get", "bash")
            show_failover(state)
            show(state, "cluster", "show", "--topology", state.topology)
        show_report(state)
        tell_how_to_go_on(state)


def cmd_down(_options):
    with alone():
        state = State()
        if not state.runs() and not etcd_runs(state) and not any(map(router_runs, state.routers)):
            tell("no node is up")
        in_order = True
        for router in state.routers:
            in_order &= stop_process(f"router {router['id']}", [router["pid"]], router["log_dir"])
            router["pid"] = None
        for node in state.nodes:
            pid = node["pid"] or child_of(node["guard"])
            in_order &= stop_process(f"node {node['id']}", [node["guard"], pid], node["data_dir"])
            node["pid"] = node["guard"] = None
        if state.etcd:
            in_order &= stop_process("etcd", [state.etcd["pid"]], state.etcd["data_dir"])
            state.etcd["pid"] = None
        if STATE.exists():
            state.save()
        if not in_order:
            raise Failure("not everything stopped in order; see above. Nothing runs any more, and no acknowledged "
                          "write is lost")


def cmd_running(_options):
    state = State()
    sys.exit(0 if state.runs() or etcd_runs(state) or any(map(router_runs, state.routers)) else 1)


def cmd_kill_master(options):
    state = State()
    if not all(map(node_runs, state.nodes)) or not state.nodes:
        raise Failure("not all nodes run; ./dev up starts them")
    node = state.at(ClusterClient(state.addresses()).get(options.key.encode())[1])
    kill(node)
    tell(node["id"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    up = commands.add_parser("up", help="start what does not run")
    up.add_argument("--etcd", action="store_true", help="keep the map of a new cluster in an etcd, and start that")
    up.set_defaults(run=cmd_up)
    commands.add_parser("down", help="stop all").set_defaults(run=cmd_down)
    commands.add_parser("running", help="exit with 0 if any process runs").set_defaults(run=cmd_running)
    kill_master = commands.add_parser("kill-master", help="kill -9 the master of the partition that holds a key")
    kill_master.add_argument("key")
    kill_master.set_defaults(run=cmd_kill_master)
    options = parser.parse_args()
    try:
        options.run(options)
    except (Failure, NoAnswer) as failure:
        sys.exit(f"dev: {failure}")
    except KeyboardInterrupt:
        sys.exit(f"dev: interrupted; {DEV} up goes on, and {DEV} down stops what runs")


if __name__ == "__main__":
    main()
