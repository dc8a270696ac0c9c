"""Settings of a command: an option on the command line and a variable in the environment for each.

The option wins over the variable, and the variable over the default. A command's configuration is a value
(see `config.py`). Its table `OPTIONS` says how each field is written from outside.
"""

from __future__ import annotations

import dataclasses
from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping
from typing import Any, ClassVar, Final, NoReturn, Self

from p2p import __version__
from p2p.cli.machine import Machine
from p2p.cli.parse import Parse, parse_switch
from p2p.errors import UsageError
from p2p.value import frozen


class Parser(ArgumentParser):
    """An argument parser that raises `UsageError` where the standard one prints its usage and exits."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, "formatter_class": RawDescriptionHelpFormatter, **options})

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError` that also says where to read on."""
        raise UsageError(f"{message}; see '{self.prog} --help'")


def add_version(parser: ArgumentParser) -> None:
    """Add `--version`."""
    parser.add_argument("--version", action="version", version=f"enjambre {__version__}")


@frozen
class Option:
    """How one field of a configuration is written on the command line and in the environment."""

    field: str
    flags: tuple[str, ...]
    about: str
    """The sentence in the help."""
    parse: Parse
    metavar: str
    default: str | None
    """The default in words; None: as it is written in the field. An empty one is not shown."""
    commands: frozenset[str]
    """Sub-commands that take it; none: all of them."""

    @property
    def variable(self) -> str:
        """The environment variable, made from the long option."""
        return "P2P_" + self.flags[-1].lstrip("-").replace("-", "_").upper()

    def add(self, parser: ArgumentParser, default: object) -> None:
        """Add this option to a parser. When it is not given it leaves no trace in what is parsed."""
        if self.parse is parse_switch:
            note = f"{self.about} ({self.variable}=1)".replace("%", "%%")
            parser.add_argument(
                *self.flags, dest=self.field, action="store_true", default=SUPPRESS, help=note
            )
            return
        shown = str(default) if self.default is None else self.default
        note = f"{self.about} ({f'default: {shown}; ' if shown else ''}{self.variable})".replace("%", "%%")
        parser.add_argument(*self.flags, dest=self.field, metavar=self.metavar, default=SUPPRESS, help=note)


def option(
    flags: str,
    about: str,
    parse: Parse,
    metavar: str,
    *,
    field: str = "",
    default: str | None = None,
    only: str = "",
) -> Option:
    """Return an option with a value.

    `flags` and the sub-commands in `only` stand with spaces between them. Without `field` it fills the field
    that is called like its last flag.
    """
    names = tuple(flags.split())
    return Option(
        field or names[-1].lstrip("-").replace("-", "_"),
        names,
        about,
        parse,
        metavar,
        default,
        frozenset(only.split()),
    )


def switch(flags: str, about: str, *, field: str = "", only: str = "") -> Option:
    """Return an option without a value, as `option` does."""
    return option(flags, about, parse_switch, "", field=field, only=only)


COMMON: Final = (
    switch("--json", "print one JSON object per line, and nothing else, on standard output"),
    switch("-q --quiet", "show no progress"),
    switch("-v --verbose", "log more, and show where an internal error came from"),
)


@frozen
class Config:
    """The configuration that all commands have in common."""

    OPTIONS: ClassVar[tuple[Option, ...]] = COMMON
    PARTS: ClassVar[tuple[type, ...]] = ()
    """Values below this one whose fields are set by options too."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False

    @classmethod
    def options(cls, command: str = "") -> list[Option]:
        """The options of this class; with `command`, those that this sub-command takes."""
        return [one for one in cls.OPTIONS if not command or not one.commands or command in one.commands]

    @classmethod
    def add_options(cls, parser: ArgumentParser, command: str = "") -> None:
        """Add the options of `command` to its parser."""
        defaults = {
            field.name: field.default for owner in (cls, *cls.PARTS) for field in dataclasses.fields(owner)
        }
        for one in cls.options(command):
            one.add(parser, defaults[one.field])

    @classmethod
    def read(
        cls, given: Mapping[str, Any], environ: Mapping[str, str], machine: Machine, command: str = ""
    ) -> Self:
        """Return the configuration of `command` from the parsed options and the variables.

        Raises `UsageError` that names the option or the variable.
        """
        values: dict[str, Any] = {}
        for one in cls.options(command):
            if one.field in given:
                text = given[one.field]
                values[one.field] = text if isinstance(text, bool) else one.parse(text, one.flags[-1])
            elif environ.get(one.variable):
                values[one.field] = one.parse(environ[one.variable], one.variable)
        return cls.make(values, machine, environ)

    @classmethod
    def make(
        cls,
        values: dict[str, Any],
        machine: Machine,  # noqa: ARG003  for those that have such defaults
        environ: Mapping[str, str],  # noqa: ARG003
    ) -> Self:
        """Return the configuration of what was set, with the defaults that depend on the machine.

        Raises `UsageError`.
        """
        return cls(**values)
