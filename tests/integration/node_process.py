"""Starts, kills, and stops kvnode processes, and calls them with the stock Thrift library.

Binaries come from PANDO_BIN_DIR (default build/release/bin). Importing this module generates the Python code for the
IDL into a temporary directory. All nodes bind to 127.0.0.1 on free ports. Nodes that still run at exit are killed by
pid.
"""

import atexit
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN_DIR = pathlib.Path(os.environ.get("PANDO_BIN_DIR", ROOT / "build" / "release" / "bin"))
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 120


def _generate():
    directory = tempfile.mkdtemp(prefix="pando-py-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    idl = os.environ.get("PANDO_TEST_IDL", str(ROOT / "thrift" / "pando.thrift"))
    subprocess.run(["thrift", "--gen", "py", "-out", directory, idl], check=True)
    sys.path.insert(0, directory)


_generate()
# pylint: disable=wrong-import-position
from pando import Admin, Kv, constants, ttypes  # noqa: E402
from thrift.protocol import TBinaryProtocol, TCompactProtocol  # noqa: E402
from thrift.transport import TSocket, TTransport  # noqa: E402


class NodeProcess:
    """One kvnode on one data directory. It can be killed and started again."""

    READY = re.compile(rb"ready\D*(\d+\.\d+\.\d+\.\d+):(\d+)")

    def __init__(self, data_dir, flags=(), binary=None):
        self.data_dir = pathlib.Path(data_dir)
        self.flags = list(flags)
        self.prefix = []  # of the command, such as one that enters a network namespace
        self.binary = pathlib.Path(binary or BIN_DIR / "kvnode")
        self.log = self.data_dir.parent / (self.data_dir.name + ".log")
        self.process = None
        self.host = self.port = None
        atexit.register(self.kill)

    def start(self):
        """Starts the node and returns when it says that it is ready."""
        self.launch()
        self.wait_ready()
        return self

    def launch(self):
        command = [*self.prefix, self.binary, "--data_dir", self.data_dir, "--listen", "127.0.0.1:0", "--http_port",
                   "0", "--logtostderr", *self.flags]
        self.launch_command(command)

    def launch_command(self, command):
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=subprocess.STDOUT)

    def is_ready(self):
        match = self.READY.search(self.log.read_bytes())
        if match:
            self.host, self.port = match.group(1).decode(), int(match.group(2))
        return bool(match)

    def wait_ready(self):
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.is_ready():
                return
            if self.process.poll() is not None:
                raise AssertionError(f"{self.binary.name} exited with {self.process.returncode} while starting:\n{self.output()}")
            time.sleep(0.01)
        raise AssertionError(f"{self.binary.name} was not ready after {START_TIMEOUT_S} s:\n{self.output()}")

    def output(self):
        return self.log.read_text(errors="replace")[-8000:]

    def kill(self):
        """Sends SIGKILL, to simulate a crash of the process."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        if self.process:
            self.process.wait()

    def stop(self):
        """Sends SIGTERM; fails if the node does not exit with 0 in time."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"{self.binary.name} still runs {STOP_TIMEOUT_S} s after SIGTERM:\n{self.output()}") from error
        if code != 0:
            raise AssertionError(f"{self.binary.name} exited with {code} after SIGTERM:\n{self.output()}")

    def resident_bytes(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) * 1024

    def connect(self, timeout_s=60, compact=False, service=Kv):
        return Connection(self.host, self.port, timeout_s, compact, service)


class Connection:
    """One client connection. Call the methods of the service as connection.get(context, request)."""

    def __init__(self, host, port, timeout_s=60, compact=False, service=Kv):
        socket = TSocket.TSocket(host, port)
        socket.setTimeout(timeout_s * 1000)
        self._transport = TTransport.TFramedTransport(socket)
        protocol = (TCompactProtocol.TCompactProtocolAccelerated if compact
                    else TBinaryProtocol.TBinaryProtocolAccelerated)
        self._client = service.Client(protocol(self._transport, fallback=True))
        self._transport.open()

    def __getattr__(self, method):
        return getattr(self._client, method)

    def close(self):
        self._transport.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def temporary_directory(name):
    """Creates a directory on a real file system (PANDO_TEST_TMPDIR), for O_DIRECT. The caller removes it."""
    parent = os.environ.get("PANDO_TEST_TMPDIR")
    if parent:
        os.makedirs(parent, exist_ok=True)
    return pathlib.Path(tempfile.mkdtemp(prefix=f"pando-{name}-", dir=parent))


def run_kvadmin(*arguments, check=True):
    """Runs kvadmin and returns the finished process. With `check`, a failure raises an error with its output."""
    done = subprocess.run([str(BIN_DIR / "kvadmin"), *map(str, arguments)], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=600, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"kvadmin {' '.join(map(str, arguments))} exited with {done.returncode}:\n"
                             f"{done.stdout}{done.stderr}")
    return done


CONTEXT = ttypes.Context()

__all__ = ["Admin", "BIN_DIR", "CONTEXT", "Connection", "Kv", "NodeProcess", "ROOT", "TTransport", "constants",
           "run_kvadmin", "temporary_directory", "ttypes"]
