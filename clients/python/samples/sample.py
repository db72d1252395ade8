#!/usr/bin/env python3
"""A tour of the client.

    sample.py [HOST:PORT,HOST:PORT]     # default: the routers of ./dev up

It writes, and in the end removes, keys that begin with "python-sample/".
"""

import asyncio
import sys

import pando

ROUTERS = "127.0.0.1:7450,127.0.0.1:7460"


def tour(client):
    print("connected to Pando", client.server_info().server_version)

    # A write returns once it is on the disks of most replicas. If an answer is lost, the client asks again, and the write
    # still counts once.
    client.put(b"python-sample/apple", b"red")
    client.put(b"python-sample/pear", b"green", ttl_ms=3_600_000)
    apple = client.get(b"python-sample/apple")
    print("get:", apple.value.decode(), "- version", apple.version)

    # Only if nobody has changed it since it was read. A condition that does not hold is a result, not an exception.
    first = client.put(b"python-sample/apple", b"yellow", if_version=apple.version)
    late = client.put(b"python-sample/apple", b"blue", if_version=apple.version)
    print("first update applied:", first.applied, "- second:", late.applied, "because it is", late.current.value.decode())
    print("visits:", client.increment(b"python-sample/visits"))

    # Keys with one {tag} are in one partition: their ops become visible together.
    batch = client.batch(all_or_nothing=True)
    result = batch.put(b"python-sample/{order7}/state", b"paid").increment(b"python-sample/{order7}/changes").require(
        b"python-sample/{order7}/state", if_exists=False).write()
    print("batch applied:", result.applied)

    # A scan is in key order across all partitions. A snapshot shows everything at one moment.
    with client.snapshot() as snapshot:
        client.remove(b"python-sample/pear")
        print("now:", [row.key.decode() for row in client.scan(prefix=b"python-sample/", keys_only=True)])
        print("in the snapshot:", snapshot.count(prefix=b"python-sample/"), "records")
        with client.watch(b"python-sample/", after_version=snapshot.version) as watch:
            for change in watch.poll(wait_ms=2000):
                print("since then:", change.key.decode(), "removed" if change.removed else "written")

    # A session reads from any replica, and still sees all that it has written.
    session = client.session()
    session.put(b"python-sample/mine", b"1")
    print("my own write:", session.get(b"python-sample/mine").value.decode())

    try:
        client.put(b"", b"a key is missing")
    except pando.BadRequestError as error:
        print("error:", error.name, "- applied:", error.applied.name, "-", error.advice)


async def many_at_once(addresses):
    """The same with asyncio: all calls share a connection, and none waits for another."""
    async with pando.AsyncClient(addresses) as client:
        numbers = await asyncio.gather(*(client.increment(b"python-sample/many") for _ in range(100)))
        print("100 increments at once:", sorted(numbers) == list(range(1, 101)))


def main():
    addresses = sys.argv[1] if len(sys.argv) > 1 else ROUTERS
    with pando.Client(addresses, client_name="sample") as client:
        tour(client)
        asyncio.run(many_at_once(addresses))
        print("removed:", client.delete_range(prefix=b"python-sample/"), "records")


if __name__ == "__main__":
    main()
