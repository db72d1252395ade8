"""Random faults of a cluster of real processes, from a seed. Several go on at once. The seed decides which faults come
and in what order; the moments are those of real processes, so a seed does not repeat a run exactly.
"""

import os
import random
import shutil
import signal
import time

from fault_cluster import ETCDS, NODES, Workload

HEAL_S = 120


class RandomFaults:
    def __init__(self, cluster, seed, most_at_once=3, pauses_s=(0.05, 0.3, 1)):
        self.cluster = cluster
        self.network = cluster.network
        self.seed = seed
        self.dice = random.Random(seed)
        self.most_at_once = most_at_once
        self.pauses_s = pauses_s  # between faults
        self.began = time.monotonic()
        self.story = []
        self.ends = []  # (time, what, function) of faults that go on
        self.down = set()  # nodes that do not serve: they do not run, start, or are paused
        self.starting = set()
        self.gone = set()  # UUIDs of replicas whose disk was lost
        self.images = {}  # old copies of directories, by node
        self.counts = {}

    def tell(self, what):
        line = f"{time.monotonic() - self.began:8.2f}  {what}"
        self.story.append(line)
        with open(self.cluster.directory / "faults.txt", "a", encoding="utf8") as file:
            file.write(line + "\n")

    # -- faults; each returns what ends it

    def kill(self, numbers, with_guard):
        for number in numbers:
            (self.cluster.kill_host if with_guard else self.cluster.kill_node)(number)
        self.down.update(numbers)
        return lambda: self.start(numbers)

    def start(self, numbers):
        """They may be ready only when other faults have ended."""
        for number in numbers:
            self.cluster.launch_node(number)
        self.starting.update(numbers)

    def look_who_is_ready(self):
        for number in [number for number in self.starting if self.cluster.nodes[number].is_ready()]:
            self.starting.discard(number)
            self.down.discard(number)

    def stop(self, number):
        self.cluster.stop_node(number)
        self.down.add(number)
        return lambda: self.start([number])

    def pause(self, number):
        pid = self.cluster.pause(number)
        self.down.add(number)

        def go_on():
            os.kill(pid, signal.SIGCONT)
            self.down.discard(number)

        return go_on

    def lose(self, pairs):
        pairs = [pair for pair in pairs if pair not in self.network.lost]
        for pair in pairs:
            self.network.lose(*pair)
        return lambda: self.network.find(pairs)

    def wipe(self, number):
        self.gone |= self.cluster.replicas()[number]
        self.cluster.kill_host(number)
        shutil.rmtree(self.cluster.nodes[number].data_dir)
        self.cluster.start_node(number)

    def take_image(self, number):
        image = self.cluster.directory / f"image-{number}"
        shutil.rmtree(image, ignore_errors=True)
        self.cluster.kill_host(number)
        shutil.copytree(self.cluster.nodes[number].data_dir, image)
        self.cluster.start_node(number)
        self.images[number] = image

    def restore_image(self, number):
        self.gone |= self.cluster.replicas()[number]
        self.cluster.kill_host(number)
        shutil.rmtree(self.cluster.nodes[number].data_dir)
        shutil.move(self.images.pop(number), self.cluster.nodes[number].data_dir)
        self.cluster.start_node(number)

    def kill_etcd(self, names):
        self.cluster.etcd.kill(names)
        return lambda: self.cluster.etcd.launch(names)

    # -- which fault comes

    def running(self):
        return [number for number in NODES if number not in self.down]

    def begin_one(self):
        """Begins a fault, if the one that the dice choose is possible now."""
        kinds = ["kill"] * 4 + ["kill host"] * 3 + ["stop"] + ["pause"] * 3 + ["lose"] * 4 + ["cut"] * 2 + \
                ["isolate", "hide", "kill two", "kill all", "wipe", "image", "image"]
        if self.cluster.etcd:
            kinds += ["etcd one", "etcd one", "etcd all", "etcd cut", "etcd cut"]
        kind = self.dice.choice(kinds)
        number, other = self.dice.sample(NODES, 2)
        lasts_s = self.dice.choice((0.1, 0.5, 1, 2, 4)) * self.dice.uniform(0.5, 1.5)
        fault = self.choose(kind, number, other)
        if not fault:
            return
        what, begin = fault
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.tell(f"{what}, for {lasts_s:.1f} s")
        end = begin()
        if end:
            self.ends.append((time.monotonic() + lasts_s, f"over: {what}", end))

    def choose(self, kind, number, other):
        """What to say and what to call; None if the fault is not possible now."""
        running = self.running()
        one, two = f"n{number}", f"n{other}"
        rest = [f"n{n}" for n in NODES if n != number]
        if kind == "lose":
            return f"lose what {one} sends to {two}", lambda: self.lose([(one, two)])
        if kind == "cut":
            return f"cut {one} and {two}", lambda: self.lose([(one, two), (two, one)])
        if kind == "isolate":
            return f"cut {one} from the other nodes", lambda: self.lose([p for n in rest for p in ((one, n), (n, one))])
        if kind == "hide":
            return f"cut {one} from everything", lambda: self.lose(
                [p for n in ("test", *self.network.hosts) if n != one for p in ((one, n), (n, one))])
        if kind == "etcd one":
            name = self.dice.choice(ETCDS)
            return self.etcd_fault([name])
        if kind == "etcd all":
            return self.etcd_fault(list(ETCDS))
        if kind == "etcd cut":
            return f"cut {one} from etcd", lambda: self.lose([p for e in ETCDS for p in ((one, e), (e, one))])
        if kind == "kill two":
            return (f"kill {one} and {two}, and their guards", lambda: self.kill([number, other], True)) \
                if {number, other} <= set(running) else None
        if kind == "kill all":
            return ("kill all nodes and guards", lambda: self.kill(list(NODES), True)) if len(running) == 3 else None
        if number not in running:
            return None
        simple = {"kill": (f"kill {one}", lambda: self.kill([number], False)),
                  "kill host": (f"kill {one} and its guard", lambda: self.kill([number], True)),
                  "stop": (f"stop {one}", lambda: self.stop(number)),
                  "pause": (f"pause {one}", lambda: self.pause(number))}
        return simple.get(kind) or self.disk_fault(kind, number)

    def etcd_fault(self, names):
        runs = [name for name in names if self.cluster.etcd.processes[name].poll() is None]
        return (f"kill etcd {' '.join(runs)}", lambda: self.kill_etcd(runs)) if runs else None

    def disk_fault(self, kind, number):
        """A second disk may only be lost once the first one is full again, so everything heals before."""
        if kind == "wipe":
            what, begin = f"wipe the disk of n{number}", self.wipe
        elif number in self.images:
            what, begin = f"restore the old image of n{number}", self.restore_image
        else:
            what, begin = f"take an image of n{number}", self.take_image

        def heal_and_begin():
            self.heal()
            begin(number)

        return what, heal_and_begin

    # -- runs

    def step(self):
        self.look_who_is_ready()
        now = time.monotonic()
        for item in sorted((item for item in self.ends if item[0] <= now), key=lambda item: item[0]):
            self.ends.remove(item)
            self.tell(item[1])
            item[2]()
        if len(self.ends) < self.most_at_once:
            self.begin_one()
        time.sleep(self.dice.choice(self.pauses_s))

    def heal(self):
        self.tell("all faults end")
        for _, _, end in self.ends:
            end()
        self.ends.clear()
        self.network.heal()
        if self.cluster.etcd:
            self.cluster.etcd.wait_serving()
        for number in sorted(self.starting):
            self.cluster.nodes[number].wait_ready()
        self.look_who_is_ready()
        self.cluster.wait_healed(self.gone, timeout_s=HEAL_S)
        self.tell("healed")

    def run(self, seconds=None, operations=None, report=None, **workload):
        """Breaks things for so long, or until the clients have finished so many operations, whichever comes first."""
        print(f"random faults, seed {self.seed}", flush=True)
        load = Workload(self.cluster, seed=self.seed + 1000, **workload)
        try:
            load.wait_serving(30)
            began = time.monotonic()
            while ((seconds is None or time.monotonic() - began < seconds)
                   and (operations is None or load.figures["finished"] < operations)):
                assert load.running(), f"the clients have ended:\n{''.join(load.said)}"
                self.step()
                if report:
                    report(load.figures, self.story)
            self.heal()
            self.tell(f"serves all keys after {load.wait_serving(30):.2f} s more")
            print(f"  {load.finish()}")
        except BaseException:
            print(f"seed {self.seed}; the last faults (all are in {self.cluster.directory}/faults.txt):\n  "
                  + "\n  ".join(self.story[-40:]), flush=True)
            raise
        print("  " + ", ".join(f"{kind}: {count}" for kind, count in sorted(self.counts.items())), flush=True)
