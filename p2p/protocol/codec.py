"""Line to message and back; the only place that says `json` for the wire."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar, cast

from p2p.errors import WIRE_CODES, ProtocolError, Refused
from p2p.protocol.peer_messages import Answer, Message, Request
from p2p.protocol.schema import Int, Text, bad, plan_of
from p2p.protocol.strict_json import loads
from p2p.value import frozen

SEQ: Final = Int(0, 2**53 - 1)
MESSAGE_TEXT: Final = Text(1024)
MAX_ERROR_TEXT: Final = 900
"""Most bytes that an error's message takes on the wire, quotes and escapes included; keeps an error line
under 1 KiB."""

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode

A = TypeVar("A", bound=Answer)


@frozen
class DecodedLine:
    """A line that was a JSON object: either a request (it has `op`) or an answer (it has `ok`)."""

    data: dict[str, Any]
    seq: int | None
    body: int

    @property
    def is_request(self) -> bool:
        """Whether this line asks; otherwise it answers."""
        return "op" in self.data


def decode_line(line: bytes) -> DecodedLine:
    """Read one line. Raises `ProtocolError`: a fatal `bad_json` when it is no JSON object, `bad_field` for
    `seq`, a fatal `bad_body`."""
    data = loads(line)
    if not isinstance(data, dict):
        raise ProtocolError("bad_json", "a line must be one JSON object", fatal=True)
    seq = data.get("seq")
    try:
        if seq is not None or "seq" in data:
            SEQ.check(seq, "seq")
    except ProtocolError as error:
        # A body that was refused would be read as lines, and an answer to a wrong answer could go on for
        # ever.
        error.fatal = "op" not in data or "body" in data
        raise
    body = data.get("body", 0)
    if type(body) is not int or body < 0:
        raise ProtocolError(
            "bad_body", "body: must be a whole number of bytes", fatal=True, seq=seq if "op" in data else None
        )
    return DecodedLine(data, seq, body)


def decode_request(decoded: DecodedLine, ops: Mapping[str, type[Request]]) -> Request:
    """Make the request of a line. Raises `ProtocolError`: `unsupported`, `bad_field` naming the field, or a
    fatal `bad_body`."""
    op = decoded.data.get("op")
    if decoded.body:
        raise ProtocolError("bad_body", "body: this op takes none", fatal=True, seq=decoded.seq)
    if type(op) is not str:
        raise ProtocolError("bad_field", "op: must be a string", seq=decoded.seq)
    cls = ops.get(op)
    if cls is None:
        raise ProtocolError("unsupported", f"op: not known here; known are {', '.join(ops)}", seq=decoded.seq)
    try:
        return cast(Request, plan_of(cls).build(decoded.data))
    except ProtocolError as error:
        error.seq = decoded.seq
        raise


def decode_answer(decoded: DecodedLine, request: type[Request]) -> Answer | Refused:
    """Make the answer of a line to a request of that class. Raises a fatal `ProtocolError`: a side that
    answers nonsense is given up."""
    try:
        ok = decoded.data.get("ok")
        if ok is False:
            return decode_refusal(decoded)
        if ok is not True:
            raise bad("ok", "must be true or false")
        if request.ANSWER is None:
            raise bad("ok", f"{request.OP} has no answer")
        if decoded.body > request.BODY:
            raise ProtocolError("bad_body", f"body: {request.OP} allows {request.BODY} bytes at most")
        return cast(Answer, plan_of(request.ANSWER).build(decoded.data))
    except ProtocolError as error:
        raise ProtocolError(
            error.code, f"answer to {request.OP}: {error}", fatal=True, seq=decoded.seq
        ) from None


def decode_refusal(decoded: DecodedLine) -> Refused:
    """Make the refusal of an answer with `"ok": false`; a code that we do not know means `internal` to us."""
    code = decoded.data.get("error")
    text = MESSAGE_TEXT.check(decoded.data.get("message", ""), "message")
    if type(code) is not str or decoded.body:
        raise bad("error", "must be a string, without a body")
    known = code if code in WIRE_CODES else "internal"
    return Refused(known, text or WIRE_CODES[known])


def encode_request(request: Request, seq: int | None = None) -> bytes:
    """Write a request as one line."""
    data: dict[str, object] = {"op": request.OP}
    data.update(plan_of(type(request)).plain(request))
    return _line(data, seq)


def encode_answer(answer: Answer, seq: int | None = None, body: int = 0) -> bytes:
    """Write an answer as one line; `body` bytes are to follow it."""
    data: dict[str, object] = {"ok": True}
    data.update(plan_of(type(answer)).plain(answer))
    if body:
        data["body"] = body
    return _line(data, seq)


def encode_error(error: Exception, seq: int | None = None) -> bytes:
    """Write an error as one line. Only the client's own faults are explained: anything but `Refused` and
    `ProtocolError` is `internal`."""
    code, text = "internal", WIRE_CODES["internal"]
    if isinstance(error, (ProtocolError, Refused)):
        code, text = error.code, str(error)
    text = "".join(c if c.isprintable() else "?" for c in text[:MAX_ERROR_TEXT])
    while len(_encode(text).encode()) > MAX_ERROR_TEXT:
        text = text[: len(text) * 7 // 8]
    return _line({"ok": False, "error": code, "message": text}, seq)


def encoded_size(message: Message) -> int:
    """Bytes that a part of a message takes on the wire; for filling a page without passing the longest
    line."""
    return len(_encode(plan_of(type(message)).plain(message)).encode())


def by_op(ops: Iterable[type[Request]]) -> dict[str, type[Request]]:
    """The requests that a side understands, by their op."""
    return {cls.OP: cls for cls in ops}


def _line(data: dict[str, object], seq: int | None) -> bytes:
    if seq is not None:
        data["seq"] = seq
    return _encode(data).encode() + b"\n"
