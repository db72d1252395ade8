#!/usr/bin/python3
"""A tour of Pando with nothing but the stock Thrift library (Debian: python3-thrift thrift-compiler).

    clients/python/example.py [host:port]

It generates the client code from thrift/pando.thrift into a temporary directory; a project of yours would do that once,
with `thrift --gen py -out DIR thrift/pando.thrift`, and keep the result.
"""

import pathlib
import subprocess
import sys
import tempfile

IDL = pathlib.Path(__file__).resolve().parents[2] / "thrift" / "pando.thrift"


def main():
    host, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7420").rsplit(":", 1)
    host = host.removeprefix("[").removesuffix("]")  # IPv6: [::1]:7420
    with tempfile.TemporaryDirectory() as generated:
        subprocess.run(["thrift", "--gen", "py", "-out", generated, IDL], check=True)
        sys.path.insert(0, generated)
        tour(host, int(port))


def tour(host, port):
    from pando import Kv
    from pando.constants import BAD_REQUEST, OP_INCREMENT, OP_PUT
    from pando.ttypes import (Condition, Context, GetRequest, HelloRequest, IncrementRequest, KvError, PutRequest,
                              RemoveRequest, ScanRequest, WriteBatchRequest, WriteOp)
    from thrift.protocol.TBinaryProtocol import TBinaryProtocol
    from thrift.transport import TSocket, TTransport

    transport = TTransport.TFramedTransport(TSocket.TSocket(host, port))
    kv = Kv.Client(TBinaryProtocol(transport))
    transport.open()
    context = Context(budget_ms=5000)  # with each request: how long you are willing to wait

    hello = kv.hello(context, HelloRequest(client_name="example"))
    print(f"connected to {hello.server_version}, {hello.partitions} partitions")

    # A write is acknowledged once it is on disk.
    kv.put(context, PutRequest(key=b"fruit/apple", value=b"red"))
    kv.put(context, PutRequest(key=b"fruit/pear", value=b"green"))
    apple = kv.get(context, GetRequest(key=b"fruit/apple")).record
    print("get:", apple.found, apple.value, "version", apple.version)

    # Change it only if nobody else did since it was read. A failed condition is a result, not an exception.
    ours = kv.put(context, PutRequest(key=b"fruit/apple", value=b"yellow", condition=Condition(version=apple.version)))
    late = kv.put(context, PutRequest(key=b"fruit/apple", value=b"blue", condition=Condition(version=apple.version)))
    print("first update applied:", ours.applied, "- second:", late.applied, "as it is now", late.current.value)

    print("counter:", kv.increment(context, IncrementRequest(key=b"visits", delta=1)).number)

    # Keys that share a {tag} share a partition: no reader sees half of a batch on them, and a crash keeps all or none.
    kv.writeBatch(context, WriteBatchRequest(ops=[
        WriteOp(kind=OP_PUT, key=b"{order7}/state", value=b"paid"),
        WriteOp(kind=OP_INCREMENT, key=b"{order7}/changes", delta=1),
    ]))

    # Keys come in byte order over all partitions. Go on with the cursor until it is empty.
    cursor = b""
    while True:
        page = kv.scan(context, ScanRequest(prefix=b"fruit/", limit_rows=100, cursor=cursor))
        for row in page.rows:
            print("scan:", row.key, row.value)
        cursor = page.cursor
        if not cursor:
            break

    print("removed, and there was one:", kv.remove(context, RemoveRequest(key=b"fruit/pear")).existed)

    try:
        kv.put(context, PutRequest(key=b"", value=b"no key"))
    except KvError as error:
        print("an error has a code and a message:", error.code == BAD_REQUEST, error.message)
    transport.close()


if __name__ == "__main__":
    main()
