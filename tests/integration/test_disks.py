"""The disks that tests mount: an unmount is complete, and no other disk is filled."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit.disks import ext4, fill_up, needs_disks
from tests.kit.waiting import HANG_S, until

pytestmark = needs_disks

MIB = 1 << 20


@contextmanager
def copied_mounts(propagation: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process with a mount namespace of its own, which copies every mount. It ends with its input."""
    words = ["unshare", "--mount", "--propagation", propagation, "sh", "-c", "echo; exec cat"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            assert process.stdout.readline() == b"\n"
            yield process
        finally:
            process.stdin.close()


def test_an_unmounted_disk_is_gone_although_another_namespace_copied_the_mount(
    tmp_path: Path,
) -> None:
    with ext4(tmp_path / "disk", tmp_path / "image", 8 * MIB) as disk, copied_mounts("slave"):
        disk.pull_out()
        disk.unmount()
        disk.mount()
        (disk.place / "new").write_bytes(b"n")
        disk.unmount()
        disk.mount("ro")
        with pytest.raises(OSError, match="Read-only"):
            (disk.place / "other").touch()


def test_a_disk_that_a_private_copy_of_the_mounts_keeps_is_waited_for(tmp_path: Path) -> None:
    with ext4(tmp_path / "disk", tmp_path / "image", 8 * MIB) as disk, copied_mounts("private") as holder:
        taken = threading.Thread(target=disk.unmount)
        taken.start()
        asyncio.run(until(lambda: not disk.place.is_mount()))
        assert taken.is_alive()
        assert holder.stdin is not None
        holder.stdin.close()
        holder.wait(HANG_S)
        taken.join(HANG_S)
        assert not taken.is_alive()
        disk.mount("ro")


def test_only_small_disks_are_filled_up(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="not a disk of a test"):
        fill_up(tmp_path)
    assert not any(tmp_path.iterdir())
