"""Two daemons at one socket in one process, on one stage: the active one, its standby, and a consumer that stays.

A daemon is **killed** as SIGKILL does it: its sockets end where they are, behind what the kernel has taken; nobody says
goodbye, nothing is wiped out of the lock's file, and the lock is free.
"""

import json
import os
import socket
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from feedhandler.config import Standby
from feedhandler.core.notes import Note
from feedhandler.daemon import Daemon
from tests.support.stage import Stage, staged

RETRY_S = 0.01


class Survivor:
    """A consumer of everything from the first seq on: it comes back where it was, whoever serves the socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.sessions: list[str] = []
        self.sequences: defaultdict[str, list[bytes]] = defaultdict(list)
        self.marks: list[dict[str, Any]] = []
        self.byes: list[str] = []
        self.seqs: dict[str, int] = {}
        self.outages_s: list[float] = []
        """From the end of each connection to the next one."""
        self.silences_s: list[float] = []
        """From the last event before the end of each connection to the first one behind it."""
        self.records: list[dict[str, Any]] = []
        self.count = 0
        self._last_s = 0.0
        self._is_back = False

    async def run(self) -> None:
        """Read until cancelled."""
        left = None
        while True:
            try:
                stream = await trio.open_unix_socket(os.fspath(self._path))
            except OSError:
                await trio.sleep(RETRY_S)
                continue
            if left is not None:
                self.outages_s.append(trio.current_time() - left)
                self._is_back = True
            async with stream:
                await self._read(stream)
            left = trio.current_time()

    async def _read(self, stream: trio.SocketStream) -> None:
        rest = b""
        while True:
            try:
                data = await stream.receive_some(1_000_000)
            except trio.BrokenResourceError:
                return
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                record = json.loads(line)
                if record["type"] == "hello":
                    await self._subscribe(stream, record)
                else:
                    self._take(record, line)

    async def _subscribe(self, stream: trio.SocketStream, hello: dict[str, Any]) -> None:
        session = hello["session"]
        if self.sessions[-1:] != [session]:
            self.sessions.append(session)
            self.seqs.clear()
        seqs = dict.fromkeys(hello["channels"], 0) | self.seqs
        wish = {"op": "subscribe", "channels": ["*"], "resume": {"session": session, "seq": seqs}}
        try:
            await stream.send_all(json.dumps(wish).encode() + b"\n")
        except trio.BrokenResourceError:
            return

    def _take(self, record: dict[str, Any], line: bytes) -> None:
        if "seq" in record and record.get("reason") != "join":
            assert record["seq"] == self.seqs.get(record["channel"], 0) + 1, record
            self.seqs[record["channel"]] = record["seq"]
            self.records.append(record)
        if record["type"] == "event":
            self.sequences[record["channel"]].append(line[line.index(b',"msg":') + 7 : -1])
            self.count += 1
            now = trio.current_time()
            if self._is_back:
                self.silences_s.append(now - self._last_s)
            self._last_s, self._is_back = now, False
        if record["type"] in {"gap", "refused", "error"} or record.get("class"):
            self.marks.append(record)
        if record["type"] == "bye":
            self.byes.append(record["reason"])


class Couple:
    """The stage, and who runs on it."""

    def __init__(self, stage: Stage, nursery: trio.Nursery) -> None:
        self.stage = stage
        self._nursery = nursery
        self.survivor = Survivor(stage.config.publish.socket)
        self.notes: list[tuple[float, Note]] = []
        self._scopes: dict[Daemon, trio.CancelScope] = {}
        self.standby: Daemon | None = None

    def _note(self, one: Note) -> None:
        self.notes.append((trio.current_time(), one))

    def named(self, name: str) -> list[dict[str, Any]]:
        """Return the fields of the notes of a name, whoever made them."""
        return [one.fields for _, one in self.notes if one.name == name]

    async def start(self, *, standby: bool = False) -> Daemon:
        """Start a daemon."""
        stage = self.stage
        daemon = Daemon(stage.config, stage.environ, self._note, standby=standby, load=stage.read)
        scope = self._scopes[daemon] = trio.CancelScope()
        await self._nursery.start(self._run, daemon, scope)
        if standby:
            self.standby = daemon
        else:
            self.stage.daemon = daemon
        return daemon

    async def _run(
        self,
        daemon: Daemon,
        scope: trio.CancelScope,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        with scope:
            await daemon.run(task_status=task_status)

    def kill(self, daemon: Daemon) -> None:
        """Let a daemon be gone at once."""
        publisher = daemon.publisher
        for consumer in publisher.connected():
            consumer._sock.shutdown(socket.SHUT_RDWR)
        publisher.lock.release()
        self._scopes[daemon].cancel()

    def is_ready(self) -> bool:
        """Tell whether the active daemon knows that its standby is ready, and the standby that it does."""
        heard = self.standby is None or not self.standby.standby_reasons()
        return self.stage.daemon.publisher.precedence.ready and heard

    async def until_ready(self) -> None:
        """Let the exchange broadcast until the standby is ready."""
        await self.stage.talk_until(self.is_ready)

    def promote(self) -> Daemon:
        """Take the standby for the active daemon."""
        assert self.standby is not None
        self.stage.daemon, self.standby = self.standby, None
        return self.stage.daemon

    async def arrived(self) -> None:
        """Wait until the consumer has as many events as were broadcast, or clearly will not get them."""
        with trio.move_on_after(10):
            while sum(map(len, self.survivor.sequences.values())) < self.stage.exchange.broadcasts:
                await trio.sleep(0.05)

    def assert_exact(self) -> None:
        """Assert that the consumer has what the exchange has broadcast, byte for byte, in one session."""
        truth, got = self.stage.truth, self.survivor.sequences
        assert {name: len(events) for name, events in got.items()} == {
            name: len(events) for name, events in truth.items()
        }
        assert got == truth
        assert self.survivor.marks == []
        assert len(self.survivor.sessions) == 1


@asynccontextmanager
async def coupled(
    folder: Path, *, standby: bool = True, standby_section: Standby | None = None, **options: Any
) -> AsyncIterator[Couple]:
    """Raise the curtain: an active daemon, and unless told otherwise a standby that is ready."""
    options["standby"] = standby_section or Standby()
    async with staged(folder, runs=False, **options) as stage, trio.open_nursery() as nursery:
        couple = Couple(stage, nursery)
        await couple.start()
        nursery.start_soon(couple.survivor.run)
        await stage.until(stage.all_connected)
        await stage.until(stage.all_synchronised)
        await stage.talk_until(stage.all_up)
        if standby:
            await couple.start(standby=True)
            await couple.until_ready()
        yield couple
        nursery.cancel_scope.cancel()
