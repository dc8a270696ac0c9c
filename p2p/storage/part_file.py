"""A content while it is downloaded: written to `NAME.part`, resumed from there, and renamed when all of it is
right.

Beside the part lies `NAME.part.manifest` with the manifest's canonical form. It proves that the part is ours
and of which content, lets a resume begin without asking anybody, and its lock keeps a second download out.
What a crash leaves behind, step by step:

    sidecar written        sidecar, no part                    begins anew
    part made, written     sidecar, part                       resumes from what verifies
    hard link to target    sidecar, part and target are one    the part's name is taken away, the target stays
    old moved away         sidecar, part, ID.old.part          the old target gets its name back
    new moved in           sidecar, target, ID.old.part        the old target is deleted
    all but the sidecar    sidecar, target                     is verified where it is, and nothing is fetched
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from pathlib import Path
from typing import Final, NoReturn

from p2p.content.bitmap import Bitmap
from p2p.content.geometry import Geometry
from p2p.content.manifest import to_bytes
from p2p.content.names import local_part
from p2p.errors import DiskError
from p2p.model import BlockSpan, ContentId, FileSpan, Manifest
from p2p.storage.disk import (
    OPEN_FILES_CANNOT_MOVE,
    FileLock,
    check_encodable,
    disk_error,
    free_space,
    fsync_folder,
    lock_file,
    make_folders,
    move_new,
)
from p2p.storage.disk_io import DiskIO
from p2p.storage.flusher import Flusher
from p2p.storage.landed import is_landed
from p2p.storage.part_files import PartFiles
from p2p.storage.scan import located
from p2p.storage.sidecar import SIDECAR, add_mark, held_in, may_be_ours, replace_held, stem_of
from p2p.text import printable

PART: Final = ".part"
OLD: Final = ".old.part"
"""Endings of what lies beside a download, and its sidecar: its bytes, and the former target while it is
replaced."""

_WAIT_FOR_READERS: Final = 30.0


class _State(Enum):
    """How far a download has come towards its final name."""

    WRITING = auto()
    UNSURE = auto()
    SYNCED = auto()
    MOVED = auto()


def _no_fault(_step: str) -> None:
    pass


class PartialContent:
    """The download of one content into `folder`. All methods block; `read`, `write` and `opened` may be
    called from many threads."""

    def __init__(
        self,
        manifest: Manifest,
        content_id: ContentId,
        folder: Path,
        io: DiskIO,
        overwrite: bool = False,
        fault: Callable[[str], None] = _no_fault,
    ) -> None:
        """`fault` is told each step before it is done (`write`, `flush`, `fsync`, `rename`, `fsync-folder`),
        for tests to stop there."""
        self.manifest = manifest
        self.content_id = content_id
        self.geometry = Geometry(manifest.size, manifest.piece_length)
        self.folder = folder
        self.resumed = False
        self.made = False
        """Whether something of it may lie on the disk: it was made, or found."""
        name = local_part(manifest.name, top=True)
        stem = stem_of(name, content_id)
        self.target = folder / name
        self.part = folder / f"{stem}{PART}"
        self.sidecar = folder / f"{stem}{SIDECAR}"
        self._old = (
            folder / f"{content_id[:32]}{OLD}"
        )  # by the id, since this one is deleted; no content is given such a name
        self._overwrite = overwrite
        self._fault = fault
        self._lock: FileLock | None = None
        self._state = _State.WRITING
        self._canonical = 0
        self._files = PartFiles(manifest, self.part, io)
        self._flusher = Flusher(self._flush)

    def open(self) -> None:
        """Make the folder, take the sidecar's lock, and make the part or find it; then `resumed` tells which.

        After a crash at the very end the target itself is what is resumed: once verified, it only needs
        `finish`.

        Raises `DiskError`, having changed nothing that was there, if the target exists and may not be
        overwritten, the part is not ours or of another content, another download of it is running, or there
        is too little room.
        """
        for name in (self.target.name, *self._files.local):
            check_encodable(name)
        with _told("make folder", self.folder):
            make_folders(self.folder)
        if not os.path.lexists(self.sidecar):
            with _told("look at", self.target):
                self._check_target()
        try:
            lock = lock_file(self.sidecar)
        except BlockingIOError:
            raise DiskError(
                f"another download of '{self.target.name}' into '{_shown(self.folder)}' is running"
            ) from None
        except OSError as error:
            raise disk_error(error, "create", self.sidecar) from error
        self._lock = lock
        try:
            with _told("prepare", self.part):
                self._prepare(lock)
                self._files.watch_disk()
        except BaseException:
            if lock.fd >= 0 and not os.fstat(lock.fd).st_size:
                lock.remove()
            self.abandon()
            raise

    @property
    def renamed(self) -> tuple[tuple[str, str], ...]:
        """What is written under another name than the manifest gives it, since not every disk could hold
        that: both names of each."""
        if self.manifest.kind == "file":
            pairs = [(self.manifest.name, self.target.name)]
        else:
            pairs = [
                (self.manifest.name, self.target.name),
                *((e.path, here) for e, here in zip(self.manifest.files, self._files.local, strict=True)),
            ]
        return tuple((name, here) for name, here in pairs if name != here)

    def write(self, block: BlockSpan, view: memoryview) -> None:
        """Write the bytes of `block` at their place. Raises `DiskError`; for a full disk it tells what the
        rest of the content needs."""
        if self._state is _State.MOVED:
            self._disown()
        try:
            with _told("write", self.part):
                self._fault("write")
            self._files.open.write(self.geometry.offset(block), view[: block.length])
            with _told("sync", self.part):
                self._flusher.wrote(block.length)
        except DiskError as error:
            if isinstance(error.__cause__, OSError):
                raise disk_error(
                    error.__cause__, "write", self.part, need=self._files.unwritten()
                ) from error.__cause__
            raise

    def read(self, block: BlockSpan, into: memoryview) -> None:
        """Read `block` back into the first bytes of `into`. Raises `DiskError`."""
        self._files.open.read(self.geometry.offset(block), into[: block.length])

    @contextmanager
    def opened(self, block: BlockSpan) -> Iterator[list[FileSpan]]:
        """The spans that hold `block`, in order, to be sent before the `with` ends; whether its piece is
        verified, the caller knows.

        Raises `Refused`: `bad_range`, or `unavailable` once the download is finished; and `DiskError`.
        """
        self.geometry.check(block)
        with self._files.open.opened(self.geometry.offset(block), block.length) as spans:
            yield spans

    def scattered(self, block: BlockSpan) -> bool:
        """Whether `opened` takes long for a block, since it lies in many files; else it opens a few, and
        reads nothing."""
        return self._files.open.scattered(self.geometry.offset(block), block.length)

    def written(self) -> Bitmap:
        """The pieces that may hold bytes already, since they are not all hole. Raises `DiskError`."""
        return self._files.written()

    def finish(self) -> Path:
        """Bring all bytes to disk, give them their final name, and return it. Call it when every piece has
        been verified.

        Raises `DiskError`, with the part kept, if the disk refuses or the target has appeared meanwhile. May
        be called again then, unless it was the sync that failed: a second one may succeed although bytes are
        lost, so that download must begin again and verify.
        """
        lock = self._held()
        if self._state is _State.MOVED:
            self._files.open.close()
        if self._state is _State.UNSURE:
            raise DiskError(f"the disk could not be synced; '{_shown(self.part)}' must be verified anew")
        if self._state is _State.WRITING:
            self._state = _State.UNSURE
            with _told("sync", self.part):
                self._flusher.finish()
                self._fault("fsync")
                self._check_here()
                self._files.sync()
            self._state = _State.SYNCED
        if self._state is _State.SYNCED:
            # Others are served up to here: a sync may take long, and a swarm should not lose a peer while it
            # lasts.
            self._files.open.close(_WAIT_FOR_READERS if OPEN_FILES_CANNOT_MOVE else 0.0)
            with _told("rename", self.part):
                self._fault("rename")
                add_mark(lock, self._canonical, self.part)
                self._move_in()
            self._state = _State.MOVED
        with _told("sync", self.folder):
            self._fault("fsync-folder")
            with suppress(
                PermissionError
            ):  # a folder may be written to without being open to reading, and so to a sync
                fsync_folder(self.folder)
        with _told("delete", self._old):
            _delete(self._old)
        with _told("delete", self.sidecar):
            lock.remove()
        self._lock = None
        self._files.leave_disk()
        return self.target

    def abandon(self) -> None:
        """Close everything and keep the part, so that a later download resumes it. Harmless after `finish`,
        and when called again."""
        self._flusher.leave()
        self._files.open.close()
        self._files.leave_disk()
        lock, self._lock = self._lock, None
        if lock:
            lock.close()

    def _prepare(self, lock: FileLock) -> None:
        canonical = to_bytes(self.manifest)
        found = held_in(lock)
        ours = found.startswith(canonical)  # and a mark, or what a power cut left of one
        self._canonical = len(canonical)
        if ours:
            self._tidy(lock, found[len(canonical) :])
            if self._state is _State.MOVED:
                self.made = True
                return
        self._check_target()
        self.resumed = os.path.lexists(self.part)
        if self.resumed and not ours:
            whose = "is not a download of ours" if not found else "belongs to another content"
            raise DiskError(f"'{_shown(self.part)}' {whose}; delete it or choose another -o DIR")
        if not ours and not may_be_ours(found, canonical):
            raise DiskError(f"'{_shown(self.sidecar)}' is not ours; delete it or choose another -o DIR")
        need, have = self._files.unwritten(), free_space(self.folder)
        if need > have:
            raise DiskError(
                f"disk full: need {need:,} bytes, have {have:,}; cannot download to '{_shown(self.folder)}'"
            )
        if not ours:
            replace_held(lock, canonical)
        self.made = True
        self._files.make(new=not self.resumed)

    def _disown(self) -> NoReturn:
        """The target, which a crash left complete, does not verify any more: from now on it is like any other
        file."""
        lock, self._lock = self._lock, None
        if lock:
            with _told("delete", self.sidecar):
                lock.remove()
        what = "download it again" if self._overwrite else "use --overwrite or another -o DIR"
        raise DiskError(f"'{_shown(self.target)}' was changed after it was downloaded; {what}")

    def _tidy(self, lock: FileLock, mark: bytes) -> None:
        """Bring what a crash in `finish` left to the old state or the new one."""
        if (
            self.part.is_file()
            and os.path.lexists(self.target)
            and os.path.samestat(os.lstat(self.part), os.lstat(self.target))
        ):
            self.part.unlink()
        if os.path.lexists(self._old) and not os.path.lexists(self.target):
            self._old.rename(self.target)
        if not os.path.lexists(self.target) or os.path.lexists(self.part):
            return  # also with an old one, which a target that somebody made since has not replaced
        _delete(self._old)
        sizes = (entry.size for entry in self.manifest.files)
        paths = (located(self.target, self.manifest.kind, local) for local in self._files.local)
        if mark and is_landed(mark, self.target, zip(paths, sizes, strict=True)):
            self._state, self._files.place, self.resumed = _State.MOVED, self.target, True
        elif not self._overwrite:
            lock.remove()
            self._lock = None

    def _check_target(self) -> None:
        if not os.path.lexists(self.target):
            return
        if not self._overwrite:
            raise DiskError(f"'{_shown(self.target)}' exists; use --overwrite or another -o DIR")
        if _is_folder(self.target):
            self._check_nothing_is_lost()

    def _check_nothing_is_lost(self) -> None:
        """To overwrite is to replace files by the content's own, never to delete others that happen to lie in
        the same folder."""
        if self.manifest.kind == "file":
            raise DiskError(f"'{_shown(self.target)}' is a folder; move it away or choose another -o DIR")
        ours = set(self._files.local)
        for place, folders, files in os.walk(self.target, onerror=_raised):
            links = [name for name in folders if Path(place, name).is_symlink()]
            for name in (*files, *links):
                path = Path(place, name).relative_to(self.target).as_posix()
                if path not in ours:
                    raise DiskError(
                        f"'{_shown(self.target)}' holds '{printable(path)}', which is not part of this content and would be lost; "
                        "move it away or choose another -o DIR"
                    )

    def _flush(self) -> None:
        self._fault("flush")
        self._check_here()
        self._files.flush()

    def _check_here(self) -> None:
        """Raise `FileNotFoundError` if the folder was taken away below us: its open files take bytes that
        nobody would ever see."""
        lock = self._lock
        if lock is None:  # this download is being left, and nobody waits for this sync
            return
        try:
            here = os.path.samestat(os.fstat(lock.fd), os.lstat(self.sidecar))
        except NotADirectoryError:
            here = False
        if not here:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def _move_in(self) -> None:
        if not self._overwrite:
            try:
                move_new(self.part, self.target)
            except FileExistsError:
                raise DiskError(
                    f"'{_shown(self.target)}' appeared meanwhile; the download is complete in '{_shown(self.part)}': "
                    "move that other one away and download again, or use --overwrite"
                ) from None
        elif not os.path.lexists(self.target) or (
            self.manifest.kind == "file" and not _is_folder(self.target)
        ):
            self.part.replace(self.target)
        else:
            self._check_target()
            _delete(self._old)
            self.target.rename(self._old)
            try:
                self._fault("rename")
                self.part.rename(self.target)
            except OSError:
                self._old.rename(self.target)
                raise

    def _held(self) -> FileLock:
        if self._lock is None:
            raise RuntimeError("this download is not open")
        return self._lock


@contextmanager
def _told(doing: str, path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk_error(error, doing, path) from error


def _raised(error: OSError) -> NoReturn:
    raise error


def _shown(path: Path) -> str:
    return printable(str(path))


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(os.lstat(path).st_mode)


def _delete(path: Path) -> None:
    """Delete a file, a link or a whole folder, if it is there. Never follows a link."""
    if not os.path.lexists(path):
        return
    if _is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink()
