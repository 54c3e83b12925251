# ruff: noqa: ARG001 - the clock works by being asked for
"""Two daemons: what each tells of itself and of the other, everywhere that operators look."""

import os
from io import StringIO
from pathlib import Path

import msgspec
import pytest
import trio
from rich.console import Console
from trio.testing import MockClock

from feedhandler.config import Observe, Standby
from feedhandler.daemon import Daemon
from feedhandler.observe.asking import Look
from feedhandler.observe.collecting import Collector
from feedhandler.observe.pair import LACKS, pair_of
from feedhandler.observe.readiness import NOT_FOLLOWED
from feedhandler.observe.status import FOLLOWING, NONE, READY, PairStatus, Status
from feedhandler.observe.systemd import status as service_status
from feedhandler.observe.telling import StatusMaker
from feedhandler.observe.terminal import picture
from feedhandler.publish.lock import Lock
from tests.standby.couple import Couple, coupled
from tests.support.stage import BTC, raw_consumer, staged
from tests.support.web import Browser

HTTP = "127.0.0.1:0"


def seen(daemon: Daemon) -> PairStatus:
    """Return the pair as a daemon sees it."""
    return pair_of(daemon.observation.sight)


async def told(daemon: Daemon) -> Status:
    """Return a daemon's state."""
    return msgspec.json.decode(await StatusMaker(daemon.observation.sight).document(), type=Status)


def scraped(daemon: Daemon, family: str) -> set[str]:
    """Return the series of a family that are not 0."""
    text = "".join(Collector(daemon.observation.sight, lambda: 0).scrape(openmetrics=False))
    samples = (line for line in text.splitlines() if line.startswith(f"feedhandler_{family}"))
    return {
        line.rpartition(" ")[0].removeprefix("feedhandler_") for line in samples if not line.endswith(" 0")
    }


def shown(status: Status, columns: int) -> str:
    """Return what a terminal of that width shows."""
    output = StringIO()
    Console(file=output, width=columns, force_terminal=False).print(
        picture([Look("http://a:1", status)], columns=columns)
    )
    return output.getvalue()


def in_systemd(daemon: Daemon) -> str:
    """Return the status line of the service."""
    return service_status(
        daemon.feeds.values(),
        consumers=daemon.consumer_count(),
        gaps=0,
        standby=daemon.standby_reasons(),
        follower=daemon.standby_in_words(),
    )


def refuse(couple: Couple, status: int) -> None:
    """Let the exchange answer those who connect with a status from now on."""
    exchange = couple.stage.exchange
    exchange.behaviour = msgspec.structs.replace(exchange.behaviour, handshake_status=status)


async def end(couple: Couple, daemon: Daemon) -> None:
    """Kill the active daemon, and wait until another one is it."""
    couple.kill(couple.stage.daemon)
    couple.promote()
    await couple.stage.talk_until(lambda: daemon.standby is None and daemon.publisher.consumer_count > 0)


async def test_a_daemon_alone_says_nothing_of_a_standby(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Who was not started as one of two misses nobody, and nobody shows a word about it."""
    async with staged(tmp_path) as stage:
        daemon = stage.daemon
        pair, status = seen(daemon), await told(daemon)
        assert (pair.role, pair.expected, pair.standby, pair.reasons) == ("active", False, NONE, [])
        assert (pair.other_pid, pair.heard_s, pair.holds_lock) == (None, None, True)
        assert status.pair == pair
        assert "standby" not in shown(status, 120).lower()
        assert "standby" not in in_systemd(daemon).lower()
        assert scraped(daemon, "standby_") == {'standby_state{state="none"}'}
        assert scraped(daemon, "role") == {'role{role="active"}'}


async def test_both_tell_the_same_story(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The state, the process and the lock are told by the active daemon and by its standby, each as it sees them."""
    async with coupled(tmp_path) as couple:
        active, standby = couple.stage.daemon, couple.standby
        assert standby is not None
        await couple.stage.talk(3)
        here, there = seen(active), seen(standby)
        assert (here.role, there.role) == ("active", "standby")
        assert here.standby == there.standby == READY
        assert here.reasons == there.reasons == []
        assert here.other_pid == there.other_pid == os.getpid()
        assert here.lock == there.lock == f"{couple.stage.config.publish.socket}.lock"
        assert (here.holds_lock, there.holds_lock) == (True, False)
        assert there.heard_s is not None
        assert there.heard_s < 2
        assert (await told(active)).session == (await told(standby)).session
        assert scraped(active, "role") == {'role{role="active"}'}
        assert scraped(standby, "role") == {'role{role="standby"}'}
        assert scraped(standby, "standby_") == {"standby_expected", 'standby_state{state="ready"}'}
        assert scraped(active, "standby_") == {'standby_state{state="ready"}'}
        assert in_systemd(active) == "1/1 feeds live, 2/2 lines up, 2 consumers, 0 gaps, standby ready"
        assert in_systemd(standby) == "1/1 feeds live, 1/1 lines up, standby, ready"


async def test_what_the_output_has_not_brought_is_counted(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Events that the standby's own line has, and the active daemon has not published, are how far it is behind."""
    async with coupled(tmp_path) as couple:
        standby = couple.standby
        assert standby is not None
        for line in (0, 1):
            couple.stage.strike("delay", line, delay_s=0.5)
        couple.stage.say(7)
        await couple.stage.until(lambda: seen(standby).behind_events == 7)
        assert scraped(standby, "standby_behind") == {"standby_behind_events"}
        await couple.arrived()
        await couple.stage.until(lambda: seen(standby).behind_events == 0)
        couple.assert_exact()


@pytest.mark.parametrize("columns", [40, 80, 120])
async def test_a_standby_is_not_taken_for_a_daemon_that_serves(
    tmp_path: Path, autojump_clock: MockClock, columns: int
) -> None:
    """On a terminal of any width it is called one, with its readiness; its lines are counted without the output."""
    async with coupled(tmp_path) as couple:
        assert couple.standby is not None
        active, standby = await told(couple.stage.daemon), await told(couple.standby)
    ours, theirs = shown(standby, columns), shown(active, columns)
    assert ours.startswith(" STANDBY READY ")
    assert f"⇄ follows process {os.getpid()}" in ours
    assert "lines 1/1" in ours
    assert theirs.startswith(" READY ")
    assert f"⇄ standby ready  process {os.getpid()}"[: columns - 2] in theirs
    assert all(len(line) <= columns for text in (ours, theirs) for line in text.splitlines())


async def test_readiness_over_http(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A standby answers 503 with its reasons until it is aligned, then 200, and 200 as the active one that it becomes.

    Without a successor it is in doubt then, and says so.
    """
    section = Standby(http=HTTP)
    async with coupled(tmp_path, standby=False, standby_section=section, observe=Observe(http="")) as couple:
        refuse(couple, 503)
        daemon = await couple.start(standby=True)
        server = daemon.observation.server
        assert server is not None
        browser = Browser(server.addresses[0])

        async def readyz() -> tuple[int, list[str]]:
            reply = await browser.get("/readyz")
            return reply.status, reply.json()["reasons"]

        course = daemon.standby
        assert course is not None
        blind = f"{BTC}: no line of the standby is aligned"
        status, reasons = await readyz()
        assert status == 503
        assert set(reasons) <= {NOT_FOLLOWED, blind}
        await couple.stage.until(lambda: course.is_level)
        answers = [await readyz()]
        refuse(couple, 101)
        await couple.until_ready()
        answers.append(await readyz())
        await end(couple, daemon)
        await couple.stage.talk_until(couple.stage.all_up)
        await couple.stage.until(couple.stage.all_synchronised)
        answers.append(await readyz())
        assert answers == [
            (503, [blind]),
            (200, []),
            (200, [LACKS[NONE]]),
        ]
        assert in_systemd(daemon).endswith("NO STANDBY")
        assert scraped(daemon, "takeovers") == {'takeovers_total{whole="true"}'}
        assert "⇄ NO STANDBY" in shown(await told(daemon), 40)
        await couple.start(standby=True)
        await couple.until_ready()
        assert await readyz() == (200, [])


async def test_a_standby_without_a_line_is_told_apart(tmp_path: Path, autojump_clock: MockClock) -> None:
    """One whose own line is away follows and is not ready: it names the feed, and the active daemon refers to it."""
    async with coupled(tmp_path, standby=False) as couple:
        refuse(couple, 503)
        standby = await couple.start(standby=True)
        course = standby.standby
        assert course is not None
        await couple.stage.talk_until(lambda: course.is_level)
        await couple.stage.talk(1)
        here, there = seen(couple.stage.daemon), seen(standby)
        assert here.standby == there.standby == FOLLOWING
        assert here.reasons == [LACKS[FOLLOWING]]
        assert there.reasons == [f"{BTC}: no line of the standby is aligned"]
        assert in_systemd(couple.stage.daemon).endswith("standby not ready")
        assert shown(await told(standby), 80).startswith(" STANDBY NOT READY ")


async def test_one_that_has_nobody_to_follow_says_so(tmp_path: Path, autojump_clock: MockClock) -> None:
    """While the lock is taken and nobody answers at the socket, a standby says that it waits for the lock."""
    async with coupled(tmp_path, standby=False) as couple:
        couple.kill(couple.stage.daemon)
        with Lock(couple.stage.config.publish.socket):
            standby = await couple.start(standby=True)
            await trio.sleep(5)
            pair, text = seen(standby), shown(await told(standby), 200)
    assert (pair.role, pair.standby, pair.other_pid, pair.holds_lock) == ("standby", NONE, None, False)
    assert pair.reasons == [NOT_FOLLOWED]
    assert f"no active daemon answers  0 events not published yet  waits for {pair.lock}" in text


async def test_who_follows_is_one_of_the_consumers(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The standby stands among the consumers, by its name and process."""
    async with coupled(tmp_path) as couple, raw_consumer(couple.stage.config.publish.socket):
        status = await told(couple.stage.daemon)
        assert [one.name for one in status.consumers if one.pid == status.pair.other_pid].count(
            "standby"
        ) == 1
