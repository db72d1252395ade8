#!/usr/bin/python3
"""Runs a cluster of Pando nodes on this machine, for ./dev up and ./dev down.

    tools/dev_cluster.py up|down|show [--etcd] [--nodes N]

`up` starts whichever of its processes is not running, so it also repairs. It leaves RUN_DIR/cluster.json:
{"topology", "nodes": [{"id", "listen", "http", "pid", "data_dir"}], "routers": []}, where a node's pid is that of the
process that serves; its parent, the guard, has the pid "guard".

Environment: PANDO_BIN_DIR (default build/release/bin), PANDO_RUN_DIR (default run), PANDO_LISTEN (host:port of the
first node; the others take the ports after it, step 10; port 0 picks free ones), ETCD_BIN (the etcd program).
"""

import argparse
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
BIN_DIR = pathlib.Path(os.environ.get("PANDO_BIN_DIR", ROOT / "build" / "release" / "bin"))
RUN_DIR = pathlib.Path(os.environ.get("PANDO_RUN_DIR", ROOT / "run"))
LISTEN = os.environ.get("PANDO_LISTEN", "127.0.0.1:7420")
STATE = RUN_DIR / "cluster.json"
READY = re.compile(r"kvnode ready: thrift ([^ ]+), (?:http ([^ ]+), )?")
START_TIMEOUT_S, STOP_TIMEOUT_S = 60, 60
PARTITIONS, REPLICAS = 16, 3
PORT_STEP = 10


def fail(message):
    sys.exit(f"dev: {message}")


def say(message):
    print(f"\033[1m== {message}\033[0m", file=sys.stderr)


def alive(pid, program):
    """Whether the process runs, and is that program and not another one with the same number."""
    try:
        return pid and program in os.readlink(f"/proc/{pid}/exe") and "Z" not in state_of(pid)
    except OSError:
        return False


def state_of(pid):
    return pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rsplit(")", 1)[1].split()[0]


def child_of(pid):
    try:
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return None
    return int(children[0]) if children else None


def wait_until(condition, timeout_s, what):
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            fail(f"{what}, {timeout_s} s later; see {RUN_DIR}/log")
        time.sleep(0.05)


class State:
    """What STATE says."""

    def __init__(self):
        self.value = {"topology": None, "nodes": [], "routers": []}
        if STATE.exists():
            self.value = json.loads(STATE.read_text(encoding="utf-8"))

    def save(self):
        temporary = STATE.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.value, indent=2) + "\n", encoding="utf-8")
        temporary.replace(STATE)

    @property
    def nodes(self):
        return self.value["nodes"]

    def addresses(self):
        return ",".join(node["listen"] for node in self.nodes)


def kvadmin(*arguments, capture=True):
    done = subprocess.run([BIN_DIR / "kvadmin", *map(str, arguments)], stdin=subprocess.DEVNULL, text=True, check=False,
                          stdout=subprocess.PIPE if capture else None)
    if done.returncode != 0:
        fail(f"kvadmin {' '.join(map(str, arguments))} exited with {done.returncode}")
    return done.stdout


def start_etcd(state):
    """Starts one etcd, as a cluster of its own; more than one machine needs more than one etcd."""
    etcd = state.value.get("etcd") or {"client": 12379, "peer": 12380}
    state.value["etcd"] = etcd
    if alive(etcd.get("pid"), "etcd"):
        return
    program = os.environ.get("ETCD_BIN", "etcd")
    url, peer = f"http://127.0.0.1:{etcd['client']}", f"http://127.0.0.1:{etcd['peer']}"
    with open(RUN_DIR / "log" / "etcd.log", "ab") as log:
        process = subprocess.Popen(
            [program, "--name", "pando", "--data-dir", RUN_DIR / "etcd", "--listen-client-urls", url,
             "--advertise-client-urls", url, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
             "--initial-cluster", f"pando={peer}"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    etcd["pid"] = process.pid
    state.save()
    say(f"started etcd on {url} (pid {process.pid})")


def set_up_topology(state, with_etcd):
    if with_etcd:
        start_etcd(state)
        topology = f"etcd://127.0.0.1:{state.value['etcd']['client']}/dev"
    else:
        topology = f"file:{(RUN_DIR / 'topology').resolve()}"
    if state.value["topology"] not in (None, topology):
        fail(f"{RUN_DIR} holds a cluster on {state.value['topology']}, not on {topology}: leave the option as it was, or "
             f"remove {RUN_DIR} to begin anew")
    if state.value["topology"] is None:
        ids = ",".join(str(node["id"]) for node in state.nodes)
        kvadmin("cluster", "init", "--topology", topology, "--nodes", ids, "--partitions", PARTITIONS, "--replicas",
                min(REPLICAS, len(state.nodes)))
        state.value["topology"] = topology
        state.save()


def start_node(state, node):
    """Launches the node; wait_ready waits for it."""
    directory = RUN_DIR / f"node-{node['id']}"
    log_directory = RUN_DIR / "log" / f"node-{node['id']}"
    log_directory.mkdir(parents=True, exist_ok=True)
    output = RUN_DIR / "log" / f"node-{node['id']}.out"
    output.unlink(missing_ok=True)
    with open(output, "wb") as log:
        process = subprocess.Popen(
            [BIN_DIR / "kvnode", "--data_dir", directory, "--topology", state.value["topology"], "--node_id",
             str(node["id"]), "--listen", node["listen"], "--http_port", node["http"].rsplit(":", 1)[1], "--reactors", "1",
             "--memory_limit_mb", "512", "--log_dir", log_directory],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    node["guard"], node["pid"], node["data_dir"] = process.pid, None, str(directory.resolve())
    node["_process"], node["_output"] = process, output


def wait_ready(node):
    process, output = node.pop("_process"), node.pop("_output")
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        ready = READY.search(output.read_text(encoding="utf-8", errors="replace"))
        if ready:
            break
        if process.poll() is not None:
            sys.stderr.write(output.read_text(encoding="utf-8", errors="replace"))
            fail(f"node {node['id']} did not start; see above, and {RUN_DIR}/log")
        if time.monotonic() > deadline:
            fail(f"node {node['id']} is not ready after {START_TIMEOUT_S} s; see {output}")
        time.sleep(0.02)
    node["listen"], node["http"] = ready.group(1), ready.group(2)
    node["pid"] = child_of(process.pid) or process.pid


def start_nodes(state):
    missing = [node for node in state.nodes if not alive(node["pid"], "kvnode")]
    for node in missing:
        start_node(state, node)
    for node in missing:
        wait_ready(node)
        say(f"started node {node['id']} on {node['listen']} (pid {node['pid']}, guard {node['guard']})")
    state.save()


def plan_nodes(state, count):
    host, port = LISTEN.rsplit(":", 1)
    for index in range(len(state.nodes), count):
        first = int(port) + PORT_STEP * index if int(port) else 0
        state.nodes.append({"id": index + 1, "listen": f"{host}:{first}", "http": f"{host}:{first + 1 if first else 0}",
                            "pid": None, "guard": None, "data_dir": None})


def partitions(state):
    return json.loads(kvadmin("cluster", "show", "--topology", state.value["topology"], "--json"))["partitions"]


def healed(state):
    replicas = min(REPLICAS, len(state.nodes))
    return all(len(partition["isr"]) == replicas for partition in partitions(state))


def cmd_up(options):
    (RUN_DIR / "log").mkdir(parents=True, exist_ok=True)
    state = State()
    plan_nodes(state, options.nodes)
    set_up_topology(state, options.etcd)
    start_nodes(state)
    wait_until(lambda: healed(state), START_TIMEOUT_S, "not every replica is in sync")
    print(state.addresses())


def stop_process(pid, program, name):
    if not alive(pid, program):
        return
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not alive(pid, program), STOP_TIMEOUT_S, f"{name} (pid {pid}) still runs after SIGTERM")
    print(f"stopped {name} (pid {pid})")


def cmd_down(_options):
    state = State()
    if not any(alive(node["pid"], "kvnode") or alive(node["guard"], "kvnode") for node in state.nodes):
        print("no node is up")
    for node in state.nodes:
        stop_process(node["guard"], "kvnode", f"node {node['id']}")
        stop_process(node["pid"], "kvnode", f"node {node['id']}")
        node["pid"] = node["guard"] = None
    etcd = state.value.get("etcd")
    if etcd:
        stop_process(etcd.get("pid"), "etcd", "etcd")
        etcd["pid"] = None
    if STATE.exists():
        state.save()


def cmd_kill_master(options):
    """Kills the process of the node that is master of the partition with kill -9. Prints its ID."""
    state = State()
    partition = next(p for p in partitions(state) if p["id"] == options.partition)
    master = next(replica["node"] for replica in partition["isr"] if replica["replica"] == partition["master"])
    node = next(node for node in state.nodes if node["id"] == master)
    os.kill(node["pid"], signal.SIGKILL)
    wait_until(lambda: not alive(node["pid"], "kvnode"), 10, f"node {master} still runs after SIGKILL")
    print(master)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    commands = parser.add_subparsers(required=True)
    up = commands.add_parser("up", help="start what is not running")
    up.add_argument("--etcd", action="store_true", help="keep the cluster's map in an etcd, which is started too")
    up.add_argument("--nodes", type=int, default=3, help="how many nodes there are")
    up.set_defaults(run=cmd_up)
    commands.add_parser("down", help="stop all").set_defaults(run=cmd_down)
    kill = commands.add_parser("kill-master", help="kill -9 the master of a partition")
    kill.add_argument("partition", type=int, nargs="?", default=0)
    kill.set_defaults(run=cmd_kill_master)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
