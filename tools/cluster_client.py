"""A client of a cluster of Pando nodes, for tools: it sends each request to the node that is master of the key.

It is a client as any client is: it knows no hash function and no map of the cluster. It asks some node, and goes where
the answer NOT_MASTER sends it. Importing this module generates the Python code for the interface with Debian's Thrift
(python3-thrift, thrift-compiler).
"""

import logging
import pathlib
import subprocess
import sys
import tempfile
import time

IDL = pathlib.Path(__file__).resolve().parents[1] / "thrift" / "cluster.thrift"

with tempfile.TemporaryDirectory(prefix="pando-py-") as generated:
    subprocess.run(["thrift", "-r", "--gen", "py", "-out", generated, IDL], check=True)
    sys.path.insert(0, generated)
    # pylint: disable=import-error,wrong-import-position
    from pando import Kv, constants, ttypes
    from pando_cluster import Cluster
    sys.path.remove(generated)
from thrift.protocol.TBinaryProtocol import TBinaryProtocolAccelerated
from thrift.Thrift import TException
from thrift.transport import TSocket, TTransport

logging.getLogger("thrift").setLevel(logging.CRITICAL)  # a node that is down is nothing special here

READ_BATCH = 256  # keys of one multiGet
PAUSE_S = 0.002  # before an attempt that follows one that failed
BUDGET_MS = 2000  # of one attempt
WENT_WRONG = (TException, OSError, EOFError)  # what an attempt raises if there is no answer


class NoAnswer(Exception):
    """No node has answered a request in time; the text says what the last one said."""


def split_address(address):
    """Returns host and port of host:port, where an IPv6 address is in brackets."""
    host, port = address.rsplit(":", 1)
    return host.removeprefix("[").removesuffix("]"), int(port)


class Connection:
    """To one node. Call the methods of `service` as connection.get(context, request)."""

    def __init__(self, address, service=Kv):
        socket = TSocket.TSocket(*split_address(address))
        socket.setTimeout(2 * BUDGET_MS)  # so that the node answers first
        self._transport = TTransport.TFramedTransport(socket)
        self._client = service.Client(TBinaryProtocolAccelerated(self._transport, fallback=True))
        self._transport.open()

    def __getattr__(self, method):
        return getattr(self._client, method)

    def close(self):
        self._transport.close()


def replicas_of_node(address):
    """Returns what the node says about the replicas that it holds (cluster.thrift), or none if it does not answer."""
    try:
        connection = Connection(address, Cluster)
        try:
            return connection.replicas(ttypes.Context(budget_ms=BUDGET_MS)).replicas
        finally:
            connection.close()
    except WENT_WRONG:
        return []


class ClusterClient:
    """Belongs to one thread."""

    def __init__(self, addresses, patience_s=20):
        self._addresses = list(addresses)
        self._patience_s = patience_s
        self._connections = {}
        self._master = self._addresses[0]  # of the last key
        self._turn = 0

    def put(self, key, value, ttl_ms):
        """Stores the record and returns the address of the node that acknowledged it. It may be written twice."""
        request = ttypes.PutRequest(key=key, value=value, ttl_mode=constants.TTL_SET, ttl_ms=ttl_ms)
        return self._call("put", request)[1]

    def get(self, key):
        """Returns the value, or None, and the address of the node that answered."""
        reply, address = self._call("get", ttypes.GetRequest(key=key))
        return reply.record.value if reply.record.found else None, address

    def read_back(self, keys):
        """Yields (key, value or None) for each key, in any order."""
        waiting = {self._addresses[0]: list(keys)}
        deadline, why = time.monotonic() + self._patience_s, None
        while waiting:
            address, mine = waiting.popitem()
            progress = False
            for first in range(0, len(mine), READ_BATCH):
                batch = mine[first:first + READ_BATCH]
                try:
                    items = self._connect(address).multiGet(self._context(), ttypes.MultiGetRequest(keys=batch)).items
                except WENT_WRONG as error:
                    why = error
                    self._drop(address)
                    waiting.setdefault(self._next_address(), []).extend(mine[first:])
                    break
                for key, item in zip(batch, items):
                    if item.error is None:
                        progress = True
                        yield key, item.record.value if item.record.found else None
                    else:
                        why = item.error
                        waiting.setdefault(item.error.master or self._next_address(), []).append(key)
            if progress:
                deadline = time.monotonic() + self._patience_s
                continue
            if time.monotonic() > deadline:
                left = sum(map(len, waiting.values()))
                raise NoAnswer(f"{left} records cannot be read, after {self._patience_s} s: {self._text(why)}")
            time.sleep(PAUSE_S)

    def close(self):
        for address in list(self._connections):
            self._drop(address)

    def _call(self, method, request):
        deadline = time.monotonic() + self._patience_s
        while True:
            address = self._master
            try:
                return getattr(self._connect(address), method)(self._context(), request), address
            except ttypes.KvError as error:
                why = error
                self._master = error.master or self._next_address()
                followed = bool(error.master)
            except WENT_WRONG as error:
                why, followed = error, False
                self._drop(address)
                self._master = self._next_address()
            if time.monotonic() > deadline:
                raise NoAnswer(f"{method} is not answered, after {self._patience_s} s: {self._text(why)}")
            if not followed or address == self._master:
                time.sleep(PAUSE_S)

    def _context(self):
        return ttypes.Context(budget_ms=BUDGET_MS)

    def _next_address(self):
        self._turn += 1
        return self._addresses[self._turn % len(self._addresses)]

    def _connect(self, address):
        if address not in self._connections:
            self._connections[address] = Connection(address)
        return self._connections[address]

    def _drop(self, address):
        connection = self._connections.pop(address, None)
        if connection:
            connection.close()

    @staticmethod
    def _text(why):
        return getattr(why, "message", None) or why
