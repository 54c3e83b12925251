# ruff: noqa: ARG001 - the clock works by being asked for
"""What systemd hears, on a datagram socket of the test, while the daemon runs against a simulated exchange."""

import errno
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from feedhandler.config import Bounds, Feed, Health
from feedhandler.core.notes import Note, note
from feedhandler.ingest.tcp import TcpStream
from feedhandler.observe.manager import BEATS
from feedhandler.observe.systemd import (
    LOOK_S,
    NAME_CHARACTERS,
    PENDING_S,
    STILL_S,
    Systemd,
    fan_out,
    status,
)
from feedhandler.publish.consumer import Consumer
from feedhandler.simulator.settings import Behaviour
from tests.standby.couple import coupled
from tests.support.stage import BTC, ETH, Stage, raw_consumer, staged

WATCHDOG_S = 30.0
REFUSED = 1
"""A port where nobody listens."""


class Ear:
    """What systemd would hear."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._heard: list[dict[str, str]] = []

    def heard(self) -> list[dict[str, str]]:
        """Return everything that was told so far, one mapping for each datagram."""
        while True:
            try:
                text = self._sock.recv(65536).decode()
            except BlockingIOError:
                return self._heard
            self._heard.append(dict(line.split("=", 1) for line in text.split("\n")))

    def of(self, key: str) -> list[str]:
        """Return all that was told under a key."""
        return [words[key] for words in self.heard() if key in words]


@contextmanager
def listening(address: str) -> Iterator[Ear]:
    """Listen at an address as systemd writes it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        yield Ear(sock)


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    """Listen where `environ_for` says."""
    with listening(os.fspath(tmp_path / "notify")) as ear:
        yield ear


def environ_for(folder: Path, watchdog: float = WATCHDOG_S) -> dict[str, str]:
    """Return the environment that systemd gives a service."""
    return {
        "NOTIFY_SOCKET": os.fspath(folder / "notify"),
        "WATCHDOG_USEC": str(round(watchdog * 1e6)),
        "WATCHDOG_PID": str(os.getpid()),
    }


@asynccontextmanager
async def watched(folder: Path, **more: object) -> AsyncIterator[tuple[Stage, Systemd]]:
    """Raise a stage whose daemon systemd is told of."""
    notes: list[Note] = []
    systemd = Systemd(environ_for(folder), notes.append)
    systemd.notes = notes
    async with staged(folder, log=systemd.hear, **more) as stage, trio.open_nursery() as nursery:
        nursery.start_soon(systemd.run, stage.daemon)
        stage.daemon.observation.sight.liveness.ask(systemd.standing_s)
        yield stage, systemd
        nursery.cancel_scope.cancel()


async def silence(stage: Stage, ear: Ear, seconds: float) -> int:
    """Let the exchange talk for so long; return how many keep-alives came in the second half."""
    await stage.talk(seconds / 2)
    before = len(ear.of("WATCHDOG"))
    await stage.talk(seconds / 2)
    return len(ear.of("WATCHDOG")) - before


def test_everybody_gets_a_note():
    """Whoever hears of the daemon hears all of it."""
    one, other = [], []
    fan_out(one.append, other.append)(note("daemon_draining"))
    assert one == other == [note("daemon_draining")]


# Ready


async def test_ready_when_all_feeds_are_covered(tmp_path, ear, autojump_clock):
    """READY comes once, with a status line, when each feed has a line that is up, and not before."""
    async with watched(tmp_path, markets=(BTC, ETH), wait=False) as (stage, _):
        await trio.sleep(0.05)
        assert ear.of("READY") == []
        await stage.talk_until(stage.all_up)
        await trio.sleep(LOOK_S)
        assert ear.of("READY") == ["1"]
        first = next(words for words in ear.heard() if "READY" in words)
        assert first["STATUS"].startswith("2/2 feeds live, ")
        await stage.talk(60)
        assert ear.of("READY") == ["1"]


@pytest.mark.parametrize(
    ("behaviour", "least_s", "most_s"),
    [
        (Behaviour(handshake_status=503), 0.0, PENDING_S / 2),
        (Behaviour(handshake="silence"), PENDING_S - LOOK_S, PENDING_S + LOOK_S),
    ],
    ids=["refuses", "is silent"],
)
async def test_ready_when_coverage_is_pending(tmp_path, ear, autojump_clock, behaviour, least_s, most_s):
    """An exchange that refuses is waited for no longer than it takes to know, one that is silent for `PENDING_S`."""
    began = trio.current_time()
    patient = Bounds(handshake_s=3 * PENDING_S)
    async with watched(tmp_path, wait=False, behaviour=behaviour, bounds=patient) as (stage, _):
        await stage.until(lambda: bool(ear.of("READY")))
        assert least_s <= trio.current_time() - began <= most_s
        assert next(words["STATUS"] for words in ear.heard() if "READY" in words).startswith(
            "0/1 feeds live (down: BTC-USD), 0/2 lines up"
        )


async def test_ready_when_the_markets_are_not_told(tmp_path, ear, autojump_clock):
    """A daemon that waits for the list of markets is ready once asking for it has failed."""
    away = f"http://127.0.0.1:{REFUSED}/markets"
    async with watched(tmp_path, feeds=(Feed(markets=("*",)),), wait=False, markets_url=away) as (stage, _):
        await stage.until(lambda: bool(ear.of("READY")))
        assert trio.current_time() < PENDING_S
        assert ear.of("STATUS")[0].startswith("0/0 feeds live, 0/0 lines up")


# Alive


async def test_a_standby_is_ready_when_it_could_take_over(tmp_path, ear, autojump_clock):
    """However long that takes, and its status says what is missing; it is told once."""
    async with coupled(tmp_path, standby=False) as couple, trio.open_nursery() as nursery:
        couple.stage.exchange.behaviour = Behaviour(handshake_status=500)
        standby = await couple.start(standby=True)
        nursery.start_soon(Systemd(environ_for(tmp_path), lambda _: None).run, standby)
        await couple.stage.talk(3 * PENDING_S)
        assert ear.of("READY") == []
        assert "standby, not ready: BTC-USD: no line of the standby is aligned" in ear.of("STATUS")[-1]
        couple.stage.exchange.behaviour = Behaviour()
        await couple.until_ready()
        await couple.stage.talk(10)
        assert ear.of("READY") == ["1"]
        assert "standby, ready" in ear.of("STATUS")[-1]
        nursery.cancel_scope.cancel()


async def test_keep_alives_while_all_is_well(tmp_path, ear, autojump_clock):
    """They come often enough that systemd misses none, and the status line is not repeated."""
    async with watched(tmp_path) as (stage, systemd):
        assert await silence(stage, ear, 4 * WATCHDOG_S) >= 2 * BEATS - 2
        assert systemd.still() == []
        told = ear.of("STATUS")
        assert all(one != other for one, other in pairwise(told))


async def test_silence_of_others_is_not_our_fault(tmp_path, ear, autojump_clock):
    """An exchange that says nothing and a consumer that reads nothing cost no keep-alive."""
    async with watched(tmp_path, markets=(BTC, ETH)) as (stage, systemd):
        async with raw_consumer(tmp_path / "feed.sock"):
            await stage.talk(5, every_s=0.001)
            before = len(ear.of("WATCHDOG"))
            await trio.sleep(2 * WATCHDOG_S)
            assert len(ear.of("WATCHDOG")) - before >= 2 * BEATS - 2
        assert systemd.still() == []


async def hang(*_: object) -> bytes:
    """Stand still for ever."""
    await trio.sleep_forever()
    raise AssertionError


async def test_reading_that_stands_still(tmp_path, ear, autojump_clock, monkeypatch):
    """Where nothing reads what has come the keep-alives end, although the loop turns and the lines are given up."""
    async with watched(tmp_path) as (stage, systemd):
        await stage.talk(5)
        monkeypatch.setattr(TcpStream, "receive_some", hang)
        assert await silence(stage, ear, 4 * WATCHDOG_S) == 0
        assert set(stage.exchange.markets) == {BTC}
        assert len(systemd.still()) == 2
        assert {one.fields["part"] for one in systemd.notes} == {"line BTC-USD a", "line BTC-USD b"}
        assert "STANDING STILL" in ear.of("STATUS")[-1]
        assert not stage.daemon.observation.sight.liveness.made
        monkeypatch.undo()
        await stage.talk_until(stage.all_up)
        await stage.talk(STILL_S)
        assert systemd.still() == []
        assert stage.daemon.observation.sight.liveness.made
        assert {one.name for one in systemd.notes} == {"progress_stopped", "progress_resumed"}
        assert await silence(stage, ear, 2 * WATCHDOG_S) > 0


async def test_one_line_that_stands_still_is_given_up(tmp_path, ear, autojump_clock, monkeypatch):
    """The daemon helps itself before systemd does: the keep-alives go on when the line has been replaced."""
    limits = Health()
    async with watched(tmp_path) as (stage, systemd):
        await stage.talk(5)
        plane = stage.daemon.feeds[BTC].lines["a"]._connection._plane
        monkeypatch.setattr(plane._stream, "receive_some", hang)
        before = len(ear.of("WATCHDOG"))
        await stage.talk(STILL_S + 2 * LOOK_S)
        await stage.talk(limits.ping_interval_s + limits.pong_timeout_s)
        assert limits.ping_interval_s + limits.pong_timeout_s < WATCHDOG_S
        assert len(ear.of("WATCHDOG")) > before
        assert systemd.still() == []
        await stage.talk_until(stage.all_up)


async def test_ticks_that_stand_still(tmp_path, ear, autojump_clock, monkeypatch):
    """A feed to which no time is told any more ends the keep-alives, although its lines read on."""
    async with watched(tmp_path, markets=(BTC, ETH)) as (stage, systemd):
        monkeypatch.setattr(stage.daemon.feeds[ETH], "tick", lambda: None)
        assert await silence(stage, ear, 4 * WATCHDOG_S) == 0
        assert systemd.still() == ["feed ETH-USD"]


async def test_sending_that_stands_still(tmp_path, ear, autojump_clock, monkeypatch):
    """Records that wait for a consumer whose socket would take them end the keep-alives."""
    async with watched(tmp_path) as (stage, systemd):
        monkeypatch.setattr(Consumer, "_send", lambda _: None)
        monkeypatch.setattr(Consumer, "follow", lambda *_: None)
        assert await silence(stage, ear, 4 * WATCHDOG_S) == 0
        assert [name.rpartition(" ")[0] for name in systemd.still()] == ["consumer test"]


async def test_accepting_that_stands_still(tmp_path, ear, autojump_clock, monkeypatch):
    """Somebody who waits at the socket and is not let in ends the keep-alives; nobody who waits, none."""
    async with watched(tmp_path) as (stage, systemd):
        listener = stage.daemon.publisher._listener
        wait_readable = trio.lowlevel.wait_readable

        async def wait(sock):
            await (trio.sleep_forever() if sock is listener else wait_readable(sock))

        monkeypatch.setattr(trio.lowlevel, "wait_readable", wait)
        async with await trio.open_unix_socket(
            tmp_path / "feed.sock"
        ):  # the wait under way ends with this one
            await stage.talk(2 * STILL_S)
            assert systemd.still() == []
            async with await trio.open_unix_socket(tmp_path / "feed.sock"):
                assert await silence(stage, ear, 4 * WATCHDOG_S) == 0
                assert systemd.still() == ["accepting"]


async def test_accepting_in_vain_is_no_standing_still(tmp_path, ear, autojump_clock, monkeypatch):
    """Where the system has no descriptors left, trying again is all that can be done: another start has none either."""
    async with watched(tmp_path) as (stage, systemd):

        def exhausted(_):
            raise OSError(errno.EMFILE, "too many")

        monkeypatch.setattr(socket.socket, "accept", exhausted)
        async with await trio.open_unix_socket(tmp_path / "feed.sock"):
            assert await silence(stage, ear, 2 * WATCHDOG_S) > 0
            assert systemd.still() == []
        assert stage.named("accept_failed")
        monkeypatch.undo()


async def test_no_keep_alives_for_another_process(tmp_path, ear, autojump_clock):
    """Without a watchdog in the environment none is sent."""
    async with staged(tmp_path) as stage, trio.open_nursery() as nursery:
        systemd = Systemd(environ_for(tmp_path) | {"WATCHDOG_PID": "1"}, lambda _: None)
        nursery.start_soon(systemd.run, stage.daemon)
        await stage.talk(WATCHDOG_S)
        assert ear.of("WATCHDOG") == []
        assert ear.of("READY") == ["1"]
        nursery.cancel_scope.cancel()


# Status, reload, end


async def test_the_status_follows_the_feeds(tmp_path, ear, autojump_clock):
    """What is down is named, gaps are counted, and a refused configuration is told until one is taken."""
    async with watched(tmp_path, markets=(BTC, ETH)) as (stage, systemd):
        stage.strike("outage", line="all", market=ETH, duration_s=20.0)
        await stage.talk(12)
        assert "1/2 feeds live (down: ETH-USD), 2/4 lines up" in ear.of("STATUS")[-1]
        await stage.talk_until(stage.all_up)
        await stage.talk(12)
        gaps = len(stage.named("gap_published"))
        assert gaps > 0
        assert ear.of("STATUS")[-1] == f"2/2 feeds live, 4/4 lines up, 1 consumer, {gaps} gaps"
        with systemd.reloading():
            assert "MONOTONIC_USEC" in ear.heard()[-1]
            systemd.hear(note("config_refused", mistake="feed[0].lines: expected 1..8, got 0"))
        assert ear.heard()[-1]["READY"] == "1"
        assert ear.heard()[-1]["STATUS"].endswith("; the new configuration was refused, the old one stays")
        with systemd.reloading():
            systemd.hear(note("config_reloaded"))
        assert "refused" not in ear.heard()[-1]["STATUS"]


async def test_the_status_tells_of_a_refused_key(tmp_path, ear, autojump_clock):
    """From a refusal of the key until a token has come, the status line says so."""
    async with watched(tmp_path) as (stage, systemd):
        systemd.hear(note("key_refused", status=403))
        await stage.talk(6)
        assert ear.of("STATUS")[-1].endswith("; KEY REFUSED by the exchange")
        systemd.hear(note("token_renewed", life_s=1800))
        await stage.talk(6)
        assert "KEY" not in ear.of("STATUS")[-1]


async def test_the_end_is_told_and_outlived(tmp_path, ear, autojump_clock):
    """STOPPING comes at once, no READY follows it, and only the consumers have to move from then on."""
    async with watched(tmp_path) as (stage, systemd):
        stage.daemon.stop()
        await stage.until(lambda: bool(ear.of("STOPPING")))
        with systemd.reloading():
            pass
        ends = [words for words in ear.heard() if "STOPPING" in words]
        assert ends == [{"STOPPING": "1", "STATUS": "draining: the consumers get what is pending"}]
        assert "STOPPING" in next(
            words for words in reversed(ear.heard()) if "STOPPING" in words or "READY" in words
        )
        await trio.sleep(2 * WATCHDOG_S)
        assert systemd.still() == []


class Stub:
    """A feed as the status line sees it."""

    def __init__(self, label: str, state: str) -> None:
        self.label = label
        self.arbiter = type("Arbiter", (), {"state": state, "lines": {}})()


def test_the_status_is_one_short_line():
    """Names from outside end no line, and neither long names nor many of them make it long."""
    names = ["x\nWATCHDOG=1", "y" * 500, "C", "D", "E"]
    line = status([Stub(name, "down") for name in names], consumers=0, gaps=1, still=["a", "b"])
    assert line.startswith(r"0/5 feeds live (down: x\nWATCHDOG=1, ")
    assert line.endswith(
        "… , C and 2 more), 0/0 lines up, 0 consumers, 1 gap; STANDING STILL, no keep-alive: a, b".replace(
            "… ", "…"
        )
    )
    assert "\n" not in line
    assert len(line) < 3 * NAME_CHARACTERS + 150
