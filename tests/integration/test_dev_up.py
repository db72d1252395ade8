#!/usr/bin/python3
"""Tests ./dev up and ./dev down as a newcomer uses them: real input, kill -9 in between, and a clean stop."""

import os
import pathlib
import shutil
import signal
import subprocess
import time

from node_process import BIN_DIR, ROOT, run_kvadmin, temporary_directory


class Dev:
    def __init__(self, run_dir):
        self.run_dir = run_dir
        self.environment = dict(os.environ, PANDO_BIN_DIR=str(BIN_DIR), PANDO_RUN_DIR=str(run_dir),
                                PANDO_LISTEN="127.0.0.1:0", PANDO_HTTP_PORT="0")

    def run(self, command, **environment):
        done = subprocess.run([ROOT / "dev", command], env=dict(self.environment, **environment), stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"./dev {command} exited with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def pid(self):
        return int((self.run_dir / "kvnode.pid").read_text())


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
    deadline = time.monotonic() + 30
    while pathlib.Path(f"/proc/{pid}").exists() and "Z" not in process_state(pid):
        assert time.monotonic() < deadline, f"process {pid} still exists"
        time.sleep(0.02)


def process_state(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


def last_count(output):
    """Returns what `kvadmin count` printed, the last command that ./dev up shows."""
    return int(output.split("kvadmin count\n")[1].split()[0])


def packages_known_to_apt():
    index = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True, errors="replace").stdout
    return len({line for line in index.splitlines() if line.startswith("Package: ")})


def main():
    run_dir = temporary_directory("dev-up")
    dev = Dev(run_dir)
    try:
        output = dev.run("up")
        assert last_count(output) == packages_known_to_apt(), output[-2000:]
        assert "\nPackage: bash\n" in output and "libthrift-dev\n" in output, "./dev up did not show a get or a scan"
        pid = dev.pid()

        assert "already up" in dev.run("up")
        assert dev.pid() == pid, "a second node was started"

        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)
        again = dev.run("up", LD_PRELOAD=late_open(run_dir))
        assert last_count(again) == last_count(output), "kill -9 lost records"
        pid = dev.pid()

        assert f"stopped kvnode (pid {pid})" in dev.run("down")
        wait_gone(pid)
        assert "no node is up" in dev.run("down")
        run_kvadmin("check", run_dir / "data")
    finally:
        dev.run("down")
    shutil.rmtree(run_dir)


if __name__ == "__main__":
    main()
