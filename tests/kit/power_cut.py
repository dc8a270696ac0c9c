"""A simulated power cut after a launched command: what was never synced may be lost, in whole or in part.

The model is the least that POSIX promises. Bytes last if their file was synced after the write. A name lasts
if its folder was synced after the name was made, moved or removed. Of the rest a random part is lost: single
writes, which are zeros then, and the last of the names, since a journal keeps their order.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

from tests.kit.crashing import rows_of

_NAMES: Final = ("open", "link", "rename", "replace", "unlink", "mkdir", "rmdir")
_PAGE: Final = 4096
Row = dict[str, Any]


def power_cut(log: Path, places: list[Path], rng: random.Random, *, worst: str = "") -> None:
    """Remove from `places` what the log does not prove to be on disk, as `rng` decides.

    `worst` is `all`: all of it is lost; or `bytes`: all the bytes are, and every name lasts, which is what
    hurts most after a rename.
    """
    rows = rows_of(log)
    failed = {row["failed"] for row in rows if "failed" in row}
    inodes = {row["opened"]: row["inode"] for row in rows if "opened" in row}
    ends: dict[int, Row] = {
        number: row for number, row in enumerate(rows) if "kind" in row and number not in failed
    }
    synced = [row["synced"] for row in rows if "synced" in row]
    _lose_bytes(ends, inodes, synced, places, rng, worst=bool(worst))
    if worst != "bytes":
        _lose_names(ends, synced, rng, worst=bool(worst))


def _lose_bytes(
    ends: dict[int, Row],
    inodes: dict[int, int],
    synced: list[int],
    places: list[Path],
    rng: random.Random,
    *,
    worst: bool,
) -> None:
    since: dict[int, int] = {}
    everything = max((number for number in synced if ends[number]["kind"] == "sync"), default=-1)
    for number in synced:
        if "inode" in ends[number]:
            since[ends[number]["inode"]] = max(number, since.get(ends[number]["inode"], -1))
    here: dict[int, Path] = {
        path.stat().st_ino: path for place in places for path in place.rglob("*") if path.is_file()
    }
    written: dict[int, list[Row]] = defaultdict(list)
    for number, row in ends.items():
        if row["kind"] in ("write", "pwrite") and number > max(since.get(row["inode"], -1), everything):
            written[row["inode"]].append(row)
    for inode, lost in written.items():
        for row in lost if inode in here else ():
            keep = (
                0 if worst else rng.choice((0, row["length"], rng.randrange(row["length"]) // _PAGE * _PAGE))
            )
            _wipe(here[inode], row["offset"] + keep, row["offset"] + row["length"])
    known = since.keys() | {row["inode"] for row in ends.values() if row["kind"] in ("write", "pwrite")}
    for number, inode in inodes.items():
        # Written to by other means than the functions that are wrapped: nothing proves that any of it lasts.
        unproven = inode not in known and number > everything
        if ends.get(number, {}).get("new") and inode in here and unproven and (worst or rng.random() < 0.5):
            os.truncate(here[inode], 0)


def _wipe(path: Path, start: int, end: int) -> None:
    with open(path, "r+b") as file:
        end = min(end, os.fstat(file.fileno()).st_size)
        if start < end:
            file.seek(start)
            file.write(bytes(end - start))


def _lose_names(ends: dict[int, Row], synced: list[int], rng: random.Random, *, worst: bool) -> None:
    steps = [
        (number, row)
        for number, row in ends.items()
        if row["kind"] in _NAMES and (row["kind"] != "open" or row["new"])
    ]
    unsure = [(number, row) for number, row in steps if not _lasts(number, row, ends, synced)]
    lost = unsure[0 if worst else rng.randint(0, len(unsure)) :]
    kept = [(number, row) for number, row in steps if (number, row) not in lost]
    for number, row in reversed(lost):
        later = [other for at, other in kept if at > number and other["kind"] in ("rename", "replace")]
        _undo(row["kind"], [_moved(path, later) for path in row["paths"]], row.get("saved", ""))


def _lasts(number: int, row: Row, ends: dict[int, Row], synced: list[int]) -> bool:
    folders = {os.path.dirname(path) for path in row["paths"]}
    after = [ends[at] for at in synced if at > number]
    return any(other["kind"] == "sync" for other in after) or all(
        any(other["paths"] == [folder] for other in after) for folder in folders
    )


def _moved(path: str, later: list[Row]) -> str:
    """The path of this file after the moves that last."""
    for move in later:
        source, target = move["paths"]
        if path == source or path.startswith(source + os.sep):
            path = target + path[len(source) :]
    return path


def _undo(kind: str, paths: list[str], saved: str) -> None:
    last = paths[-1]
    if kind in ("open", "link") and os.path.isfile(last):
        os.unlink(last)
    elif kind == "mkdir" and os.path.isdir(last):
        shutil.rmtree(last)
    elif kind == "rmdir":
        os.makedirs(last, exist_ok=True)
    elif kind in ("rename", "replace") and os.path.lexists(last):
        os.makedirs(os.path.dirname(paths[0]), exist_ok=True)
        os.rename(last, paths[0])
    if saved and not os.path.lexists(last) and os.path.isdir(os.path.dirname(last)):
        os.replace(saved, last)
