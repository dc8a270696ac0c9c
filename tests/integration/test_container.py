"""Tests of the container image: it is built without a network, and a tracker and two peers run from it.

The base is made of Debian packages and committed under the name `python:3.11-slim`, so that the Dockerfile is
built unchanged. It is kept in `${XDG_CACHE_HOME:-~/.cache}/enjambre-test`. Everything else is in the test's
own folder."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import pytest

from tests.kit.processes import check_stopped
from tests.kit.waiting import HANG_S, eventually

ROOT: Final = Path(__file__).parents[2]
BASE: Final = "docker.io/library/python:3.11-slim"
IMAGE: Final = "localhost/enjambre:test"
GRPC_IMAGE: Final = "localhost/enjambre:test-grpc"
SUITE: Final = "bookworm"
USER: Final = 10001

__test__ = sys.platform.startswith("linux")


def why_not() -> str:
    """The reason why no image can be built here, or an empty string."""
    if os.geteuid() != 0:
        return "building the image without a daemon needs root"
    missing = [tool for tool in ("buildah", "debootstrap") if shutil.which(tool) is None]
    return f"{' and '.join(missing)} missing (Debian packages of that name)" if missing else ""


pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "never"),
    pytest.mark.timeout(1300),  # the first test fetches packages, in up to three attempts
]


def fetched(words: Sequence[str], seconds: float, clear: Path) -> None:
    """Run a command that fetches packages, in up to three attempts of `seconds` each. The folder `clear` is
    removed before each attempt."""
    for tries_left in (2, 1, 0):
        shutil.rmtree(clear, ignore_errors=True)
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=seconds, check=False
            )
            output = (done.stdout + done.stderr)[-2000:]
            if done.returncode == 0:
                return
        except subprocess.TimeoutExpired:
            output = f"not done within {seconds:g} s"
        assert tries_left, f"{words[0]}: {output}"
        time.sleep(5)


def make_base() -> Path:
    """A tar file of a small Debian with Python, made once and kept. A lock serializes parallel test runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "enjambre-test"
    cache.mkdir(parents=True, exist_ok=True)
    kept = cache / f"base-{SUITE}-2.tar"
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if kept.exists():
            return kept
        folder, unfinished = cache / "base.new", cache / "base.new.tar"
        try:
            fetched(
                [
                    "debootstrap",
                    "--variant=minbase",
                    "--include=python3,python3-pip",
                    SUITE,
                    os.fspath(folder),
                ],
                400,
                folder,
            )
            for name in (
                "var/cache",
                "var/lib/apt",
                "usr/share/doc",
                "usr/share/man",
                "usr/share/locale",
                "usr/share/info",
            ):
                shutil.rmtree(folder / name, ignore_errors=True)
            with tarfile.open(unfinished, "w") as tar:
                tar.add(folder, ".", filter=lambda entry: None if entry.isdev() else entry)
            unfinished.rename(kept)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.unlink(missing_ok=True)
    return kept


@dataclass(slots=True)
class Service:
    """A command that runs from the image. `pid` is its process id on the host, `events` are its lines so
    far."""

    shell: subprocess.Popen[str]
    log: Path
    lines: IO[str]
    events: list[dict[str, Any]] = field(default_factory=list)
    pid: int = 0
    unfinished: str = ""

    def wait_for(self, name: str) -> dict[str, Any]:
        """The next event `name`. Fails when the command ends or hangs without it."""
        deadline = time.monotonic() + HANG_S
        ended = False
        while time.monotonic() < deadline and not ended:
            ended = self.shell.poll() is not None
            while line := self.lines.readline():
                self.unfinished += line
                if self.unfinished.endswith("\n"):
                    self.events.append(json.loads(self.unfinished))
                    self.unfinished = ""
                    if self.events[-1]["event"] == name:
                        return self.events[-1]
            time.sleep(0.02)
        pytest.fail(f"no event {name!r}; had {self.events}; standard error: {self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        """Send SIGTERM to the command itself, and check that it ends in time."""
        start = time.monotonic()
        os.kill(self.pid, signal.SIGTERM)
        self.shell.wait(HANG_S)
        check_stopped(time.monotonic() - start)


class Builder:
    """`buildah` with stores of its own in one folder, and the services started through it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tool = [
            "buildah",
            "--root",
            f"{folder}/store",
            "--runroot",
            f"{folder}/run",
            "--storage-driver",
            "vfs",
        ]
        self.services: list[Service] = []

    def call(self, *words: str, timeout: float = 300.0) -> str:
        done = subprocess.run(
            [*self.tool, *words],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
            cwd=self.folder,
        )
        assert done.returncode == 0, f"buildah {words[0]}: {(done.stdout + done.stderr)[-3000:]}"
        return done.stdout.strip()

    def build(self, tag: str, *flags: str) -> None:
        """Build the Dockerfile unchanged."""
        always = ["--isolation", "chroot", "--format", "docker", "--pull-never", "--layers=false"]
        self.call(
            "build", *always, *flags, "--tag", tag, "--file", os.fspath(ROOT / "Dockerfile"), os.fspath(ROOT)
        )

    def config(self, image: str) -> dict[str, Any]:
        """The image's configuration in Docker's form."""
        config = json.loads(self.call("inspect", "--type", "image", image))["Docker"]["config"]
        assert isinstance(config, dict)
        return config

    def run_words(
        self, container: str, words: Sequence[str], environment: dict[str, str], volumes: dict[Path, str]
    ) -> list[str]:
        options = [f"--env={key}={value}" for key, value in environment.items()]
        options += [f"--volume={source}:{target}" for source, target in volumes.items()]
        return [*self.tool, "run", "--isolation", "chroot", *options, container, "--", *words]

    def start(
        self,
        words: Sequence[str],
        environment: dict[str, str] | None = None,
        volumes: dict[Path, str] | None = None,
        image: str = IMAGE,
    ) -> tuple[str, Service]:
        """Run the image's entry point with `words` in a new container. Returns the container and the
        service."""
        container = self.call("from", "--pull-never", image)
        out, log = self.folder / f"{container}.out", self.folder / f"{container}.err"
        command = self.run_words(
            container, [*self.config(image)["Entrypoint"], *words], environment or {}, volumes or {}
        )
        with open(out, "w") as stdout, open(log, "w") as stderr:
            shell = subprocess.Popen(
                command, stdout=stdout, stderr=stderr, stdin=subprocess.DEVNULL, text=True
            )
        service = Service(shell, log, open(out))  # noqa: SIM115 - closed by close()
        self.services.append(service)

        def started() -> bool:
            service.pid = next((pid for pid in reversed(descendants(shell.pid)) if real_user(pid) == USER), 0)
            return service.pid != 0 or shell.poll() is not None

        eventually(started, "a process of the image's user")
        return container, service

    def finish(
        self, container: str, words: Sequence[str], environment: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run `words` inside a container to their end."""
        command = self.run_words(container, words, environment, {})
        return subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=HANG_S, check=False
        )

    def end_services(self) -> None:
        """Kill all services that still run."""
        services, self.services = self.services, []
        for service in services:
            if service.shell.poll() is None:
                for pid in (*descendants(service.shell.pid), service.shell.pid):
                    kill(pid)
            service.shell.wait(HANG_S)
            service.lines.close()

    def close(self) -> None:
        """Kill all services and remove the containers."""
        self.end_services()
        self.call("rm", "--all")


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, deepest first."""
    found: list[int] = []
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        for child in [int(word) for thread in threads for word in (thread / "children").read_text().split()]:
            found += [*descendants(child), child]
    except OSError:
        return found
    return found


def real_user(pid: int) -> int:
    """The user id of a process; -1 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return -1
    return int(next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1])


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    folder = tmp_path_factory.mktemp("images")
    made = Builder(folder)
    try:
        base = made.call("from", "--pull-never", "scratch")
        made.call("add", "--quiet", base, os.fspath(make_base()), "/")
        made.call("commit", "--quiet", "--rm", base, BASE)
        made.build(IMAGE)
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _services_end(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    builder: Builder = request.getfixturevalue("builder")
    builder.end_services()


def test_the_image_declares_user_ports_volumes_and_health_check(builder: Builder) -> None:
    config = builder.config(IMAGE)
    assert config["User"] == f"{USER}:{USER}"
    assert set(config["ExposedPorts"]) == {"6969/tcp", "6970/tcp", "6971/tcp"}
    assert set(config["Volumes"]) == {"/state", "/share"}
    assert config["StopSignal"] in {"SIGTERM", "15"}
    assert config["Healthcheck"]["Test"][-1] == "/opt/enjambre/deploy/healthcheck.py"


def test_the_image_has_the_program_and_nothing_else_of_the_checkout(builder: Builder) -> None:
    container = builder.call("from", "--pull-never", IMAGE)
    listed = builder.finish(
        container, ["find", "/opt/enjambre", "-mindepth", "1", "-maxdepth", "2"], {}
    ).stdout.split()
    names = {line.removeprefix("/opt/enjambre/") for line in listed}
    assert {"p2p", "transports", "protos", "bin", "bin/tracker", "bin/peer", "deploy/healthcheck.py"} <= names
    assert not {"tests", "docs", "bench", ".git", "deploy/user-data.sh"} & names
    written = builder.finish(
        container, ["sh", "-c", "touch /opt/enjambre/x || touch /opt/enjambre/bin/peer"], {}
    )
    assert written.returncode != 0, "the service's user must not be able to change the program"


def test_a_first_word_that_is_not_our_command_is_run_unchanged(builder: Builder) -> None:
    container = builder.call("from", "--pull-never", IMAGE)
    entry = builder.config(IMAGE)["Entrypoint"]
    assert builder.finish(container, [*entry, "id", "-u"], {}).stdout.strip() == str(USER)


@pytest.fixture(scope="module")
def grpc_image(builder: Builder) -> str:
    """The image with the gRPC extra. Its packages are fetched here, because the build has no network."""
    wheels = builder.folder / "wheels"
    with (ROOT / "pyproject.toml").open("rb") as file:
        wanted = tomllib.load(file)["project"]["optional-dependencies"]["grpc"]
    words = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary=:all:",
    ]
    words += ["--python-version", "3.11", "--dest", os.fspath(wheels), *wanted]
    fetched(words, 200, wheels)
    offline = [
        "--build-arg=PIP_NO_INDEX=1",
        "--build-arg=PIP_FIND_LINKS=/wheels",
        f"--volume={wheels}:/wheels:ro",
    ]
    builder.build(GRPC_IMAGE, "--build-arg=TRANSPORT=grpc", *offline)
    return GRPC_IMAGE


def test_the_grpc_image_sends_over_grpc_and_to_the_plain_image_over_tcp(
    builder: Builder, grpc_image: str, tmp_path: Path
) -> None:
    data = random.Random(8).randbytes(3_000_000)
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / "lecture.bin").write_bytes(data)
    (tmp_path / "share" / "lecture.bin").chmod(0o644)
    _, tracker = builder.start(["tracker", "--json", "--host", "127.0.0.1", "--port", "0"], image=grpc_image)
    here = {"P2P_HOST": "127.0.0.1", "P2P_TRACKER": f"127.0.0.1:{tracker.wait_for('listening')['port']}"}
    _, seed = builder.start(
        ["peer", "--json", "serve", "/share", "--port", "0"], here, {tmp_path / "share": "/share"}, grpc_image
    )
    assert set(seed.wait_for("listening")["transports"]) == {"tcp", "grpc"}
    seed.wait_for("shared")
    for image, way in ((grpc_image, "grpc"), (IMAGE, "tcp")):
        target = tmp_path / way
        target.mkdir()
        os.chown(target, USER, USER)
        words = ["peer", "--json", "download", "lecture.bin", "--port", "0", "-o", "/share"]
        _, fetching = builder.start(words, here, {target: "/share"}, image)
        assert set(fetching.wait_for("done")["bytes_by"]) == {way}
        assert (target / "lecture.bin").read_bytes() == data
        assert fetching.shell.wait(HANG_S) == 0
    for service in (seed, tracker):
        service.stop()


def test_a_tracker_and_two_peers_from_the_image_move_a_file(builder: Builder, tmp_path: Path) -> None:
    data = random.Random(7).randbytes(3_000_000)
    share, target = tmp_path / "share", tmp_path / "target"
    for folder in (share, target):
        folder.mkdir()
        os.chown(folder, USER, USER)
    (share / "lecture.bin").write_bytes(data)
    (share / "lecture.bin").chmod(0o644)

    tracker_box, tracker = builder.start(["tracker", "--json", "--host", "127.0.0.1", "--port", "0"])
    port = str(tracker.wait_for("listening")["port"])
    here = {"P2P_HOST": "127.0.0.1", "P2P_TRACKER": f"127.0.0.1:{port}"}
    seed_box, seed = builder.start(
        ["peer", "--json", "serve", "/share", "--port", "0"], here, {share: "/share"}
    )
    seed_port = str(seed.wait_for("listening")["port"])
    seed.wait_for("shared")

    words = ["peer", "--json", "download", "lecture.bin", "--port", "0", "-o", "/share"]
    _, fetching = builder.start(words, here, {target: "/share"})
    done = fetching.wait_for("done")
    assert fetching.shell.wait(HANG_S) == 0
    assert done["size"] == len(data)
    assert (target / "lecture.bin").read_bytes() == data
    assert (target / "lecture.bin").stat().st_uid == USER

    check = builder.config(IMAGE)["Healthcheck"]["Test"][1:]
    for box, service, its_port in ((seed_box, seed, seed_port), (tracker_box, tracker, port)):
        asked = {"P2P_HOST": "127.0.0.1", "P2P_PORT": its_port}
        well = builder.finish(box, check, asked)
        assert well.returncode == 0, well.stderr
        service.stop()
        gone = builder.finish(box, check, asked)
        assert gone.returncode != 0
        assert "not well" in gone.stderr
