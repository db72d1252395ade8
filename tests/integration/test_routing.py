#!/usr/bin/python3
"""What a router asks three real nodes: the map, and the parts of answers. Their union is everything, once."""

import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time

from cluster_process import Cluster
from node_process import ROOT, Connection, NodeProcess, constants, temporary_directory, ttypes

with tempfile.TemporaryDirectory(prefix="pando-py-routing-") as generated:
    subprocess.run(["thrift", "--gen", "py", "-out", generated, str(ROOT / "thrift" / "routing.thrift")], check=True)
    sys.path.insert(0, generated)
    # pylint: disable=wrong-import-position
    from pando_routing import Routing, ttypes as routing  # noqa: E402
    sys.path.remove(generated)

PARTITIONS = 8
KEYS = {b"key/%04d" % i: b"value %d" % i for i in range(500)}
U64 = 1 << 64


def context(level=0, budget_ms=5000):
    return ttypes.Context(level=level, budget_ms=budget_ms)


def connect(node):
    return Connection(node.host, node.port, timeout_s=60, service=Routing)


def get_map(connection, known=0, cluster_id="", wait_ms=0, budget_ms=5000):
    return connection.getMap(context(budget_ms=budget_ms), routing.GetMapRequest(
        known_version=known, cluster_id=cluster_id, wait_ms=wait_ms))


def check_ranges(parts):
    """They are all hashes, each once."""
    following = 0
    for part in sorted(parts, key=lambda part: part.first_hash % U64):
        assert part.first_hash % U64 == following, parts
        following = part.last_hash % U64 + 1
    assert following == U64, parts


def error_of(call):
    try:
        call()
    except ttypes.KvError as error:
        return error
    return None


def settled_map(cluster):
    """A map that all nodes agree on, in which each partition has three replicas in sync."""
    deadline = time.monotonic() + 60
    while True:
        maps = []
        for node in cluster.nodes.values():
            with connect(node) as connection:
                maps.append(get_map(connection))
        same = all((m.version, m.routes) == (maps[0].version, maps[0].routes) for m in maps)
        if same and all(len(route.in_sync) == 3 for route in maps[0].routes):
            return maps[0]
        assert time.monotonic() < deadline, maps
        time.sleep(0.1)


def led_by(known):
    """The partitions of each master."""
    led = {}
    for route in known.routes:
        led.setdefault(route.master, []).append(route.partition)
    return led


def scan(connection, partitions, level=0, **options):
    request = routing.ScanPartitionsRequest(partitions=partitions, scan=ttypes.ScanRequest(limit_rows=37, **options))
    rows, covered = [], None
    while True:
        reply = connection.scanPartitions(context(level), request)
        rows += reply.rows
        assert covered is None or covered == reply.covered, (covered, reply.covered)
        covered = reply.covered
        if reply.exhausted:
            return rows, covered
        request.after_key = reply.rows[-1].key


def masters_have_everything(cluster, known):
    found, covered, count = {}, [], 0
    for number, partitions in led_by(known).items():
        with connect(cluster.nodes[number]) as connection:
            rows, part = scan(connection, partitions)
            assert [row.key for row in rows] == sorted(row.key for row in rows)
            sums = connection.aggregatePartitions(context(), routing.AggregatePartitionsRequest(
                partitions=partitions, range=ttypes.AggregateRequest()))
            sample = connection.samplePartitions(context(), routing.SamplePartitionsRequest(
                partitions=partitions, range=ttypes.AggregateRequest(), keys_per_partition=3))
        assert sums.count == len(rows) == sample.count, (sums, len(rows))
        assert {key.key for key in sample.keys} <= {row.key for row in rows}
        epochs = {route.partition: route.epoch for route in known.routes}
        assert all(c.epoch == epochs[c.partition] for c in part), (part, known)
        assert not {row.key for row in rows} & found.keys()
        found.update((row.key, row.value) for row in rows)
        covered += part
        count += sums.count
    assert found == KEYS, len(found)
    assert count == len(KEYS)
    check_ranges(covered)


def followers_name_the_master(cluster, known):
    route = known.routes[0]
    addresses = {node.id: node.client_address for node in known.nodes}
    for number in set(cluster.nodes) - {route.master}:
        with connect(cluster.nodes[number]) as connection:
            error = error_of(lambda: scan(connection, [route.partition]))  # pylint: disable=cell-var-from-loop
            assert error and error.code == constants.NOT_MASTER, error
            assert error.master == addresses[route.master], (error, known)
            assert error.epoch == route.epoch, (error, route)
            rows, covered = scan(connection, [route.partition], level=constants.LEVEL_SESSION)
            assert rows and covered[0].epoch == 0, covered


def polls_return_with_a_failover(cluster, known):
    others = [number for number in cluster.nodes if number != known.routes[0].master]
    with connect(cluster.nodes[others[0]]) as connection:
        begin = time.monotonic()
        same = get_map(connection, known.version, known.cluster_id, wait_ms=500)
        assert same.version == known.version and not same.routes, same
        assert 0.4 < time.monotonic() - begin < 3
        assert error_of(lambda: get_map(connection, 0, "00000000-0000-0000-0000-000000000001")).code == \
            constants.BAD_REQUEST

        answers = []

        def poll():
            version, routes = known.version, {route.partition: route for route in known.routes}
            while routes[known.routes[0].partition].master == known.routes[0].master:
                reply = get_map(connection, version, known.cluster_id, wait_ms=20_000, budget_ms=30_000)
                version = reply.version
                routes.update((route.partition, route) for route in reply.routes)
            answers.append(routes)

        thread = threading.Thread(target=poll)
        thread.start()
        time.sleep(0.3)
        begin = time.monotonic()
        cluster.nodes[known.routes[0].master].kill_node()
        thread.join(30)
        assert answers, "no map came"
        print(f"a newer map came {time.monotonic() - begin:.2f} s after the master was killed")
        assert answers[0][known.routes[0].partition].epoch > known.routes[0].epoch


def a_node_that_is_alone(directory):
    node = NodeProcess(pathlib.Path(directory) / "alone", ["--partitions=4", "--memory_limit_mb=256",
                                                           "--log_budget_mb=128"]).start()
    with connect(node) as connection:
        known = get_map(connection)
        assert known.whole and known.version == 1 and len(known.routes) == 4, known
        assert [n.id for n in known.nodes] == [1] and known.nodes[0].client_address == "", known
        check_ranges(known.routes)
        rows, covered = scan(connection, [0, 1, 2, 3])
        assert not rows
        check_ranges(covered)
    node.stop()


def main():
    directory = temporary_directory("routing")
    cluster = Cluster(directory, partitions=PARTITIONS).start()
    try:
        cluster.wait_healed()
        client = cluster.client()
        for key, value in KEYS.items():
            client.put(key, value)
        known = settled_map(cluster)
        check_ranges(known.routes)
        masters_have_everything(cluster, known)
        followers_name_the_master(cluster, known)
        polls_return_with_a_failover(cluster, known)
        cluster.stop()
        a_node_that_is_alone(directory)
    finally:
        cluster.kill()
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
