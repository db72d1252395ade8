#!/usr/bin/python3
"""Tests ./dev up and ./dev down as a newcomer uses them: real input, kill -9 in between, and a clean stop. Once with
one node, and with clusters that keep their map in files and in etcd.
"""

import collections
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

from node_process import BIN_DIR, ROOT, run_kvadmin, temporary_directory

sys.path.insert(0, str(ROOT / "tools"))
from cluster_client import ClusterClient  # noqa: E402 pylint: disable=wrong-import-position

GONE_TIMEOUT_S = 30
COMMAND_TIMEOUT_S = 180


class Dev:
    def __init__(self, run_dir):
        self.run_dir = run_dir
        self.environment = dict(os.environ, PANDO_BIN_DIR=str(BIN_DIR), PANDO_RUN_DIR=str(run_dir),
                                PANDO_LISTEN="127.0.0.1:0", PANDO_HTTP_PORT="0")

    def attempt(self, *command, **environment):
        return subprocess.run([ROOT / "dev", *command], env=dict(self.environment, **environment),
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S,
                              check=False)

    def run(self, *command, **environment):
        done = self.attempt(*command, **environment)
        assert done.returncode == 0, (f"./dev {' '.join(command)} exited with {done.returncode}:\n"
                                      f"{done.stdout}{done.stderr}")
        return done.stdout

    def refused(self, *command):
        done = self.attempt(*command)
        assert done.returncode != 0, f"./dev {' '.join(command)} succeeded:\n{done.stdout}"
        return done.stderr

    def pid(self):
        return int((self.run_dir / "kvnode.pid").read_text())

    def cluster(self):
        return json.loads((self.run_dir / "cluster.json").read_text())

    def processes(self):
        """The processes that work in the directory."""
        found = {}
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(self.run_dir) in command:
                found[int(process.name)] = command
        return found


LATE_OPEN = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>
#define LATE(name)                                                                        \
  int name(const char* path, int flags, ...) {                                            \
    va_list rest;                                                                         \
    va_start(rest, flags);                                                                \
    int mode = va_arg(rest, int);                                                         \
    va_end(rest);                                                                         \
    if ((flags & O_TRUNC) && strstr(path, "kvnode.out")) usleep(2000000);                 \
    return ((int (*)(const char*, int, ...))dlsym(RTLD_NEXT, #name))(path, flags, mode);  \
  }
LATE(open)
LATE(open64)
"""


def late_open(directory):
    """Builds a library to preload that delays the truncation of kvnode.out, as may happen on a busy machine."""
    source, library = directory / "late.c", directory / "late.so"
    source.write_text(LATE_OPEN)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return str(library)


def wait_gone(pid):
    deadline = time.monotonic() + GONE_TIMEOUT_S
    while pathlib.Path(f"/proc/{pid}").exists() and "Z" not in process_state(pid):
        assert time.monotonic() < deadline, f"process {pid} still exists"
        time.sleep(0.02)


def process_state(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


def kill(pid):
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)


def last_count(output):
    """Returns what `kvadmin count` printed, the last command that ./dev up --single shows."""
    return int(output.split("kvadmin count\n")[1].split()[0])


def packages_known_to_apt():
    index = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True,
                           errors="replace").stdout
    return len({line for line in index.splitlines() if line.startswith("Package: ")})


def single(dev):
    output = dev.run("up", "--single")
    assert last_count(output) == packages_known_to_apt(), output[-2000:]
    assert "\nPackage: bash\n" in output and "libthrift-dev\n" in output, "./dev up did not show a get or a scan"
    pid = dev.pid()

    assert "already up" in dev.run("up", "--single")
    assert dev.pid() == pid, "a second node was started"
    assert f"PANDO_RUN_DIR={dev.run_dir} ./dev down stops it" in output, output[-2000:]
    assert "./dev down" in dev.refused("up"), "a cluster was started beside the node"

    kill(pid)
    again = dev.run("up", "--single", LD_PRELOAD=late_open(dev.run_dir))
    assert last_count(again) == last_count(output), "kill -9 lost records"
    pid = dev.pid()

    assert f"stopped kvnode (pid {pid})" in dev.run("down")
    wait_gone(pid)
    assert "no node is up" in dev.run("down")
    run_kvadmin("check", dev.run_dir / "data")


def largest_section_known_to_apt():
    """The section with the most packages, and how many it has. Of several versions of a package the last one counts."""
    index = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True,
                           errors="replace").stdout
    section_of = {}
    for stanza in index.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if re.match(r"(Package|Section): ", line))
        if "Package" in fields:
            section_of[fields["Package"]] = fields.get("Section", "(none)").rsplit("/", 1)[-1]
    counts = collections.Counter(section_of.values())
    return min(counts.items(), key=lambda item: (-item[1], item[0]))


def check_report(output, packages):
    """The report of ./dev up counts what apt counts, in its rows as in its sum."""
    section, number = largest_section_known_to_apt()
    assert re.search(rf"(?m)^{packages:,} packages, [\d.]+ MiB, in \d+ sections? \(read and verified in ", output), output
    rows = re.search(r"SECTION +PACKAGES +MiB\n((?:.+ +[\d,]+ +[\d.]+\n)+)", output).group(1).splitlines()
    counted = [int(row.rsplit(None, 2)[1].replace(",", "")) for row in rows]
    assert rows[0].split()[0] == section and counted[0] == number, (rows, section, number)
    assert sum(counted) == packages, (rows, packages)


def cluster(dev, *options):
    packages = packages_known_to_apt()
    whole = f"{packages:,} of {packages:,} records are there and unchanged"
    output = dev.run("up", *options)
    for sentence in ("\nPackage: bash\n", "the partition was without a master for ", "all of them are there\n", whole,
                     "have three replicas in sync again", f"  PANDO_RUN_DIR={dev.run_dir} ./dev down  "):
        assert sentence in output, f"./dev up does not say {sentence!r}:\n{output}"
    check_report(output, packages)
    before = dev.cluster()
    assert [node["id"] for node in before["nodes"]] == [1, 2, 3], before
    assert [router["id"] for router in before["routers"]] == [1, 2], before
    assert before["topology"].startswith("etcd:" if options else "file:"), before
    for node in before["nodes"]:
        assert process_state(node["pid"]) in "RSD" and pathlib.Path(node["data_dir"]).is_dir(), node

    running = dev.processes()
    assert "already up" in dev.run("up")
    assert dev.cluster() == before and dev.processes() == running, "a second ./dev up has changed something"
    assert "./dev down" in dev.refused("up", "--single"), "a single node was started beside the cluster"

    a_master_dies(dev, whole)
    victim = dev.cluster()["routers"][0]
    kill(victim["pid"])
    again = dev.run("up")
    assert again.count(" serves on ") == 1 and "router 1 serves on " in again and whole in again, again
    if options:
        kill(dev.cluster()["etcd"]["pid"])
        again = dev.run("up")
        assert again.count(" serves on ") == 1 and "etcd serves on " in again and whole in again, again
    kill(dev.cluster()["nodes"][0]["guard"])  # the node then stops by itself
    wait_gone(dev.cluster()["nodes"][0]["pid"])
    assert whole in dev.run("up"), "records were lost with a guard"

    stopped = dev.run("down")
    assert [f"stopped node {i} " in stopped for i in (1, 2, 3)] == [True] * 3, stopped
    assert [f"stopped router {i} " in stopped for i in (1, 2)] == [True] * 2, stopped
    assert ("stopped etcd" in stopped) == bool(options), stopped
    assert not dev.processes(), f"these still run after ./dev down: {dev.processes()}"
    assert "no node is up" in dev.run("down")
    for node in before["nodes"]:
        run_kvadmin("check", node["data_dir"])

    output = dev.run("up")
    assert whole in output, "records were lost when all nodes were stopped"
    check_report(output, packages)
    assert dev.cluster()["topology"] == before["topology"]


def a_master_dies(dev, whole):
    """kill -9 of a master: the cluster goes on without it, and ./dev up starts it again, and nothing else."""
    before = {node["id"]: node for node in dev.cluster()["nodes"]}
    client = ClusterClient([node["listen"] for node in before.values()])
    stanza, address = client.get(b"bash")
    victim = next(node for node in before.values() if node["listen"] == address)
    kill(victim["pid"])
    assert client.put(b"written/without/it", b"1", ttl_ms=600_000)
    now, address = client.get(b"bash")
    assert now == stanza and address != victim["listen"], f"{address} says {now}"

    output = dev.run("up")
    assert whole in output, output
    assert f"node {victim['id']} serves on " in output and output.count(" serves on ") == 1, output
    after = {node["id"]: node for node in dev.cluster()["nodes"]}
    assert [i for i, node in after.items() if node["pid"] != before[i]["pid"]] == [victim["id"]], (before, after)
    assert client.get(b"written/without/it")[0] == b"1"
    client.close()


def etcd_exists(dev):
    return shutil.which("etcd") or os.access(dev.environment.get("PANDO_ETCD", ROOT / "build/etcd/etcd"), os.X_OK)


def main():
    for test, options in (single, []), (cluster, []), (cluster, ["--etcd"]):
        run_dir = temporary_directory("dev-up")
        dev = Dev(run_dir)
        if options and not etcd_exists(dev):
            print("there is no etcd; the cluster with etcd is not tested")
            continue
        began = time.monotonic()
        try:
            test(dev, *options)
        finally:
            dev.run("down")
        assert not dev.processes(), f"these still run after ./dev down: {dev.processes()}"
        shutil.rmtree(run_dir)
        print(f"{test.__name__} {' '.join(options)}: {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()
