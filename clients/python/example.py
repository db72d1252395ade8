#!/usr/bin/python3
"""A tour of Pando with nothing but the stock Thrift library (Debian: python3-thrift thrift-compiler).

    clients/python/example.py [HOST:PORT]      # default: the first router of ./dev up

The example generates the client code from thrift/pando.thrift into a temporary directory. Your own project would run
`thrift --gen py -out DIR thrift/pando.thrift` once, and keep the result. It writes, and in the end removes, keys that
begin with "example/".
"""

import pathlib
import subprocess
import sys
import tempfile

IDL = pathlib.Path(__file__).resolve().parents[2] / "thrift" / "pando.thrift"


def main():
    host, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7450").rsplit(":", 1)
    host = host.removeprefix("[").removesuffix("]")  # IPv6: [::1]:7450
    with tempfile.TemporaryDirectory() as generated:
        subprocess.run(["thrift", "--gen", "py", "-out", generated, IDL], check=True)
        sys.path.insert(0, generated)
        tour(host, int(port))


def tour(host, port):
    from pando import Kv
    from pando.constants import APPLIED_NO, BAD_REQUEST, OP_INCREMENT, OP_PUT, TTL_SET
    from pando.ttypes import (Condition, Context, DeleteRangeRequest, GetRequest, HelloRequest, IncrementRequest,
                              KeyCondition, KvError, OpenSnapshotRequest, PutRequest, ReleaseSnapshotRequest,
                              RemoveRequest, ScanRequest, TouchRequest, WatchRequest, WriteBatchRequest, WriteOp)
    from thrift.protocol.TBinaryProtocol import TBinaryProtocol
    from thrift.transport import TSocket, TTransport

    socket = TSocket.TSocket(host, port)
    socket.setTimeout(10_000)  # ms; longer than the budget, so that the node answers first
    transport = TTransport.TFramedTransport(socket)
    kv = Kv.Client(TBinaryProtocol(transport))
    transport.open()
    context = Context(budget_ms=5000)  # with each request: how long the client is willing to wait

    hello = kv.hello(context, HelloRequest(client_name="example"))
    print(f"connected to Pando {hello.server_version}, {hello.partitions} partitions")

    # A write is acknowledged once it is on disk.
    kv.put(context, PutRequest(key=b"example/fruit/apple", value=b"red"))
    kv.put(context, PutRequest(key=b"example/fruit/pear", value=b"green"))
    apple = kv.get(context, GetRequest(key=b"example/fruit/apple")).record
    print("get:", apple.found, apple.value, "version", apple.version)

    # Change it only if nobody else has changed it since it was read. A failed condition is a result, not an exception.
    unchanged = Condition(version=apple.version)
    ours = kv.put(context, PutRequest(key=b"example/fruit/apple", value=b"yellow", condition=unchanged))
    late = kv.put(context, PutRequest(key=b"example/fruit/apple", value=b"blue", condition=unchanged))
    print("first update applied:", ours.applied, "- second:", late.applied, "because it is now", late.current.value)

    print("counter:", kv.increment(context, IncrementRequest(key=b"example/visits", delta=1)).number)

    # Keys that share a {tag} share a partition. The ops of a batch on them become visible together, and a crash keeps
    # all or none of them. With all_or_nothing, one refused op also refuses all the others.
    kv.writeBatch(context, WriteBatchRequest(all_or_nothing=True, ops=[
        WriteOp(kind=OP_PUT, key=b"example/{order7}/state", value=b"paid"),
        WriteOp(kind=OP_INCREMENT, key=b"example/{order7}/changes", delta=1),
    ]))

    # Compare-and-swap over two keys: move 30 from one account to another, unless somebody changed one meanwhile.
    for key, value in ((b"example/{bank}/anna", b"100"), (b"example/{bank}/ben", b"0")):
        kv.put(context, PutRequest(key=key, value=value))
    anna, ben = (kv.get(context, GetRequest(key=key)).record for key in (b"example/{bank}/anna", b"example/{bank}/ben"))
    transfer = WriteBatchRequest(all_or_nothing=True, ops=[
        WriteOp(kind=OP_PUT, key=b"example/{bank}/anna", value=b"%d" % (int(anna.value) - 30),
                condition=Condition(version=anna.version)),
        WriteOp(kind=OP_PUT, key=b"example/{bank}/ben", value=b"%d" % (int(ben.value) + 30),
                condition=Condition(version=ben.version)),
    ])
    first, again = (kv.writeBatch(context, transfer).results for _ in range(2))
    print("transfer applied:", [result.applied for result in first], "- sent again:",
          [result.applied for result in again])

    # Conditions of the whole batch are for keys that it does not write. A failed one is returned with the record found.
    reply = kv.writeBatch(context, WriteBatchRequest(
        conditions=[KeyCondition(key=b"example/{order7}/state", condition=Condition(value=b"open"))],
        ops=[WriteOp(kind=OP_PUT, key=b"example/{order7}/parcel", value=b"sent")]))
    print("parcel sent:", reply.results[0].applied, "because the order is", reply.failed_conditions[0].current.value)

    # Each visit extends a session by an hour: touch changes the expiry, and the value is not sent again.
    kv.put(context, PutRequest(key=b"example/session/1", value=b"...", ttl_mode=TTL_SET, ttl_ms=3_600_000))
    touched = kv.touch(context, TouchRequest(key=b"example/session/1", ttl_mode=TTL_SET, ttl_ms=3_600_000))
    last = kv.remove(context, RemoveRequest(key=b"example/session/1", return_previous=True))
    print("touched:", touched.applied, "- removed; its value was", last.previous.value)

    # Keys come in byte order across all partitions. Repeat the scan with the cursor until the cursor is empty.
    cursor = b""
    while True:
        page = kv.scan(context, ScanRequest(prefix=b"example/fruit/", limit_rows=100, cursor=cursor))
        for row in page.rows:
            print("scan:", row.key, row.value)
        cursor = page.cursor
        if not cursor:
            break

    # A watch reports which keys changed, without values. Repeat it with each reply's position. On FEED_GONE, open a new
    # snapshot, scan it, and watch from its version. Beginning at a snapshot's version leaves no gap after the scan.
    snapshot = kv.openSnapshot(context, OpenSnapshotRequest(ttl_ms=60_000))
    print("removed, and it existed:", kv.remove(context, RemoveRequest(key=b"example/fruit/pear")).existed)
    news = kv.watch(context, WatchRequest(prefix=b"example/fruit/", after_version=snapshot.version, wait_ms=1000))
    for change in news.changes:
        print("watch:", change.key, "removed" if change.removed else "written", "- continue at", news.position.hex())
    kv.releaseSnapshot(context, ReleaseSnapshotRequest(snapshot=snapshot.snapshot))

    # deleteRange has a cursor too.
    removed, cursor = 0, b""
    while True:
        page = kv.deleteRange(context, DeleteRangeRequest(prefix=b"example/", cursor=cursor))
        removed, cursor = removed + page.removed, page.cursor
        if not cursor:
            break
    print("removed:", removed, "records")

    # KvError: `applied` says whether the write took effect; `retryable`, whether to send the same request again. After
    # a TTransportException (a timeout, a lost connection) a write may have taken effect: connect again, and read.
    try:
        kv.put(context, PutRequest(key=b"", value=b"no key"))
    except KvError as error:
        print("an error has a code and a message:", error.code == BAD_REQUEST, error.message)
        print("certainly not applied:", error.applied == APPLIED_NO, "- worth a retry:", error.retryable)
    transport.close()


if __name__ == "__main__":
    main()
