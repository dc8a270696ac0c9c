"""p2p/cli/config.py: sizes, names, defaults of each system, and which of option, variable and default
wins."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from random import Random
from typing import Any

import pytest

from p2p.cli.config import (
    DemoConfig,
    Machine,
    PeerConfig,
    TrackerConfig,
    check_name,
    default_name,
    default_state,
    env_names,
    parse_advertise,
    parse_rate,
    parse_size,
)
from p2p.errors import UsageError
from p2p.model import Address

HOME = Path("/home/alice")
LINUX = Machine("linux", HOME, "lab-07.example.org", Random(1))


def peer(command: str = "download", options: dict[str, Any] | None = None, **environ: str) -> PeerConfig:
    return PeerConfig.read(options or {}, environ, LINUX, command)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("123", 123), ("64M", 64 << 20), ("64m", 64 << 20), ("2G", 2 << 30), ("1K", 1024), ("1T", 1 << 40), ("1.5G", 3 << 29),
     ("64MB", 64 << 20), ("64 MiB", 64 << 20), ("10B", 10), (" 7 ", 7), ("0.5K", 512), ("4503599627370497", 4503599627370497)],
)  # fmt: skip
def test_a_size_is_bytes_or_a_number_with_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "M", "-1", "1e3", "64X", "1.M", "NaN", "0x10", "64MM", "١٢", "9" * 30, "1 000", "9" * 20 + "T"],
)
def test_what_is_no_size_is_refused_and_named(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--size: "):
        parse_size(text, "--size")


def test_a_rate_is_a_size_with_or_without_per_second() -> None:
    assert parse_rate("10M") == parse_rate("10M/s") == parse_rate("10MiB/s") == 10 << 20
    with pytest.raises(UsageError, match=r"^--limit: .*not a rate"):
        parse_rate("fast", "--limit")


def test_an_option_wins_over_a_variable_and_that_over_the_default() -> None:
    assert peer().tracker == Address("127.0.0.1", 6969)
    assert peer(P2P_TRACKER="a:1").tracker == Address("a", 1)
    assert peer(options={"tracker": "b:2"}, P2P_TRACKER="a:1").tracker == Address("b", 2)


def test_a_wrong_variable_does_not_matter_where_the_option_is_given() -> None:
    assert peer(options={"tracker": "b:2"}, P2P_TRACKER=":::").tracker == Address("b", 2)


def test_an_empty_variable_counts_as_none() -> None:
    assert peer(P2P_TRACKER="", P2P_SEED="").tracker == Address("127.0.0.1", 6969)


def test_a_tracker_without_port_has_the_usual_one() -> None:
    assert peer(options={"tracker": "lab"}).tracker == Address("lab", 6969)
    assert peer(options={"tracker": "[::1]:7000"}).tracker == Address("::1", 7000)


@pytest.mark.parametrize(
    ("options", "environ", "named"),
    [({"port": "x"}, {}, "--port"), ({}, {"P2P_PORT": "70000"}, "P2P_PORT"), ({"port": "80"}, {}, "--port"),
     ({"tracker": "a:b:c"}, {}, "--tracker"), ({}, {"P2P_TRANSPORT": "udp"}, "P2P_TRANSPORT"), ({"name": "a\nb"}, {}, "--name"),
     ({"name": "x" * 65}, {}, "--name"), ({}, {"P2P_NAME": "\x9b"}, "P2P_NAME"),
     ({"host": "lab]]"}, {}, "--host"), ({"host": "[::1"}, {}, "--host"),
     ({"limit": "fast"}, {}, "--limit"),
     ({"output": ""}, {}, "--output"), ({}, {"P2P_SEED": "maybe"}, "P2P_SEED"), ({"advertise": "a b:x"}, {}, "--advertise"),
     ({"patience": "-1"}, {}, "--patience"), ({"patience": "0"}, {}, "--patience"), ({"host": " "}, {}, "--host"),
     ({"state": "a\0b"}, {}, "--state")],
)  # fmt: skip
def test_nonsense_is_refused_at_once_naming_the_option_or_variable(
    options: dict[str, str], environ: dict[str, str], named: str
) -> None:
    with pytest.raises(UsageError, match=f"^{named}: "):
        PeerConfig.read(options, environ, LINUX, "download")


def test_a_number_of_seconds_may_stand_between_any_blanks() -> None:
    """What `str.strip` takes for a blank, `float` does not always."""
    assert PeerConfig.read({"patience": " 6\x1e\n"}, {}, LINUX, "download").patience == 6.0


def test_a_variable_of_another_command_is_not_looked_at() -> None:
    assert peer("list", P2P_COPIES="many", P2P_PORT="x").copies == 1
    with pytest.raises(UsageError, match="P2P_COPIES"):
        peer("upload", P2P_COPIES="many")


def test_values_made_in_code_pass_the_same_checks() -> None:
    assert (
        PeerConfig(port=7000, patience=2.5, advertise=Address("a", 0), output=Path("x"), seed=True).port
        == 7000
    )
    with pytest.raises(UsageError, match=r"^--port"):
        PeerConfig(port=-1)
    with pytest.raises(UsageError, match=r"^--ttl"):
        TrackerConfig(ttl=0)
    with pytest.raises(UsageError, match=r"^--peers"):
        DemoConfig(peers=1)
    with pytest.raises(UsageError, match=r"^--accept-uploads"):
        PeerConfig(accept_uploads=5 << 40)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("yes", True), ("ON", True), ("0", False), ("off", False), ("False", False)],
)
def test_a_variable_can_switch_on_and_off(text: str, value: bool) -> None:
    assert peer(P2P_SEED=text).seed is value


@pytest.mark.parametrize(
    ("text", "address"),
    [("lab", Address("lab", 0)), ("lab:7000", Address("lab", 7000)), ("lab:0", Address("lab", 0)), ("[::1]:7", Address("::1", 7)),
     ("::1", Address("::1", 0)), ("fe80::0", Address("fe80::0", 0)), ("10.0.0.1:1", Address("10.0.0.1", 1)), ("lab:2", Address("lab", 2)),
     ("2001:db8::1:0", Address("2001:db8::1:0", 0)), ("[2001:db8::1:0]:0", Address("2001:db8::1:0", 0)), (" lab:0 ", Address("lab", 0))],
)  # fmt: skip
def test_what_is_advertised_may_leave_out_the_port(text: str, address: Address) -> None:
    assert parse_advertise(text) == address


@pytest.mark.parametrize(
    ("platform", "environ", "folder"),
    [("linux", {}, HOME / ".local/state/enjambre"), ("linux", {"XDG_STATE_HOME": "/x"}, Path("/x/enjambre")),
     ("linux", {"XDG_STATE_HOME": "relative"}, HOME / ".local/state/enjambre"),
     ("darwin", {"XDG_STATE_HOME": "/x"}, HOME / "Library/Application Support/Enjambre"),
     ("win32", {"LOCALAPPDATA": "/local"}, Path("/local/Enjambre")), ("win32", {}, HOME / "AppData/Local/Enjambre")],
)  # fmt: skip
def test_state_lies_where_each_system_wants_it(platform: str, environ: dict[str, str], folder: Path) -> None:
    assert default_state(Machine(platform, HOME, "h", Random(1)), environ) == folder


def test_the_state_folder_can_be_named_and_is_needed_only_without_a_home() -> None:
    homeless = Machine("linux", None, "h", Random(1))
    assert PeerConfig.read({}, {"P2P_STATE": "/s"}, homeless, "list").state == Path("/s")
    with pytest.raises(UsageError, match="P2P_STATE"):
        PeerConfig.read({}, {}, homeless, "list")


def test_the_directory_is_kept_in_the_state_folder_unless_told_otherwise() -> None:
    assert TrackerConfig.read({}, {"P2P_STATE": "/s"}, LINUX).store == f"sqlite:{Path('/s/tracker.db')}"
    assert TrackerConfig.read({"store": "memory"}, {"P2P_STORE": "sqlite:x"}, LINUX).store == "memory"


def test_a_default_name_is_the_host_and_letters_that_differ() -> None:
    rng = Random(7)
    names = {default_name(Machine("linux", HOME, "lab-07.example.org", rng)) for _ in range(20)}
    assert len(names) == 20
    assert all(name.startswith("lab-07-") and len(name) == len("lab-07-") + 4 for name in names)


@pytest.mark.parametrize("host", ["", "...", "\x1b[31mx", "ü" * 100, "a" * 300, "a b"])
def test_a_default_name_is_always_one_that_the_wire_can_carry(host: str) -> None:
    name = default_name(Machine("linux", HOME, host, Random(1)))
    assert check_name(name, "x") == name
    assert name.isascii()


def test_a_port_is_known_to_be_asked_for() -> None:
    assert peer().port is None
    assert peer(options={"port": "6970"}).port == 6970
    assert peer(P2P_PORT="0").port == 0


def test_every_variable_is_named_after_its_option_and_the_help_tells_it() -> None:
    assert {
        "P2P_TRACKER",
        "P2P_TRANSPORT",
        "P2P_PORT",
        "P2P_ACCEPT_UPLOADS",
        "P2P_TTL",
        "P2P_OUTPUT",
        "P2P_STATE",
    } <= env_names()
    for cls, commands in (
        (TrackerConfig, ("",)),
        (PeerConfig, ("serve", "share", "download", "upload")),
        (DemoConfig, ("",)),
    ):
        helps = ""
        for command in commands:
            parser = ArgumentParser()
            cls.add_options(parser, command)
            helps += parser.format_help()
        for setting in cls.settings().values():
            assert setting.variable in helps
            assert setting.flags[-1] in helps


def test_options_that_are_not_given_leave_no_trace() -> None:
    parser = ArgumentParser()
    PeerConfig.add_options(parser, "download")
    assert vars(parser.parse_args([])) == {}
    assert vars(parser.parse_args(["--seed", "--limit", "1M"])) == {"seed": True, "limit": "1M"}


@pytest.mark.parametrize("text", ["0.5", "0.0001K", "0.9/s"])
def test_a_rate_of_less_than_a_byte_is_refused_and_not_taken_for_none(text: str) -> None:
    with pytest.raises(UsageError, match="less than a byte"):
        parse_rate(text)


@pytest.mark.parametrize("text", ["0", "0.0", "0K", "0/s"])
def test_no_rate_is_no_limit(text: str) -> None:
    assert parse_rate(text) == 0
