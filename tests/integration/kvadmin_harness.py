"""What the tests of kvadmin share: a node with 20,000 records, a server whose answers the test chooses, and a kvadmin
that runs in the background."""

import base64
import json
import random
import resource
import shutil
import socket
import subprocess
import threading
import time
import unittest

from kvadmin_process import KVADMIN, OK, run
from node_process import Admin, Kv, NodeProcess, temporary_directory, ttypes
from thrift.protocol import TBinaryProtocol
from thrift.transport import TTransport

FLAGS = ["--reactors=1", "--memory_limit_mb=256", "--partitions=4"]
TIMEOUT_S = 60  # only a failure reaches it


def wait_until(condition, what):
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {TIMEOUT_S} s for {what}"
        time.sleep(0.005)


def start(*arguments, server=None, **streams):
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    options.update(streams)
    head = [KVADMIN] + (["--server", server] if server else [])
    return subprocess.Popen([*head, *map(str, arguments)], **options)


def small_files():
    """For preexec_fn: the process cannot write files beyond 256 KiB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 << 10, 256 << 10))


class FakeServer:
    """A server that answers writeBatch with `answer(ops)`: a WriteBatchReply, or a KvError to raise."""

    def __init__(self, answer):
        self.answer = answer
        self.node_status = ttypes.NodeStatus()
        self.batches = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection):
        stream = connection.makefile("rwb")
        processor = Kv.Processor(self)
        processor._processMap.update(Admin.Processor(self)._processMap)  # pylint: disable=protected-access
        while True:
            head = stream.read(4)
            if len(head) < 4:
                return
            frame = TTransport.TMemoryBuffer(stream.read(int.from_bytes(head, "big")))
            reply = TTransport.TMemoryBuffer()
            processor.process(TBinaryProtocol.TBinaryProtocol(frame), TBinaryProtocol.TBinaryProtocol(reply))
            stream.write(len(reply.getvalue()).to_bytes(4, "big") + reply.getvalue())
            stream.flush()

    def hello(self, _context, _request):
        return ttypes.HelloReply(features=["absolute_expiry"])

    def status(self, _context):
        return self.node_status

    def writeBatch(self, _context, request):
        self.batches.append([op.key.decode() for op in request.ops])
        answer = self.answer(request.ops)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self):
        self.listener.close()


class WithNode(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.root = temporary_directory("truth")
        cls.addClassCleanup(shutil.rmtree, cls.root, ignore_errors=True)
        cls.node = NodeProcess(cls.root / "data", FLAGS).start()
        cls.addClassCleanup(cls.node.kill)
        cls.server = f"{cls.node.host}:{cls.node.port}"
        dice = random.Random(1)  # values that do not compress
        lines = "".join(json.dumps({"key": f"row/{i:05}", "value": base64.b64encode(dice.randbytes(225)).decode()}) + "\n"
                        for i in range(20_000))
        done = run("load", "-q", "-", server=cls.server, stdin=lines.encode())
        assert done.code == OK, done.err

    def kv(self, *arguments, expect=OK, stdin=b""):
        done = run(*arguments, server=self.server, stdin=stdin)
        self.assertEqual(done.code, expect, f"kvadmin {arguments}: {done.out}{done.err}")
        return done

    def setUp(self):
        self.snapshots_before = 0
        self.snapshots_before = self.snapshots()

    def snapshots(self):
        """The number of snapshots in each partition that the test has opened."""
        status = self.kv("--json", "status").json()
        return status["partitions"][0]["snapshots"] - self.snapshots_before

    def write(self, name, content):
        path = self.root / name
        path.write_text(content)
        return path
