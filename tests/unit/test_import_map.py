"""The module map, as it is drawn in `docs/architecture.md`, kept true: who may import whom, and who may touch
the world."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent.parent

WORLD: Final = frozenset(
    {
        "asyncio",
        "socket",
        "time",
        "os",
        "threading",
        "subprocess",
        "select",
        "signal",
        "selectors",
        "concurrent",
        "tempfile",
    }
)
"""What a pure file may not import. `random.Random` is a type that pure files take; `pathlib` is arithmetic on
names."""

SHARED: Final = ("p2p", "p2p.errors", "p2p.value", "p2p.model", "p2p.text")
"""Every file may use these."""

PURE: Final = [
    "p2p.errors",
    "p2p.value",
    "p2p.model",
    "p2p.text",
    "p2p.cli.config",
    "p2p.cli.machine",
    "p2p.cli.options",
    "p2p.cli.parse",
    "p2p.content.uri",
    "p2p.net.admission",
    "p2p.net.limits",
    "p2p.peer.trace",
    "p2p.protocol.strict_json",
    "p2p.protocol.framing",
    "p2p.protocol.schema",
    "p2p.protocol.peer_messages",
    "p2p.protocol.tracker_messages",
    "p2p.protocol.codec",
    "p2p.protocol.session",
    "p2p.content.geometry",
    "p2p.content.bitmap",
    "p2p.content.names",
    "p2p.content.manifest",
    "p2p.storage.buffers",
    "p2p.swarm.events",
    "p2p.swarm.availability",
    "p2p.swarm.picker",
    "p2p.swarm.requests",
    "p2p.swarm.pieces_in_progress",
    "p2p.swarm.peer_stats",
    "p2p.swarm.stall_timeout",
    "p2p.swarm.scheduler",
    "p2p.swarm.super_seeding",
    "p2p.swarm.upload_queue",
    "p2p.swarm.participant",
    "p2p.swarm.rate_limit",
    "p2p.swarm.topology",
    "p2p.sim.clock",
    "p2p.sim.network",
    "p2p.sim.plan",
    "p2p.sim.shell",
    "p2p.sim.world",
    "p2p.sim.scenarios",
    "p2p.sim.report",
    "p2p.tracker.answers",
    "p2p.tracker.deadlines",
    "p2p.tracker.fault_log",
    "p2p.tracker.search",
    "p2p.tracker.handout",
    "p2p.tracker.service",
    "p2p.tracker.store.base",
    "p2p.tracker.store.interface",
    "p2p.tracker.store.contents",
    "p2p.tracker.store.directory",
    "p2p.tracker.store.journal",
    "p2p.tracker.store.memory",
    "p2p.tracker.store.sessions",
    "p2p.tracker.store.view",
    "p2p.peer.copy_stall",
    "p2p.peer.reports",
    "p2p.peer.settings",
    "p2p.peer.swarm_trace",
    "p2p.peer.transport",
    "p2p.peer.announcements",
    "p2p.peer.candidates",
    "p2p.peer.hedging",
    "p2p.peer.session_events",
    "p2p.peer.tracker_session",
    "p2p.cli.render",
]

MAY_IMPORT: Final[dict[str, str]] = {
    "p2p.errors": "",
    "p2p.value": "",
    "p2p.model": "",
    "p2p.text": "",
    "p2p.protocol": "p2p.protocol",
    "p2p.content": "p2p.content p2p.protocol.strict_json",
    "p2p.swarm": "p2p.swarm p2p.content.geometry p2p.content.bitmap",
    "p2p.storage": "p2p.storage p2p.content p2p.protocol.strict_json p2p.net.threads p2p.net.sending",
    "p2p.net": "p2p.net p2p.protocol",
    "p2p.tracker": "p2p.tracker p2p.protocol p2p.content.names p2p.storage.disk p2p.storage.disk_io p2p.net",
    "p2p.peer": "p2p.peer p2p.protocol p2p.content p2p.swarm p2p.storage p2p.net",
    "p2p.sim": "p2p.sim p2p.swarm p2p.content.geometry p2p.content.bitmap p2p.protocol"
    " p2p.tracker.service p2p.tracker.store.directory",
    "transports": "transports p2p.peer.transport p2p.peer.conversation p2p.protocol p2p.swarm.upload_queue"
    " p2p.storage.disk_io p2p.net",
    "transports.grpc": "transports.grpc p2p.peer.transport p2p.protocol p2p.storage.disk_io p2p.net",
    "p2p.cli": "p2p transports",
}
"""What each package may import besides `SHARED`: a name allows itself and all below it."""


def _modules() -> dict[str, Path]:
    found = {}
    for top in ("p2p", "transports"):
        for path in (ROOT / top).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES: Final = _modules()


def _imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Each module that a file imports, and whether only for the type checker."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in for_types) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield (name if name in MODULES else str(node.module)), id(node) in for_types


def _package(module: str) -> str:
    return max(
        (name for name in MAY_IMPORT if module == name or module.startswith(name + ".")), key=len, default=""
    )


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_what_the_map_allows(module: str) -> None:
    if module == "p2p":
        assert not list(_imports(MODULES[module]))
        return
    allowed = MAY_IMPORT[_package(module)].split()
    for name, _ in _imports(MODULES[module]):
        if name.partition(".")[0] in ("p2p", "transports") and name not in SHARED:
            assert any(name == one or name.startswith(one + ".") for one in allowed), (
                f"{module} imports {name}"
            )


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_does_not_touch_the_world(module: str) -> None:
    touched = {
        name
        for name, for_types in _imports(MODULES[module])
        if not for_types and name.partition(".")[0] in WORLD
    }
    assert not touched


@pytest.mark.parametrize("module", sorted(name for name in MODULES if not name.startswith("transports.grpc")))
def test_the_core_imports_the_standard_library_only(module: str) -> None:
    import sys

    tops = {name.partition(".")[0] for name, _ in _imports(MODULES[module])}
    assert tops <= {"p2p", "transports", *sys.stdlib_module_names}


def test_only_the_composition_root_imports_transports() -> None:
    users = [
        module
        for module, path in MODULES.items()
        for name, _ in _imports(path)
        if name.partition(".")[0] == "transports"
    ]
    assert all(_package(module) in ("p2p.cli", "transports", "transports.grpc") for module in users)


def test_only_the_grpc_transport_reads_the_generated_code() -> None:
    users = {
        module
        for module, path in MODULES.items()
        for name, _ in _imports(path)
        if name.partition(".")[0] == "protos"
    }
    assert users
    assert all(_package(module) == "transports.grpc" for module in users)


def test_the_map_knows_every_module_and_no_other() -> None:
    assert not [module for module in MODULES if module != "p2p" and not _package(module)]
    assert not [module for module in PURE if module not in MODULES]


def test_no_module_imports_itself_in_a_circle() -> None:
    imports = {
        module: {name for name, _ in _imports(path) if name in MODULES} for module, path in MODULES.items()
    }
    while leaves := {module for module, names in imports.items() if not names & imports.keys()}:
        imports = {module: names for module, names in imports.items() if module not in leaves}
    circles = {module: sorted(names & imports.keys()) for module, names in imports.items()}
    assert not circles
