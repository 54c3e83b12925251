"""The log: its lines, its restraint, and that nobody ever waits for its reader."""

import contextlib
import fcntl
import json
import os
import socket
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from feedhandler.config import Log
from feedhandler.core.notes import Note, note
from feedhandler.observe import logs as logs_module
from feedhandler.observe.catalogue import CATALOGUE, Kind
from feedhandler.observe.logs import REPEAT_S, STORIES, Journal, Logs, LogWriter


class Desk:
    """A journal whose lines and clock the test holds."""

    def __init__(self, level: str = "info", format: str = "json", *, terminal: bool = False) -> None:  # noqa: A002
        self.now = 100.0
        self.lines: list[str] = []
        self.journal = Journal(
            Log(level=level, format=format), self.lines.append, terminal=terminal, now=lambda: self.now
        )

    @property
    def events(self) -> list[dict[str, Any]]:
        """The lines, read."""
        return [json.loads(line) for line in self.lines]


def lost(line: str = "a", **more: Any) -> Note:
    """Return a warning."""
    return note("line_lost", feed="m", line=line, reason="reset", **more)


def test_a_line_is_one_json_object() -> None:
    """Name, level, fields and time stand in one object on one line."""
    desk = Desk()
    desk.journal(lost())
    (event,) = desk.events
    stamp = event.pop("timestamp")
    assert event == {"event": "line_lost", "level": "warning", "feed": "m", "line": "a", "reason": "reset"}
    assert stamp.endswith("Z")


def test_a_terminal_gets_text() -> None:
    """For people the same is words; colours are for terminals only."""
    desk = Desk(format="console")
    desk.journal(lost())
    assert "line_lost" in desk.lines[0]
    assert "reason=reset" in desk.lines[0]
    assert "\x1b" not in desk.lines[0]
    desk = Desk(format="", terminal=True)
    desk.journal(lost())
    assert "\x1b" in desk.lines[0]


@given(st.text(), st.sampled_from(["json", "console"]))
@example("\x1b[2J\r\n", "json")
@example("\x1b[2J\r\n", "console")
def test_no_value_breaks_a_line(text: str, shape: str) -> None:
    """Whatever a field holds, the note is one line and moves no cursor."""
    desk = Desk(format=shape)
    desk.journal(note("consumer_left", consumer=text, pid=1, reason="closed"))
    (line,) = desk.lines
    assert not {"\n", "\r", "\x1b"}.intersection(line)


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_only_what_is_important_enough_is_written(level: str, count: int) -> None:
    """Notes below the configured level leave no line."""
    desk = Desk(level)
    for name in ("line_joined", "line_connected", "line_lost", "gap_published"):
        desk.journal(note(name, feed="m", line="a"))
    assert len(desk.lines) == count


def test_a_note_without_a_level_leaves_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is only counted is never logged."""
    monkeypatch.setitem(CATALOGUE, "only_counted", Kind("", "for this test"))
    desk = Desk("debug")
    desk.journal(note("only_counted"))
    assert desk.lines == []


def test_an_unheard_of_note_is_written_as_a_warning() -> None:
    """A name that is missing in the catalogue is a bug, and must not be one that costs a feed."""
    desk = Desk()
    desk.journal(note("never_heard_of", feed="m"))
    assert desk.events[0]["level"] == "warning"


def test_repetitions_are_counted_and_not_written() -> None:
    """A thousand notes of one story within a second are two lines, and they stand for a thousand."""
    desk = Desk()
    for number in range(1000):
        desk.now += 0.0005
        desk.journal(lost(attempt=number))
    assert len(desk.lines) == 1
    desk.now += REPEAT_S
    desk.journal(note("daemon_draining"))
    first, second, third = desk.events
    assert (first["attempt"], "repeated" in first) == (0, False)
    assert (second["attempt"], second["repeated"]) == (999, 999)
    assert third["event"] == "daemon_draining"


def test_stories_are_told_apart_by_their_key() -> None:
    """The same loss of another line is another story."""
    desk = Desk()
    for line in ("a", "b", "a", "b"):
        desk.journal(lost(line))
    assert [event["line"] for event in desk.events] == ["a", "b"]


def test_the_end_tells_what_was_kept_back() -> None:
    """Nothing that was counted gets lost at the end."""
    desk = Desk()
    for _ in range(3):
        desk.journal(lost())
    desk.journal.finish()
    assert [event.get("repeated", 1) for event in desk.events] == [1, 2]
    desk.journal.finish()
    assert len(desk.lines) == 2


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 2)), max_size=40))
def test_lines_stand_for_all_notes_at_a_bounded_rate(story: list[tuple[str, float]]) -> None:
    """However notes come, their lines add up to them, and one story has at most one line a second."""
    desk = Desk()
    written: list[tuple[str, float]] = []
    for line, pause_s in story:
        desk.now += pause_s
        before = len(desk.lines)
        desk.journal(lost(line))
        written += [(event["line"], desk.now) for event in desk.events[before:]]
    for line in "ab":
        times = [at for name, at in written if name == line]
        assert all(later - earlier >= REPEAT_S for earlier, later in pairwise(times))
    desk.journal.finish()
    for line in "ab":
        told = sum(event.get("repeated", 1) for event in desk.events if event["line"] == line)
        assert told == [name for name, _ in story].count(line)


def test_remembered_stories_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """More stories than are remembered: the oldest is told and begins anew, and nothing piles up."""
    assert STORIES >= 1000
    monkeypatch.setattr(logs_module, "STORIES", 2)
    desk = Desk()
    for line in ("a", "a", "b", "c", "d", "a"):
        desk.journal(lost(line))
    assert [(event["line"], event.get("repeated", 0)) for event in desk.events] == [
        ("a", 0), ("b", 0), ("c", 0), ("a", 1), ("d", 0), ("a", 0),
    ]  # fmt: skip
    assert len(desk.journal._stories) == 2


# The writer


class Pipe:
    """A small pipe whose reader takes its time."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 4096)
        self._taken: list[bytes] = []
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        while data := os.read(self.reader, 65_536):
            self._taken.append(data)

    def start_reading(self) -> None:
        """Let somebody read."""
        self._thread.start()

    def end(self) -> list[bytes]:
        """Close the pipe; return the lines that were read."""
        os.close(self.writer)
        if self._thread.ident:
            self._thread.join(10)
        os.close(self.reader)
        return b"".join(self._taken).splitlines()


@pytest.mark.parametrize("blocking", [True, False])
def test_a_full_pipe_loses_lines_and_blocks_nobody(
    monkeypatch: pytest.MonkeyPatch, *, blocking: bool
) -> None:
    """(14) While nobody reads, `put` returns at once; what had room comes whole, what had none is counted."""
    monkeypatch.setattr(logs_module, "QUEUE_LINES", 50)
    monkeypatch.setattr(logs_module, "CLOSE_S", 10.0)
    pipe = Pipe()
    os.set_blocking(pipe.writer, blocking)
    writer = LogWriter(pipe.writer)
    taken = [number for number in range(500) if writer.put(f"{number:0200}")]
    assert 50 <= len(taken) < 500
    assert writer.lost == 500 - len(taken)
    pipe.start_reading()
    writer.close()
    assert pipe.end() == [b"%0200d" % number for number in taken]


def test_lines_that_come_together_are_written_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line goes at once, those after it in as few writes as a pipe takes whole."""
    monkeypatch.setattr(logs_module, "PAUSE_S", 3600.0)
    reader, descriptor = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with reader, descriptor:
        writer = LogWriter(descriptor.fileno())
        writer.put("first")
        assert reader.recv(8192).startswith(b"first\n")
        sent = [f"{number:0200}" for number in range(60)] + ["x" * 5000, "last"]
        for line in sent:
            writer.put(line)
        writer.close()
        reader.setblocking(False)
        writes = list(_packets(reader))
    assert b"".join(writes).decode().splitlines() == sent
    assert all(one.endswith(b"\n") and (len(one) <= 4096 or one.startswith(b"x")) for one in writes)
    assert len(writes) <= 6


def _packets(reader: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        while True:
            yield reader.recv(8192)


def test_lines_that_nobody_can_read_are_counted() -> None:
    """A descriptor that takes nothing costs the lines only, each of them, and the next one is tried again."""
    pipe = Pipe()
    writer = LogWriter(pipe.reader)
    assert writer.put("one")
    assert writer.put("two")
    writer.close()
    assert writer.lost == 2
    pipe.end()


def test_the_end_does_not_wait_for_a_reader_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a blocked pipe and a full queue, closing gives up in its time."""
    monkeypatch.setattr(logs_module, "QUEUE_LINES", 5)
    monkeypatch.setattr(logs_module, "CLOSE_S", 0.01)
    pipe = Pipe()
    writer = LogWriter(pipe.writer)
    while writer.put("x" * 8192):
        pass
    writer.close()
    assert writer._thread.is_alive()
    monkeypatch.setattr(logs_module, "CLOSE_S", 10.0)
    pipe.start_reading()
    writer.close()
    assert not writer._thread.is_alive()
    pipe.end()


# The whole


class Shelf:
    """A writer whose room the test decides about."""

    def __init__(self, _: int) -> None:
        self.lines: list[dict[str, Any]] = []
        self.lost = 0
        self.room = True
        self.closed = False

    def put(self, line: str, patience_s: float = 0.0) -> bool:
        """Take a line where there is room; with patience there is."""
        if self.room or patience_s:
            self.lines.append(json.loads(line))
        else:
            self.lost += 1
        return self.room or bool(patience_s)

    def close(self) -> None:
        """Note the end."""
        self.closed = True


def test_the_log_says_how_much_it_has_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as there is room again, or at the end, a line tells how many were left out, once."""
    monkeypatch.setattr(logs_module, "LogWriter", Shelf)
    with Path(os.devnull).open("w") as stream, Logs(Log(format="json"), lambda: 0.0, stream) as logs:
        shelf = cast("Any", logs)._writer
        logs(lost("a"))
        shelf.room = False
        logs(lost("b"))
        logs(lost("c"))
        shelf.room = True
        logs(lost("d"))
        logs(lost("e"))
        shelf.room = False
        logs(lost("f"))
    assert [line.get("line", line.get("lines")) for line in shelf.lines] == ["a", "d", 2, "e", 1]
    assert shelf.closed
    assert shelf.lines[2]["event"] == "log_lines_lost"
    assert shelf.lines[2]["level"] == "error"


def test_notes_reach_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    """A process logs to standard error unless it is told otherwise, JSON where that is no terminal."""
    with Logs(Log(), lambda: 0.0) as logs:
        logs(lost())
        logs(lost())
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [event.get("repeated") for event in events] == [None, 1]
