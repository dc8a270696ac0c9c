"""A download on the disk: written to `NAME.part`, resumed after a crash, renamed to `NAME` when it is whole.

Beside the part lies its sidecar `NAME.part.manifest`, and nothing else: no record of pieces that could lie.
A resume hashes what is there. The steps of a download are ordered so that a crash after any of them leaves a
state that can be told from every other by a look at four names:

    step                     sidecar  part  target  old    state    what `open` does then
    ----------------------   -------  ----  ------  -----  ------   --------------------------------------
    write the sidecar          yes     -      -*     -     BEGUN    makes the part
    make the part, write it    yes     yes    -*     -     PART     keeps the part, fetches what is not right
    link target to the part    yes     yes   same    -     LINKED   deletes the part's name, looks again
    set the old folder aside   yes     yes    -      yes   ASIDE    gives it its name back, looks again
    rename part to target      yes     -     yes    maybe  LANDED   keeps the target, if it verifies
    delete the old folder      yes     -     yes     -     LANDED   the same
    delete the sidecar         -       -     yes     -     (done)

    * With `overwrite` an old target may stand there. Without a part it looks as if it had landed, does not
      verify, and the download begins anew.

`PartFile._resume` is this table as code. Nothing marks a target that has landed as ours: it is hashed like a
part, and what does not verify is like any other file of the user's. A new file gets its name by a hard link
(LINKED), which cannot overwrite; see `disk.move_new`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from pathlib import Path
from typing import Final

from p2p.content.bitmap import Bitmap
from p2p.content.geometry import Geometry
from p2p.content.manifest import to_bytes
from p2p.content.names import local_part
from p2p.errors import DiskError
from p2p.model import MIB, BlockSpan, ContentId, FileSpan, Manifest
from p2p.storage.disk import OPEN_FILES_CANNOT_MOVE, check_encodable, disk_error, free_space, make_folders
from p2p.storage.disk_io import DiskIO
from p2p.storage.disk_sync import DiskWatch, sync_folder
from p2p.storage.flusher import Flusher
from p2p.storage.part_tree import PartTree
from p2p.storage.sidecar import SIDECAR, Owner, Sidecar, stem_of
from p2p.storage.target import Target
from p2p.text import printable
from p2p.value import frozen

PART: Final = ".part"
"""Ending of a part."""


@frozen
class PartLimits:
    """The bounds of one download on the disk."""

    flush_every: int = 32 * MIB
    """Bytes written from one sync to the next. 32 and 64 MiB did as well; 128 left more to the end."""
    open_files: int = 64
    """Files of one content that are kept open."""
    many_files: int = 256
    """Files and folders beyond which the whole disk is synced instead of each of them."""
    readers_s: float = 30.0
    """Seconds to wait for uploads from the part, on systems where an open file cannot be renamed."""
    leave_s: float = 5.0
    """Seconds to wait for a sync when a download is abandoned."""


class State(Enum):
    """What a crash left of a download; a row of the table above."""

    BEGUN = auto()
    PART = auto()
    LINKED = auto()
    ASIDE = auto()
    LANDED = auto()


def _no_fault(_step: str) -> None:
    pass


class PartFile:
    """The download of one content into `folder`: `open` it, verify and write, then `finish` or `abandon` it.

    All methods block. `read`, `write` and `opened` may be called from many threads.
    """

    def __init__(
        self,
        manifest: Manifest,
        content_id: ContentId,
        folder: Path,
        io: DiskIO,
        overwrite: bool = False,
        *,
        limits: PartLimits = PartLimits(),  # noqa: B008 (a frozen value)
        room: Callable[[Path], int] = free_space,
        watch: Callable[[Path], DiskWatch] = DiskWatch,
        fault: Callable[[str], None] = _no_fault,
    ) -> None:
        """`room` says how many bytes a disk has left, and `watch` watches it for losses.

        `fault` is called before each step, for tests to stop there: `write`, `flush`, `fsync`, `rename`,
        `fsync-folder`, `delete-old`, `delete-sidecar`.
        """
        self.manifest = manifest
        self.geometry = Geometry(manifest.size, manifest.piece_length)
        self.resumed = False
        """Whether bytes of the content were found, which have to be verified."""
        self.landed = False
        """Whether they were found under the final name. Nothing may be written to them."""
        self.made = False
        """Whether something of the content may lie on the disk: it was made, or found."""
        name = local_part(manifest.name, top=True)
        stem = stem_of(name, content_id)
        self.folder = folder
        self.path = folder / f"{stem}{PART}"
        self.target = folder / name
        self.sidecar = folder / f"{stem}{SIDECAR}"
        self._io = io
        self._limits = limits
        self._room = room
        self._watch = watch
        self._fault = fault
        self._tree = self._tree_at(self.path)
        self._target = Target(
            self.target, content_id, manifest.kind, frozenset(self._tree.paths), overwrite=overwrite
        )
        self._sidecar = Sidecar(self.sidecar, to_bytes(manifest))
        self._flusher = Flusher(self._flush, limits.flush_every)

    @property
    def renamed(self) -> tuple[tuple[str, str], ...]:
        """Pairs of the manifest's name and the local name, of all that cannot keep its name on every disk."""
        pairs = [(self.manifest.name, self.target.name)]
        if self.manifest.kind == "folder":
            pairs += zip((entry.path for entry in self.manifest.files), self._tree.paths, strict=True)
        return tuple((name, local) for name, local in pairs if name != local)

    # -- open and resume

    def open(self) -> None:
        """Lock the sidecar, then make the part or find what a former run left; `resumed` and `landed` say
        which.

        Raises `DiskError`, with everything left as it was, if the target may not be overwritten, the part is
        not ours, another download of this name is running, or there is too little room.
        """
        for name in (self.target.name, *self._tree.paths):
            check_encodable(name)
        with _told("make folder", self.folder):
            make_folders(self.folder)
        if not os.path.lexists(self.sidecar):
            with _told("look at", self.target):
                self._target.check()
        self._lock_sidecar()
        try:
            with _told("prepare", self.path):
                if self._sidecar.owner is Owner.US:
                    self._resume()
                else:
                    self._begin()
        except BaseException:
            self._sidecar.remove_if_empty()
            self.abandon()
            raise

    def begin_anew(self) -> None:
        """What has landed does not verify: treat it like any other file that stands under the final name.

        Raises `DiskError` unless it may be overwritten.
        """
        self._tree.close()
        self._tree = self._tree_at(self.path)
        self.resumed = self.landed = False
        with _told("prepare", self.path):
            if not self._target.overwrite:
                self._sidecar.remove()
                raise self._target.exists()
            self._make(new=True)

    def _resume(self) -> None:
        """Go on from what a crash left: the table above, row by row."""
        match self._look():
            case State.BEGUN:
                self._make(new=True)
            case State.PART:
                self.resumed = True
                self._make(new=False)
            case State.LINKED:
                self.path.unlink()
                self._resume()
            case State.ASIDE:
                self._target.put_back()
                self._resume()
            case State.LANDED:
                tree = self._tree_at(self.target)
                if not tree.fits():
                    self.begin_anew()
                    return
                self._tree = tree
                self.resumed = self.landed = self.made = True

    def _look(self) -> State:
        part, target, aside = map(os.path.lexists, (self.path, self.target, self._target.aside))
        if part and target and _are_one_file(self.path, self.target):
            return State.LINKED
        if aside and not target:
            return State.ASIDE
        if part:
            return State.PART
        return State.LANDED if target else State.BEGUN

    def _begin(self) -> None:
        """Begin without a sidecar of ours. No part may be there, and no other file in the sidecar's place."""
        owner = self._sidecar.owner
        self._target.check()
        if os.path.lexists(self.path):
            whose = "is not a download of ours" if owner is Owner.NOBODY else "belongs to another content"
            raise DiskError(f"'{_shown(self.path)}' {whose}; delete it or choose another -o DIR")
        if owner is Owner.SOMEBODY:
            raise DiskError(f"'{_shown(self.sidecar)}' is not ours; delete it or choose another -o DIR")
        self._make(new=True)

    def _make(self, *, new: bool) -> None:
        """Make the part, or what is missing of it."""
        self._target.check()
        need, have = self._tree.unwritten(), self._room(self.folder)
        if need > have:
            raise DiskError(
                f"disk full: need {need:,} bytes, have {have:,}; cannot download to '{_shown(self.folder)}'"
            )
        if self._sidecar.owner is not Owner.US:
            self._sidecar.write()
        self.made = True
        self._tree.make(new=new)

    def _lock_sidecar(self) -> None:
        try:
            self._sidecar.lock()
        except BlockingIOError:
            raise DiskError(
                f"another download of '{self.target.name}' into '{_shown(self.folder)}' is running"
            ) from None
        except OSError as error:
            raise disk_error(error, "create", self.sidecar) from error

    def _tree_at(self, root: Path) -> PartTree:
        return PartTree(
            self.manifest,
            root,
            self._io,
            open_files=self._limits.open_files,
            many_files=self._limits.many_files,
            watch=self._watch,
        )

    # -- read and write

    def write(self, block: BlockSpan, view: memoryview) -> None:
        """Write the bytes of `block` at their place.

        Raises `DiskError`; for a full disk it says how many bytes the rest of the content needs.
        """
        if self.landed:
            raise RuntimeError("this download has its final name; call begin_anew first")
        try:
            with self._step("write", "write", self.path):
                self._tree.files.write(self.geometry.offset(block), view[: block.length])
            with _told("sync", self.path):
                self._flusher.on_written(block.length)
        except DiskError as error:
            cause = error.__cause__
            if isinstance(cause, OSError):
                raise disk_error(cause, "write", self.path, need=self._tree.unwritten()) from cause
            raise

    def read(self, block: BlockSpan, into: memoryview) -> None:
        """Read `block` back into the first bytes of `into`. Raises `DiskError`."""
        self._tree.files.read(self.geometry.offset(block), into[: block.length])

    @contextmanager
    def opened(self, block: BlockSpan) -> Iterator[list[FileSpan]]:
        """The spans that hold `block`, in order, to be sent before the `with` ends.

        The caller knows whether its piece is verified. Raises `Refused`, with `bad_range`, or `unavailable`
        once the download is finished, and `DiskError`.
        """
        self.geometry.check(block)
        with self._tree.files.opened(self.geometry.offset(block), block.length) as spans:
            yield spans

    def scattered(self, block: BlockSpan) -> bool:
        """Whether `opened` takes long for `block`, since it lies in many files that have to be read."""
        return self._tree.files.scattered(self.geometry.offset(block), block.length)

    def written(self) -> Bitmap:
        """The pieces that may hold bytes: those that are not all hole. Raises `DiskError`."""
        return self._tree.written()

    def _flush(self) -> None:
        self._fault("flush")
        self._check_folder()
        self._tree.flush()

    # -- finish and abandon

    def finish(self) -> Path:
        """Bring all bytes to disk, give them their final name, and return it.

        Call it once, when every piece is verified. Raises `DiskError`, with the part kept, if the disk
        refuses or the target has appeared meanwhile. Then only a new download, which verifies the part, can
        go on: a second sync may succeed although bytes are lost.
        """
        if not self._sidecar.locked:
            raise RuntimeError("this download is not open")
        try:
            with _told("sync", self._tree.root):
                self._flusher.wait()
                self._fault("fsync")
                self._check_folder()
                self._tree.sync()
            # Up to here blocks are served from the part: a sync may take long.
            self._tree.files.close(self._limits.readers_s if OPEN_FILES_CANNOT_MOVE else 0.0)
            if not self.landed:
                with self._step("rename", "rename", self.path):
                    self._target.take(self.path, self._fault)
            with self._step("fsync-folder", "sync", self.folder), suppress(PermissionError):
                sync_folder(self.folder)  # not if it may be written and not read: then it cannot be opened
            with self._step("delete-old", "delete", self._target.aside):
                self._target.delete_old()
            with self._step("delete-sidecar", "delete", self.sidecar):
                self._sidecar.remove()
        finally:
            self.abandon()
        return self.target

    def abandon(self) -> None:
        """Close everything and keep the part for a later download. Harmless after `finish`, and when called
        again."""
        self._flusher.leave(self._limits.leave_s)
        self._tree.close()
        self._sidecar.close()

    @contextmanager
    def _step(self, step: str, doing: str, path: Path) -> Iterator[None]:
        with _told(doing, path):
            self._fault(step)
            yield

    def _check_folder(self) -> None:
        """Raise `FileNotFoundError` if the folder was moved or deleted.

        Open files would take the rest of the bytes, and no path would lead to them.
        """
        if not self._sidecar.in_place():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


@contextmanager
def _told(doing: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk_error(error, doing, path) from error


def _are_one_file(one: Path, other: Path) -> bool:
    return os.path.samestat(os.lstat(one), os.lstat(other))


def _shown(path: Path) -> str:
    return printable(str(path))
