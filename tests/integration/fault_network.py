"""A network of hosts on this machine, which tests can break: each host is a network namespace, and a bridge joins them.

`enter()` first. It runs the test again inside namespaces of its own, for processes, mounts and the network. When the
test ends, however it ends, the kernel ends all processes in there, and with them go the hosts, the bridge and the
mounts. Where namespaces are not allowed, the test is skipped.

The test itself is on the bridge. Every host knows the hardware address of every other one from the start (no ARP). To
lose packets in one direction, the sender is told an address that nobody has: the bridge gives them to everybody, and
nobody takes them. The sender's TCP notices nothing but that no acknowledgements come.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys

INSIDE = "PANDO_TEST_INSIDE_NAMESPACES"
NET = "10.77.0"
NOBODY = "02:00:00:00:00:ff"
SKIPPED = 77  # an exit code that ctest knows
PR_SET_PDEATHSIG = 1


def skip(why):
    print(f"skipped: {why}", flush=True)
    sys.exit(SKIPPED)


def enter():
    """Returns inside the namespaces. Outside, it waits for the test inside and exits as that does."""
    if os.environ.get(INSIDE):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        subprocess.run(["mount", "-t", "tmpfs", "hosts", "/run"], check=True)  # ip netns keeps its files there
        return
    for program in ("unshare", "ip", "mount"):
        if not shutil.which(program):
            skip(f"there is no program {program} (Debian: util-linux, iproute2, mount)")
    unshare = ["unshare", "--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"]
    tried = subprocess.run([*unshare, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        skip(f"namespaces are not allowed here: {tried.stderr.strip()}")
    libc = ctypes.CDLL(None)

    def end_with_parent():
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    with subprocess.Popen([*unshare, sys.executable, "-B", *sys.argv], env=dict(os.environ, **{INSIDE: "1"}),
                          preexec_fn=end_with_parent) as inside:
        try:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
            code = inside.wait()
        finally:
            inside.kill()  # and so everything inside
    sys.exit(code if code >= 0 else 128 - code)


def run(*command):
    subprocess.run(list(map(str, command)), check=True, stdin=subprocess.DEVNULL)


class Host:
    def __init__(self, name, number):
        self.name = name
        self.address = f"{NET}.{number}"
        self.hardware = f"02:00:00:00:00:{number:02x}"
        self.prefix = ["ip", "netns", "exec", name]  # of a command that runs on this host

    def ip(self, *command):
        run("ip", "-n", self.name, *command)


class Network:
    """The test's own host is called "test"."""

    def __init__(self, names):
        os.makedirs("/run/netns", exist_ok=True)
        self.hosts = {name: Host(name, 10 + i) for i, name in enumerate(names)}
        self.lost = set()  # (from, to)
        self.test_hardware = "02:00:00:00:00:01"
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "br0", "address", self.test_hardware, "type", "bridge")
        run("ip", "address", "add", f"{NET}.1/24", "dev", "br0")
        run("ip", "link", "set", "br0", "up")
        for name, host in self.hosts.items():
            run("ip", "netns", "add", name)
            run("ip", "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "address", host.hardware,
                "netns", name)
            run("ip", "link", "set", f"to-{name}", "master", "br0", "up")
            host.ip("address", "add", f"{host.address}/24", "dev", "eth0")
            host.ip("link", "set", "lo", "up")
            host.ip("link", "set", "eth0", "up")
        for sender in ("test", *self.hosts):
            for receiver in ("test", *self.hosts):
                if sender != receiver:
                    self._tell(sender, receiver, self._hardware_of(receiver))

    def lose(self, sender, receiver):
        """Loses all packets in this direction."""
        self._tell(sender, receiver, NOBODY)
        self.lost.add((sender, receiver))

    def cut(self, one, other):
        self.lose(one, other)
        self.lose(other, one)

    def isolate(self, name, others=None):
        for other in others or self.hosts:
            if other != name:
                self.cut(name, other)

    def find(self, pairs):
        """Packets in these directions arrive again."""
        for sender, receiver in pairs:
            self._tell(sender, receiver, self._hardware_of(receiver))
            self.lost.discard((sender, receiver))

    def heal(self):
        self.find(sorted(self.lost))

    def remove(self):
        """For a test that builds another one. Processes on the hosts have ended."""
        for name in self.hosts:
            run("ip", "netns", "delete", name)
        run("ip", "link", "delete", "br0")

    def _hardware_of(self, name):
        return self.test_hardware if name == "test" else self.hosts[name].hardware

    def _tell(self, sender, receiver, hardware):
        address = f"{NET}.1" if receiver == "test" else self.hosts[receiver].address
        where = ("-n", sender) if sender != "test" else ()
        device = "eth0" if sender != "test" else "br0"
        run("ip", *where, "neigh", "replace", address, "lladdr", hardware, "dev", device, "nud", "permanent")


class SmallDisk:
    """A file system of its own, on a loop device, so that it can be full."""

    def __init__(self, image, directory, megabytes):
        self.directory = directory
        directory.mkdir()
        with open(image, "wb") as file:
            file.truncate(megabytes << 20)
        run("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", image)
        done = subprocess.run(["mount", "-o", "loop", image, directory], capture_output=True, text=True, check=False)
        self.why_not = done.stderr.strip() if done.returncode else None

    def free_bytes(self):
        found = os.statvfs(self.directory)
        return found.f_bavail * found.f_frsize


class Throttle:
    """Makes the writes of a process to a SmallDisk slow, with the cgroup of version 1 that limits block I/O."""

    GROUPS = "/sys/fs/cgroup/blkio"
    RATE = "blkio.throttle.write_iops_device"

    def __init__(self, disk):
        self.group = f"{self.GROUPS}/pando-test"
        self.why_not = None if os.path.exists(f"{self.GROUPS}/{self.RATE}") else f"there is no {self.GROUPS}/{self.RATE}"
        device = os.stat(disk.directory).st_dev
        self.device = f"{os.major(device)}:{os.minor(device)}"

    def limit(self, pid, writes_per_s):
        os.makedirs(self.group, exist_ok=True)
        self._write(self.RATE, f"{self.device} {writes_per_s}")
        self._write("cgroup.procs", pid)

    def lift(self):
        """The process stays in the group, which remains until it has ended."""
        self._write(self.RATE, f"{self.device} 0")

    def _write(self, name, what):
        with open(f"{self.group}/{name}", "w", encoding="utf8") as file:
            file.write(str(what))
