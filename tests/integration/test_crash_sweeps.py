"""A download that is killed at any call that touches the disk (case 50): the old state or the new, and never
a wrong byte."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.crashing import (
    BLOCK,
    Point,
    Swarm,
    Tree,
    chosen,
    killed,
    pieces_asked,
    points_of,
    share,
    tree_of,
)
from tests.kit.power_cut import power_cut
from tests.kit.processes import old_file

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL is a thing of POSIX")

PIECES = 40
FILE = random.Random(1).randbytes(PIECES * BLOCK - 777)
FOLDER: Tree = {
    "empty": None,
    "deep": None,
    "deep/er": None,
    "deep/er/none": b"",
    **{f"deep/er/{number:02d}": random.Random(number).randbytes(number * 1999) for number in range(1, 13)},
    "big": random.Random(2).randbytes(36 * BLOCK + 5),
}
OLD_FOLDER: Tree = {"deep": None, "deep/er": None, "deep/er/03": b"old", "big": b"older"}
MANY: Tree = {f"{number:03d}": random.Random(number).randbytes(number % 700) for number in range(300)}


def make(path: Path, tree: Tree) -> None:
    """Write a tree to disk, with old times of change."""
    for name, data in tree.items():
        if data is None:
            (path / name).mkdir(parents=True, exist_ok=True)
        else:
            old_file(path / name if name else path, data)


@dataclass(frozen=True)
class Scenario:
    """What is downloaded, and the old target."""

    name: str
    new: Tree
    old: Tree | None = None
    points: int = 14

    @property
    def size(self) -> int:
        """Bytes of the content."""
        return sum(len(data or b"") for data in self.new.values())


SCENARIOS = {
    "file": Scenario("image.bin", {"": FILE}),
    "folder": Scenario("tree", FOLDER),
    "many": Scenario("many", MANY, points=10),
    "file-over-old": Scenario("image.bin", {"": FILE}, {"": b"what stood here before" * 99}),
    "folder-over-old": Scenario("tree", FOLDER, OLD_FOLDER),
}


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    folder = tmp_path_factory.mktemp("swarm")
    for scenario in SCENARIOS.values():
        make(folder / "share" / scenario.name, scenario.new)
    names = sorted({scenario.name for scenario in SCENARIOS.values()})
    with share(folder, *(folder / "share" / name for name in names)) as made:
        yield made


@pytest.mark.parametrize("which", SCENARIOS)
def test_case_50_a_download_killed_at_any_call_resumes(tmp_path: Path, swarm: Swarm, which: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    scenario = SCENARIOS[which]
    points = chosen(points_of(undisturbed(tmp_path, swarm, scenario)), scenario.points, random.Random(seed))
    with ThreadPoolExecutor(3) as threads:
        outcomes = list(
            threads.map(lambda point: crash_at(tmp_path / str(point), swarm, scenario, point), points)
        )
    wasted = [again for again in outcomes if again is not None]
    print(
        f"{len(wasted)} of {len(points)} points, fetched again: at most {max(wasted)} bytes, "
        f"{sum(wasted) / len(wasted):.0f} in the mean"
    )
    assert len(wasted) >= 0.9 * len(points), (
        "too many runs did not come by the call where they should have died"
    )


def undisturbed(folder: Path, swarm: Swarm, scenario: Scenario) -> Path:
    """Run once to the end; returns the log of all calls."""
    out, log = folder / "whole" / "out", folder / "whole.log"
    words = prepared(out, swarm, scenario)
    ended = swarm.launch(words, out, log)
    assert ended.code == 0, ended.err
    assert tree_of(out / scenario.name) == scenario.new
    return log


def prepared(out: Path, swarm: Swarm, scenario: Scenario, *more: str) -> list[str]:
    """The arguments of the download, with the old target written."""
    out.parent.mkdir()
    if scenario.old is not None:
        make(out / scenario.name, scenario.old)
    return swarm.words(scenario.name, out, *(["--overwrite"] if scenario.old is not None else []), *more)


def crash_at(place: Path, swarm: Swarm, scenario: Scenario, point: Point) -> int | None:
    """Kill a download at a point, and run it again; returns the bytes that were fetched twice, or None if the
    point was not reached."""
    out, trace = place / "out", place / "trace"
    words = prepared(out, swarm, scenario)
    first = swarm.launch([*words, "--trace", str(trace)], out, place / "log", point)
    if not killed(first):
        assert first.code == 0, f"{point}: {first.err}"
        return None
    target = out / scenario.name
    between, missing = tree_of(target), scenario.size - survived(out, scenario)
    if between is None and scenario.old is not None:
        assert target.suffix == "", f"{point}: a file must never be missing"
        aside = list(out.glob("*.old.part"))
        assert [tree_of(path) for path in aside] == [scenario.old], (
            f"{point}: the old folder is neither here nor beside"
        )
    else:
        assert between in (scenario.new, scenario.old), f"{point}: {between}"

    whole = between == scenario.new
    ended = whole and not list(out.glob("*.part.manifest"))
    again = swarm.plain(words)
    if ended and scenario.old is None:
        # The download had ended, and this is a second one of what is there already.
        assert again.code == 7, f"{point}: {again.err}"
    else:
        assert again.code == 0, f"{point}: {again.err}"
    if not ended:
        fetched = sum(again.event("done")["bytes_from"].values())
        assert fetched <= (0 if whole else missing), (
            f"{point}: {fetched} bytes were fetched, {missing} were missing"
        )
    assert tree_of(target) == scenario.new, str(point)
    assert [path.name for path in out.iterdir()] == [scenario.name], str(point)
    asked = sum(min(BLOCK, scenario.size - piece * BLOCK) for piece in pieces_asked(trace))
    return 0 if whole else max(asked + missing - scenario.size, 0)


def survived(out: Path, scenario: Scenario) -> int:
    """Bytes of the pieces of the part that are right."""
    part = tree_of(out / f"{scenario.name}.part") or {}
    files = [(name, data) for name, data in sorted(scenario.new.items()) if data]
    whole = b"".join(data for _, data in files)
    found = b"".join((part.get(name) or b"").ljust(len(data), b"\0")[: len(data)] for name, data in files)
    starts = range(0, len(whole), BLOCK)
    return sum(
        len(whole[at : at + BLOCK]) for at in starts if whole[at : at + BLOCK] == found[at : at + BLOCK]
    )


@pytest.mark.parametrize("which", SCENARIOS)
def test_case_50_a_power_cut_at_any_call_leaves_the_old_state_or_the_new(
    tmp_path: Path, swarm: Swarm, which: str
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    scenario, rng = SCENARIOS[which], random.Random(seed)
    points = [point for point in points_of(undisturbed(tmp_path, swarm, scenario)) if point.when == "after"]
    tried = [(point, rng.randrange(2**32)) for point in chosen(points, scenario.points // 2, rng)]
    with ThreadPoolExecutor(3) as threads:
        list(
            threads.map(
                lambda one: power_cut_at(tmp_path / str(one[0]), swarm, scenario, one[0], one[1]), tried
            )
        )


def power_cut_at(place: Path, swarm: Swarm, scenario: Scenario, point: Point, seed: int) -> None:
    """Kill a download at a point, lose what was not synced, and run it again."""
    out, save = place / "out", place / "save"
    words = prepared(out, swarm, scenario)
    save.mkdir()
    first = swarm.launch(words, place, place / "log", point, save)
    assert killed(first) or first.code == 0, f"{point}: {first.err}"
    rng = random.Random(seed)
    power_cut(place / "log", [out, save], rng, worst=rng.choice(("", "", "all", "bytes")))
    between = tree_of(out / scenario.name)
    if first.code == 0:
        assert between == scenario.new, f"{point}: it said it was done, and a power cut took it away"
    elif between is None and scenario.old is not None:
        assert [tree_of(path) for path in out.glob("*.old.part")] == [scenario.old], (
            f"{point}: the old folder is neither here nor beside"
        )
    else:
        assert between in (scenario.new, scenario.old), f"{point}: {between}"
    ended = between == scenario.new and not list(out.glob("*.part.manifest"))
    again = swarm.plain(words)
    expected = 7 if ended and scenario.old is None else 0  # 7: a second download of what is there already
    assert again.code == expected, f"{point}: {again.err}"
    assert tree_of(out / scenario.name) == scenario.new, str(point)
    assert [path.name for path in out.iterdir()] == [scenario.name], str(point)


@pytest.mark.parametrize("which", SCENARIOS)
def test_case_50_what_a_download_called_done_outlives_a_power_cut(
    tmp_path: Path, swarm: Swarm, which: str
) -> None:
    scenario = SCENARIOS[which]
    out, save = tmp_path / "deep" / "er" / "out", tmp_path / "save"
    save.mkdir()
    if scenario.old is not None:
        make(out / scenario.name, scenario.old)
    words = swarm.words(scenario.name, out, "--overwrite")
    assert swarm.launch(words, tmp_path, tmp_path / "log", None, save).code == 0
    power_cut(tmp_path / "log", [tmp_path / "deep", save], random.Random(1), worst="all")
    assert tree_of(out / scenario.name) == scenario.new
