"""The configuration of each program: its fields with their defaults, and the options that set them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from p2p.cli.machine import Machine, default_name, default_state
from p2p.cli.options import COMMON, Config, Option, option, switch
from p2p.cli.parse import (
    DEFAULT_TRACKER_PORT,
    one_of,
    parse_advertise,
    parse_host,
    parse_name,
    parse_path,
    parse_peer_port,
    parse_piece_length,
    parse_rate,
    parse_room,
    parse_seconds,
    parse_text,
    parse_tracker,
    whole,
)
from p2p.model import KIB, MIB
from p2p.peer.settings import DEFAULT_PEER_PORT, NodeSettings
from p2p.swarm.topology import CONNECTIONS
from p2p.value import frozen

TRANSPORTS: Final = ("tcp", "grpc")
HASHES: Final = ("blake2b-256", "sha256")

SERVICE_OPTIONS: Final = (
    option(
        "--state",
        "folder for what must outlive the process",
        parse_path,
        "DIR",
        default="a folder of this user",
    ),
    option(
        "--trace",
        "write every control message sent and received to FILE as JSON lines; - is standard error",
        parse_text,
        "FILE",
        default="",
    ),
)


@frozen
class TrackerConfig(Config):
    """The configuration of `bin/tracker`."""

    OPTIONS: ClassVar[tuple[Option, ...]] = (
        *COMMON,
        *SERVICE_OPTIONS,
        option("--host", "address to listen on", parse_host, "HOST"),
        option("--port", "port to listen on; 0 takes a free one and prints it", whole(0, 65535), "PORT"),
        option(
            "--store",
            "where the directory is kept: memory, or sqlite:FILE",
            parse_text,
            "STORE",
            default="sqlite:tracker.db in the state folder",
        ),
        option(
            "--ttl",
            "seconds without a heartbeat after which a peer is forgotten",
            whole(1, 86_400),
            "SECONDS",
        ),
        switch("--trust-advertised", "hand out the addresses that peers advertise"),
    )

    state: Path = Path()
    trace: str = ""
    host: str = "0.0.0.0"
    port: int = DEFAULT_TRACKER_PORT
    store: str = ""
    ttl: int = 30
    trust_advertised: bool = False

    @classmethod
    def make(cls, values: dict[str, Any], machine: Machine, environ: Mapping[str, str]) -> Self:
        """Add the state folder, and the store in it."""
        if "state" not in values:
            values["state"] = default_state(machine, environ)
        values.setdefault("store", f"sqlite:{values['state'] / 'tracker.db'}")
        return cls(**values)


_PEERS: Final = "serve share info download upload"
"""Commands that run a peer. The others only ask the tracker."""
_PUBLISHERS: Final = "serve share upload"


@frozen
class PeerConfig(Config):
    """The configuration of a command of `bin/peer`: how its peer runs, and what the command does."""

    PARTS: ClassVar[tuple[type, ...]] = (NodeSettings,)
    OPTIONS: ClassVar[tuple[Option, ...]] = (
        *COMMON,
        *SERVICE_OPTIONS,
        option("--tracker", "the tracker to use", parse_tracker, "HOST:PORT"),
        option(
            "--transport",
            "what moves the bytes: tcp, or grpc where the other side has it",
            one_of(*TRANSPORTS),
            "NAME",
        ),
        option("--host", "address to listen on; 0.0.0.0 is all, IPv6 too", parse_host, "HOST", only=_PEERS),
        option(
            "--port",
            "port to listen on; 0 takes a free one",
            parse_peer_port,
            "PORT",
            default=f"{DEFAULT_PEER_PORT}, or a free one when that is taken",
            only=_PEERS,
        ),
        option(
            "--name",
            "what this peer is called",
            parse_name,
            "NAME",
            default="host name and four letters",
            only=_PEERS,
        ),
        option(
            "--advertise",
            "what others shall dial instead, where the tracker was started with --trust-advertised",
            parse_advertise,
            "HOST[:PORT]",
            default="",
            only=_PEERS,
        ),
        option(
            "--user",
            "who logs in",
            parse_name,
            "USER",
            default="who logged in last, else the peer's name",
            only=_PEERS,
        ),
        option(
            "--limit",
            "most bytes a second to receive, such as 10M",
            parse_rate,
            "RATE",
            field="limit_down",
            default="",
            only=_PEERS,
        ),
        option(
            "--limit-up",
            "most bytes a second to send, such as 10M",
            parse_rate,
            "RATE",
            default="",
            only=_PEERS,
        ),
        option(
            "--patience",
            "seconds to wait for what no peer gives",
            parse_seconds,
            "SECONDS",
            default="60",
            only="info download upload serve",
        ),
        switch("--portable", "use no fast path of this system", only=_PEERS),
        option(
            "--hash",
            "hash of the pieces: blake2b-256 or sha256",
            one_of(*HASHES),
            "NAME",
            field="hash_name",
            only=_PUBLISHERS,
        ),
        switch("--rehash", "read again what is remembered to be unchanged", only=_PUBLISHERS),
        option(
            "--accept-uploads",
            "keep copies that others upload, up to this size in all, such as 10G",
            parse_room,
            "SIZE",
            default="none",
            only="serve",
        ),
        option("-o --output", "folder to download into", parse_path, "DIR", only="download"),
        switch("--seed", "go on serving afterwards, until stopped", only="download"),
        switch("--overwrite", "replace what already has that name", only="download"),
        option("--copies", "how many other peers shall get a copy", whole(1, 100), "N", only="upload"),
    )

    node: NodeSettings = NodeSettings("peer", Path())
    tracker_is_named: bool = False
    """Whether the user named the tracker. Otherwise that of a link is asked."""
    trace: str = ""
    output: Path = Path()
    seed: bool = False
    overwrite: bool = False
    copies: int = 1

    @classmethod
    def make(cls, values: dict[str, Any], machine: Machine, environ: Mapping[str, str]) -> Self:
        """Add the state folder and the peer's name. A port that was set is the only one that will do."""
        parts = {field.name for field in dataclasses.fields(NodeSettings)}
        node = {name: values.pop(name) for name in list(values) if name in parts}
        if "state" not in node:
            node["state"] = default_state(machine, environ)
        if "name" not in node:
            node["name"] = default_name(machine)
        settings = NodeSettings(port_is_fixed="port" in node, **node)
        return cls(node=settings, tracker_is_named="tracker" in node, **values)


@frozen
class DemoConfig(Config):
    """The configuration of `bin/demo`."""

    OPTIONS: ClassVar[tuple[Option, ...]] = (
        *COMMON,
        option("--peers", "how many peers, the first of which has the file", whole(2, 64), "N"),
        option("--transport", "what moves the bytes: tcp or grpc", one_of(*TRANSPORTS), "NAME"),
        option(
            "--size", "size of the file that is made when none is named", parse_room, "SIZE", default="64M"
        ),
        switch("--keep", "keep the folder with all copies, and say where it is"),
    )

    peers: int = 5
    transport: str = "tcp"
    size: int = 64 * MIB
    keep: bool = False


@frozen
class SimConfig(Config):
    """The configuration of `bin/simulate`."""

    OPTIONS: ClassVar[tuple[Option, ...]] = (
        *COMMON,
        option("--peers", "how many receivers", whole(1, 100_000), "N"),
        option("--pieces", "how many pieces", whole(1, 100_000), "N"),
        option(
            "--piece",
            "size of a piece: a power of two from 64K to 16M",
            parse_piece_length,
            "SIZE",
            default="64K",
        ),
        option("--rate", "Mbit/s of every link, each way", whole(1, 100_000), "N"),
        option("--delay", "milliseconds from any peer to any other", whole(0, 10_000), "MS"),
        option("--links", "how many others each receiver dials", whole(1, 1000), "N"),
        # `--seed` alone would give it the variable of `download --seed`.
        option(
            "--seed --rng-seed",
            "where chance begins: the same number gives the same story",
            whole(0, 1 << 62),
            "N",
        ),
        switch("--list", "list the scenarios", field="listing"),
        option("--svg", "draw what happened into FILE", parse_text, "FILE", default=""),
    )

    peers: int = 16
    pieces: int = 1024
    piece: int = 64 * KIB
    rate: int = 20
    delay: int = 1
    links: int = CONNECTIONS
    rng_seed: int = 1
    listing: bool = False
    svg: str = ""


def variable_names() -> set[str]:
    """Return all environment variables that any command reads."""
    configs = (TrackerConfig, PeerConfig, DemoConfig, SimConfig)
    return {one.variable for cls in configs for one in cls.options()}
