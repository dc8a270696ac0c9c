#!/usr/bin/env python3
"""Makes transfer_pb2.py, its types and transfer_pb2_grpc.py from transfer.proto, or with `--check` only says
if they are current.

To be run with the oldest grpcio-tools that the extra `grpc` allows: what that makes works with every later
grpcio and protobuf, while what a later one makes refuses to be loaded by older ones. `make protos` finds the
right one.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCE: Final = "protos/transfer.proto"
MADE: Final = ("protos/transfer_pb2.py", "protos/transfer_pb2.pyi", "protos/transfer_pb2_grpc.py")


def oldest() -> str:
    """The oldest grpcio that pyproject.toml allows."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        requirements: list[str] = tomllib.load(file)["project"]["optional-dependencies"]["grpc"]
    return (
        next(one for one in requirements if one.startswith("grpcio>=")).partition(">=")[2].partition(",")[0]
    )


def main() -> int:
    """Returns 0, 1 when something is not current, 2 when it cannot be made here."""
    wanted = oldest()
    try:
        found = version("grpcio-tools")
    except PackageNotFoundError:
        found = "none"
    if found != wanted:
        print(
            f"this needs grpcio-tools {wanted}, and {found} is installed here; use `make protos`",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory() as name:
        outputs = [f"--{kind}_out={name}" for kind in ("python", "pyi", "grpc_python")]
        subprocess.run(
            [sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, SOURCE], cwd=ROOT, check=True
        )
        stale = [
            path
            for path in MADE
            if not (ROOT / path).is_file() or (ROOT / path).read_bytes() != Path(name, path).read_bytes()
        ]
        if "--check" not in sys.argv[1:]:
            for path in stale:
                (ROOT / path).write_bytes(Path(name, path).read_bytes())
            return 0
    for path in stale:
        print(f"{path} is not what {SOURCE} makes; run `make protos`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
