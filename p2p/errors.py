"""The error tree: what can go wrong, its wire code and its exit code.

    EnjambreError                 exit 1   anything we raise on purpose
    ├── ProtocolError             exit 1   the other side broke the rules of the wire
    ├── Refused                   by code  an answer "no"; the only error that crosses the wire as it is
    ├── UsageError                exit 2   the command line or a setting is wrong
    │   └── TransportUnavailable  exit 2   a transport is unknown or its extra is not installed
    ├── NotFound                  exit 3   no such content, or nobody has all of it
    ├── IntegrityError            exit 5   what came does not match the id
    ├── Unreachable               exit 6   the tracker or the peers cannot be reached
    └── DiskError                 exit 7   full, read-only, no permission, changed under us

Ours or theirs (an idea of h11): `ProtocolError` and `Refused` speak of the other side, the rest of this side.
An exception that is not in this tree and reaches a user is a bug. The message of each is the sentence the
user reads: what, with what, and what to do.
"""

from __future__ import annotations

from typing import Final

WIRE_CODES: Final[dict[str, str]] = {
    "line_too_long": "a line was longer than 65,536 bytes; the connection ends",
    "bad_json": "a line was no JSON object we accept (syntax, depth, duplicate key, NaN); "
    "the connection ends",
    "bad_field": "a field is missing, has the wrong type or is out of its limits; "
    "the message names the field",
    "bad_body": "a body came where none belongs, or is larger than its op allows; the connection ends",
    "unsupported": "the op or the version is not known here",
    "login_needed": "this op needs a session; log in first",
    "not_allowed": "the asker may not do this",
    "not_found": "no such content, piece or peer here",
    "bad_range": "the block asked for is not inside the content; the connection ends",
    "busy": "too much at once from this asker or in all; ask again later",
    "quota": "more than this side is willing to keep",
    "disk": "this side's disk could not do it",
    "integrity": "what this side received does not match the id",
    "unavailable": "this side cannot answer now; ask again later",
    "internal": "a fault of this side; nothing more is told",
}
"""The closed list of error codes on the wire, each with its one meaning (`protos/PROTOCOL.md` prints this
table)."""

EXIT_OF_CODE: Final[dict[str, int]] = {
    "login_needed": 4,
    "not_allowed": 4,
    "quota": 4,
    "not_found": 3,
    "integrity": 5,
    "disk": 7,
    "unavailable": 6,
}


class EnjambreError(Exception):
    """Something that we foresaw went wrong; `str(error)` is a sentence for the user."""

    code = "internal"
    exit_code = 1


class ProtocolError(EnjambreError):
    """The other side broke a rule of the wire.

    `code` is one of `WIRE_CODES`. `fatal` says that framing is lost, or the fault so gross that the
    connection must end.
    """

    def __init__(self, code: str, message: str, *, fatal: bool = False, seq: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.fatal = fatal
        self.seq = seq


class Refused(EnjambreError):
    """The asked side says no, with a wire code and a sentence; raised here to be sent, and raised there when
    received."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.exit_code = EXIT_OF_CODE.get(code, 1)


class UsageError(EnjambreError):
    """The command line or a setting is wrong."""

    code = "usage"
    exit_code = 2


class TransportUnavailable(UsageError):
    """A transport is not known, or needs an extra that is not installed."""

    code = "transport_unavailable"


class NotFound(EnjambreError):
    """No such content, or nobody reachable has all of it."""

    code = "not_found"
    exit_code = 3


class IntegrityError(EnjambreError):
    """Bytes do not match the id they came for."""

    code = "integrity"
    exit_code = 5


class Unreachable(EnjambreError):
    """The tracker or every peer is out of reach."""

    code = "unreachable"
    exit_code = 6


class DiskError(EnjambreError):
    """The disk refused: full, read-only, no permission, or a file changed under us."""

    code = "disk"
    exit_code = 7
