"""Hostile names, and symbolic links planted in the way of a download: nothing lands outside its folder
(hostile cases 41, 45, 48)."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from p2p.errors import EnjambreError
from p2p.model import ContentId
from p2p.peer.reports import Downloaded
from tests.kit.bad_peers import PIECE, PlainPeer, Sample, Talk, announced, encoded
from tests.kit.disks import Gate, Tree, disk_message, download, fetched
from tests.kit.leaks import contained
from tests.kit.processes import clean_environment, command, old_file, run, run_peer, start_peer, start_tracker
from tests.kit.swarm_kit import Swarm
from tests.kit.waiting import hang_guard

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX links and modes")

DATA = b"hostile" * 10
OUTSIDE = "pwned-by-a-name"

NAMES = [
    f"../{OUTSIDE}", f"a/../../{OUTSIDE}", f"../../{OUTSIDE}", f"a/b/../../../{OUTSIDE}", f"./../{OUTSIDE}",
    f"a/./../../{OUTSIDE}",
    f"/tmp/{OUTSIDE}", f"//tmp/{OUTSIDE}", f"C:\\{OUTSIDE}", f"C:{OUTSIDE}", f"\\\\srv\\{OUTSIDE}",
    f"..\\{OUTSIDE}", f"a\\..\\..\\{OUTSIDE}",
    f"~/{OUTSIDE}", f"~root/{OUTSIDE}", "x:stream", "x::$DATA", "NUL", "nul", "con.txt",
    "CON .txt", "COM1.log", "com¹", "LPT9", "aux.c", "PRN",
    "CONIN$", "x.", "x ", "x. .", " ", "...", ".", "..", "", "a/", "/", "a//b", "a/./b", "\x00",
    "a\x00b", "a\nb", "a\rb", "\t", "\x1b[31mred",
    "\x1b]52;c;AAAA\x07", "\x9b31m", "a\x7f", "x" * 256, "x" * 5000, "ñ" * 128,
    "/".join(["d"] * 65), "/".join(["x" * 250] * 17), "a\u200bb",
    "\ufeffa", "a\u2060b", "exe\u202egpj.txt", "a\u2066b\u2069", "a\u200fb", "a\u2028b", "a\ud800b", "\udcff",
     "-rf", "--help", "-o/etc",
    ".ssh/authorized_keys", ".bashrc", ".git/config", "desktop.ini", "a<b>c", 'q"q', "a|b",
    "what?", "*", "`id`", "$(id)", ";id", "%s%n", "a'b",
    "x.part", "x.part.manifest", "tree.part", "\u212a", "\u00e9", "e\u0301", "日本語.txt",
]  # fmt: skip


@dataclass(frozen=True)
class Hostile(Sample):
    """A content with any manifest, valid or not."""

    said: bytes = b""

    @property
    def manifest(self) -> bytes:
        """The bytes that a peer sends as its manifest."""
        return self.said


def hostile(
    kind: str, paths: Sequence[str], folders: Sequence[str] = (), name: str = "tree", *, escaped: bool = False
) -> Hostile:
    """A content of files with these paths. `escaped` writes all that is not ASCII as escapes."""
    data = DATA * len(paths)
    plain = {
        **json.loads(Sample("x", data).manifest),
        "files": [{"path": path, "size": len(DATA)} for path in sorted(paths)],
        "folders": sorted(folders),
        "kind": kind,
        "name": name,
    }
    text = json.dumps(plain, ensure_ascii=escaped, sort_keys=True, separators=(",", ":"))
    return Hostile("innocent", data, said=text.encode("utf-8", "surrogatepass"))


class Shelf(PlainPeer):
    """Shares many contents."""

    vice = "shelf"

    def __init__(self, samples: Sequence[Sample]) -> None:
        super().__init__(samples[0])
        self.samples = {sample.id: sample for sample in samples}

    async def on_manifest(self, talk: Talk, message: dict[str, Any]) -> None:
        await talk.say(
            {"ok": True, "seq": message.get("seq")}, self.samples[ContentId(message["id"])].manifest
        )

    async def on_have(self, talk: Talk, message: dict[str, Any]) -> None:
        if message["id"] not in talk.told:
            talk.told.add(message["id"])
            rest = {"all": True} if message["id"] in self.samples else {"none": True}
            await talk.say({"op": "have", "id": message["id"], **rest})

    def block(self, message: dict[str, Any]) -> bytes:
        start = message["piece"] * PIECE + message["offset"]
        return self.samples[ContentId(message["id"])].data[start : start + message["length"]]


@asynccontextmanager
async def shelf_of(swarm: Swarm, samples: Sequence[Sample]) -> AsyncIterator[None]:
    """A peer that has announced all of these, under harmless names."""
    shelf = Shelf(samples)
    await shelf.start()
    reader, writer = await asyncio.open_connection(swarm.address.host, swarm.address.port)
    try:
        contents = [
            {"id": sample.id, "name": "innocent", "size": len(sample.data), "have": len(sample.data)}
            for sample in samples
        ]
        who = {"peer": shelf.peer, "name": shelf.name, "listen": {"tcp": shelf.port}}
        parts = [contents[at : at + 50] for at in range(0, len(contents), 50)]
        messages: list[dict[str, Any]] = [{"op": "login", "user": "kit"}]
        messages += [{"op": "announce", **who, "contents": part} for part in parts]
        for message in messages:
            writer.write(encoded(message))
            answer = json.loads(await reader.readline())
            assert answer["ok"], answer
        yield
    finally:
        writer.close()
        await writer.wait_closed()
        await shelf.stop()


def everything(root: Path, but: Path) -> Iterator[str]:
    """Every path below `root` that is not below `but`."""
    for place, folders, files in os.walk(root):
        if Path(place) == but:
            folders.clear()
            continue
        yield from (os.path.join(place, name) for name in (*folders, *files))


def take_all(tmp_path: Path, samples: Sequence[Sample]) -> list[Downloaded | EnjambreError]:
    """Download each of these into a folder of its own, all at once, and check that nothing lies elsewhere.
    Return how each ended."""
    inside = tmp_path / "deep" / "er" / "out"
    inside.mkdir(parents=True)

    async def work() -> list[Downloaded | EnjambreError]:
        async with Swarm(tmp_path / "swarm") as swarm, shelf_of(swarm, samples):
            victim = await swarm.peer("victim")

            async def one(number: int, sample: Sample) -> Downloaded | EnjambreError:
                try:
                    return await victim.download(sample.id, inside / str(number))
                except EnjambreError as error:
                    return error

            async with hang_guard():
                return await asyncio.gather(*(one(number, sample) for number, sample in enumerate(samples)))

    before = set(everything(tmp_path, inside))
    tops = [set(os.listdir(place)) for place in (Path("/"), Path("/tmp"), Path.home())]
    results = contained(work)
    after = {path for path in everything(tmp_path, inside) if not path.startswith(str(tmp_path / "swarm"))}
    assert after == before
    for old, place in zip(tops, (Path("/"), Path("/tmp"), Path.home()), strict=True):
        assert not [name for name in set(os.listdir(place)) - old if OUTSIDE in name]
    for path in inside.rglob("*"):
        assert not path.is_symlink()
    return results


def may_be_refused(error: object) -> bool:
    """Whether a download ended as it must for an impossible name: its manifest is not valid."""
    return isinstance(error, EnjambreError) and error.code == "integrity"


@pytest.mark.parametrize("kind", ["name", "file", "path", "folder", "escaped"])
def test_case_41_no_name_of_a_hostile_sharer_leads_out_of_the_folder(tmp_path: Path, kind: str) -> None:
    """The name of a content, of its only file, of a file in it, of an empty folder in it."""
    assert len(NAMES) >= 60
    makers: dict[str, Callable[[str], Hostile]] = {
        "name": lambda name: hostile("folder", ["a"], name=name),
        "file": lambda name: hostile("file", [name], name=name),
        "path": lambda name: hostile("folder", [name, "plain"]),
        "folder": lambda name: hostile("folder", ["plain"], [name]),
        "escaped": lambda name: hostile("folder", [name], escaped=True),
    }
    results = take_all(tmp_path, [makers[kind](name) for name in NAMES])
    inside = tmp_path / "deep" / "er" / "out"
    for number, (name, result) in enumerate(zip(NAMES, results, strict=True)):
        place = inside / str(number)
        if isinstance(result, EnjambreError):
            assert may_be_refused(result), (name, result)
            assert not any(ord(char) < 0x20 or 0x7F <= ord(char) <= 0x9F for char in str(result))
            assert list(place.rglob("*")) == [] if place.exists() else True
        else:
            files = [path for path in place.rglob("*") if path.is_file()]
            assert files, name
            assert all(path.read_bytes() == DATA for path in files)
            assert [path.name for path in place.iterdir()] == [result.path.name]
            assert result.path.name[0] not in ".-~"
    assert sum(not isinstance(result, EnjambreError) for result in results) >= 5
    assert sum(isinstance(result, EnjambreError) for result in results) >= 30


COLLIDING = [
    ["README", "readme"], ["\u00e9", "e\u0301"], ["stra\u00dfe", "STRASSE"], ["\u00df", "SS"],
    ["\u212a", "k"], ["a", "a/b"], ["a:b", "a_b"],
    ["x.", "x_"], ["NUL", "_nul"], ["D/x", "d/y"], ["a", "a"],
]  # fmt: skip


def test_case_45_names_that_collide_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    results = take_all(tmp_path, [hostile("folder", paths) for paths in COLLIDING])
    assert all(map(may_be_refused, results)), results
    assert list((tmp_path / "deep" / "er" / "out").iterdir()) == []


# -- links that are planted


@pytest.mark.parametrize("where", ["", "d0", "d3"])
def test_case_41_a_link_that_replaces_a_folder_during_a_download_is_not_followed(
    tmp_path: Path, where: str
) -> None:
    """Another process downloads. The folder is swapped after the first block, when most files are not made
    yet."""
    sample = Tree.many("tree", 70, 10_000)
    out, outside = tmp_path / "out", tmp_path / "outside"
    for number in range(7):
        (outside / f"d{number}").mkdir(parents=True)
    before = sorted(outside.rglob("*"))

    async def work() -> str:
        gate = Gate(sample, 1)
        async with Swarm(tmp_path) as swarm, announced(swarm.address, gate):
            running = asyncio.create_task(download(swarm.address, sample.id, out, tmp_path / "s"))
            async with hang_guard():
                await gate.reached.wait()
            place = out / "tree.part" / where
            place.rename(tmp_path / "aside")
            place.symlink_to(outside / where if where else outside)
            gate.opened.set()
            said = disk_message(await running)
            place.unlink()
            (tmp_path / "aside").rename(place)
            assert fetched(await download(swarm.address, sample.id, out, tmp_path / "s")) > 0
            return said

    assert str(out / "tree.part") in contained(work)
    assert sorted(outside.rglob("*")) == before
    assert b"".join((out / "tree" / path).read_bytes() for path, _ in sample.files) == sample.data


@pytest.mark.parametrize("name", ["image.bin", "image.bin.part", "image.bin.part.manifest"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_case_41_a_link_that_lies_in_the_way_is_never_written_through(
    tmp_path: Path, name: str, overwrite: bool
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(victim)
    path = old_file(tmp_path / "image.bin", os.urandom(200_000))
    with (
        start_tracker(tmp_path) as tracker,
        start_peer(tmp_path, "share", str(path), tracker=tracker.address) as peer,
    ):
        content = peer.event("shared")["id"]
        words = ["download", content, "-o", str(tmp_path / "out"), *(["--overwrite"] if overwrite else [])]
        done = run_peer(tmp_path, *words, tracker=tracker.address)
        if overwrite and name == "image.bin":  # the link itself is what gives way
            assert done.code == 0, done.err
            assert not (tmp_path / "out" / name).is_symlink()
        else:
            assert name in disk_message(done)
    assert victim.read_bytes() == b"precious"
    assert not victim.is_symlink()


# -- modes


def test_case_48_with_no_umask_all_that_a_peer_keeps_for_itself_is_private(tmp_path: Path) -> None:
    path = old_file(tmp_path / "image.bin", os.urandom(200_000))
    state = tmp_path / "home" / "state" / "enjambre"
    open_umask = ("sh", "-c", 'umask 000; exec "$@"', "sh")
    with start_tracker(tmp_path) as tracker:
        for words in (["login", "alice"], ["upload", str(path), "--port", "0"]):
            line = [
                *open_umask,
                *command("peer"),
                words[0],
                "--json",
                "--tracker",
                tracker.address,
                *words[1:],
            ]
            assert run(line, clean_environment(state)).code in (0, 3)
    kept = [tmp_path / "home", *(tmp_path / "home").rglob("*")]
    assert len(kept) >= 6, kept  # three folders, the session, the folder of hashes and one in it
    for found in kept:
        assert stat.S_IMODE(found.stat().st_mode) == (0o700 if found.is_dir() else 0o600), found
    shutil.rmtree(tmp_path / "home")
