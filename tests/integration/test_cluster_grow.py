#!/usr/bin/python3
"""A cluster of real nodes grows and shrinks under load: kvadmin node add, drain and remove, and kvadmin rebalance plan,
apply, pause, resume and abort. kvadmin is killed on the way, and whoever goes on finishes.
"""

import base64
import json
import os
import shutil
import subprocess
import time
import unittest

from cluster_process import Cluster, ClusterNode
from kvadmin_process import CORRUPTION, FAILED, IN_USE, KVADMIN, NO, OK, USAGE, run
from node_process import run_kvadmin, temporary_directory
from test_cluster import KEYS, Writer

PARTITIONS, REPLICAS, RECORDS, WRITERS = 8, 3, 12000, 2
# Slow enough that a replica is being copied for a while, wherever a test looks for one.
FLAGS = ("--install_mb_per_s=1",)
HEAL_TIMEOUT_S = 120


class GrowTest(unittest.TestCase):
    def setUp(self):
        self.directory = temporary_directory("cluster-grow")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.cluster = Cluster(self.directory, partitions=PARTITIONS, replicas=REPLICAS, flags=FLAGS)
        self.addCleanup(self.cluster.kill)
        self.cluster.start()
        self.cluster.wait_well()
        self.background = self.replicas_after = None
        self.addCleanup(self.kill_kvadmin)

    # -- kvadmin

    def kv(self, *arguments, expect=OK, topology=None):
        done = run("--json", *arguments, "--topology", topology or self.cluster.topology)
        self.assertEqual(done.code, expect, f"kvadmin {arguments}: {done.out}{done.err}")
        return done

    def start_kvadmin(self, *arguments):
        with open(self.directory / "kvadmin.log", "wb") as log:
            self.background = subprocess.Popen(
                [KVADMIN, "--json", *map(str, arguments), "--topology", self.cluster.topology],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill_kvadmin(self):
        if self.background:
            self.background.kill()
            self.background.wait()

    def background_output(self):
        return (self.directory / "kvadmin.log").read_text(errors="replace")

    # -- what the topology says

    def holders(self):
        """The nodes that hold replicas of each partition."""
        return {number: {r["node"] for r in p["isr"] + p["evicted"] + p["learners"]}
                for number, p in self.cluster.partitions().items()}

    def held_by(self, node):
        return [number for number, nodes in self.holders().items() if node in nodes]

    def check_all_have_their_replicas(self):
        for number, p in self.cluster.partitions().items():
            self.assertEqual(p["learners"], [], f"partition {number}")
            self.assertEqual(len(p["isr"]) + len(p["evicted"]), REPLICAS, f"partition {number}: {p}")
            self.assertEqual(p["replicas"], REPLICAS, f"partition {number}")

    def wait_begun(self, before):
        """Until a replica is where none was, or kvadmin has ended."""
        deadline = time.monotonic() + HEAL_TIMEOUT_S
        while self.holders() == before and self.background.poll() is None:
            self.assertLess(time.monotonic(), deadline, f"no move begins: {self.background_output()}")
            time.sleep(0.02)

    # -- data

    def load(self):
        rows = self.directory / "rows.jsonl"
        with open(rows, "w", encoding="ascii") as file:
            for i in range(RECORDS):
                value = base64.b64encode(os.urandom(750)).decode()
                file.write(json.dumps({"key": f"row/{i:06}", "value": value}) + "\n")
        servers = ",".join(node.address for node in self.cluster.nodes.values())
        done = run("--json", "load", "-q", rows, server=servers)
        self.assertEqual(done.code, OK, done.err)
        for node in self.cluster.nodes.values():  # so that their files show what they hold
            self.assertEqual(run("checkpoint", server=node.address).code, OK)

    def start_writers(self):
        writers = [Writer(self.cluster, number) for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        deadline = time.monotonic() + HEAL_TIMEOUT_S
        while any(writer.writes < KEYS for writer in writers):  # each key is there
            self.assertLess(time.monotonic(), deadline, "the writers do not write")
            time.sleep(0.1)
        return writers

    def judge(self, writers):
        """The writers saw no error, what they wrote is there, and nothing else; and all replicas are equal."""
        for writer in writers:
            writer.finish()
            writer.verify()
            writer.client.close()
        self.cluster.wait_well(HEAL_TIMEOUT_S)
        lines = self.kv("verify", "--timeout-s", "60").lines()
        counts = {line["partition"]: line["count"] for line in lines if "partition" in line}
        self.assertEqual(sorted(counts), list(range(PARTITIONS)))
        self.assertEqual(sum(counts.values()), RECORDS + WRITERS * KEYS)

    # -- the steps

    def test_grows_and_shrinks(self):
        self.load()
        self.add_a_node()
        plan = self.make_plans()
        self.plans_that_are_refused(plan)
        writers = self.start_writers()
        self.apply_and_kill_and_resume(plan)
        self.judge(writers)
        self.the_second_time_nothing_is_left(plan)
        writers = self.start_writers()
        self.drain_and_kill_and_abort()
        self.drain_to_the_end()
        self.judge(writers)
        self.remove_the_node()
        self.a_stale_plan_is_skipped()

    def add_a_node(self):
        arguments = ("node", "add", "--id", "4", "--zone", "d")
        self.assertTrue(self.kv(*arguments, "--dry-run").json()["would_add"])
        self.assertIn("no node 4", self.kv("node", "remove", "4", expect=USAGE).err)
        self.assertTrue(self.kv(*arguments).json()["added"])
        self.assertFalse(self.kv(*arguments).json()["added"])
        self.assertIn("has a node 4 already", self.kv(*arguments, "--weight", "2", expect=FAILED).err)
        self.assertIn("has a node 1 already", self.kv("node", "add", "--id", "1", "--zone", "d", expect=FAILED).err)
        self.assertIn("is not a zone", self.kv("node", "add", "--id", "5", "--zone", "a b", expect=USAGE).err)
        # It is a member that has never run, so nothing can be planned with it.
        self.assertIn("never been started", self.kv("rebalance", "plan", expect=FAILED).err)
        node = ClusterNode(self.directory / "node-4", [*self.cluster.nodes[1].flags[:1], "--node_id=4",
                                                       *self.cluster.nodes[1].flags[2:]])
        self.cluster.nodes[4] = node.start()
        self.cluster.wait_well()
        self.assertEqual(self.held_by(4), [])

    def make_plans(self):
        plan, stale = self.directory / "grow.plan", self.directory / "stale.plan"
        self.assertGreater(len(self.kv("rebalance", "plan").json()["moves"]), 0)
        made = self.kv("rebalance", "plan", "-o", plan).json()
        self.assertEqual({move["to"] for move in made["moves"]}, {4})
        self.replicas_after = {node["id"]: node["replicas_after"] for node in made["nodes"]}
        self.assertEqual(self.replicas_after[4], len(made["moves"]))
        self.assertEqual(sum(self.replicas_after.values()), PARTITIONS * REPLICAS)
        self.assertGreater(min(self.replicas_after.values()), PARTITIONS // 2)  # of 6, as far as sizes differ
        self.assertLess(made["spread_after"], made["spread_before"])
        self.assertGreater(made["eta_s"], -1)
        self.assertIn("is there already", self.kv("rebalance", "plan", "-o", plan, expect=FAILED).err)
        text = run("rebalance", "show", plan)
        self.assertEqual(text.code, OK, text.err)
        self.assertIn("PARTITION", text.out)
        self.assertEqual(run("--json", "rebalance", "show", plan).lines()[0]["moves"], made["moves"])
        shutil.copy(plan, stale)
        moves = self.kv("rebalance", "apply", plan, "--dry-run").lines()
        self.assertEqual([line["move"]["state"] for line in moves], ["left"] * len(made["moves"]))
        return plan

    def plans_that_are_refused(self, plan):
        before = self.holders()
        other = self.directory / "other-topology"
        other.mkdir()
        run_kvadmin("cluster", "init", "--topology", f"file:{other}", "--nodes", "1,2,3,4", "--partitions", PARTITIONS)
        for verb in ("apply", "resume", "abort"):
            refused = self.kv("rebalance", verb, plan, expect=USAGE, topology=f"file:{other}")
            self.assertIn("is a plan for the cluster", refused.err)
        damaged = self.directory / "damaged.plan"
        damaged.write_text(plan.read_text().replace('"to": 4', '"to": 3', 1))
        self.assertIn("does not match its checksum", self.kv("rebalance", "apply", damaged, expect=CORRUPTION).err)
        newer = self.directory / "newer.plan"
        newer.write_text(plan.read_text().replace('"pando_plan": 1', '"pando_plan": 2'))
        self.assertIn("format 2", self.kv("rebalance", "apply", newer, expect=FAILED).err)
        missing = self.directory / "missing.plan"
        self.assertIn("there is no file", self.kv("rebalance", "apply", missing, expect=FAILED).err)
        self.assertEqual(self.holders(), before)

    def apply_and_kill_and_resume(self, plan):
        before = self.holders()
        self.start_kvadmin("rebalance", "apply", plan, "--parallel", "2")
        self.wait_begun(before)
        if self.background.poll() is None:  # it is not done yet
            self.assertIn("carries the plan", self.kv("rebalance", "apply", plan, expect=IN_USE).err)
        self.kill_kvadmin()
        self.assertEqual(run("rebalance", "pause", plan).code, OK)
        self.assertIn("was paused", self.kv("rebalance", "apply", plan, expect=FAILED).err)
        # Resumed, and paused from elsewhere: what has begun is finished. It may have been done before that.
        self.start_kvadmin("rebalance", "resume", plan, "--parallel", "1")
        self.wait_begun(self.holders())
        self.assertEqual(run("rebalance", "pause", plan).code, OK)
        self.assertIn(self.background.wait(HEAL_TIMEOUT_S), (OK, NO), self.background_output())
        if self.background.returncode == NO:
            self.check_all_have_their_replicas()
        done = self.kv("rebalance", "resume", plan).lines()[-1]
        self.assertEqual((done["done"], done["skipped"]), (done["moves"], 0))
        self.check_all_have_their_replicas()
        self.assertEqual({node: len(self.held_by(node)) for node in (1, 2, 3, 4)}, self.replicas_after)
        self.wait_led_by(4)

    def wait_led_by(self, node):
        """apply has given it masters. An election on a busy machine may have taken them away again."""
        deadline = time.monotonic() + HEAL_TIMEOUT_S
        while node not in [p["master"] for p in self.cluster.partitions().values()]:
            self.assertLess(time.monotonic(), deadline, f"node {node} leads nothing")
            self.cluster.wait_well()
            self.kv("rebalance", "--masters")

    def the_second_time_nothing_is_left(self, plan):
        before = self.holders()
        done = self.kv("rebalance", "apply", plan).lines()[-1]
        self.assertEqual((done["moved"], done["skipped"], done["done"]), (0, 0, done["moves"]))
        self.assertEqual(self.holders(), before)

    def drain_and_kill_and_abort(self):
        plan = self.directory / "drain.plan"
        dry = self.kv("node", "drain", "2", "--dry-run").json()
        held = self.held_by(2)
        self.assertEqual(sorted(move["partition"] for move in dry["moves"]), held)
        self.assertEqual({move["from"] for move in dry["moves"]}, {2})
        self.kv("node", "drain", "2", "-o", plan, "--plan-only")
        self.assertEqual(self.held_by(2), held)
        self.assertIn("is there already", self.kv("node", "drain", "2", "-o", plan, expect=FAILED).err)
        before = self.holders()
        self.start_kvadmin("rebalance", "apply", plan)
        self.wait_begun(before)
        self.kill_kvadmin()
        # What a killed plan has left is seen.
        status = self.kv("cluster", "status", expect=NO).lines()
        self.assertEqual(status[0]["verdict"], "degraded", status[0])
        self.assertTrue("being added" in status[0]["cause"] or "more replicas than they should" in status[0]["cause"], status[0])
        self.assertEqual([line["node"]["id"] for line in status if line.get("node", {}).get("draining")], [2])
        self.assertEqual(self.kv("rebalance", "abort", plan).lines()[-1]["aborted"], str(plan))
        self.check_all_have_their_replicas()
        self.assertIn("was aborted", self.kv("rebalance", "resume", plan, expect=FAILED).err)
        self.kv("rebalance", "abort", plan)
        self.assertIn("holds", self.kv("node", "remove", "2", expect=FAILED).err)
        self.kv("node", "drain", "2", "--cancel")

    def drain_to_the_end(self):
        done = self.kv("node", "drain", "2", "-o", self.directory / "drain-2.plan").lines()[-1]
        self.assertEqual(done, {"drained": 2})
        self.check_all_have_their_replicas()
        self.assertEqual(self.held_by(2), [])
        # Again, although the plan is still there.
        self.assertEqual(self.kv("node", "drain", "2", "-o", self.directory / "drain-2.plan").lines(), [{"drained": 2}])

    def remove_the_node(self):
        self.assertIn("still runs", self.kv("node", "remove", "2", expect=FAILED).err)
        self.cluster.nodes[2].stop()
        status = self.kv("cluster", "status", expect=NO).lines()[0]
        self.assertIn("does not answer, and is drained", status["cause"])
        self.assertIn("kvadmin node remove 2", status["next"])
        self.assertTrue(self.kv("node", "remove", "2", "--dry-run").json()["would_remove"])
        self.assertTrue(self.kv("node", "remove", "2").json()["changed"])
        self.assertFalse(self.kv("node", "remove", "2").json()["changed"])
        self.cluster.wait_well()
        for refused in (self.kv("node", "add", "--id", "2", "--zone", "x", expect=USAGE),
                        self.kv("node", "drain", "2", "--cancel", expect=USAGE)):
            self.assertIn("number is not used again", refused.err)
        node = self.cluster.nodes.pop(2)
        node.launch()
        self.assertEqual(node.process.wait(60), 1, node.output())
        self.assertIn("its number is not used again", node.output())

    def a_stale_plan_is_skipped(self):
        before = self.holders()
        skipped = self.kv("rebalance", "apply", self.directory / "stale.plan", expect=NO)
        self.assertIn("is skipped: its replicas are on", skipped.err)
        self.assertGreater(skipped.lines()[-1]["skipped"], 0)
        self.assertEqual(self.holders(), before)


if __name__ == "__main__":
    unittest.main()
