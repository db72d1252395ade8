"""A proxy that understands frames: cuts, alters, delays and answers, as the rules say that the control server gives it.

It stands between a client under test and a router. Threads: one that accepts, and two for each connection. `Proxy` is
used by any thread; its lock guards the rules and what was observed.
"""

import socket
import struct
import threading
import time

from node_process import Kv, ttypes
from thrift.Thrift import TApplicationException, TMessageType
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.transport.TTransport import TMemoryBuffer

ALTER_OTHER_METHOD = "renewSnapshot"
LARGEST_INT32 = 0x7fffffff
# What follows the head of a reply: the field 0 (success) is a struct (0c), in which a string (0b) or a list (0f) of
# structs claims to be longer than the frame, or than nothing.
FALSE_BODIES = {
    "long_string": b"\x0c\0\0\x0b\0\x01\x7f\xff\xff\xff",
    "negative_string": b"\x0c\0\0\x0b\0\x01\xff\xff\xff\xff\0\0",
    "long_list": b"\x0c\0\0\x0f\0\x01\x0c\x7f\xff\xff\xff",
    "negative_list": b"\x0c\0\0\x0f\0\x01\x0c\xff\xff\xff\xff\0\0",
    "deep": b"\x0c\0\0" + b"\x0c\0\x63" * 100000,
    "nothing": b"\0",
}


def decode(body):
    """(name, type, sequence ID, protocol at the arguments) of a frame."""
    protocol = TBinaryProtocol(TMemoryBuffer(body))
    name, kind, sequence = protocol.readMessageBegin()
    return name, kind, sequence, protocol


def encode(name, kind, sequence, message):
    transport = TMemoryBuffer()
    protocol = TBinaryProtocol(transport)
    protocol.writeMessageBegin(name, kind, sequence)
    message.write(protocol)
    protocol.writeMessageEnd()
    return transport.getvalue()


def read_struct(protocol, kind):
    message = kind()
    message.read(protocol)
    return message


def receive(sock, size):
    """`size` bytes, or None when the peer has closed."""
    data = bytearray()
    while len(data) < size:
        more = sock.recv(min(size - len(data), 1 << 20))
        if not more:
            return None
        data += more
    return bytes(data)


def receive_frame(sock):
    head = receive(sock, 4)
    return receive(sock, struct.unpack(">I", head)[0]) if head else None


class Proxy:
    """One listening port."""

    def __init__(self, upstream):
        """`upstream`: a function that returns (host, port) of the router."""
        self.upstream = upstream
        self.lock = threading.Lock()
        self.rules = []
        self.requests = []
        self.connections = []
        self.accepted = 0
        self.refuse = 0
        self.clock_shift_ms = 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self):
        return "%s:%d" % self.listener.getsockname()[:2]

    def close(self):
        # Without the shutdown, accept() would keep the port open.
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()
        self.close_connections()

    def close_connections(self):
        with self.lock:
            connections, self.connections = self.connections, []
        for connection in connections:
            connection.close()

    def add_rule(self, rule):
        with self.lock:
            self.rules.append(dict(rule, times=rule.get("times", 1)))

    def take_rule(self, method):
        with self.lock:
            for rule in self.rules:
                if rule["times"] > 0 and (rule.get("method") == method or ("method" not in rule and method != "hello")):
                    rule["times"] -= 1
                    return rule
        return None

    def observe(self, connection, method, context):
        with self.lock:
            self.requests.append({"method": method, "connection": connection.number,
                                  "client_id": {"hex": (context.client_id or b"").hex()},
                                  "sequence": context.sequence or 0, "first_sent_ms": context.first_sent_ms or 0,
                                  "budget_ms": context.budget_ms or 0, "level": context.level or 0,
                                  "hlc": context.hlc or 0, "session": {"hex": (context.session or b"").hex()}})

    def observed(self, method=None):
        with self.lock:
            requests = [request for request in self.requests if method in (None, request["method"])]
        return {"requests": requests, "count": len(requests),
                "connections": len({request["connection"] for request in requests}),
                "lanes": len({request["client_id"]["hex"] for request in requests} - {""})}

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                refused = self.refuse > 0
                self.refuse -= refused
                self.accepted += 1
            if refused:
                client.close()
                continue
            try:
                connection = ProxiedConnection(self, client, self.accepted)
            except OSError:
                client.close()
                continue
            with self.lock:
                self.connections.append(connection)
            connection.start()


class ProxiedConnection:
    """Two sockets and the requests in flight between them."""

    def __init__(self, proxy, client, number):
        self.proxy = proxy
        self.number = number
        self.client = client
        self.server = socket.create_connection(proxy.upstream(), timeout=10)
        self.server.settimeout(None)
        for sock in (self.client, self.server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.in_flight = {}  # sequence ID -> (method, rule)
        self.send_lock = threading.Lock()

    def start(self):
        for target in (self._requests, self._replies):
            threading.Thread(target=self._run, args=(target,), daemon=True).start()

    def close(self):
        for sock in (self.client, self.server):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            sock.close()

    def _run(self, target):
        try:
            target()
        except (OSError, struct.error):
            pass
        finally:
            self.close()

    def _send_to_client(self, body):
        with self.send_lock:
            self.client.sendall(struct.pack(">I", len(body)) + body)

    def _requests(self):
        while (body := receive_frame(self.client)) is not None:
            name, kind, sequence, protocol = decode(body)
            arguments = read_struct(protocol, getattr(Kv, f"{name}_args"))
            context = arguments.context or ttypes.Context()
            self.proxy.observe(self, name, context)
            if self.proxy.clock_shift_ms and context.first_sent_ms:
                context.first_sent_ms -= self.proxy.clock_shift_ms
                body = encode(name, kind, sequence, arguments)
            rule = self.proxy.take_rule(name) or {}
            action = rule.get("action")
            if action == "part":
                body = encode(name, kind, sequence, without_ops(arguments, rule["ops"]))
            if action == "cut" and rule.get("when") == "before":
                return
            if action == "cut" and rule.get("direction") == "request":
                self.server.sendall((struct.pack(">I", len(body)) + body)[:rule["after_bytes"]])
                return
            if action == "answer":
                self._send_to_client(refusal(name, sequence, rule))
                continue
            self.in_flight[sequence] = (name, rule)
            self.server.sendall(struct.pack(">I", len(body)) + body)

    def _replies(self):
        while (body := receive_frame(self.server)) is not None:
            name, _, sequence, _ = decode(body)
            _, rule = self.in_flight.pop(sequence, (name, {}))
            if name == "hello" and self.proxy.clock_shift_ms:
                body = self._shifted_hello(body)
            if not self._apply(rule, body):
                return

    def _shifted_hello(self, body):
        name, kind, sequence, protocol = decode(body)
        result = read_struct(protocol, Kv.hello_result)
        if result.success:
            result.success.now_ms += self.proxy.clock_shift_ms
        return encode(name, kind, sequence, result)

    def _apply(self, rule, body):
        """Does to a reply what the rule says. False: the connection is to be closed."""
        action = rule.get("action")
        if action == "cut":
            frame = struct.pack(">I", len(body)) + body
            self.client.sendall(frame[:rule.get("after_bytes", 0)])
            return False
        if action == "hold":
            return True
        if action == "delay":
            timer = threading.Timer(rule["ms"] / 1000, self._run, (lambda: self._late(body),))
            timer.daemon = True
            timer.start()
            return True
        if action == "part":
            body = with_failed_ops(body, rule, are_missing=True)
        if action == "alter" and rule["what"] == "failed_ops":
            body = with_failed_ops(body, rule, are_missing=False)
        elif action == "alter":
            return self._alter(rule["what"], body)
        self._send_to_client(body)
        return True

    def _late(self, body):
        self._send_to_client(body)
        while self.server.fileno() >= 0:  # _run closes the connection when this returns
            time.sleep(0.05)

    def _alter(self, what, body):
        name, kind, sequence, _ = decode(body)
        head = len(encode_head(name, kind, sequence))
        if what == "sequence":
            self._send_to_client(encode_head(name, kind, sequence + 7919) + body[head:])
        elif what == "method":
            self._send_to_client(encode_head(ALTER_OTHER_METHOD, kind, sequence) + body[head:])
        elif what == "garbage":
            self._send_to_client(encode_head(name, kind, sequence) + b"\x0c\x00\x00\xff\xff\xff\xff\x7f")
        elif what == "length":
            self.client.sendall(struct.pack(">I", 0x7fffffff) + body)
        elif what == "negative_length":
            self.client.sendall(struct.pack(">i", -1) + body)
        elif what == "empty":
            self._send_to_client(b"")
        elif what in FALSE_BODIES:
            self._send_to_client(encode_head(name, kind, sequence) + FALSE_BODIES[what])
        elif what == "short_list":
            self._send_to_client(shortened(body))
        elif what == "unknown_op":
            self._send_to_client(with_unknown_op(body))
        elif what == "twice":
            self._send_to_client(body)
            self._send_to_client(body)
        elif what == "pieces":
            for byte in struct.pack(">I", len(body)) + body:
                self.client.sendall(bytes((byte,)))
        elif what == "half_close":
            self.client.shutdown(socket.SHUT_WR)
        elif what == "limits":
            self._send_to_client(with_limits(body, LARGEST_INT32))
        elif what == "negative_limits":
            self._send_to_client(with_limits(body, -1))
        else:
            raise ValueError(f"alter: there is no {what}")
        return True


def shortened(body):
    """The reply to a multiGet or a writeBatch without its last item."""
    name, kind, sequence, protocol = decode(body)
    result = read_struct(protocol, getattr(Kv, f"{name}_result"))
    (result.success.items if name == "multiGet" else result.success.results).pop()
    return encode(name, kind, sequence, result)


def with_unknown_op(body):
    """The reply to a writeBatch whose last op has an unknown outcome."""
    name, kind, sequence, protocol = decode(body)
    result = read_struct(protocol, Kv.writeBatch_result)
    result.success.results[-1] = ttypes.WriteResult(applied=False, error=ttypes.KvError(
        code=17, message="a bug", applied=0))
    return encode(name, kind, sequence, result)


def without_ops(arguments, indexes):
    """The arguments of a writeBatch without the ops at these indexes."""
    arguments.request.ops = [op for i, op in enumerate(arguments.request.ops) if i not in indexes]
    return arguments


def with_failed_ops(body, rule, are_missing):
    """The reply to a writeBatch in which the ops that the rule names have failed. are_missing: it has no result for them."""
    name, kind, sequence, protocol = decode(body)
    result = read_struct(protocol, Kv.writeBatch_result)
    if result.success is None:
        return body
    for index in sorted(rule["ops"]):
        failed = ttypes.WriteResult(applied=False, error=ttypes.KvError(**rule["error"]))
        result.success.results[index:index if are_missing else index + 1] = [failed]
    return encode(name, kind, sequence, result)


def refusal(name, sequence, rule):
    """An answer that no server gave: Thrift's own exception, or a KvError."""
    if "exception" in rule:
        exception = TApplicationException(rule["exception"]["type"], rule["exception"].get("message", "told to"))
        return encode(name, TMessageType.EXCEPTION, sequence, exception)
    result = getattr(Kv, f"{name}_result")(error=ttypes.KvError(**rule["error"]))
    return encode(name, TMessageType.REPLY, sequence, result)


def with_limits(body, limit):
    """The reply to a hello, with the same number for each limit."""
    name, kind, sequence, protocol = decode(body)
    result = read_struct(protocol, Kv.hello_result)
    for field in vars(result.success.limits):
        setattr(result.success.limits, field, limit)
    return encode(name, kind, sequence, result)


def encode_head(name, kind, sequence):
    transport = TMemoryBuffer()
    TBinaryProtocol(transport).writeMessageBegin(name, kind, sequence)
    return transport.getvalue()
