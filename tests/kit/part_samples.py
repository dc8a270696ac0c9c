"""Downloads on a disk for tests: two contents, what their folder holds, and faults at a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from p2p.model import Manifest
from p2p.storage.part_file import PartFile
from tests.kit.content_samples import folder_manifest, manifest_of, part_of, some_bytes

DATA: Final = some_bytes(200_000)
FILES: Final = [
    ("a", DATA[:70_000]),
    ("deep/er/b", b""),
    ("deep/er/c", DATA[70_000:150_000]),
    ("z", DATA[150_000:]),
]
SINGLE: Final = manifest_of(DATA, "x.bin")
FOLDER: Final = folder_manifest(FILES, folders=("empty/one", "two"))
FOLDER_TREE: Final = {
    "a": FILES[0][1],
    "deep": None,
    "deep/er": None,
    "deep/er/b": b"",
    "deep/er/c": FILES[2][1],
    "empty": None,
    "empty/one": None,
    "two": None,
    "z": FILES[3][1],
}

Opener = Callable[..., PartFile]


@contextmanager
def opener(folder: Path, *, portable: bool = False) -> Iterator[Opener]:
    """A function that opens a download into `folder`; all of them are abandoned in the end."""
    with ExitStack() as stack:

        def open_one(manifest: Manifest, **more: Any) -> PartFile:
            part = part_of(manifest, folder, portable=portable, **more)
            stack.callback(part.abandon)
            part.open()
            return part

        yield open_one


class Killed(BaseException):
    """Stands for the end of the process."""


def stop_at(wanted: str, error: BaseException, nth: int = 1) -> Callable[[str], None]:
    """A `fault` that raises `error` when the step `wanted` comes for the nth time."""
    seen: list[str] = []

    def fault(step: str) -> None:
        seen.append(step)
        if step == wanted and seen.count(step) == nth:
            raise error

    return fault
