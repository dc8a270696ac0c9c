"""Fuzz every parser: guided by coverage where atheris is installed, else by plain seeded mutation.

    python tests/fuzz/run.py --seconds 60 [TARGET…]    inputs with a finding go to tests/fuzz/found/TARGET/
    python tests/fuzz/run.py --seconds 60 --keep       the smallest inputs that reach as much code as all do
                                                       go to tests/fuzz/corpus/TARGET/

The exit code is 1 if there was a finding. Each coverage-guided target runs in a process of its own, one after
the other.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import random
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

WORK: Final = ROOT / ".fuzz"
"""Inputs that reached new code in any run; not in the tree."""
MOST_KEPT: Final = 50
LARGEST_KEPT: Final = 4096
MEMORY: Final = 1024
"""MiB of memory that are a finding; instrumented code and its tables need a few hundred."""

_STATUS: Final = re.compile(r"#(\d+)\s+(INITED|DONE|NEW|REDUCE|pulse)\s+cov: (\d+) ft: (\d+) corp: (\d+)")
_COUNT: Final = re.compile(r"stat::number_of_executed_units:\s+(\d+)")


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzz the targets asked for, and print a line for each."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["--inside"]:
        return _inside(given[1], given[2:])
    parser = argparse.ArgumentParser(description="Fuzz every parser of this program.")
    parser.add_argument("targets", nargs="*", help="which targets; none: all")
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long in all (default: 60)")
    parser.add_argument(
        "--seed",
        type=int,
        default=None,
        help="seed of the mutations (default: a random one, which is printed)",
    )
    parser.add_argument("--keep", action="store_true", help="keep the best inputs in the tree afterwards")
    parser.add_argument(
        "--plain",
        action="store_true",
        help="mutate without coverage, even if atheris is installed",
    )
    words = parser.parse_args(given)
    from tests.fuzz.targets import TARGETS

    unknown = [name for name in words.targets if name not in TARGETS]
    if unknown:
        parser.error(f"not known: {', '.join(unknown)}; targets are {', '.join(TARGETS)}")
    names = words.targets or list(TARGETS)
    seed = words.seed if words.seed is not None else random.SystemRandom().randrange(1, 1 << 31)
    guided = not words.plain and importlib.util.find_spec("atheris") is not None
    how = "guided by coverage (atheris)" if guided else "by plain mutation (atheris is not installed)"
    print(f"{len(names)} targets, {words.seconds:g} s in all, seed {seed}, {how}", flush=True)
    each = words.seconds / len(names)
    broken = [
        name for name in names if not (_guided(name, each, seed) if guided else _plain(name, each, seed))
    ]
    if words.keep:
        for name in names:
            _keep(name)
    if broken:
        print(
            f"findings in {', '.join(broken)}; the inputs are in tests/fuzz/found/",
            file=sys.stderr,
        )
    return 1 if broken else 0


# -- guided


def _inside(name: str, arguments: list[str]) -> int:
    """The process of one target (`--inside NAME` and libFuzzer's options): instruments the code, then runs
    libFuzzer, which ends the process."""
    import atheris

    with atheris.instrument_imports(include=["p2p", "transports"]):
        from tests.fuzz.targets import TARGETS
    atheris.Setup([sys.argv[0], *arguments], TARGETS[name].run)
    atheris.Fuzz()
    return 0


def _guided(name: str, seconds: float, seed: int) -> bool:
    """Fuzz one target in a process of its own. Returns whether it found nothing."""
    from tests.fuzz.target import CORPUS, FOUND, TOKENS
    from tests.fuzz.targets import TARGETS

    target, pool = TARGETS[name], WORK / name
    pool.mkdir(parents=True, exist_ok=True)
    (FOUND / name).mkdir(parents=True, exist_ok=True)
    for data in target.seeds():
        _store(pool, data)
    words = WORK / "tokens.dict"
    words.write_text(
        "".join('"' + "".join(f"\\x{byte:02x}" for byte in token) + '"\n' for token in TOKENS),
        encoding="ascii",
    )
    kept = [str(path) for path in (CORPUS / name, FOUND / name) if path.is_dir()]
    options = {
        "max_total_time": max(1, round(seconds)),
        "max_len": target.length,
        "seed": seed,
        "timeout": 10,
        "rss_limit_mb": MEMORY,
        "print_final_stats": 1,
        "dict": words,
        "artifact_prefix": f"{FOUND / name}{os.sep}",
    }
    command = [
        sys.executable,
        __file__,
        "--inside",
        name,
        *(f"-{key}={value}" for key, value in options.items()),
        str(pool),
        *kept,
    ]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    text = done.stdout.decode("utf-8", "replace")
    rows = _STATUS.findall(text)
    counted = _COUNT.findall(text)
    first = next((row for row in rows if row[1] == "INITED"), rows[0] if rows else ("0", "", "0", "0", "0"))
    last = rows[-1] if rows else first
    runs = int(counted[-1]) if counted else int(last[0])
    print(
        f"{name:16} {runs:>10,} runs   coverage {first[2]} to {last[2]}   features {first[3]} to {last[3]}   "
        f"{last[4]} inputs",
        flush=True,
    )
    _tidy(FOUND / name)
    if done.returncode:
        print(text[-6000:], file=sys.stderr)
    return done.returncode == 0


def _tidy(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()


# -- plain


def _plain(name: str, seconds: float, seed: int) -> bool:
    """Fuzz one target without coverage, in this process. Returns whether it found nothing."""
    from tests.fuzz import mutate
    from tests.fuzz.target import FOUND
    from tests.fuzz.targets import TARGETS

    last = [b""]
    try:
        count = mutate.run(TARGETS[name], seconds, seed, each=lambda data: last.__setitem__(0, data))
    except Exception:  # noqa: BLE001 (every exception is a finding)
        traceback.print_exc()
        path = _store(FOUND / name, last[0])
        print(f"{name:16} found {path}", flush=True)
        return False
    print(f"{name:16} {count:>10,} runs", flush=True)
    return True


# -- what is kept


def _keep(name: str) -> None:
    """Keep those inputs of a target, smallest first, that reach code which no smaller one reaches."""
    from tests.fuzz.target import CORPUS
    from tests.fuzz.targets import TARGETS

    target, kept = TARGETS[name], CORPUS / name
    paths = [path for folder in (WORK / name, kept) if folder.is_dir() for path in folder.iterdir()]
    inputs = sorted(
        {data for path in paths if len(data := path.read_bytes()) <= LARGEST_KEPT},
        key=lambda data: (len(data), data),
    )
    reached = {data: _reached(target.run, data) for data in inputs}
    known: set[tuple[str, int, int]] = set()
    chosen = []
    for data in inputs:
        if not reached[data] <= known:
            known |= reached[data]
            chosen.append(data)
    # A second pass from the other end drops the inputs whose code a larger one reaches too.
    for data in reversed(list(chosen)):
        rest = set[tuple[str, int, int]]().union(*(reached[other] for other in chosen if other is not data))
        if reached[data] <= rest:
            chosen.remove(data)
    chosen = sorted(chosen, key=lambda data: len(reached[data]), reverse=True)[:MOST_KEPT]
    shutil.rmtree(kept, ignore_errors=True)
    for data in chosen:
        _store(kept, data)
    print(
        f"{name:16} {len(inputs)} inputs, {len(chosen)} kept, {sum(map(len, chosen)):,} bytes, "
        f"{len(known)} steps from line to line"
    )


def _reached(run: Any, data: bytes) -> set[tuple[str, int, int]]:
    """The pairs of lines in our files that run one after the other for an input."""
    found: set[tuple[str, int, int]] = set()

    def follow(frame: FrameType, event: str, _: Any) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith((f"{ROOT}/p2p", f"{ROOT}/transports")):
            return None
        before = -frame.f_code.co_firstlineno

        def line(inner: FrameType, event: str, _: Any) -> Any:
            nonlocal before
            if event == "line":
                found.add((name, before, inner.f_lineno))
                before = inner.f_lineno
            return line

        return line

    sys.settrace(follow)
    try:
        run(data)
    finally:
        sys.settrace(None)
    return found


def _store(folder: Path, data: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.blake2b(data, digest_size=8).hexdigest()
    path.write_bytes(data)
    return path


if __name__ == "__main__":
    began = time.monotonic()
    code = main()
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(code)
