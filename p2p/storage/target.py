"""The final name of a download: what may stand there, and how the part takes its place.

Nothing is overwritten unasked. With `overwrite` a file is replaced in one step. A folder takes two renames,
since the standard library cannot exchange two folders: the old one is set aside as `ID.old.part` first.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Set
from pathlib import Path
from typing import Final, NoReturn

from p2p.errors import DiskError
from p2p.model import ContentId
from p2p.storage.disk import move_new
from p2p.text import printable

OLD: Final = ".old.part"
"""Ending of the old folder while it is set aside."""


class Target:
    """The final path of one content, which is a file or a folder. All methods block."""

    def __init__(
        self, path: Path, content_id: ContentId, kind: str, files: Set[str], *, overwrite: bool
    ) -> None:
        """`files` are the local paths of the content's files below `path`."""
        self.path = path
        self.aside = path.with_name(f"{content_id[:32]}{OLD}")
        """The path of the old folder while it is set aside, and deleted in the end. It has the id in its
        name, so that it is never a file of the user's; `local_part` gives no content such a name."""
        self.overwrite = overwrite
        self._kind = kind
        self._files = files

    def check(self) -> None:
        """Raise `DiskError` if something stands there that may not be replaced."""
        if not os.path.lexists(self.path):
            return
        if not self.overwrite:
            raise self.exists()
        if _is_folder(self.path):
            self._check_nothing_is_lost()

    def exists(self) -> DiskError:
        """The error for a target that may not be replaced."""
        return DiskError(f"'{_shown(self.path)}' exists; use --overwrite or another -o DIR")

    def take(self, part: Path, fault: Callable[[str], None]) -> None:
        """Give `part` the final name. Raises `OSError`, and `DiskError` if the name may not be replaced.

        After an error the old target is where it was. `fault` is called between the renames of two folders.
        """
        if not self.overwrite:
            self._take_new(part)
        elif not os.path.lexists(self.path) or (self._kind == "file" and not _is_folder(self.path)):
            part.replace(self.path)
        else:
            self._take_from_folder(part, fault)

    def put_back(self) -> None:
        """Give the old folder its name back. Raises `OSError`."""
        self.aside.rename(self.path)

    def delete_old(self) -> None:
        """Delete the old folder, if one is set aside. Raises `OSError`."""
        if not os.path.lexists(self.aside):
            return
        if _is_folder(self.aside):
            shutil.rmtree(self.aside)
        else:
            self.aside.unlink()

    def _take_new(self, part: Path) -> None:
        try:
            move_new(part, self.path)
        except FileExistsError:
            raise DiskError(
                f"'{_shown(self.path)}' appeared meanwhile; the download is complete in '{_shown(part)}': "
                "move that other one away and download again, or use --overwrite"
            ) from None

    def _take_from_folder(self, part: Path, fault: Callable[[str], None]) -> None:
        self.check()
        self.delete_old()
        self.path.rename(self.aside)
        try:
            fault("rename")
            part.rename(self.path)
        except OSError:
            self.put_back()
            raise

    def _check_nothing_is_lost(self) -> None:
        """Overwriting replaces the content's own files. Other files in the same folder are never deleted."""
        if self._kind == "file":
            raise DiskError(f"'{_shown(self.path)}' is a folder; move it away or choose another -o DIR")
        for place, folders, files in os.walk(self.path, onerror=_raise):
            links = [name for name in folders if Path(place, name).is_symlink()]
            for name in (*files, *links):
                path = Path(place, name).relative_to(self.path).as_posix()
                if path not in self._files:
                    raise DiskError(
                        f"'{_shown(self.path)}' holds '{printable(path)}', which is not part of this content "
                        "and would be lost; move it away or choose another -o DIR"
                    )


def _raise(error: OSError) -> NoReturn:
    raise error


def _shown(path: Path) -> str:
    return printable(str(path))


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(os.lstat(path).st_mode)
