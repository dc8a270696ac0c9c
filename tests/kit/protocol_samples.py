"""Values for tests of messages: right and wrong ones, made from the kinds that the fields of the messages
declare."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

from p2p.protocol.peer_messages import PEER_OPS, Answer, Request
from p2p.protocol.schema import Base64, Bool, Choice, Hex, Int, Kind, ListOf, MapOf, Record, Text, plan_of
from p2p.protocol.tracker_messages import TRACKER_OPS

REQUESTS: tuple[type[Request], ...] = tuple(dict.fromkeys((*PEER_OPS, *TRACKER_OPS)))
ASKED: tuple[type[Request], ...] = tuple(cls for cls in REQUESTS if cls.ANSWER is not None)

Case = tuple[str, object]
"""What is added to the field's name to find the fault, and the wrong JSON value."""


def line(data: object) -> bytes:
    """One JSON value as it stands on a line, without the newline."""
    return json.dumps(data, ensure_ascii=False).encode()


def answer_of(request: type[Request]) -> type[Answer]:
    """The class of the answer to a request that has one."""
    if request.ANSWER is None:
        raise AssertionError(f"{request.OP} has no answer")
    return request.ANSWER


def right(kind: Kind) -> object:
    """One JSON value that `kind` accepts, close to its upper limit where that is small."""
    match kind:
        case Int():
            return kind.high
        case Bool():
            return True
        case Text():
            return "x" * kind.high
        case Hex():
            return "a" * kind.digits
        case Base64():
            return base64.b64encode(b"\x80\x01").decode()
        case Choice():
            return kind.words[0]
        case ListOf():
            return [right(kind.kind)]
        case MapOf():
            return {"tcp": right(kind.kind)}
        case Record():
            return right_object(kind.cls)
    raise AssertionError(f"no sample for {kind}")


def right_object(cls: type) -> dict[str, object]:
    """A JSON object of `cls` with every field present."""
    return {row.name: right(row.kind) for row in plan_of(cls).rows}


def wrong(kind: Kind) -> Iterator[Case]:
    """JSON values that `kind` must refuse, each with the path to the fault below the field."""
    for value in _wrong_here(kind):
        yield "", value
    match kind:
        case ListOf():
            for path, value in wrong(kind.kind):
                yield f"[1]{path}", [right(kind.kind), value]
        case MapOf():
            for path, value in wrong(kind.kind):
                yield f".grpc{path}", {"tcp": right(kind.kind), "grpc": value}
        case Record():
            for name, value in wrong_objects(kind.cls):
                yield f".{name}", value


def wrong_objects(cls: type) -> Iterator[tuple[str, dict[str, object]]]:
    """Objects of `cls` with one fault each, and the path of the field that is wrong."""
    for row in plan_of(cls).rows:
        for path, value in wrong(row.kind):
            yield row.name + path, {**right_object(cls), row.name: value}
        if row.required:
            yield row.name, {name: value for name, value in right_object(cls).items() if name != row.name}


def _wrong_here(kind: Kind) -> list[object]:
    match kind:
        case Int():
            return [
                None,
                True,
                False,
                1.0,
                1e3,
                str(kind.low),
                [kind.low],
                {},
                kind.low - 1,
                kind.high + 1,
                -1,
                2**63,
                -(2**63),
                10**300,
            ]
        case Bool():
            return [None, 0, 1, 1.0, "true", "", [], {}]
        case Text():
            controls: list[object] = [f"a{chr(code)}b" for code in (0, 9, 10, 13, 27, 31, 127, 128, 155, 159)]
            short: list[object] = [""] if kind.low else []
            return [
                None,
                True,
                0,
                1.5,
                [],
                {},
                ["x"],
                "x" * (kind.high + 1),
                "é" * (kind.high // 2 + 1),
                *controls,
                *short,
            ]
        case Hex():
            size = kind.digits
            texts = [
                "",
                "a" * (size - 1),
                "a" * (size + 1),
                "A" * size,
                "g" * size,
                "٣" * size,
                " " + "a" * (size - 1),
            ]
            return [None, True, 0, 1.5, [], {}, *texts]
        case Base64():
            long: list[object] = [
                base64.b64encode(bytes(kind.high + more)).decode() for more in (1, 2, 3, 1000)
            ]
            return [
                None,
                True,
                0,
                1.5,
                [],
                {},
                "A",
                "AA",
                "A===",
                "AA=A",
                "AA==AA==",
                "-_==",
                "A A=",
                "AAAA\n",
                "éééé",
                *long,
            ]
        case Choice():
            return [
                None,
                True,
                0,
                1.5,
                [],
                {},
                "",
                kind.words[0].upper(),
                kind.words[0] + " ",
                "other",
                [kind.words[0]],
            ]
        case ListOf():
            return [
                None,
                True,
                0,
                1.5,
                "",
                "x",
                {},
                {"0": right(kind.kind)},
                [right(kind.kind)] * (kind.most + 1),
            ]
        case MapOf():
            ok = right(kind.kind)
            keys = ["", "a b", "a.b", "a-b", "a" * 17, "é", "\x00", "²"]
            return [
                None,
                True,
                0,
                1.5,
                "",
                "x",
                [],
                [ok],
                {f"k{i}": ok for i in range(kind.most + 1)},
                *({key: ok} for key in keys),
            ]
        case Record():
            return [None, True, 0, 1.5, "", "x", [], [right(kind)]]
    raise AssertionError(f"no wrong values for {kind}")
