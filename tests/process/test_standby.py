"""Two daemons as processes: one is killed, frozen, or replaced by another version, and the other one goes on."""

import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
import trio

import feedhandler
from feedhandler.client import Event, Gap
from tests.soak.killed_daemons import (
    NS,
    READY,
    TAPES,
    Follower,
    Succession,
    generated,
    is_needed,
    judge,
    missing_at_gaps,
    play,
    tape,
)
from tests.soak.upgraded_pair import NEXT_VERSION, WAYS, hand_over, is_right, upgrades
from tests.standby.couple import Survivor
from tests.support.processes import (
    PATIENCE_S,
    Child,
    Simulated,
    another_build,
    daemon,
    differences,
    finished,
    read_truth,
    simulated,
    started,
    write_config,
)

UPGRADE_RATE = 1500
"""Events a second in all; the script beside has more."""
TAPE_KILLS = 2
"""The tape is played at the speed at which it lasts for so many."""
BOUND_WITHIN_S = 1.0
"""When the lock falls free, the socket is there again within a second, for a consumer that tries all the time."""


class Scene(NamedTuple):
    """An exchange, an active daemon and a standby that is ready, and a consumer that stays."""

    config: Path
    exchange: Simulated
    truth: Path
    active: Child
    standby: Child
    survivor: Survivor

    async def end(self) -> None:
        """End the exchange, and assert that the consumer has all that it sent, in one session and without a mark."""
        await trio.sleep(1)
        assert await self.exchange.child.stop() == 0
        sent = read_truth(self.truth)
        with trio.move_on_after(PATIENCE_S):
            while self.survivor.count < sum(map(len, sent.values())):
                await trio.sleep(0.05)
        assert differences(sent, self.survivor.sequences) == []
        assert self.survivor.marks == []
        assert len(self.survivor.sessions) == 1


@asynccontextmanager
async def staged(folder: Path, **environ: str) -> AsyncIterator[Scene]:
    """Begin; the standby runs with these variables."""
    truth = folder / "truth.jsonl"
    async with AsyncExitStack() as stack:
        exchange = await stack.enter_async_context(
            simulated("--market", "BTC-USD", "--rate", 300, "--wait", 2, "--truth", truth, tls=False)
        )
        config = write_config(folder, exchange.url, lines=2)
        active = await stack.enter_async_context(daemon(config))
        survivor = Survivor(folder / "feed.sock")
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(survivor.run)
        standby = await stack.enter_async_context(started("run", "--standby", "--config", config, **environ))
        await standby.errors.wait_for(READY)
        yield Scene(config, exchange, truth, active, standby, survivor)
        nursery.cancel_scope.cancel()


async def test_killed_daemons_under_load(tmp_path: Path) -> None:
    """(3) SIGKILL, twice: the consumer has exactly what the exchange sent, in one session, and soon."""
    outcome = await play(tmp_path, 2, generated(500))
    assert outcome.is_right, outcome
    assert outcome.marks == []
    assert outcome.events > 100
    assert len(outcome.silences_s) == 2


@pytest.mark.tapes
async def test_killed_daemons_under_a_tape(tapes: Path, tmp_path: Path) -> None:
    """(3) Likewise with recorded books and trades of two busy markets, as fast as they are in the script."""
    outcome = await play(tmp_path, TAPE_KILLS, tape(tapes / f"{TAPES[0]}.jsonl.gz", TAPE_KILLS))
    assert outcome.is_right, outcome
    assert outcome.hidden == 0
    assert outcome.kills > 0
    assert outcome.events > 1000


def test_which_gaps_are_needed() -> None:
    """The script's own judgement: a gap is needed where the market was silent from the heir to the kill."""
    begun, killed = 10 * NS, 20 * NS
    successions = [Succession({"M": begun}, killed), Succession({"M": 5 * killed}, 6 * killed)]

    def judged(since_s: float, until_s: float, *arrivals_s: float, reason: str = "unproven") -> bool:
        consumer = Follower(Path("feed.sock"), "")
        consumer.arrivals["M"] = [int(arrival * NS) for arrival in arrivals_s]
        gap = Gap("M/publicTrades", 5, reason, int(since_s * NS), int(until_s * NS))
        return is_needed(gap, consumer, successions)

    assert judged(9, 10.01, 9)  # nothing held: it ends with the connection
    assert judged(9, 21, 9, 21)
    assert judged(9, 30, 9, 30)
    assert not judged(9, 21, 9, 15, 21)
    assert not judged(15, 21, 9, 15, 21)
    assert not judged(25, 40, 9, 25, 40)
    assert not judged(9, 21, 9, 21, reason="divergence")


def test_what_a_gap_may_hide() -> None:
    """The script's own judgement: what is missing, doubled or out of order is told, except between two pieces."""
    sent = [b"1", b"2", b"2", b"3"]
    assert missing_at_gaps(sent, [sent]) == []
    assert missing_at_gaps(sent, [[b"1"], [b"2", b"3"]]) == [b"2"]
    assert missing_at_gaps(sent, [[b"1"], []]) == [b"2", b"2", b"3"]
    wrong = ([sent[:3]], [[b"2"], [b"3"]], [[b"1"], [b"3", b"2"]], [[b"1"], [b"2"]], [sent, [b"3"]])
    for pieces in wrong:
        assert missing_at_gaps(sent, pieces) is None, pieces


async def test_what_comes_late_behind_a_gap() -> None:
    """The script's own judgement: it has to be what a gap hid; without a gap, or a second time, it is a failure."""

    def judged(*records: Event | Gap) -> tuple[bool, int]:
        consumer = Follower(Path("feed.sock"), "")
        consumer.sessions.add("s")
        for record in records:
            consumer.take(record)
        outcome = judge({"M/s": [b"1", b"2", b"3"]}, consumer, [Succession({}, 20 * NS)], [])
        return outcome.is_right, outcome.hidden

    def event(text: bytes, event_class: str = "") -> Event:
        return Event("M/s", 1, "a", 30 * NS, msgspec.Raw(text), event_class)

    gap = Gap("M/s", 1, "unproven", 0, 30 * NS)
    assert judged(event(b"1"), gap, event(b"3")) == (True, 1)
    assert judged(event(b"1"), gap, event(b"3"), event(b"2", "late")) == (True, 0)
    assert judged(event(b"1"), event(b"3"), event(b"2", "late"))[0] is False
    assert judged(event(b"1"), gap, event(b"3"), event(b"3", "late"))[0] is False
    assert judged(event(b"1"), gap, event(b"3"), *[event(b"2", "late")] * 2)[0] is False


async def test_a_frozen_daemon_keeps_its_place_until_it_is_killed(tmp_path: Path) -> None:
    """SIGSTOP: nobody else becomes active, a further daemon is refused; when it is killed the standby goes on."""
    async with staged(tmp_path) as scene:
        scene.active.process.send_signal(signal.SIGSTOP)
        await trio.sleep(2)
        assert scene.standby.notes("took_over") == []
        refused = await finished("run", "--config", scene.config)
        assert refused.process.returncode == 1
        assert "another feedhandler serves this socket" in refused.errors.lines[-1]
        scene.active.process.kill()
        await scene.standby.errors.wait_for('"took_over"')
        await scene.end()
        assert max(scene.survivor.outages_s) < BOUND_WITHIN_S


async def test_an_upgrade_under_load(tmp_path: Path) -> None:
    """(3) Another version follows, the old one hands over and ends: exact stream, no gap record, one session."""
    environ = another_build(tmp_path, "__init__.py", feedhandler.__version__, NEXT_VERSION)
    async with staged(tmp_path, **environ) as scene:
        answer = await finished("ctl", "--socket", tmp_path / "feed.sock", "handover")
        assert (answer.process.returncode, answer.output.lines) == (0, ["the standby takes over"])
        assert await scene.active.wait() == 0
        await scene.standby.errors.wait_for('"daemon_started"')
        [began] = scene.standby.notes("daemon_started")
        assert began["version"] == NEXT_VERSION
        assert scene.standby.notes("following_began")[0]["server"] == f"feedhandler {feedhandler.__version__}"
        assert scene.survivor.byes == ["takeover"]
        refused = await finished("ctl", "--socket", tmp_path / "feed.sock", "handover")
        assert refused.process.returncode == 1
        assert "no standby follows this daemon" in refused.errors.lines[-1]
        await scene.end()


async def test_upgrades_under_the_load_of_several_markets(tmp_path: Path) -> None:
    """(3) There and back between two versions, by handover and by SIGTERM, with trades and books of four markets.

    The client library's consumer has exactly what the exchange sent, in one session, without any mark.
    """
    outcome = await play(tmp_path, len(WAYS), generated(UPGRADE_RATE, 4), upgrades(tmp_path))
    assert is_right(outcome, len(WAYS)), outcome
    told = list(zip(WAYS, outcome.byes, strict=True))
    assert [bye for way, bye in told if way is hand_over] == ["takeover"] * 2
    assert outcome.events > UPGRADE_RATE


async def test_sigterm_hands_over_where_a_standby_is_ready(tmp_path: Path) -> None:
    """The old one ends with 0; what the consumer was told is a takeover."""
    async with staged(tmp_path) as scene:
        assert await scene.active.stop() == 0
        await scene.standby.errors.wait_for('"took_over"')
        await scene.end()
        assert scene.survivor.byes == ["takeover"]


async def test_another_protocol_is_not_followed(tmp_path: Path) -> None:
    """A build that speaks another protocol ends with one line that says so, and the active daemon goes on."""
    environ = another_build(tmp_path, "publish/records.py", "PROTOCOL = 1", "PROTOCOL = 2")
    async with staged(tmp_path) as scene:
        scene.standby.process.kill()
        other = await finished("run", "--standby", "--config", scene.config, **environ)
        assert other.process.returncode == 1
        said = f"{tmp_path}/feed.sock: feedhandler {feedhandler.__version__} speaks protocol 1, this daemon 2"
        assert said in other.errors.lines[-1]
        await scene.end()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("lines", 8), "standby.lines: expected fewer than 1, both daemons together are above limits"),
        (("http", "127.0.0.1:9464"), "standby.http: expected another address than observe.http has"),
        (("http", "nowhere"), "standby.http: expected"),
        (("standby.lines", 9), "standby.lines: expected 0..8, got 9"),
    ],
)
async def test_a_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path, change: tuple[str, str | int], said: str
) -> None:
    """What cannot be right for two daemons is said before anything begins, with the key's path."""
    config = write_config(tmp_path, "ws://127.0.0.1:1", lines=8 if change[0] == "lines" else 2)
    overrides = {"http": f"standby.http={change[1]}", "standby.lines": "standby.lines=9"}
    arguments = ["--set", overrides[change[0]]] if change[0] in overrides else []
    if change[0] == "http":
        arguments += ["--set", "observe.http=127.0.0.1:9464"]
    refused = await finished("run", "--standby", "--config", config, *arguments)
    assert refused.process.returncode == 2
    assert len(refused.errors.lines) == 1
    assert said in refused.errors.lines[0]


async def test_a_lock_that_is_a_link_is_no_lock(tmp_path: Path) -> None:
    """Nobody is led to lock another file: one line with its path, exit code 1."""
    config = write_config(tmp_path, "ws://127.0.0.1:1")
    (tmp_path / "feed.sock.lock").symlink_to(tmp_path / "elsewhere")
    refused = await finished("run", "--standby", "--config", config)
    assert refused.process.returncode == 1
    assert f"{tmp_path}/feed.sock.lock: Too many levels of symbolic links" in refused.errors.lines[-1]
    assert not (tmp_path / "elsewhere").exists()


async def test_a_socket_without_a_folder(tmp_path: Path) -> None:
    """Where there can be no lock: one line with its path, exit code 1."""
    config = write_config(tmp_path, "ws://127.0.0.1:1")
    refused = await finished(
        "run", "--standby", "--config", config, "--set", "publish.socket=./none/feed.sock"
    )
    assert refused.process.returncode == 1
    assert "none/feed.sock.lock: No such file or directory" in refused.errors.lines[-1]
