"""What holds for every test: it leaves descriptors, threads, tasks, child processes and temporary files as it
found them, and the programs that it starts heed SIGHUP."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.leaks import Snapshot, check_back_to, tasks_at_the_end_of_loops
from tests.kit.processes import restore_hang_up


def pytest_configure() -> None:
    """Let programs under test die of SIGHUP, also under `nohup`."""
    restore_hang_up()


@pytest.fixture(scope="session", autouse=True)
def _temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for temporary files of this session alone, so that other processes' files are not taken for
    leaks of a test."""
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(request: pytest.FixtureRequest, _temporary_files: Path) -> Iterator[None]:
    before = Snapshot.take(_temporary_files)
    with tasks_at_the_end_of_loops() as tasks:
        yield
    check_back_to(before, _temporary_files, getattr(request.module, "KEPT", ()))
    assert not tasks or request.node.get_closest_marker("interrupts_loop"), (
        f"tasks left to `asyncio.run` to cancel: {'; '.join(tasks)}"
    )
