"""Frames and messages: from a call to bytes, and from bytes to a reply. No sockets here."""

from __future__ import annotations

import struct
from typing import Any

from thrift.protocol.TBinaryProtocol import TBinaryProtocolAccelerated
from thrift.Thrift import TApplicationException, TMessageType
from thrift.transport.TTransport import TMemoryBuffer

from . import errors
from ._generated import Kv

MAX_REPLY_BYTES = 64 << 20  # a longer frame is no reply
_MAX_SEQUENCE = 0x7FFFFFFF
_HEAD = struct.Struct(">I")
# Types of TApplicationException: what a server finds out before it does anything, and what belongs to no request.
_NOT_DONE = frozenset((TApplicationException.UNKNOWN_METHOD, TApplicationException.INVALID_MESSAGE_TYPE,
                       TApplicationException.PROTOCOL_ERROR, TApplicationException.INVALID_TRANSFORM,
                       TApplicationException.INVALID_PROTOCOL, TApplicationException.UNSUPPORTED_CLIENT_TYPE))
_NO_ANSWER = frozenset((TApplicationException.WRONG_METHOD_NAME, TApplicationException.BAD_SEQUENCE_ID,
                        TApplicationException.MISSING_RESULT))


def encode(method: str, context: Any, request: Any, sequence: int) -> bytes:
    """A frame with a call."""
    transport = TMemoryBuffer()
    protocol = TBinaryProtocolAccelerated(transport, fallback=True)
    protocol.writeMessageBegin(method, TMessageType.CALL, sequence)
    getattr(Kv, f"{method}_args")(context, request).write(protocol)
    protocol.writeMessageEnd()
    body = transport.getvalue()
    return _HEAD.pack(len(body)) + body


def frame_bytes(head: bytes) -> int:
    """The length of a frame, from its first four bytes."""
    size = int(_HEAD.unpack(head)[0])
    if size > MAX_REPLY_BYTES:
        raise errors.ProtocolError(f"a reply claims to have {size} bytes", sent=True)
    return size


class Reply:
    """A reply of which the head was read: its sequence ID says to which call it belongs."""

    def __init__(self, body: bytes):
        try:
            self._protocol = TBinaryProtocolAccelerated(TMemoryBuffer(body), string_length_limit=len(body),
                                                        container_length_limit=len(body), fallback=True)
            self.method, self._kind, self.sequence = self._protocol.readMessageBegin()
        except Exception as error:
            raise errors.ProtocolError(f"a reply cannot be decoded: {error!r}", sent=True) from error

    def result(self, method: str) -> Any:
        """The reply's struct. Raises the error that it carries, or ProtocolError if it is no reply to `method`."""
        if self.method != method:
            raise errors.ProtocolError(f"the reply to {method} is one to {self.method}", sent=True)
        if self._kind == TMessageType.EXCEPTION:
            raise self._application_error(method)
        result = getattr(Kv, f"{method}_result")()
        try:
            if self._kind != TMessageType.REPLY:
                raise ValueError(f"message type {self._kind}")
            result.read(self._protocol)
        except Exception as error:
            raise errors.ProtocolError(f"the reply to {method} cannot be decoded: {error!r}", sent=True) from error
        if result.error is not None:
            raise ServerRefused(result.error)
        if result.success is None:
            raise errors.ProtocolError(f"the reply to {method} is empty", sent=True)
        return result.success

    def _application_error(self, method: str) -> errors.PandoError:
        error = TApplicationException()
        try:
            error.read(self._protocol)
        except Exception as cause:  # pylint: disable=broad-except
            return errors.ProtocolError(f"the reply to {method} cannot be decoded: {cause!r}", sent=True)
        # See the table in docs/CLIENTS.md.
        message = f"the server does not take {method}: {error.message}"
        if error.type in _NO_ANSWER:
            return errors.ProtocolError(f"the reply to {method} is none: {error.message}", sent=True)
        if error.type in _NOT_DONE:
            code = errors.UNSUPPORTED if error.type == TApplicationException.UNKNOWN_METHOD else errors.BAD_REQUEST
            return errors.server_error(code, message, applied=errors.Applied.NO)
        return errors.server_error(errors.INTERNAL, message, applied=errors.Applied.UNKNOWN)


class ServerRefused(Exception):
    """Carries a KvError as it came, with its context, to the core that turns it into a PandoError."""

    def __init__(self, error: Any):
        super().__init__(error.message)
        self.error = error

    def to_error(self, applied: errors.Applied) -> errors.PandoError:
        error = kv_error(self.error)
        error.applied = applied
        return error


def kv_error(error: Any) -> errors.PandoError:
    """The exception for a KvError of the generated code."""
    return errors.server_error(error.code or 0, error.message or "", applied=error.applied or 0,
                               retryable=bool(error.retryable), retry_after_ms=max(error.retry_after_ms or 0, 0),
                               master=error.master or "")


def next_sequence(sequence: int) -> int:
    """The sequence ID after this one."""
    return sequence + 1 if sequence < _MAX_SEQUENCE else 1
