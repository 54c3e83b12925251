"""The words that systemd is told, and when it gets a keep-alive."""

import os

import pytest

from feedhandler.core.notes import note
from feedhandler.observe.manager import BEATS, Manager, Watchdog, watchdog_s
from tests.observe.test_systemd import WATCHDOG_S, environ_for, listening


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_words_arrive(tmp_path, kind):
    """One datagram holds all that is told at once, at a path and at an abstract name."""
    address = os.fspath(tmp_path / "n") if kind == "path" else f"@feedhandler-test-{os.getpid()}"
    with listening(address) as ear:
        manager = Manager(address)
        manager.tell(READY="1", STATUS="all is well")
        assert ear.heard() == [{"READY": "1", "STATUS": "all is well"}]
        manager.close()
        manager.tell(STOPPING="1")
        assert len(ear.heard()) == 1


@pytest.mark.parametrize(
    "address", ["", "/nowhere/at/all", "vsock:2:3", "@nobody-listens-here", "/" + 200 * "x"]
)
def test_a_socket_that_is_not_there_hurts_nobody(address):
    """Whatever the address is, telling does not raise, and what could not be told waits once."""
    manager = Manager(address)
    for _ in range(3):
        manager.tell(READY="1")
        assert manager._untold == {"READY": "1"}
    manager.close()


def test_what_could_not_be_told_is_told_later(tmp_path):
    """While the queue is full the newest value of each key waits; a reload that is over by then is not told."""
    with listening(os.fspath(tmp_path / "notify")) as ear:
        manager = Manager(os.fspath(tmp_path / "notify"))
        while not manager._untold:
            manager.tell(STATUS="before")
        manager.tell(STATUS="old", RELOADING="1")
        manager.tell(STATUS="new", READY="1")
        ear.heard()
        manager.tell()
        assert ear.heard()[-1] == {"STATUS": "new", "READY": "1"}
        manager.close()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "7"}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "8"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({"WATCHDOG_USEC": "-1"}, 0.0),
    ],
)
def test_whose_keep_alives_are_missed(environ, expected):
    """The interval is systemd's, and it is meant for the process that it names."""
    assert watchdog_s(environ, 7) == expected


def test_keep_alives_are_for_what_moves(tmp_path):
    """One is sent as often as is due while nothing stands still; what does is noted once, and so is its end."""
    notes = []
    environ = environ_for(tmp_path)
    with listening(environ["NOTIFY_SOCKET"]) as ear:
        manager = Manager(environ["NOTIFY_SOCKET"])
        watchdog = Watchdog(manager, environ, notes.append)
        every_s = WATCHDOG_S / BEATS
        for now, still in (
            (0, []),
            (every_s / 2, []),
            (every_s, []),
            (2 * every_s, ["link"]),
            (3 * every_s, ["link"]),
        ):
            watchdog.note_still(still)
            watchdog.beat(now, still)
        assert ear.of("WATCHDOG") == ["1", "1"]
        watchdog.note_still([])
        watchdog.beat(3.1 * every_s, [])
        assert ear.of("WATCHDOG") == ["1"] * 3
        manager.close()
    assert notes == [note("progress_stopped", part="link"), note("progress_resumed", part="link")]


def test_looks_are_as_frequent_as_keep_alives():
    """A watchdog that is impatient is looked for more often; without one the usual pace is kept."""
    unheard = Manager("")
    assert Watchdog(unheard, {}, [].append).look_s(1.0) == 1.0
    assert Watchdog(unheard, {"WATCHDOG_USEC": "1000000"}, [].append).look_s(1.0) == 1.0 / BEATS
    assert Watchdog(unheard, {"WATCHDOG_USEC": "60000000"}, [].append).look_s(1.0) == 1.0
