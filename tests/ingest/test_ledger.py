# ruff: noqa: ARG001 - the clock works by being asked for
"""The ledger: whichever process makes an attempt, no minute holds more than the exchange allows."""

import fcntl
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from feedhandler.core.budget import WINDOW_S
from feedhandler.core.notes import Note
from feedhandler.ingest.gate import NOBODY, UNANSWERED_S, Gate, Other
from feedhandler.ingest.ledger import (
    ATTEMPTS,
    BUSY_S,
    HORIZON_S,
    LOOK_S,
    MARGIN_S,
    REQUESTS_FOR_TOKENS,
    UNCOUNTED,
    Ledger,
)
from tests.support.clock import jumping_clock

LONGEST_S = 10.0
MINUTE_S = 60.0


def ledger(folder: Path, notes: list[Note] | None = None) -> Ledger:
    """Return one process's view of the file."""
    return Ledger(folder / "feed.sock", lambda: LONGEST_S, (notes if notes is not None else []).append)


async def test_attempts_of_another_process_count(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What one daemon has begun the other one may not begin any more, for a minute after its end."""
    one, other = ledger(tmp_path), ledger(tmp_path)
    entry = one.begin(2)
    assert entry not in {None, UNCOUNTED}
    second = other.begin(2)
    assert one.begin(2) is None
    assert one.retry_s == trio.current_time() + LOOK_S
    await trio.sleep(5)
    one.finish(entry)
    other.finish(second)
    assert (one.counted(), other.counted()) == (2, 2)
    await trio.sleep(WINDOW_S - 0.5)
    assert other.begin(2) is None
    assert other.retry_s == pytest.approx(trio.current_time() + 0.5 + MARGIN_S)
    await trio.sleep(0.6)
    assert other.counted() == 0
    assert other.begin(2) is not None


async def test_what_a_killed_process_had_under_way_counts_as_long_as_it_may(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Nobody ends such an attempt: it counts for the longest that it may have lasted, and a minute."""
    ledger(tmp_path).begin(1)
    heir = ledger(tmp_path)
    await trio.sleep(LONGEST_S + WINDOW_S - 0.1)
    assert heir.begin(1) is None
    await trio.sleep(0.2)
    assert heir.begin(1) is not None


async def test_a_file_that_another_process_holds_is_asked_again_soon(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Nobody waits for the lock, be it that its holder is frozen."""
    one = ledger(tmp_path)
    assert one.begin(5) is not None
    with (tmp_path / "feed.sock.attempts").open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert one.begin(5) is None
        assert one.retry_s == trio.current_time() + BUSY_S
    assert one.begin(5) is not None


async def test_a_pause_is_for_all(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What the exchange has asked one daemon for the other one obeys, too."""
    one, other = ledger(tmp_path), ledger(tmp_path)
    one.pause(25.0)
    assert other.begin(5) is None
    await trio.sleep(25.1)
    assert other.begin(5) is not None


async def test_a_limit_above_the_file_is_each_process_s_own(tmp_path: Path) -> None:
    """The bound of the file: a limit of more attempts is not counted there."""
    one = ledger(tmp_path)
    assert one.begin(ATTEMPTS + 1) == UNCOUNTED
    one.finish(UNCOUNTED)
    entries = [one.begin(ATTEMPTS) for _ in range(ATTEMPTS)]
    assert len(set(entries)) == ATTEMPTS
    assert one.begin(ATTEMPTS) is None


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 20_000, b"\x00" * 9000])
async def test_what_is_no_time_counts_as_none(tmp_path: Path, content: bytes) -> None:
    """A short file, and one full of nonsense, or of times before a boot, lets attempts begin."""
    (tmp_path / "feed.sock.attempts").write_bytes(content)
    one = ledger(tmp_path)
    assert one.counted() == 0
    assert one.since_takeover_s() > UNANSWERED_S
    assert one.begin(1) is not None
    assert one.begin(1) is None


async def test_where_there_can_be_no_file_that_is_noted_once(tmp_path: Path) -> None:
    """No folder, and a symbolic link in its place: the process keeps its own budget, and says so."""
    for name, trouble in (
        ("none", "No such file or directory"),
        ("link", "Too many levels of symbolic links"),
    ):
        folder = tmp_path / name
        if name == "link":
            folder.mkdir()
            (folder / "feed.sock.attempts").symlink_to(tmp_path / "elsewhere")
        notes: list[Note] = []
        one = ledger(folder, notes)
        assert [one.begin(1), one.begin(1)] == [UNCOUNTED, UNCOUNTED]
        one.note_takeover()
        assert one.counted() == 0
        assert [note.name for note in notes] == ["attempts_unshared"]
        assert notes[0].fields["detail"] == f"{folder}/feed.sock.attempts: {trouble}"


async def test_a_pause_does_not_hold_whom_it_was_not_meant_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """One that asks with another key begins all the same; the count holds for it, too."""
    one = ledger(tmp_path)
    one.pause(25.0)
    assert one.begin(1) is None
    assert one.begin(1, despite_pause=True) is not None
    assert one.begin(1, despite_pause=True) is None


async def test_token_requests_are_counted_by_themselves(tmp_path: Path, autojump_clock: MockClock) -> None:
    """They stand in a file of their own, and leave the attempts to connect alone."""
    tokens = Ledger(tmp_path / "feed.sock", lambda: LONGEST_S, lambda _: None, of=REQUESTS_FOR_TOKENS)
    assert tokens.begin(1) is not None
    assert ledger(tmp_path).counted() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "feed.sock.attempts",
        "feed.sock.token-requests",
    ]


async def test_the_last_takeover_is_known(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A daemon that starts knows how long ago another one took over."""
    ledger(tmp_path).note_takeover()
    await trio.sleep(3)
    assert ledger(tmp_path).since_takeover_s() == pytest.approx(3)


@pytest.mark.parametrize(("lines", "most"), [(1, 7), (3, 5), (4, 4), (30, 4)])
async def test_a_standby_leaves_what_the_active_one_may_need(
    tmp_path: Path, autojump_clock: MockClock, lines: int, most: int
) -> None:
    """A standby begins no attempt beyond that, whoever began them; the active daemon does, up to the limit."""
    standby = Gate(8, ledger=ledger(tmp_path), other=lambda: Other({"M": lines}, is_first=True))
    active = Gate(8, ledger=ledger(tmp_path), other=lambda: NOBODY)
    begun: list[str] = []

    async def attempt(gate: Gate, name: str) -> None:
        async with gate.attempt(lambda: 0):
            begun.append(name)

    async with trio.open_nursery() as nursery:
        for _ in range(most + 1):
            nursery.start_soon(attempt, standby, "standby")
        await trio.sleep(1)
        assert begun == ["standby"] * most
        assert (standby.available(), active.available()) == (0, 8 - most)
        for _ in range(8 - most + 1):
            nursery.start_soon(attempt, active, "active")
        await trio.sleep(1)
        assert begun == ["standby"] * most + ["active"] * (8 - most)
        await trio.sleep(WINDOW_S + LOOK_S)
        assert sorted(begun[8:]) == ["active", "standby"]


async def test_a_limit_of_one_is_for_whoever_comes(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A standby gets its turn where nothing could be left."""
    gate = Gate(1, ledger=ledger(tmp_path), other=lambda: Other({"M": 2}, is_first=True))
    assert gate.available() == 1
    async with gate.attempt(lambda: 0):
        assert gate.available() == 0


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2), st.sampled_from(["begin", "finish", "die"]), st.floats(0, 20), st.floats(0, 1)
    ),
    max_size=80,
)


class Process:
    """One daemon's attempts; ``counted`` are the moments at which the exchange counts them."""

    def __init__(self, folder: Path, counted: list[float]) -> None:
        self._folder = folder
        self._counted = counted
        self.under_way: list[tuple[int, float]] = []
        self.ledger = ledger(folder)

    def begin(self, most: int) -> None:
        """Begin an attempt if it may be."""
        entry = self.ledger.begin(most)
        if entry is not None:
            self.under_way.append((entry, trio.current_time()))

    def finish(self, share: float, at_s: float) -> None:
        """End the oldest attempt, which the exchange has counted at that share of its time."""
        entry, began_s = self.under_way.pop(0)
        self.ledger.finish(entry)
        self._counted.append(began_s + share * (at_s - began_s))

    def die(self, share: float) -> None:
        """Be killed, and started again."""
        self._counted += [began_s + share * (trio.current_time() - began_s) for _, began_s in self.under_way]
        self.under_way = []
        self.ledger.close()
        self.ledger = ledger(self._folder)

    def end_in_time(self, share: float) -> None:
        """End each attempt when it has lasted as long as it may."""
        while self.under_way and trio.current_time() - self.under_way[0][1] >= LONGEST_S:
            self.finish(share, self.under_way[0][1] + LONGEST_S)


@given(steps=STEPS, most=st.integers(1, 6))
def test_no_minute_holds_more(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str, float, float]], most: int
) -> None:
    """Three processes, any of which may die at any time: wherever the exchange counts an attempt, it holds."""
    folder = tmp_path_factory.mktemp("ledger")
    counted: list[float] = []

    async def play() -> None:
        processes = [Process(folder, counted) for _ in range(3)]
        for who, what, pause_s, share in steps:
            await trio.sleep(pause_s)
            for process in processes:
                process.end_in_time(share)
            if what == "begin":
                processes[who].begin(most)
            elif what == "die":
                processes[who].die(share)
            elif processes[who].under_way:
                processes[who].finish(share, trio.current_time())
        for process in processes:
            process.ledger.close()

    trio.run(play, clock=jumping_clock())
    counted.sort()
    assert all(moment - counted[index] >= MINUTE_S for index, moment in enumerate(counted[most:]))


def test_the_horizon_is_above_what_the_configuration_allows() -> None:
    """The longest attempt that may be configured, and a minute, still count."""
    assert HORIZON_S > 600 + WINDOW_S
