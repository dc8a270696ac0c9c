"""What holds for every test: it leaves descriptors, threads, tasks, child processes and temporary files as it
found them."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.leaks import Snapshot, check_back_to, tasks_at_the_end_of_loops
from tests.kit.processes import restore_hang_up


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--shuffle SEED` runs files, and the tests of each file, in an order that the seed decides."""
    parser.addoption(
        "--shuffle",
        type=int,
        default=None,
        metavar="SEED",
        help="run the tests in the random order of this seed",
    )


def pytest_sessionstart() -> None:
    """Let tests that hang up on a child process work under `nohup` too."""
    restore_hang_up()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Shuffle, if that is asked for; a file's tests stay together, for what they set up together."""
    seed = config.getoption("shuffle")
    if seed is None:
        return
    rng = random.Random(seed)
    rng.shuffle(items)
    files = list({item.path: None for item in items})
    rng.shuffle(files)
    items.sort(key=lambda item: files.index(item.path))


@pytest.fixture(scope="session", autouse=True)
def _temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of our own for temporary files, so that what a test leaves is seen, and is not taken for what
    others do meanwhile."""
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
        f"left to be cancelled at the end: {'; '.join(tasks)}"
    )
