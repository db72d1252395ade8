#!/usr/bin/python3
"""Failures of other systems that their users have reported, with three real nodes, each by the number of its report. The
others are schedules of simulations (tests/sim/failure_reports_test.cc); docs/TESTING.md lists all of them.
"""

import os
import pathlib
import random
import re
import shutil
import signal
import threading
import time
import unittest
import uuid

from cluster_process import Cluster
from kvadmin_process import NO, OK, run
from node_process import Connection, TTransport, constants, temporary_directory, ttypes

BLOCK = 4096
CANNOT_START = 1


class FailureReports(unittest.TestCase):
    flags = ()

    def setUp(self):
        self.directory = temporary_directory("failure-reports")

    def begin(self, partitions=2, flags=()):
        self.cluster = Cluster(self.directory, partitions=partitions, flags=flags).start()
        self.cluster.wait_healed()

    def tearDown(self):
        self.cluster.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def offline(self, *arguments, expect=OK):
        done = run(*arguments)
        self.assertEqual(done.code, expect, f"kvadmin {arguments}: {done.out}{done.err}")
        return done.out + done.err

    def in_sync(self):
        return [sorted(r["node"] for r in p["isr"]) for p in self.cluster.partitions().values()]

    # -- apache/incubator-pegasus#1572: the logs of several nodes are damaged at once

    def damage_log(self, data_dir):
        """Changes a byte of a batch that lies at two thirds of the log."""
        batches = []
        for path in sorted((data_dir / "wal-0").glob("segment-*.wal")):
            image = path.read_bytes()
            batches += [(path, at) for at in range(BLOCK, len(image), BLOCK) if image[at + 8:at + 16] == b"PANDOBAT"]
        path, at = batches[len(batches) * 2 // 3]
        with open(path, "r+b") as file:
            file.seek(at + 40)
            byte = file.read(1)[0]
            file.seek(at + 40)
            file.write(bytes([byte ^ 0xff]))
        return path, at

    def test_pegasus_1572_damaged_logs_on_all_nodes(self):
        self.begin()
        client = self.cluster.client()
        for i in range(300):
            client.put(b"early%d" % i, b"1")
        for node in self.cluster.nodes.values():
            self.assertEqual(run("checkpoint", server=node.address).code, OK)
        for i in range(600):
            client.put(b"late%d" % i, b"1")
        client.close()
        self.cluster.kill()
        damage = {number: self.damage_log(node.data_dir) for number, node in self.cluster.nodes.items()}
        for number, node in self.cluster.nodes.items():
            before = {path: path.read_bytes() for path in sorted(node.data_dir.glob("wal-*/*"))}
            node.launch()
            self.assertEqual(node.process.wait(60), CANNOT_START, node.output())
            path, at = damage[number]
            self.assertIn(f"{path}: offset {at}", node.output())
            self.assertIn(f"kvadmin accept-loss {node.data_dir} --log 0", node.output())
            after = {path: path.read_bytes() for path in sorted(node.data_dir.glob("wal-*/*"))}
            self.assertEqual(before, after, "a log was moved or changed")
        for node in self.cluster.nodes.values():
            shown = self.offline("accept-loss", node.data_dir, "--log", 0, expect=NO)
            self.assertIn("of a cluster. If another node has a sound replica", shown)
            code = re.search(r"--confirm ([0-9a-f]{8})", shown).group(1)
            self.offline("accept-loss", node.data_dir, "--log", 0, "--confirm", code)
        self.cluster.start()
        self.cluster.wait_healed()
        client = self.cluster.client()
        for i in range(300):
            self.assertEqual(client.get(b"early%d" % i), b"1")
        left = [i for i in range(600) if client.get(b"late%d" % i) is not None]
        self.assertGreater(len(left), 100)
        for i in range(600):
            client.put(b"late%d" % i, b"2")
        client.close()

    # -- apache/kvrocks#3356: a follower stops reading its socket

    def test_kvrocks_3356_a_follower_reads_nothing(self):
        self.begin(flags=["--log_budget_mb=64"])
        client = self.cluster.client()
        client.put(b"a", b"1")
        victim = self.cluster.nodes[3]
        pid = victim.node_pid()
        others = [self.cluster.nodes[1], self.cluster.nodes[2]]
        os.kill(pid, signal.SIGSTOP)
        try:
            stopped = time.monotonic()
            while any(3 in isr for isr in self.in_sync()):
                self.assertLess(time.monotonic() - stopped, 5, "it is not evicted")
                time.sleep(0.05)
            client.close()
            client = self.cluster.client(among=others)
            most = 0
            for i in range(400):  # more than the memory limit of a node, and than its log
                client.put(b"key%d" % i, bytes([i % 256]) * 800_000)
                if i % 20 == 0:
                    most = max(most, *(self.resident(node) for node in others))
            self.assertLess(most, 300 << 20, "a follower that reads nothing costs memory")
        finally:
            os.kill(pid, signal.SIGCONT)
        self.cluster.wait_healed()
        client.close()

    def resident(self, node):
        status = pathlib.Path(f"/proc/{node.node_pid()}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) * 1024

    # -- apache/kvrocks#1319: a full copy under writes never ends

    def test_kvrocks_1319_a_copy_under_writes_ends(self):
        self.begin(partitions=1, flags=["--log_budget_mb=64", "--install_mb_per_s=5"])
        client = self.cluster.client()
        for i in range(800):
            client.put(b"base%d" % i, os.urandom(100_000))
        client.close()
        written = [0]
        stopping = threading.Event()

        def write(number):
            writer = self.cluster.client()
            i = 0
            while not stopping.is_set():
                writer.put(b"w%d/%d" % (number, i % 20), os.urandom(100_000))
                written[0] += 100_000
                i += 1
                time.sleep(0.01)
            writer.close()

        victim = self.cluster.nodes[3]
        victim.kill()
        shutil.rmtree(victim.data_dir)
        threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        try:
            deadline = time.monotonic() + 10
            while any(3 in isr for isr in self.in_sync()):
                self.assertLess(time.monotonic(), deadline, "it is not evicted")
                time.sleep(0.05)
            victim.start()
            self.cluster.wait_healed(timeout_s=120)
        finally:
            stopping.set()
            for thread in threads:
                thread.join(60)
        print(f"{written[0] >> 20} MiB were written while 76 MiB were copied")
        # More was written during the first copy than the log keeps, and the next one had only what was written since.
        self.assertRegex(victim.log.read_text(errors="replace"), "copy 2 has what was written since")

    # -- valkey-io/valkey-glide#2363: a connection is cut after the request was sent

    def test_glide_2363_increments_are_exact(self):
        self.begin()
        threads = [Incrementer(self.cluster, number) for number in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        for number in (1, 2):
            self.cluster.nodes[number].kill_node()
            time.sleep(1)
            self.cluster.nodes[number].start()
            self.cluster.wait_healed()
        for thread in threads:
            thread.join(240)
            self.assertFalse(thread.is_alive(), "an increment hangs")
            self.assertIsNone(thread.error)
        print(f"{sum(t.cuts for t in threads)} connections were cut, {sum(t.again for t in threads)} requests repeated")
        self.assertGreater(sum(t.cuts for t in threads), 100)
        client = self.cluster.client()
        self.assertEqual(int(client.get(b"sum")), len(threads) * Incrementer.COUNT)
        client.close()


class Incrementer(threading.Thread):
    """Adds 1 to one number, again and again, under names. After any error, and after its own cuts, it repeats."""

    COUNT = 1250

    def __init__(self, cluster, number):
        super().__init__(daemon=True)
        self.nodes = list(cluster.nodes.values())
        self.random = random.Random(number)
        self.client_id = uuid.uuid4().bytes
        self.connection = self.address = None
        self.cuts = self.again = 0
        self.error = None

    def run(self):
        try:
            for sequence in range(1, self.COUNT + 1):
                self.increment(sequence)
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    def increment(self, sequence):
        context = ttypes.Context(client_id=self.client_id, sequence=sequence, first_sent_ms=int(time.time() * 1000))
        deadline = time.monotonic() + 60
        while not self.attempt(context):
            assert time.monotonic() < deadline, "an increment does not end"
            self.again += 1
            time.sleep(0.005)

    def attempt(self, context):
        try:
            if self.connection is None:
                node = self.random.choice(self.nodes)
                host, port = (self.address or node.address).rsplit(":", 1)
                self.connection = Connection(host, int(port), timeout_s=5)
            request = ttypes.IncrementRequest(key=b"sum", delta=1)
            if self.random.random() < 0.03:
                self.connection.send_increment(context, request)
                self.cuts += 1
                self.drop()
                return False
            self.connection.increment(context, request)
            return True
        except ttypes.KvError as error:
            self.drop()
            if error.code == constants.NOT_MASTER and error.master:
                self.address = error.master
        except (TTransport.TTransportException, OSError, EOFError):
            self.drop()
            self.address = None
        return False

    def drop(self):
        if self.connection:
            self.connection.close()
        self.connection = None


if __name__ == "__main__":
    unittest.main()
