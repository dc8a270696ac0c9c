"""What can be set: each setting a field with its default and one sentence; option wins over `P2P_…` variable
wins over default."""

from __future__ import annotations

import dataclasses
import ipaddress
import random
import re
from argparse import SUPPRESS, ArgumentParser
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

from p2p.content.geometry import MAX_PIECE_LENGTH, MIN_PIECE_LENGTH
from p2p.errors import UsageError
from p2p.model import MAX_SIZE, Address
from p2p.swarm.topology import ENOUGH
from p2p.value import frozen

DEFAULT_TRACKER: Final = Address("127.0.0.1", 6969)
DEFAULT_TRACKER_PORT: Final = 6969
DEFAULT_PEER_PORT: Final = 6970
TRANSPORTS: Final = ("tcp", "grpc")
HASHES: Final = ("blake2b-256", "sha256")
MAX_NAME: Final = 64
"""Longest name of a peer or a user, in bytes of UTF-8."""
MAX_TEXT: Final = 255
"""Longest name of a content, and longest search, in bytes of UTF-8."""

_SIZE: Final = re.compile(r"(\d{1,20}(?:\.\d{1,6})?) ?([kmgt]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"", "0", "false", "no", "off"})

Parse = Callable[[str, str], Any]
"""Text and what it is called (`--port`, `P2P_PORT`) to a value; raises `UsageError` that begins with what it
is called."""


@frozen
class Machine:
    """What the defaults depend on: the system, the user's home, the name of the host, and chance."""

    platform: str
    home: Path | None
    host_name: str
    rng: random.Random


@frozen
class Setting:
    """How one field is written on the command line and in the environment."""

    flags: tuple[str, ...]
    about: str
    parse: Parse
    metavar: str | None
    shown: str | None
    commands: frozenset[str]
    """Sub-commands that take it; none: all of them."""

    @property
    def variable(self) -> str:
        """The environment variable, made from the long option."""
        return "P2P_" + self.flags[-1].lstrip("-").replace("-", "_").upper()


def parse_size(text: str, what: str = "size") -> int:
    """Read a size in bytes: `123`, `64K`, `64M`, `1.5G`, `2T` (powers of 1024; `MB` and `MiB` are the same).
    Raises `UsageError`."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"{what}: {text!r} is not a size; write bytes, or a number with K, M, G or T, such as 64M"
        )
    number, unit = match.groups()
    factor: int = 1024 ** " kmgt".index(unit.lower() or " ")
    whole, _, part = number.partition(".")
    size = int(whole) * factor + (int(part) * factor // 10 ** len(part) if part else 0)
    if size >= 1 << 63:
        raise UsageError(f"{what}: {text!r} is more than any disk can count")
    return size


def parse_rate(text: str, what: str = "rate") -> int:
    """Read a rate in bytes a second: a size, with or without `/s`. Raises `UsageError`."""
    try:
        rate = parse_size(text.strip().removesuffix("/s"), what)
    except UsageError:
        raise UsageError(
            f"{what}: {text!r} is not a rate; write bytes a second, or a number with K, M or G, such as 10M"
        ) from None
    if not rate and any(digit in text for digit in "123456789"):
        raise UsageError(f"{what}: {text!r} is less than a byte a second; 0 is no limit")
    return rate


def parse_advertise(text: str, what: str = "advertise") -> Address:
    """Read `HOST[:PORT]`; port 0 stands for the one this peer listens on. Raises `UsageError`."""
    text = text.strip()
    # An IPv6 address without brackets may end like this, too.
    if text.endswith(":0") and (text.count(":") == 1 or text.endswith("]:0")):
        text = text[:-2]
    with_one = _address(text, 1, what)
    with_two = Address.parse(text, default_port=2, what=what)
    return with_one if with_one == with_two else Address(with_one.host, 0)


def _address(text: str, default_port: int, what: str) -> Address:
    address = Address.parse(text, default_port=default_port, what=what)
    try:
        if ":" in address.host:
            ipaddress.IPv6Address(address.host)
    except ValueError:
        raise UsageError(
            f"{what}: {text!r} is not HOST:PORT; an IPv6 address goes between brackets"
        ) from None
    _host(address.host, what)
    return address


def default_state(machine: Machine, environ: Mapping[str, str]) -> Path:
    """The user's folder for what must outlive a process, as each system wants it. Raises `UsageError` when
    there is no home."""
    if machine.platform == "win32" and environ.get("LOCALAPPDATA"):
        return Path(environ["LOCALAPPDATA"]) / "Enjambre"
    # The standard says that a relative path here is to be ignored.
    if machine.platform not in ("win32", "darwin") and environ.get("XDG_STATE_HOME", "").startswith("/"):
        return Path(environ["XDG_STATE_HOME"]) / "enjambre"
    if machine.home is None:
        raise UsageError(
            "--state: this user has no home folder; say where state shall be kept with --state or P2P_STATE"
        )
    if machine.platform == "win32":
        return machine.home / "AppData" / "Local" / "Enjambre"
    if machine.platform == "darwin":
        return machine.home / "Library" / "Application Support" / "Enjambre"
    return machine.home / ".local" / "state" / "enjambre"


def default_name(machine: Machine) -> str:
    """The host's name and four random letters, so that two peers of one machine can be told apart."""
    host = re.sub(r"[^A-Za-z0-9_-]+", "-", machine.host_name.partition(".")[0])[:40].strip("-") or "peer"
    return host + "-" + "".join(machine.rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(4))


def truth(text: str, what: str) -> bool:
    """Read a variable that switches something on or off. Raises `UsageError`."""
    word = text.strip().lower()
    if word not in _TRUE and word not in _FALSE:
        raise UsageError(f"{what}: {text!r} is neither on nor off; write 1 or 0")
    return word in _TRUE


def check_name(text: str, what: str) -> str:
    """A name of a peer or a user that the wire can carry. Raises `UsageError`."""
    return check_text(text, what, MAX_NAME)


def check_text(text: str, what: str, most: int = MAX_TEXT) -> str:
    """Words that the wire can carry, at most `most` bytes of UTF-8. Raises `UsageError`."""
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        length = most + 1
    if not 0 < length <= most or any(c < " " or "\x7f" <= c <= "\x9f" for c in text):
        raise UsageError(f"{what}: it must have 1 to {most} bytes and no control characters")
    return text


def _text(text: str, what: str) -> str:
    if not text or "\0" in text:
        raise UsageError(f"{what}: must not be empty")
    return text


def _path(text: str, what: str) -> Path:
    return Path(_text(text, what))


def _host(text: str, what: str) -> str:
    host = text.strip()
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host or any(c in " []" or not c.isprintable() for c in host):
        raise UsageError(f"{what}: {text!r} is not a host name or an address")
    return host


def _whole(low: int, high: int) -> Parse:
    def parse(text: str, what: str) -> int:
        word = text.strip()
        if not (word.isascii() and word.isdigit() and len(word) < 20 and low <= int(word) <= high):
            raise UsageError(f"{what}: {text!r} is not a whole number from {low} to {high}")
        return int(word)

    return parse


def _peer_port(text: str, what: str) -> int:
    port: int = _whole(0, 65535)(text, what)
    if 0 < port < 1024:
        raise UsageError(f"{what}: a peer's port is 0 (a free one) or from 1024 to 65535, not {port}")
    return port


def _seconds(text: str, what: str) -> float:
    word = text.strip()
    if not re.fullmatch(r"\d{1,7}(\.\d{1,3})?", word, re.ASCII) or float(word) <= 0:
        raise UsageError(f"{what}: {text!r} is not a number of seconds above 0")
    return float(word)


def _one_of(*known: str) -> Parse:
    def parse(text: str, what: str) -> str:
        if text not in known:
            raise UsageError(f"{what}: {text!r} is not known; known are {', '.join(known)}")
        return text

    return parse


def _tracker(text: str, what: str) -> Address:
    return _address(text, DEFAULT_TRACKER_PORT, what)


def _piece(text: str, what: str) -> int:
    length = parse_size(text, what)
    if not MIN_PIECE_LENGTH <= length <= MAX_PIECE_LENGTH or length & (length - 1):
        raise UsageError(f"{what}: {text!r} is no piece length; it must be a power of two from 64K to 16M")
    return length


def _room(text: str, what: str) -> int:
    size = parse_size(text, what)
    if size > MAX_SIZE:
        raise UsageError(f"{what}: {text!r} is more than {MAX_SIZE >> 40}T")
    return size


def setting(
    default: Any,
    about: str,
    *flags: str,
    parse: Parse = _text,
    metavar: str | None = None,
    shown: str | None = None,
    only: str = "",
) -> Any:
    """A field that can be set from outside. `only` names the sub-commands that take it, with spaces; `shown`
    is the default in words."""
    made = Setting(flags, about, parse, metavar, shown, frozenset(only.split()))
    return dataclasses.field(default=default, metadata={"setting": made})


@frozen
class Config:
    """What every command can be told."""

    json: bool = setting(
        False, "print one JSON object per line, and nothing else, on standard output", "--json", parse=truth
    )
    quiet: bool = setting(False, "show no progress", "-q", "--quiet", parse=truth)
    verbose: bool = setting(
        False, "log more, and show where an internal error came from", "-v", "--verbose", parse=truth
    )

    def __post_init__(self) -> None:
        # A value is right if its text would be: so values made in code pass the same checks as options.
        for field in dataclasses.fields(self):
            value, one = getattr(self, field.name), field.metadata["setting"]
            if value != field.default and one.parse(str(value), one.flags[-1]) != value:
                raise UsageError(f"{one.flags[-1]}: {value!r} is not right here")

    @classmethod
    def settings(cls, command: str = "") -> dict[str, Setting]:
        """The settings of this class by field name; with `command`, those that this sub-command takes."""
        every = {field.name: field.metadata["setting"] for field in dataclasses.fields(cls)}
        return {
            name: one
            for name, one in every.items()
            if not command or not one.commands or command in one.commands
        }

    @classmethod
    def add_options(cls, parser: ArgumentParser, command: str = "") -> None:
        """Add an option for each setting. Options that are not given leave no trace in what is parsed."""
        defaults = {field.name: field.default for field in dataclasses.fields(cls)}
        for name, one in cls.settings(command).items():
            notes = [one.variable]
            if isinstance(defaults[name], bool):
                note = f"{one.about} ({one.variable}=1)".replace("%", "%%")
                parser.add_argument(*one.flags, dest=name, action="store_true", default=SUPPRESS, help=note)
                continue
            shown = one.shown if one.shown is not None else str(defaults[name])
            if shown:
                notes.insert(0, f"default: {shown}")
            note = f"{one.about} ({'; '.join(notes)})".replace("%", "%%")
            parser.add_argument(*one.flags, dest=name, metavar=one.metavar, default=SUPPRESS, help=note)

    @classmethod
    def read(
        cls, options: Mapping[str, Any], environ: Mapping[str, str], machine: Machine, command: str = ""
    ) -> Self:
        """Make the configuration of `command` from parsed options and variables. Raises `UsageError` naming
        the option or variable."""
        values: dict[str, Any] = {}
        for name, one in cls.settings(command).items():
            if name in options:
                given = options[name]
                values[name] = given if isinstance(given, bool) else one.parse(given, one.flags[-1])
            elif environ.get(one.variable):
                values[name] = one.parse(environ[one.variable], one.variable)
        cls.fill(values, machine, environ)
        return cls(**values)

    @classmethod
    def fill(cls, values: dict[str, Any], machine: Machine, environ: Mapping[str, str]) -> None:
        """Add the defaults that depend on the machine. Raises `UsageError`."""


def _fill_state(values: dict[str, Any], machine: Machine, environ: Mapping[str, str]) -> None:
    if "state" not in values:
        values["state"] = default_state(machine, environ)


@frozen
class ServiceConfig(Config):
    """What trackers and peers can be told."""

    state: Path = setting(
        Path(),
        "folder for what must outlive the process",
        "--state",
        parse=_path,
        metavar="DIR",
        shown="a folder of this user",
    )
    trace: str = setting(
        "",
        "write every control message sent and received to FILE as JSON lines; - is standard error",
        "--trace",
        metavar="FILE",
    )

    @classmethod
    def fill(cls, values: dict[str, Any], machine: Machine, environ: Mapping[str, str]) -> None:
        _fill_state(values, machine, environ)


@frozen
class TrackerConfig(ServiceConfig):
    """What a tracker can be told."""

    host: str = setting("0.0.0.0", "address to listen on", "--host", parse=_host, metavar="HOST")
    port: int = setting(
        DEFAULT_TRACKER_PORT,
        "port to listen on; 0 takes a free one and prints it",
        "--port",
        parse=_whole(0, 65535),
        metavar="PORT",
    )
    store: str = setting(
        "",
        "where the directory is kept: memory, or sqlite:FILE",
        "--store",
        metavar="STORE",
        shown="sqlite:tracker.db in the state folder",
    )
    ttl: int = setting(
        30,
        "seconds without a heartbeat after which a peer is forgotten",
        "--ttl",
        parse=_whole(1, 86_400),
        metavar="SECONDS",
    )
    trust_advertised: bool = setting(
        False, "hand out the addresses that peers advertise", "--trust-advertised", parse=truth
    )

    @classmethod
    def fill(cls, values: dict[str, Any], machine: Machine, environ: Mapping[str, str]) -> None:
        _fill_state(values, machine, environ)
        values.setdefault("store", f"sqlite:{values['state'] / 'tracker.db'}")


_DATA: Final = "serve share info download upload"
_GIVING: Final = "serve share upload"


@frozen
class PeerConfig(ServiceConfig):
    """What a peer can be told."""

    tracker: Address = setting(
        DEFAULT_TRACKER, "the tracker to use", "--tracker", parse=_tracker, metavar="HOST:PORT"
    )
    transport: str = setting(
        "tcp",
        "what moves the bytes: tcp, or grpc where the other side has it",
        "--transport",
        parse=_one_of(*TRANSPORTS),
        metavar="NAME",
    )
    host: str = setting(
        "0.0.0.0",
        "address to listen on; 0.0.0.0 is all, IPv6 too",
        "--host",
        parse=_host,
        metavar="HOST",
        only=_DATA,
    )
    port: int | None = setting(
        None,
        "port to listen on; 0 takes a free one",
        "--port",
        parse=_peer_port,
        metavar="PORT",
        shown=f"{DEFAULT_PEER_PORT}, or a free one when that is taken",
        only=_DATA,
    )
    name: str = setting(
        "peer",
        "what this peer is called",
        "--name",
        parse=check_name,
        metavar="NAME",
        shown="host name and four letters",
        only=_DATA,
    )
    advertise: Address | None = setting(
        None,
        "what others shall dial instead, where the tracker was started with --trust-advertised",
        "--advertise",
        parse=parse_advertise,
        metavar="HOST[:PORT]",
        shown="",
        only=_DATA,
    )
    user: str | None = setting(
        None,
        "who logs in",
        "--user",
        parse=check_name,
        metavar="USER",
        shown="who logged in last, else the peer's name",
        only=_DATA,
    )
    limit: int = setting(
        0,
        "most bytes a second to receive, such as 10M",
        "--limit",
        parse=parse_rate,
        metavar="RATE",
        shown="",
        only=_DATA,
    )
    limit_up: int = setting(
        0,
        "most bytes a second to send, such as 10M",
        "--limit-up",
        parse=parse_rate,
        metavar="RATE",
        shown="",
        only=_DATA,
    )
    patience: float = setting(
        60.0,
        "seconds to wait for what no peer gives",
        "--patience",
        parse=_seconds,
        metavar="SECONDS",
        shown="60",
        only="info download upload serve",
    )
    portable: bool = setting(False, "use no fast path of this system", "--portable", parse=truth, only=_DATA)
    hash_name: str = setting(
        HASHES[0],
        "hash of the pieces: blake2b-256 or sha256",
        "--hash",
        parse=_one_of(*HASHES),
        metavar="NAME",
        only=_GIVING,
    )
    rehash: bool = setting(
        False, "read again what is remembered to be unchanged", "--rehash", parse=truth, only=_GIVING
    )
    accept_uploads: int = setting(
        0, "keep copies that others upload, up to this size in all, such as 10G", "--accept-uploads", parse=_room, metavar="SIZE",
        shown="none", only="serve",
    )  # fmt: skip
    output: Path = setting(
        Path(), "folder to download into", "-o", "--output", parse=_path, metavar="DIR", only="download"
    )
    seed: bool = setting(
        False, "go on serving afterwards, until stopped", "--seed", parse=truth, only="download"
    )
    overwrite: bool = setting(
        False, "replace what already has that name", "--overwrite", parse=truth, only="download"
    )
    copies: int = setting(
        1,
        "how many other peers shall get a copy",
        "--copies",
        parse=_whole(1, 100),
        metavar="N",
        only="upload",
    )

    @classmethod
    def fill(cls, values: dict[str, Any], machine: Machine, environ: Mapping[str, str]) -> None:
        _fill_state(values, machine, environ)
        if "name" not in values:
            values["name"] = default_name(machine)


@frozen
class DemoConfig(Config):
    """What the demo can be told."""

    peers: int = setting(
        5, "how many peers, the first of which has the file", "--peers", parse=_whole(2, 64), metavar="N"
    )
    transport: str = setting(
        "tcp", "what moves the bytes: tcp or grpc", "--transport", parse=_one_of(*TRANSPORTS), metavar="NAME"
    )
    size: int = setting(
        64 << 20,
        "size of the file that is made when none is named",
        "--size",
        parse=_room,
        metavar="SIZE",
        shown="64M",
    )
    keep: bool = setting(False, "keep the folder with all copies, and say where it is", "--keep", parse=truth)


@frozen
class SimConfig(Config):
    """What the simulator can be told."""

    peers: int = setting(16, "how many receivers", "--peers", parse=_whole(1, 100_000), metavar="N")
    pieces: int = setting(1024, "how many pieces", "--pieces", parse=_whole(1, 100_000), metavar="N")
    piece: int = setting(
        64 << 10,
        "size of a piece: a power of two from 64K to 16M",
        "--piece",
        parse=_piece,
        metavar="SIZE",
        shown="64K",
    )
    rate: int = setting(20, "Mbit/s of every link, each way", "--rate", parse=_whole(1, 100_000), metavar="N")
    delay: int = setting(
        1, "milliseconds from any peer to any other", "--delay", parse=_whole(0, 10_000), metavar="MS"
    )
    links: int = setting(
        ENOUGH, "how many others each receiver dials", "--links", parse=_whole(1, 1000), metavar="N"
    )
    seed: int = setting(
        1,
        "where chance begins: the same seed gives the same story",
        "--seed",
        parse=_whole(0, 1 << 62),
        metavar="N",
    )
    listing: bool = setting(False, "list the scenarios", "--list", parse=truth)
    svg: str = setting("", "draw what happened into FILE", "--svg", metavar="FILE", shown="")


def env_names() -> set[str]:
    """All environment variables that any command reads."""
    return {
        one.variable
        for cls in (TrackerConfig, PeerConfig, DemoConfig, SimConfig)
        for one in cls.settings().values()
    }
