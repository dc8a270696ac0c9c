"""What lies beside a part, `NAME.part.manifest`: whose download it is, and at the very end what became of it.

It holds the manifest's canonical form, and behind it, from the move to the final name on, the mark of what
was moved (`landed`).
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from p2p.content.manifest import MAX_MANIFEST, parse
from p2p.content.names import MAX_PART
from p2p.errors import EnjambreError
from p2p.model import ContentId
from p2p.storage.disk import FileLock
from p2p.storage.landed import MOST_OF_MARK, mark_of

SIDECAR: Final = ".part.manifest"


def stem_of(name: str, content_id: ContentId) -> str:
    """What the names of part and sidecar begin with: the content's name, or its beginning if the ending would
    make it too long."""
    octets = name.encode("utf-8")
    if len(octets) + len(SIDECAR) <= MAX_PART:
        return name
    mark = f"~{content_id[:8]}"
    return octets[: MAX_PART - len(SIDECAR) - len(mark)].decode("utf-8", "ignore") + mark


def held_in(lock: FileLock) -> bytes:
    """All that a locked sidecar holds, or more than it ever should. Raises `OSError`."""
    most = MAX_MANIFEST + MOST_OF_MARK
    os.lseek(lock.fd, 0, os.SEEK_SET)
    found = bytearray()
    while len(found) < most:
        data = os.read(lock.fd, min(most - len(found), 1 << 20))
        if not data:
            break
        found += data
    return bytes(found)


def may_be_ours(found: bytes, canonical: bytes) -> bool:
    """Whether a sidecar without a part is what a crash left: the beginning of the manifest, or the whole of
    another content's."""
    begun = found.rstrip(b"\0")  # a power cut may leave a file its length and not its bytes
    if canonical.startswith(begun):
        return True
    end = found.rfind(b"}\n") + 1 or len(found)  # a mark may stand behind it
    try:
        parse(found[:end], None)
    except EnjambreError:
        return False
    return True


def replace_held(lock: FileLock, canonical: bytes) -> None:
    """Let a locked sidecar hold this manifest, and bring it to disk: the part must never be there without it.
    Raises `OSError`."""
    os.ftruncate(lock.fd, 0)
    os.lseek(lock.fd, 0, os.SEEK_SET)
    rest = memoryview(canonical)
    while rest:
        rest = rest[os.write(lock.fd, rest) :]
    os.fsync(lock.fd)


def add_mark(lock: FileLock, behind: int, part: Path) -> None:
    """Write down behind the manifest, which has so many bytes, what is about to be moved to the final name.

    Without a mark, a crash in the next moments costs a second download; a disk that has no room for it must
    not cost the first.
    """
    with suppress(OSError):
        os.ftruncate(lock.fd, behind)
        os.lseek(lock.fd, behind, os.SEEK_SET)
        os.write(lock.fd, mark_of(part))
