"""Containers of images that are built here, without a registry: the base image is a tree of a fresh Debian.

Containers get what the manifests give them: a read-only root, users that are not root, no capabilities. They are
removed by their ids, whatever became of them.
"""

import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import trio

from tests.deploy.debian import NATS_LOCK, PIP_CONFIG, ROOT, run
from tests.support.processes import Child, commanded, until

CONTAINERFILE = ROOT / "deploy" / "Containerfile"
IMAGE = "localhost/feedhandler"
NEXT_IMAGE = "localhost/feedhandler-next"
NATS_IMAGE = "localhost/feedhandler-nats"
NEXT_VERSION = "99.1.0"

NEXT = f"""\
FROM {IMAGE}
USER 0
RUN sed --in-place 's/^__version__ = .*/__version__ = "{NEXT_VERSION}"/' \
    /opt/feedhandler/lib/python3*/site-packages/feedhandler/__init__.py
USER 10001:10001
"""
"""The image of a release that differs in its version."""

PATIENCE_S = 30.0

CGROUPS = "umount --recursive /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; exec "
"""Gives the runtime the tree of control groups that it insists on, in a mount namespace of its own."""


class Container(NamedTuple):
    """A container that runs: what started it, and the file with the id of its first process."""

    child: Child
    pid_file: Path

    async def pid(self) -> int:
        """Return the id that its first process has on this machine."""
        await until(lambda: self.pid_file.exists() and self.pid_file.read_text() != "")
        return int(self.pid_file.read_text())


class Containers:
    """Images and containers, by podman with a storage of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count(1)
        self._storage = (
            "--root",
            folder / "storage",
            "--runroot",
            folder / "run",
            "--storage-driver",
            "overlay",
        )
        self._podman = ("podman", *self._storage, "--cgroup-manager", "cgroupfs", "--runtime", "crun")

    def build(self, tag: str, context: Path, *more: object) -> None:
        """Build an image, without a network."""
        run(
            "buildah",
            *self._storage,
            "build",
            "--quiet",
            "--isolation",
            "chroot",
            "--tag",
            tag,
            *more,
            context,
        )

    def command(self, image: str, *words: object, user: str, options: tuple[object, ...] = ()) -> list[str]:
        """Return the command that runs a container as the manifests say."""
        closed = (
            "--read-only",
            "--read-only-tmpfs=false",
            "--cap-drop",
            "all",
            "--security-opt",
            "no-new-privileges",
        )
        limits = ("--cgroups=disabled", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
        here = ("--network", "host", "--user", user)
        return self._within((*self._podman, "run", "--rm", *closed, *limits, *here, *options, image, *words))

    def _within(self, line: tuple[object, ...]) -> list[str]:
        return ["unshare", "--mount", "sh", "-c", f'{CGROUPS} "$@"', "sh", *map(str, line)]

    @contextmanager
    def started(self, log: Path, *arguments: object, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
        """Run a container beside the body, with a log; end it by SIGTERM afterwards."""
        files = self._files()
        options = (*files.options, *more.pop("options", ()))
        with log.open("wb") as file:
            process = subprocess.Popen(
                self.command(*arguments, options=options, **more), stdout=file, stderr=subprocess.STDOUT
            )
            try:
                yield process
            finally:
                process.terminate()
                try:
                    process.wait(PATIENCE_S)
                finally:
                    self._remove(files)

    @asynccontextmanager
    async def running(self, name: str, *arguments: object, **more: Any) -> AsyncIterator[Container]:
        """Run a container beside the body; it is called by a name where it fails."""
        files = self._files()
        options = (*files.options, *more.pop("options", ()))
        try:
            async with commanded(self.command(*arguments, options=options, **more), name) as child:
                yield Container(child, files.pid)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._remove, files)

    def _files(self) -> "_Files":
        number = next(self._numbers)
        return _Files(self._folder / f"{number}.id", self._folder / f"{number}.pid")

    def _remove(self, files: "_Files") -> None:
        """Remove a container, unless it is gone."""
        if files.id.exists():
            remove = (*self._podman, "rm", "--force", "--ignore", "--time", "0", files.id.read_text())
            run(*self._within(remove))


class _Files(NamedTuple):
    """Where the runtime writes down what it has started."""

    id: Path
    pid: Path

    @property
    def options(self) -> tuple[object, ...]:
        return ("--cidfile", self.id, "--pidfile", self.pid)


def build(made: Containers, fresh_debian: Path, wheel_folder: Path, folder: Path) -> None:
    """Build the base, the image, the one with the bridge and that of the next release."""
    base, pip, following = folder / "Base", folder / "pip.conf", folder / "Next"
    base.write_text("FROM scratch\nCOPY . /\n")
    pip.write_text(PIP_CONFIG)
    following.write_text(NEXT)
    made.build("localhost/base", fresh_debian, "--file", base)
    offline = ("--volume", f"{wheel_folder}:/wheels:ro", "--volume", f"{pip}:/etc/pip.conf:ro")
    options = ("--build-arg", "BASE=localhost/base", *offline, "--file", CONTAINERFILE)
    made.build(IMAGE, ROOT, *options)
    made.build(NATS_IMAGE, ROOT, *options, "--build-arg", f"REQUIREMENTS={NATS_LOCK.relative_to(ROOT)}")
    made.build(NEXT_IMAGE, folder, "--file", following)
