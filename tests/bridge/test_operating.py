"""What whoever runs a bridge sees of it: systemd's words, HTTP, and what becomes of an address that cannot be had."""

import os
import time
from pathlib import Path

import pytest
import trio

from feedhandler.bridge.supervised import STILL_S, Supervised
from feedhandler.core.motion import Part
from feedhandler.core.notes import Note
from feedhandler.observe.bridging import FAMILIES, BridgeState
from feedhandler.observe.systemd import STATUS_S
from tests.bridge.nats import NatsServer, free_port
from tests.bridge.running import MARKETS, bridge, exchange, sent_more
from tests.observe.test_metrics import names, value, values_of
from tests.observe.test_systemd import Ear, environ_for, listening
from tests.support.processes import daemon, finished, until, write_config
from tests.support.web import Browser

GOOD = BridgeState(
    stream="FEED",
    linked=True,
    connected=True,
    leads=False,
    sequence=7,
    stored={},
    read=7,
    flights=0,
    flying_bytes=0,
    pending_bytes=0,
    pending_limit_bytes=1,
    held=0,
    channels=2,
    unplaced=0,
    lag_s=0.0,
)


def changed(**fields: object) -> BridgeState:
    """Return a state that differs from a good one."""
    return BridgeState(**{name: getattr(GOOD, name) for name in GOOD.__struct_fields__} | fields)


class Played:
    """A bridge that is but a state and two parts, and what systemd hears of it."""

    def __init__(self, folder: Path, ear: Ear) -> None:
        self.state = GOOD
        self.places = {"link": 0, "socket": 0}
        self.waits = True
        self.notes: list[Note] = []
        self.ear = ear
        self.supervised = Supervised(environ_for(folder), self.notes.append, self.parts, lambda: self.state)
        self.now = 0.0

    def parts(self) -> list[Part]:
        """Return the parts as they are."""
        return [Part(name, name, place, lambda: self.waits) for name, place in self.places.items()]

    def look(self, *, moved: tuple[str, ...] = ("link", "socket"), seconds: float = 1.0) -> None:
        """Let time pass, in which some parts move."""
        for _ in range(round(seconds)):
            self.now += 1
            for name in moved:
                self.places[name] += 1
            self.supervised.look(self.now)
            self.ear.heard()  # its queue is short


@pytest.fixture
def played(tmp_path):
    """Give a bridge that systemd is told of."""
    with listening(os.fspath(tmp_path / "notify")) as ear:
        played = Played(tmp_path, ear)
        yield played
        played.supervised.close()


def test_ready_is_told_once_when_all_is_there(played):
    """Until then the status line says what is waited for; afterwards a lost link changes the line and nothing else."""
    played.state = changed(linked=False, connected=False)
    played.look()
    assert played.ear.of("READY") == []
    assert played.ear.of("STATUS") == [
        "stream FEED: NOT CONNECTED to NATS; 2 channels, at 7; NOT CONNECTED to the daemon's socket"
    ]
    played.state = GOOD
    played.look()
    played.state = changed(linked=False)
    played.look(seconds=STATUS_S + 1)
    played.state = GOOD
    played.look(seconds=STATUS_S + 1)
    assert played.ear.of("READY") == ["1"]
    assert played.ear.of("STATUS")[1:] == [
        "stream FEED: follows another host; 2 channels, at 7",
        "stream FEED: NOT CONNECTED to NATS; 2 channels, at 7",
        "stream FEED: follows another host; 2 channels, at 7",
    ]


@pytest.mark.parametrize("part", ["link", "socket"])
def test_keep_alives_stop_with_either_part(played, part):
    """A part that stands still with work before it stops them, and one note says so; when it moves they go on."""
    other = "socket" if part == "link" else "link"
    played.look(seconds=60)
    before = len(played.ear.of("WATCHDOG"))
    assert before > 5
    played.look(moved=(other,), seconds=STILL_S + 1)
    stood = len(played.ear.of("WATCHDOG"))
    played.look(moved=(other,), seconds=60)
    assert len(played.ear.of("WATCHDOG")) == stood > before
    assert [(one.name, one.fields["part"]) for one in played.notes] == [("progress_stopped", part)]
    assert played.supervised.still() == [part]
    played.look(seconds=10)
    assert len(played.ear.of("WATCHDOG")) > stood
    assert played.notes[-1].name == "progress_resumed"


def test_who_has_nothing_to_do_is_alive(played):
    """A part without work may stand for ever."""
    played.waits = False
    played.look(moved=(), seconds=3 * STILL_S)
    assert len(played.ear.of("WATCHDOG")) > 10
    assert played.notes == []


def test_the_end_is_told_and_is_nobodys_fault(played):
    """While the bridge ends it gets its keep-alives, whatever stands still: the end has a bound of its own."""
    played.look()
    played.supervised.stop()
    assert played.ear.of("STOPPING") == ["1"]
    played.look(moved=(), seconds=3 * STILL_S)
    assert len(played.ear.of("WATCHDOG")) > 10
    assert played.notes == []


async def test_a_bridge_that_is_looked_at(tmp_path):
    """Without NATS it is unready and says why; with all there it is ready, and its figures are those of the stream."""
    began = time.time()
    server = NatsServer(tmp_path)
    browser = Browser(("127.0.0.1", free_port()))
    address = f"127.0.0.1:{browser.address[1]}"
    with listening(os.fspath(tmp_path / "notify")) as ear:
        async with (
            exchange(tmp_path, "--wait", 3, "--rate", 200) as running,
            daemon(write_config(tmp_path, running.url, markets=MARKETS)),
            bridge(
                server,
                tmp_path / "feed.sock",
                "--http",
                address,
                NOTIFY_SOCKET=str(tmp_path / "notify"),
                WATCHDOG_USEC="2000000",
            ) as forwarding,
        ):
            await forwarding.errors.wait_for('"bridge_link_lost"')
            await until(lambda: bool(ear.of("STATUS")))
            assert "NOT CONNECTED to NATS" in ear.of("STATUS")[0]
            refused = await browser.get("/readyz")
            assert refused.status == 503
            assert refused.json()["reasons"][0] == "stream FEED: not connected to NATS"
            assert ear.of("READY") == []
            await server.start()
            try:
                await until(lambda: ear.of("READY") == ["1"])
                await sent_more(tmp_path, 300)
                assert (await browser.get("/readyz")).json() == {"ready": True, "reasons": []}
                assert (await browser.get("/healthz")).body == b"ok\n"
                assert (await browser.get("/nothing")).status == 404
                assert (await browser.get("/")).body.startswith(b"stream FEED: writes; 4 channels, at ")
                await running.child.stop()
                while (state := (await browser.get("/status")).json())["pending_bytes"]:
                    await trio.sleep(0.1)
                found = values_of((await browser.get("/metrics")).body.decode())
                stored = await server.messages()
            finally:
                await server.stop()
            await forwarding.errors.wait_for('"bridge_followed"')
            while (await browser.get("/readyz")).status == 200:
                await trio.sleep(0.1)
            assert await forwarding.stop() == 0
            assert len(ear.of("WATCHDOG")) > 1
            assert ear.of("STOPPING") == ["1"]
    assert {family.name for family in FAMILIES} <= names(found)
    assert value(found, "bridge_leads", stream="FEED") == value(found, "bridge_linked", stream="FEED") == 1
    assert value(found, "bridge_stream_sequence") == state["sequence"] == len(stored)
    ordinary = sum(one.headers["Feed-Kind"] == "ordinary" for one in stored)
    assert value(found, "bridge_stored_total", kind="ordinary") == state["stored"]["ordinary"] == ordinary
    assert value(found, "bridge_lag_seconds", stream="FEED") == value(found, "bridge_flights") == 0
    assert began < value(found, "start_time_seconds") < time.time()
    assert value(found, "bridge_channels") == 4
    assert value(found, "bridge_links_lost_total") >= 1


async def test_an_address_that_cannot_be_had():
    """A port that another program has ends the bridge with 1, and what is no address with 2; one line each."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    try:
        command = ("bridge", "nats", "--socket", "x", "--server", "nats://127.0.0.1:1", "--http")
        taken = await finished(*command, f"127.0.0.1:{port}")
        wrong = await finished(*command, "everywhere")
    finally:
        for listener in listeners:
            await listener.aclose()
    assert taken.process.returncode == 1
    assert taken.errors.lines[-1] == f"feedhandler: --http: 127.0.0.1:{port}: {os.strerror(98)}"
    assert (wrong.process.returncode, wrong.errors.lines) == (
        2,
        ["feedhandler: --http: expected HOST:PORT, got everywhere"],
    )
