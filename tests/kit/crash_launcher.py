"""Runs `peer` or `tracker`, and kills itself at a chosen call that touches the disk. A script, not a module.

    crash_launcher.py peer download ...

CRASH_UNDER   the folder that matters: only calls on files below it are counted
CRASH_LOG     a file, on the same disk and elsewhere, that gets a JSON line for each call counted
CRASH_AT      `KIND:N:WHEN`, as `fsync:2:before`: die at the second `fsync`, `before` it, `after` it, or
              `torn` (half of a write is done)
CRASH_SAVE    a folder that keeps what a rename, an unlink or a replace takes away, so that a power cut can
              be played afterwards

The product knows nothing of this: the functions of `os` are wrapped from outside.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final

KINDS: Final = (
    "open",
    "write",
    "pwrite",
    "ftruncate",
    "fsync",
    "fdatasync",
    "link",
    "rename",
    "replace",
    "unlink",
    "mkdir",
    "rmdir",
)
_OF_DESCRIPTORS: Final = ("write", "pwrite", "ftruncate", "fsync", "fdatasync")


class Crasher:
    """Counts calls, logs them, and ends the process at one of them."""

    def __init__(self, under: str, log: str, at: str, save: str) -> None:
        self._under = os.path.realpath(under)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._kind, nth, self._when = at.split(":") if at else ("", "0", "")
        self._nth = int(nth)
        self._save = save
        self._saved = 0
        self._counts: Counter[str] = Counter()
        self._lock = threading.RLock()
        self._real: dict[str, Callable[..., Any]] = {kind: getattr(os, kind) for kind in KINDS}

    def install(self) -> None:
        """Wrap the functions of `os`, and the one call that `os` does not have: to sync a whole disk."""
        for kind in KINDS:
            setattr(os, kind, self._wrapped(kind, self._real[kind]))
        watch = import_module("p2p.storage.disk_sync").DiskWatch
        watch.sync = self._wrapped("sync", watch.sync)

    def _wrapped(self, kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            paths = self._paths(kind, arguments, more)
            if paths is None:
                return real(*arguments, **more)
            with self._lock:
                self._counts[kind] += 1
                deadly = self._kind == kind and self._counts[kind] == self._nth
            if deadly and self._when == "before":
                self._die()
            note = self._note(kind, paths, arguments)
            if deadly and self._when == "torn":
                real(arguments[0], memoryview(arguments[1])[: len(arguments[1]) // 2], *arguments[2:])
                self._die()
            try:
                result = real(*arguments, **more)
            except OSError:
                self._put({"failed": note})
                if deadly:
                    self._die()
                raise
            if kind in ("fsync", "fdatasync", "sync"):
                self._put({"synced": note})
            elif kind == "open":
                self._put({"opened": note, "inode": os.fstat(result).st_ino})
            if deadly:
                self._die()
            return result

        return call

    def _paths(self, kind: str, arguments: tuple[Any, ...], more: dict[str, Any]) -> list[str] | None:
        """The paths of a call, or None when it is not below the folder."""
        if kind == "sync":
            return []
        if kind in _OF_DESCRIPTORS:
            found = [self._path_of(arguments[0])]
        else:
            count = 2 if kind in ("link", "rename", "replace") else 1
            base = self._path_of(more["dir_fd"]) if more.get("dir_fd") is not None else os.getcwd()
            found = [
                os.path.join(base, os.fspath(one)) for one in arguments[:count] if not isinstance(one, int)
            ]
        inside = [path for path in found if path == self._under or path.startswith(self._under + os.sep)]
        if kind == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR | getattr(os, "O_DIRECTORY", 0)):
            return None
        return found if inside else None

    def _path_of(self, fd: int) -> str:
        try:
            return os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            return ""

    def _note(self, kind: str, paths: list[str], arguments: tuple[Any, ...]) -> int:
        """Log the call that is about to be made; returns its number."""
        row: dict[str, Any] = {"kind": kind, "paths": paths}
        if kind in _OF_DESCRIPTORS:
            row["inode"] = os.fstat(arguments[0]).st_ino
        if kind == "pwrite":
            row["offset"], row["length"] = arguments[2], len(arguments[1])
        elif kind == "write":
            row["offset"], row["length"] = os.lseek(arguments[0], 0, os.SEEK_CUR), len(arguments[1])
        elif kind == "open":
            row["new"] = not os.path.lexists(paths[0]) and bool(arguments[1] & os.O_CREAT)
        elif kind in ("unlink", "rename", "replace") and self._save:
            row["saved"] = self._keep(paths[-1])
        return self._put(row)

    def _keep(self, path: str) -> str:
        """Link a file that is about to lose its name to another one."""
        if not os.path.isfile(path):
            return ""
        with self._lock:
            self._saved += 1
            saved = os.path.join(self._save, f"{os.getpid()}-{self._saved}")
        self._real["link"](path, saved)
        return saved

    def _put(self, row: dict[str, Any]) -> int:
        with self._lock:
            number = self._counts["line"]
            self._counts["line"] += 1
            self._real["write"](self._log, (json.dumps(row) + "\n").encode())
        return number

    def _die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
        threading.Event().wait()


def main() -> int:
    """Begin as `bin/peer` does, with the functions of `os` wrapped."""
    root = Path(__file__).resolve().parents[2]
    sys.path.insert(0, str(root))
    program, sys.argv = sys.argv[1], sys.argv[1:]
    environ = os.environ
    Crasher(
        environ["CRASH_UNDER"],
        environ["CRASH_LOG"],
        environ.get("CRASH_AT", ""),
        environ.get("CRASH_SAVE", ""),
    ).install()
    code: int = import_module("p2p.cli.entry").start(program)
    return code


if __name__ == "__main__":
    sys.exit(main())
