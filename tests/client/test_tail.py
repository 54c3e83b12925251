"""The `tail` command: what it prints, where it goes on, how it ends."""

import argparse
import json
import os
import select
import signal
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import trio

from feedhandler.client.core import Reader
from feedhandler.client.errors import ServerError
from feedhandler.client.position import Position, load_positions, read_position, save_positions
from feedhandler.client.tail import Tail, add_arguments, run
from feedhandler.config import Bounds, Publish
from feedhandler.core.channels import Channel
from feedhandler.publish.server import Publisher

TRADES = "m/publicTrades"


class House:
    """A publisher of one channel."""

    def __init__(self, folder: Path, session: str = "session") -> None:
        self.path = folder / "feed.sock"
        self.publisher = Publisher(
            Publish(socket=self.path), Bounds(), session=session, clock=lambda: 0, notify=lambda _: None
        )
        self.trades: Channel = self.publisher.channel(TRADES, feed="m", account=False)

    def events(self, count: int, payload: bytes = b"{}") -> None:
        """Publish events."""
        for _ in range(count):
            self.publisher.publish(self.trades, "a", 7, payload)
        self.publisher.flush()

    async def subscribed(self) -> None:
        """Wait for a consumer that has subscribed."""
        while not any(consumer.subscribed for consumer in self.publisher.consumers()):
            await trio.lowlevel.checkpoint()


@asynccontextmanager
async def serving(folder: Path, session: str = "session") -> AsyncIterator[House]:
    """Serve during a test."""
    house = House(folder, session)
    async with trio.open_nursery() as nursery:
        await nursery.start(house.publisher.serve)
        yield house
        await house.publisher.drain(1)


def tail(
    house: House, output: int, count: int | None = None, resume_file: Path | None = None, **reader: Any
) -> Tail:
    """Make a tail that prints to a descriptor."""
    return Tail(
        {os.fspath(house.path): Reader(**reader)}, count=count, resume_file=resume_file, output=output
    )


def tail_of_several(houses: list[House], output: int, **more: Any) -> Tail:
    """Make a tail of several daemons."""
    reader = {name: more.pop(name) for name in ("channels",) if name in more}
    resume = more.pop("resume", {})
    readers = {
        os.fspath(house.path): Reader(**reader, resume=resume.get(os.fspath(house.path))) for house in houses
    }
    return Tail(readers, output=output, **({"count": None, "resume_file": None} | more))


@asynccontextmanager
async def two_houses(folder: Path) -> AsyncIterator[list[House]]:
    """Serve two sockets, each with a channel of its own."""
    for name in ("one", "two"):
        (folder / name).mkdir()
    async with serving(folder / "one", "s1") as one, serving(folder / "two", "s2") as two:
        two.only = two.publisher.channel("n/publicTrades", feed="n", account=False)
        yield [one, two]


def printed(path: Path) -> list[dict[str, Any]]:
    """Return the records that were printed."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def arguments(*words: str) -> argparse.Namespace:
    """Parse a command line."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


async def test_the_stream_is_printed_as_received(tmp_path: Path) -> None:
    """Each line is the server's, byte for byte, and the count is of events, gaps and snapshots."""
    out = tmp_path / "out"
    async with serving(tmp_path) as house:
        with out.open("wb") as file:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tail(house, file.fileno(), count=3).run)
                await house.subscribed()
                house.publisher.state(house.trades, "live", 1)
                house.events(1, b'{ "x" : 1.50 }')
                house.publisher.gap(house.trades, "outage", 1, 2)
                house.events(5)
    lines = out.read_bytes().splitlines()
    assert [json.loads(line)["type"] for line in lines[:2]] == ["hello", "subscribed"]
    assert lines[2:] == [
        b'{"type":"state","channel":"m/publicTrades","state":"live","since":1}',
        b'{"type":"event","channel":"m/publicTrades","seq":1,"line":"a","recv":7,"msg":{ "x" : 1.50 }}',
        b'{"type":"gap","channel":"m/publicTrades","seq":2,"reason":"outage","since":1,"until":2}',
        b'{"type":"event","channel":"m/publicTrades","seq":3,"line":"a","recv":7,"msg":{}}',
    ]


async def test_the_next_run_goes_on_after_the_last_line(tmp_path: Path) -> None:
    """Two runs with a resume file print every event once, whatever was released between them."""
    out, state = tmp_path / "out", tmp_path / "state"
    async with serving(tmp_path) as house:
        house.events(2)
        state.write_bytes(json.dumps({"session": "session", "seq": {TRADES: 0}}).encode())
        for count in (1, 4):
            resume = read_position(state.read_bytes())
            with out.open("ab") as file:
                await tail(house, file.fileno(), count=count, resume_file=state, resume=resume).run()
            house.events(3)
    assert [record["seq"] for record in printed(out) if record["type"] == "event"] == [1, 2, 3, 4, 5]
    assert read_position(state.read_bytes()) == Position("session", {TRADES: 5})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["feed.sock.lock", "out", "state"]


async def test_the_position_covers_only_what_reached_the_output(tmp_path: Path) -> None:
    """With an output that nobody reads, SIGTERM still ends the run, and no unprinted line counts."""
    state = tmp_path / "state"
    reading, writing = os.pipe()
    async with serving(tmp_path) as house:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tail(house, writing, resume_file=state).run)
            await house.subscribed()
            house.events(1)
            got = b""
            while b'"event"' not in got:
                await trio.lowlevel.wait_readable(reading)
                got += os.read(reading, 65_536)
            house.events(300, b'"%b"' % (b"x" * 10_000))
            while select.select([], [writing], [], 0)[1]:
                await trio.sleep(0.001)
            signal.raise_signal(signal.SIGTERM)
        position = read_position(state.read_bytes())
    got += os.read(reading, 65_536)
    os.close(reading)  # ends the thread that still writes
    while any("_write" in thread.name for thread in threading.enumerate()):
        await trio.sleep(0.001)
    os.close(writing)
    whole = got[: got.rindex(b"\n")].splitlines()
    events = [json.loads(line)["seq"] for line in whole if b'"event"' in line]
    assert events == list(range(1, len(events) + 1))
    assert 1 <= position.seq[TRADES] <= len(events) < 301


async def test_a_closed_output_ends_the_run_quietly(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A reader of the output that has gone is no fault."""
    reading, writing = os.pipe()
    os.close(reading)
    async with serving(tmp_path) as house:
        await tail(house, writing).run()
    os.close(writing)
    assert capfd.readouterr().err == ""


async def test_a_refused_request_ends_the_run_after_it_is_printed(tmp_path: Path) -> None:
    """The server's `error` is printed like any record, and raised."""
    out = tmp_path / "out"
    async with serving(tmp_path) as house:
        with (
            out.open("wb") as file,
            pytest.raises(ServerError, match="unknown_channel: there is no channel x/y"),
        ):
            await tail(house, file.fileno(), channels=["x/y"]).run()
    assert [record["type"] for record in printed(out)] == ["hello", "error"]


async def test_a_restarted_daemon_is_waited_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The run outlives the daemon, and says so; a session that is gone comes as a refusal."""
    out = tmp_path / "out"
    with out.open("wb") as file:
        async with trio.open_nursery() as nursery:
            async with serving(tmp_path) as house:
                nursery.start_soon(tail(house, file.fileno(), count=3).run)
                await house.subscribed()
                house.events(2)
            async with serving(tmp_path, "another") as house:
                await house.subscribed()
                house.events(1)
                while house.publisher.consumers():
                    await trio.sleep(0.01)
    assert [record["type"] for record in printed(out)] == [
        *("hello", "subscribed", "event", "event", "bye"),
        *("hello", "subscribed", "refused", "event"),
    ]
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].endswith("feed.sock: the server ended the connection (shutdown); trying again")
    assert lines[-1].endswith("feed.sock: connected")


@pytest.mark.parametrize("text", ["", "x", "{}", '{"session":"s","seq":{"m/a":-1}}'])
def test_a_broken_resume_file_is_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """A resume file that is none ends with 2 and a line that names it, before anything is printed."""
    state = tmp_path / "state"
    state.write_text(text)
    assert run(arguments("--socket", str(tmp_path / "s"), "--resume", str(state))) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"feedhandler tail: --resume {state}: not a position to resume from: ")
    assert state.read_text() == text


def test_a_resume_file_that_cannot_be_read_is_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder is no resume file."""
    assert run(arguments("--socket", str(tmp_path / "s"), "--resume", str(tmp_path))) == 2
    assert "Is a directory" in capsys.readouterr().err


def test_what_is_no_socket_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder and a file are not waited for: nobody will ever listen there."""
    file = tmp_path / "file"
    file.touch()
    assert run(arguments("--socket", str(tmp_path), "--socket", str(file))) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"feedhandler tail: {tmp_path}: expected a socket, got a folder",
        f"feedhandler tail: {file}: expected a socket, got a file",
    ]


@pytest.mark.parametrize("words", [[], ["--socket", "s", "--count", "0"], ["--socket", "s", "--count", "x"]])
def test_a_wrong_command_line_ends_with_two(words: list[str]) -> None:
    """A missing socket and a count below one are mistakes."""
    with pytest.raises(SystemExit) as end:
        arguments(*words)
    assert end.value.code == 2


@pytest.mark.parametrize("words", [(), ("--no-snapshot",)])
def test_the_command_ends_with_one_where_the_server_refuses(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    """The detail of the server's `error` is on standard error, the record on standard output.

    Books are asked for unless the command line says otherwise.
    """
    path = tmp_path / "feed.sock"
    greeting = b'{"type":"hello","protocol":1,"session":"s","server":"x","channels":["m/a"]}\n'
    record = b'{"type":"error","code":"forbidden","detail":"the channel m/a is not for this user"}\n'
    asked: list[bytes] = []
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(os.fspath(path))
        listener.listen(1)

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(greeting)
                asked.append(connection.recv(65_536))
                connection.sendall(record)

        thread = threading.Thread(target=answer)
        thread.start()
        assert run(arguments("--socket", str(path), "--channel", "m/a", *words)) == 1
        thread.join()
    captured = capfd.readouterr()
    assert captured.out.encode() == greeting + record
    assert captured.err == "feedhandler tail: forbidden: the channel m/a is not for this user\n"
    assert json.loads(asked[0]) == {
        "op": "subscribe",
        "channels": ["m/a"],
        "snapshot": not words,
        "name": "tail",
    }


async def test_a_resume_file_that_cannot_be_written_ends_the_run(tmp_path: Path) -> None:
    """A position that can't be kept is a fault, not something to go on without."""
    missing = tmp_path / "missing" / "state"
    out = tmp_path / "out"
    async with serving(tmp_path) as house:
        with out.open("wb") as file, pytest.raises(Exception, match="missing/state: No such file"):
            await tail(house, file.fileno(), count=1, resume_file=missing).run()


async def test_several_sockets_become_one_stream(tmp_path: Path) -> None:
    """Whole lines of all daemons come out, each channel in its order, and the count is of all together."""
    out = tmp_path / "out"
    async with two_houses(tmp_path) as houses:
        with out.open("wb") as file:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tail_of_several(houses, file.fileno(), count=400).run)
                for house in houses:
                    await house.subscribed()
                for _ in range(100):
                    for house in houses:
                        house.events(3, b'"%b"' % (b"x" * 1000))
                    await trio.lowlevel.checkpoint()
    events = [record for record in printed(out) if record["type"] == "event"]
    assert len(events) == 400
    sessions = [record["session"] for record in printed(out) if record["type"] == "hello"]
    assert sorted(sessions) == ["s1", "s2"]
    seqs = sorted(record["seq"] for record in events)
    assert max(seqs) <= 300
    assert all(seqs.count(seq) <= 2 for seq in seqs)


async def test_several_streams_go_on_after_the_last_line(tmp_path: Path) -> None:
    """The position of each socket is kept, in one file, and each stream goes on from its own."""
    out, state = tmp_path / "out", tmp_path / "state"
    async with two_houses(tmp_path) as houses:
        start = {
            os.fspath(house.path): Position(f"s{number}", {TRADES: 0})
            for number, house in enumerate(houses, 1)
        }
        save_positions(state, start)
        for count in (3, 5):
            for house in houses:
                house.events(2)
            resume = load_positions(state)
            with out.open("ab") as file:
                await tail_of_several(
                    houses, file.fileno(), count=count, resume_file=state, resume=resume
                ).run()
    ends = {path: position.seq[TRADES] for path, position in load_positions(state).items()}
    assert sorted(record["seq"] for record in printed(out) if record["type"] == "event") == [
        1,
        1,
        2,
        2,
        3,
        3,
        4,
        4,
    ]
    assert set(ends.values()) == {4}
    assert not [record for record in printed(out) if record["type"] == "refused"]


async def test_a_socket_without_the_channel_is_left(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A channel's exact name is found where it is; where nobody has it, that is a fault."""
    out = tmp_path / "out"
    async with two_houses(tmp_path) as houses:
        with out.open("wb") as file:
            async with trio.open_nursery() as nursery:
                only = tail_of_several(houses, file.fileno(), count=1, channels=["n/publicTrades"])
                nursery.start_soon(only.run)
                await houses[1].subscribed()
                left_out = (
                    "one/feed.sock: unknown_channel: there is no channel n/publicTrades; it is left out"
                )
                said = ""
                with trio.fail_after(30):
                    while left_out not in said:
                        await trio.testing.wait_all_tasks_blocked(0.01)
                        said += capfd.readouterr().err
                houses[1].publisher.publish(houses[1].only, "a", 7, b"{}")
                houses[1].publisher.flush()
            with pytest.raises(ServerError, match="unknown_channel: there is no channel x/y"):
                await tail_of_several(houses, file.fileno(), channels=["x/y"]).run()
    assert [record["channel"] for record in printed(out) if record["type"] == "event"] == ["n/publicTrades"]


def test_the_position_of_one_is_not_that_of_several(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of the other kind is a mistake, and is left as it is."""
    state = tmp_path / "state"
    state.write_text('{"session":"s","seq":{}}')
    assert run(arguments("--socket", "a", "--socket", "b", "--resume", str(state))) == 2
    assert "not the positions of several sockets" in capsys.readouterr().err
    save_positions(state, {"a": Position("s", {})})
    assert run(arguments("--socket", "a", "--resume", str(state))) == 2
    assert "not a position to resume from" in capsys.readouterr().err
    assert load_positions(tmp_path / "none") == {}
