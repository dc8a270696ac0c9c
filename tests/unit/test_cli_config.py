"""p2p/cli/{options,config,machine}.py: option, variable and default, and the defaults of each system."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from random import Random

import pytest

from p2p.cli.config import DemoConfig, PeerConfig, SimConfig, TrackerConfig, variable_names
from p2p.cli.machine import Machine, default_name, default_state
from p2p.cli.parse import parse_name
from p2p.errors import UsageError
from p2p.model import Address
from p2p.peer.settings import NodeSettings

HOME = Path("/home/alice")
LINUX = Machine("linux", HOME, "lab-07.example.org", Random(1))


def peer(command: str = "download", options: dict[str, str] | None = None, **environ: str) -> PeerConfig:
    return PeerConfig.read(options or {}, environ, LINUX, command)


def node(options: dict[str, str] | None = None, **environ: str) -> NodeSettings:
    return peer("download", options, **environ).node


def test_an_option_wins_over_a_variable_and_a_variable_over_the_default() -> None:
    assert node().tracker == Address("127.0.0.1", 6969)
    assert node(P2P_TRACKER="a:1").tracker == Address("a", 1)
    assert node({"tracker": "b:2"}, P2P_TRACKER="a:1").tracker == Address("b", 2)


def test_a_wrong_variable_does_not_matter_where_the_option_is_given() -> None:
    assert node({"tracker": "b:2"}, P2P_TRACKER=":::").tracker == Address("b", 2)


def test_an_empty_variable_counts_as_none() -> None:
    assert node(P2P_TRACKER="", P2P_SEED="").tracker == Address("127.0.0.1", 6969)


def test_a_tracker_without_a_port_has_the_usual_one() -> None:
    assert node({"tracker": "lab"}).tracker == Address("lab", 6969)
    assert node({"tracker": "[::1]:7000"}).tracker == Address("::1", 7000)


@pytest.mark.parametrize(
    ("options", "environ", "named"),
    [({"port": "x"}, {}, "--port"), ({}, {"P2P_PORT": "70000"}, "P2P_PORT"), ({"port": "80"}, {}, "--port"),
     ({"tracker": "a:b:c"}, {}, "--tracker"), ({}, {"P2P_TRANSPORT": "udp"}, "P2P_TRANSPORT"),
     ({"name": "a\nb"}, {}, "--name"),
     ({"name": "x" * 65}, {}, "--name"), ({}, {"P2P_NAME": "\x9b"}, "P2P_NAME"),
     ({"host": "lab]]"}, {}, "--host"), ({"host": "[::1"}, {}, "--host"),
     ({"limit_down": "fast"}, {}, "--limit"),
     ({"output": ""}, {}, "--output"), ({}, {"P2P_SEED": "maybe"}, "P2P_SEED"),
     ({"advertise": "a b:x"}, {}, "--advertise"),
     ({"patience": "-1"}, {}, "--patience"), ({"patience": "0"}, {}, "--patience"),
     ({"host": " "}, {}, "--host"),
     ({"state": "a\0b"}, {}, "--state")],
)  # fmt: skip
def test_nonsense_is_refused_at_once_naming_the_option_or_variable(
    options: dict[str, str], environ: dict[str, str], named: str
) -> None:
    with pytest.raises(UsageError, match=f"^{named}: "):
        PeerConfig.read(options, environ, LINUX, "download")


@pytest.mark.parametrize(
    ("config", "options", "named"),
    [(TrackerConfig, {"ttl": "0"}, "--ttl"), (DemoConfig, {"peers": "1"}, "--peers"),
     (SimConfig, {"piece": "65M"}, "--piece"),
     (PeerConfig, {"accept_uploads": "5T"}, "--accept-uploads")],
)  # fmt: skip
def test_numbers_have_the_limits_of_what_takes_them(
    config: type[TrackerConfig | DemoConfig | SimConfig | PeerConfig], options: dict[str, str], named: str
) -> None:
    with pytest.raises(UsageError, match=f"^{named}: "):
        config.read(options, {}, LINUX)


def test_a_number_of_seconds_may_stand_between_any_blanks() -> None:
    """What `str.strip` takes for a blank, `float` does not always."""
    assert node({"patience": " 6\x1e\n"}).patience == 6.0


def test_a_variable_of_another_command_is_not_read() -> None:
    assert peer("list", P2P_COPIES="many", P2P_PORT="x").copies == 1
    with pytest.raises(UsageError, match="P2P_COPIES"):
        peer("upload", P2P_COPIES="many")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("yes", True), ("ON", True), ("0", False), ("off", False), ("False", False)],
)
def test_a_variable_can_switch_on_and_off(text: str, value: bool) -> None:
    assert peer(P2P_SEED=text).seed is value


def test_the_variable_of_download_seed_is_not_the_number_for_chance() -> None:
    assert SimConfig.read({}, {"P2P_SEED": "yes"}, LINUX).rng_seed == 1
    assert SimConfig.read({}, {"P2P_RNG_SEED": "7"}, LINUX).rng_seed == 7
    assert SimConfig.read({"rng_seed": "8"}, {"P2P_RNG_SEED": "7"}, LINUX).rng_seed == 8


def test_how_a_peer_runs_is_one_value_within_what_its_command_was_told() -> None:
    config = peer("serve", {"limit_down": "1M", "accept_uploads": "2G", "json": "1"}, P2P_USER="bob")
    assert config.json
    assert (config.node.limit_down, config.node.accept_uploads, config.node.user) == (1 << 20, 2 << 30, "bob")


@pytest.mark.parametrize(
    ("platform", "environ", "folder"),
    [("linux", {}, HOME / ".local/state/enjambre"), ("linux", {"XDG_STATE_HOME": "/x"}, Path("/x/enjambre")),
     ("linux", {"XDG_STATE_HOME": "relative"}, HOME / ".local/state/enjambre"),
     ("darwin", {"XDG_STATE_HOME": "/x"}, HOME / "Library/Application Support/Enjambre"),
     ("win32", {"LOCALAPPDATA": "/local"}, Path("/local/Enjambre")),
     ("win32", {}, HOME / "AppData/Local/Enjambre")],
)  # fmt: skip
def test_state_lies_where_each_system_wants_it(platform: str, environ: dict[str, str], folder: Path) -> None:
    assert default_state(Machine(platform, HOME, "h", Random(1)), environ) == folder


def test_a_home_is_needed_only_where_no_state_folder_is_named() -> None:
    homeless = Machine("linux", None, "h", Random(1))
    assert PeerConfig.read({}, {"P2P_STATE": "/s"}, homeless, "list").node.state == Path("/s")
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
    assert parse_name(name, "x") == name
    assert name.isascii()


def test_a_port_that_was_asked_for_is_the_only_one_that_will_do() -> None:
    assert (node().port, node().port_is_fixed) == (6970, False)
    assert node({"port": "6970"}).port_is_fixed
    assert (node(P2P_PORT="0").port, node(P2P_PORT="0").port_is_fixed) == (0, True)


def test_a_tracker_is_named_by_option_or_variable() -> None:
    assert not peer().tracker_is_named
    assert peer(options={"tracker": "lab"}).tracker_is_named
    assert peer(P2P_TRACKER="lab").tracker_is_named


def test_every_variable_is_named_after_its_option_and_the_help_tells_it() -> None:
    assert {
        "P2P_TRACKER",
        "P2P_TRANSPORT",
        "P2P_PORT",
        "P2P_ACCEPT_UPLOADS",
        "P2P_TTL",
        "P2P_OUTPUT",
        "P2P_STATE",
    } <= variable_names()
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
        for option in cls.options():
            assert option.variable in helps
            assert option.flags[-1] in helps


def test_options_that_are_not_given_leave_no_trace() -> None:
    parser = ArgumentParser()
    PeerConfig.add_options(parser, "download")
    assert vars(parser.parse_args([])) == {}
    given = vars(parser.parse_args(["--seed", "--limit", "1M"]))
    assert given == {"seed": True, "limit_down": "1M"}
