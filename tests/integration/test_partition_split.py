#!/usr/bin/python3
"""Partitions of a cluster of three nodes are split while clients work through two routers: no client sees an error, the
history is linearizable, and a scan of everything finds every record at each moment. Nodes are killed in the middle, splits
are given up and begun again, and what clients know from before (names of writes, positions of watches, tokens of
sessions) goes on. Prints how long operations took meanwhile.
"""

import base64
import json
import os
import pathlib
import re
import shutil
import threading
import time
import types
import unittest
import uuid

from cluster_process import Cluster
from fault_cluster import Workload
from kvadmin_process import FAILED, NO, OK, USAGE, run
from node_process import constants, temporary_directory, ttypes
from router_process import NamedWriter, RouterProcess
from test_router_growth import FullScans

PARTITIONS, RECORDS = 4, 6000
TIMEOUT_S = 60
QUIET_OPERATIONS = 1500  # of the phases in which nothing happens
SLOW_MB_PER_S = 1  # so that the copying of a partition takes a while
RATE_MB_PER_S = 3  # as an operator sets it whose clients are not to feel a split


def halves_of(partition):
    return 2 * partition + PARTITIONS, 2 * partition + PARTITIONS + 1


def context(**more):
    return ttypes.Context(budget_ms=20000, **more)


class SplitTest(unittest.TestCase):
    def setUp(self):
        self.directory = temporary_directory("partition-split")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.cluster = Cluster(self.directory, partitions=PARTITIONS).start()
        self.addCleanup(self.cluster.kill)
        self.cluster.wait_well()
        nodes = [node.address for node in self.cluster.nodes.values()]
        self.routers = []
        for number in (1, 2):
            router = RouterProcess(self.directory / f"router-{number}.log", nodes).start()
            self.addCleanup(router.kill)
            self.routers.append(router.wait_http())
        self.records = [(b"row/%06d" % i, base64.b64encode(os.urandom(2250))) for i in range(RECORDS)]
        self.load_records()

    def load_records(self):
        rows = self.directory / "rows.jsonl"
        with open(rows, "w", encoding="ascii") as file:
            for key, value in self.records:
                file.write(json.dumps({"key": key.decode(), "value": value.decode()}) + "\n")
        done = run("--json", "load", "-q", rows, server=self.routers[0].address)
        self.assertEqual(done.code, OK, done.err)

    # -- what operators do and see

    def kv(self, *arguments, expect=OK):
        done = run("--json", *arguments, "--topology", self.cluster.topology)
        self.assertEqual(done.code, expect, f"kvadmin {arguments}: {done.out}{done.err}")
        return done

    def split(self, *arguments):
        lines = self.kv("partition", "split", *arguments).lines()
        return [line["split"] for line in lines[:-1]], lines[-1]

    def states(self):
        return {number: record["state"] for number, record in self.cluster.partitions().items()}

    def serving(self):
        return sorted(number for number, record in self.cluster.partitions().items() if record["serves"])

    def status(self):
        """What is said of the splits that run, by partition."""
        lines = run("--json", "cluster", "status", "--topology", self.cluster.topology).lines()
        return {line["split"]["partition"]: line["split"] for line in lines if "split" in line}

    def wait_copying(self, partition):
        """Returns when records were copied, and there are some left."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            said = self.status().get(partition)
            if said and said["phase"] == "copying" and 0 < said["copied_bytes"] < said["total_bytes"]:
                return said
            self.assertNotEqual(self.states()[partition], "split", "the split is over")
            self.assertLess(time.monotonic(), deadline, f"partition {partition} is not being copied: {said}")
            time.sleep(0.02)

    def wait_until(self, is_so, what):
        deadline = time.monotonic() + TIMEOUT_S
        while not is_so():
            self.assertLess(time.monotonic(), deadline, what)
            time.sleep(0.02)

    def check_split(self, *partitions):
        """They are split, their halves serve, all replicas are equal, and every record is there."""
        self.cluster.wait_well()
        states = self.states()
        for partition in partitions:
            self.assertEqual(states[partition], "split")
            self.assertEqual([states[half] for half in halves_of(partition)], ["serving"] * 2)
        verified = self.kv("verify").lines()[-1]
        self.assertEqual(verified, {"equal": len(self.serving()), "differ": 0, "unknown": 0})
        for router in self.routers:
            with router.connect() as connection:
                self.assertEqual(connection.count(context(), ttypes.CountRequest(prefix=b"row/")).count, RECORDS)

    # -- clients

    def begin_clients(self):
        clients = types.SimpleNamespace(directory=self.directory,
                                        addresses=lambda: [router.address for router in self.routers])
        # Writes have names: on a busy machine a master may fall as well, and then the router sends them again.
        self.workload = Workload(clients, threads=4, keys=24, think_ms=3, budget_ms=20000, all_named=1)
        self.workload.wait_serving(TIMEOUT_S)
        self.scans = FullScans(self.routers[1], self.records)
        self.scans.start()
        self.writer = NamedWriter(self.routers, 1, keys=20)
        self.writer.start()
        self.phases = ["before"]

    def phase(self, name):
        self.workload.begin_phase()
        self.phases.append(name)

    def quiet_phase(self):
        self.phase("a quiet phase")
        until = self.workload.figures["finished"] + QUIET_OPERATIONS
        deadline = time.monotonic() + TIMEOUT_S
        while self.workload.figures["finished"] < until:
            self.assertLess(time.monotonic(), deadline, f"the clients are slow: {self.workload.figures}")
            self.assertTrue(self.workload.running(), self.workload.said)
            time.sleep(0.05)

    def end_clients(self):
        self.scans.finish()
        additions = self.writer.finish()
        errors, error = self.workload.figures["errors"], self.workload.figures["error"]
        print(self.workload.finish())
        self.assertEqual(errors, 0, error)
        for name, phase in zip(self.phases, self.workload.phases):
            print(f"  {name}: {phase['operations']} operations, p50 {phase['p50_us']} us, p99 {phase['p99_us']} us, "
                  f"longest {phase['max_us'] / 1000:.0f} ms")
        print(f"  {self.scans.scans} scans of all {RECORDS} records, {additions} additions, the longest took "
              f"{self.writer.longest_s * 1000:.0f} ms")
        self.assertGreater(self.scans.scans, 2)

    # -- tests

    def test_every_partition_is_split_under_load(self):
        self.begin_clients()
        self.quiet_phase()
        self.phase("all partitions are split")
        began = time.monotonic()
        splits, end = self.split("--all", "--mb-per-s", RATE_MB_PER_S)
        took = time.monotonic() - began
        self.quiet_phase()
        self.assertEqual(sorted(split["partition"] for split in splits), list(range(PARTITIONS)))
        self.assertEqual(end, {"done": PARTITIONS, "changed": PARTITIONS, "serving": 2 * PARTITIONS})
        self.end_clients()
        print(f"  {PARTITIONS} partitions were split in {took:.1f} s")
        self.assertEqual(self.serving(), list(range(PARTITIONS, 3 * PARTITIONS)))
        self.check_split(*range(PARTITIONS))
        self.check_messages()
        self.check_files_are_dropped()
        self.check_recovery()

    def check_messages(self):
        """Of the cluster whose partitions 0 to 3 were split."""
        splits, end = self.split("1")
        self.assertEqual((splits, end["changed"]),
                         ([{"partition": 1, "halves": [6, 7], "state": "split", "changed": False}], 0))
        _, end = self.split("--all", "--to", 2 * PARTITIONS)
        self.assertEqual(end, {"done": 0, "changed": 0, "serving": 2 * PARTITIONS})
        for arguments, code, text in (
                (("partition", "split", "99"), USAGE, "there is no partition 99"),
                (("partition", "split", "x"), USAGE, "there is no partition x"),
                (("partition", "split"), USAGE, "--all"), (("partition", "split", "4", "--all"), USAGE, "--all"),
                (("partition", "split", "1", "--abort"), FAILED, "the partitions 6 and 7 serve"),
                (("failover", "1"), USAGE, "partition 1 was split: the partitions 6 and 7"),
                (("replica", "remove", "1", "2"), USAGE, "partition 1 was split: the partitions 6 and 7"),
                (("cluster", "set-min-isr", "1", "2"), USAGE, "partition 1 was split: the partitions 6 and 7"),
                (("verify", "1"), USAGE, "partition 1 was split: the partitions 6 and 7")):
            with self.subTest(arguments):
                self.assertIn(text, json.loads(self.kv(*arguments, expect=code).err)["error"]["message"])
        splits, _ = self.split("4", "--abort")
        self.assertEqual([split["changed"] for split in splits], [False])
        dry = self.kv("partition", "split", "4", "--dry-run").lines()[0]["split"]
        self.assertEqual((dry["halves"], dry["state"]), ([12, 13], "would begin"))
        self.kv("rebalance", "plan")
        self.kv("rebalance", "--masters", "--dry-run")

    def check_files_are_dropped(self):
        for node in self.cluster.nodes.values():
            for partition in range(PARTITIONS):
                file = pathlib.Path(node.data_dir) / f"partition-{partition:05}" / "data"
                self.wait_until(lambda f=file: not f.exists(), f"{file} is still there")

    def check_recovery(self):
        """The topology is lost, and made anew from directories that have nothing but halves."""
        self.cluster.stop()
        place = self.directory / "topology"
        shutil.rmtree(place)
        place.mkdir()
        directories = ",".join(str(node.data_dir) for node in self.cluster.nodes.values())
        recover = ("topology", "recover", self.cluster.topology, "--nodes=1,2,3", f"--data-dirs={directories}")
        shown = run(*recover)
        self.assertEqual(shown.code, NO, shown.out + shown.err)
        done = run(*recover, "--confirm", re.search(r"--confirm ([0-9a-f]{8})", shown.out).group(1))
        self.assertEqual(done.code, OK, done.out + done.err)
        self.assertEqual(self.serving(), list(range(PARTITIONS, 3 * PARTITIONS)))
        self.cluster.start()
        self.cluster.wait_well()
        nodes = [node.address for node in self.cluster.nodes.values()]
        router = RouterProcess(self.directory / "router-3.log", nodes).start()
        self.addCleanup(router.kill)
        with router.wait_http().connect() as connection:
            self.assertEqual(connection.count(context(), ttypes.CountRequest(prefix=b"row/")).count, RECORDS)

    def test_kills_and_giving_up(self):
        self.begin_clients()
        slow, fast = ("--mb-per-s", SLOW_MB_PER_S, "--no-wait"), ("--mb-per-s", 0)

        self.phase("the master of a partition is killed in the middle of its split")
        self.split("0", *slow)
        master = self.wait_copying(0)["node"]
        self.cluster.nodes[master].kill_node()
        self.wait_until(lambda: self.status()[0]["node"] not in (0, master), "partition 0 has no other master")
        self.cluster.nodes[master].start()
        self.split("0", *fast)

        self.phase("another node is killed in the middle of a split")
        self.split("1", *slow)
        other = 1 + self.wait_copying(1)["node"] % 3
        self.cluster.nodes[other].kill_node()
        self.cluster.nodes[other].start()
        self.split("1", *fast)

        self.phase("a split is given up, and begun again")
        self.split("2", *slow)
        self.wait_copying(2)
        self.assertEqual(self.states()[halves_of(2)[0]], "building")
        error = json.loads(self.kv("rebalance", "plan", expect=FAILED).err)["error"]["message"]
        self.assertIn("partition 2 is being split", error)
        splits, _ = self.split("2", "--abort")
        self.assertEqual(splits, [{"partition": 2, "halves": list(halves_of(2)), "state": "given up", "changed": True}])
        states = self.states()
        self.assertEqual([states[2]] + [states[half] for half in halves_of(2)], ["serving", "given up", "given up"])
        self.cluster.wait_well()
        self.assertEqual(self.serving(), sorted([2, 3, *halves_of(0), *halves_of(1)]))
        self.split("2")

        self.quiet_phase()
        self.end_clients()
        self.check_split(0, 1, 2)

    def test_what_clients_know_goes_on(self):
        one, two = (router.connect() for router in self.routers)
        self.addCleanup(one.close)
        self.addCleanup(two.close)
        now_ms = one.hello(context(), ttypes.HelloRequest()).now_ms

        # Records keep their versions and the times when they expire.
        soon, later = [b"soon/%d" % i for i in range(40)], [b"later/%d" % i for i in range(40)]
        for keys, ttl_ms in ((soon, 3000), (later, 600_000)):
            for key in keys:
                one.put(context(), ttypes.PutRequest(key=key, value=b"x", ttl_mode=constants.TTL_SET, ttl_ms=ttl_ms))
        records = {key: one.get(context(), ttypes.GetRequest(key=key)).record for key in later}

        # Writes that have a name are applied once.
        lane, batch_lane = uuid.uuid4().bytes, uuid.uuid4().bytes
        add = [ttypes.IncrementRequest(key=b"once/%d" % i, delta=1) for i in range(20)]
        names = [context(client_id=lane + b"%d" % i, sequence=1, first_sent_ms=now_ms) for i in range(20)]
        added = [one.increment(name, request) for name, request in zip(names, add)]
        ops = [ttypes.WriteOp(constants.OP_INCREMENT, b"batch/%d" % i, delta=1) for i in range(40)]
        batch_name = context(client_id=batch_lane, sequence=1, first_sent_ms=now_ms)
        for result in one.writeBatch(batch_name, ttypes.WriteBatchRequest(ops)).results:
            self.assertEqual((result.error, result.number), (None, 1))

        # A watch goes on from its position, and a session from its token.
        position = one.watch(context(), ttypes.WatchRequest(prefix=b"seen/")).position
        token = b""
        before, after = [b"seen/before/%d" % i for i in range(20)], [b"seen/after/%d" % i for i in range(20)]
        for key in before:
            token = one.put(context(session=token), ttypes.PutRequest(key=key, value=b"1")).context.session

        # A snapshot would end with the split. Whoever orders it is told until when to wait.
        opened = [run("--json", "snapshot", "open", "--ttl-s", ttl_s, server=self.routers[0].address).json()["snapshot"]
                  for ttl_s in (60, 300)]
        for snapshot, text in zip(opened, ("2 snapshots of the cluster are open", "1 snapshot of the cluster is open")):
            refused = self.kv("partition", "split", "0", expect=FAILED).err
            self.assertIn(text, refused)
            seconds = int(re.search(r"The last one expires in (\d+) s, unless it is renewed", refused).group(1))
            self.assertTrue(200 < seconds <= 301, refused)
            self.assertEqual(run("snapshot", "release", snapshot, server=self.routers[1].address).code, OK)

        changes = []
        watching = threading.Thread(target=self.watch, args=(position, before + after, changes))
        watching.start()
        _, end = self.split("--all")
        self.assertEqual(end["serving"], 2 * PARTITIONS)

        for key in before:
            read = two.get(context(level=constants.LEVEL_SESSION, session=token), ttypes.GetRequest(key=key))
            self.assertEqual(read.record.value, b"1")
        for key in after:
            token = two.put(context(session=token), ttypes.PutRequest(key=key, value=b"2")).context.session
        for connection in (one, two):
            for key in after:
                read = connection.get(context(level=constants.LEVEL_SESSION, session=token), ttypes.GetRequest(key=key))
                self.assertEqual(read.record.value, b"2")
        watching.join(TIMEOUT_S)
        self.assertFalse(watching.is_alive(), f"the watch has not told of all changes: {changes[-3:]}")
        self.assertEqual({key for key in changes if key in before + after}, set(before + after), changes[-3:])

        for name, request, first in zip(names, add, added):
            again = two.increment(name, request)
            self.assertEqual((again.number, again.version), (1, first.version), request.key)
        for result in two.writeBatch(batch_name, ttypes.WriteBatchRequest(ops)).results:
            if result.error:
                self.assertEqual((result.error.code, result.error.applied),
                                 (constants.UNAVAILABLE, constants.APPLIED_UNKNOWN), result.error)
            else:
                self.assertEqual(result.number, 1)
        for key in [request.key for request in add] + [op.key for op in ops]:
            self.assertEqual(two.get(context(), ttypes.GetRequest(key=key)).record.value, b"1", key)
        next_names = [context(client_id=lane + b"%d" % i, sequence=2, first_sent_ms=now_ms) for i in range(20)]
        self.assertEqual([two.increment(name, request).number for name, request in zip(next_names, add)], [2] * 20)

        for key, record in records.items():
            now = two.get(context(), ttypes.GetRequest(key=key)).record
            self.assertEqual((now.value, now.version, now.expires_at_ms), (b"x", record.version, record.expires_at_ms))
        self.wait_until(lambda: two.count(context(), ttypes.CountRequest(prefix=b"soon/")).count == 0,
                        "records do not expire after a split")
        self.check_split(*range(PARTITIONS))

    def watch(self, position, keys, changes):
        """Adds the keys of the changes, until all of `keys` are among them. A half does not keep the changes from before
        it was copied, if there are too many: then they are scanned, as after a restart of a node."""
        with self.routers[0].connect() as connection:
            while not set(keys) <= set(changes):
                request = ttypes.WatchRequest(prefix=b"seen/", position=position, wait_ms=1000)
                try:
                    reply = connection.watch(context(), request)
                except ttypes.KvError as error:
                    self.assertEqual(error.code, constants.FEED_GONE, error)
                    position = connection.watch(context(), ttypes.WatchRequest(prefix=b"seen/")).position
                    rows = connection.scan(context(), ttypes.ScanRequest(prefix=b"seen/")).rows
                    changes += [row.key for row in rows]
                    continue
                changes += [change.key for change in reply.changes]
                position = reply.position


if __name__ == "__main__":
    unittest.main(verbosity=2)
