"""Supervision: stalls, quiet feeds, disagreement, quarantine, clocks."""

import pytest
from hypothesis import given, settings

from feedhandler.config import Bounds, Health
from feedhandler.core.arbiter import Quarantine, Restart
from feedhandler.core.messages import Gap, Release
from tests.support.lines import World
from tests.support.scripts import DISTINCT, REPEATED, Script, play, scripts, steady
from tests.support.transcripts import check_transcript

CHAOS = ("emit",) * 8 + ("read",) * 7 + ("kill", "connect", "connect", "wait")
SHORT = Bounds(passed_events=4, passed_s=0.5)
STRICT = Health(quarantine_divergences=2, stall_min_s=600)


def busy(world: World, seconds: float, *, mute: str = "", lag: int = 0) -> float | None:
    """Let ten events a second arrive on all lines but one; return after how long that one was suspect.

    Line ``a`` reads at once, the others ``lag`` events later.
    """
    for step in range(round(seconds * 10)):
        world.emit(b"%c%d" % (b"bt"[step % 3 == 0], len(world.source) + 1))
        for name in world.connections:
            behind = 0 if name == "a" else lag
            if name != mute:
                world.deliver(name, max(0, len(world.connections[name].queue) - behind))
        world.wait(0.1)
        if mute and world.arbiter.lines[mute].health.state == "suspect":
            return (step + 1) / 10
    return None


@pytest.mark.parametrize("lines", [2, 3, 5])
@pytest.mark.parametrize("mute", ["a", "b"])
def test_a_mute_line_is_suspected_and_replaced_and_nothing_is_lost(lines: int, mute: str) -> None:
    """Requirement 1: suspect within 1 s of its peers' progress, a restart ordered within 4 s, no event lost."""
    world = World(lines)
    world.connect(*world.names)
    busy(world, 8)
    assert all(line.health.state == "good" for line in world.arbiter.lines.values())
    suspected = busy(world, 5, mute=mute)
    assert suspected is not None
    assert suspected <= 1.0 + 0.4  # and the three events that the peers must be ahead
    since = world.now
    while not world.orders:
        busy(world, 0.1, mute=mute)
    assert world.now - since <= 4
    assert world.orders == [Restart(mute, "stalled")]
    world.kill(mute)
    world.connect(mute)
    busy(world, 8)
    world.deliver_all()
    world.assert_exact()
    assert world.orders == [Restart(mute, "stalled")]
    assert world.arbiter.lines[mute].health.state == "good"


def test_a_line_that_always_lags_is_given_three_times_its_lag() -> None:
    """Requirement 1: the patience follows the line's usual lag (p99)."""
    world = World(2)
    world.connect("a", "b")
    busy(world, 20, lag=8)
    health = world.arbiter.lines["b"].health
    assert health.usual_lag() == pytest.approx(0.8, abs=0.11)
    suspected = busy(world, 10, mute="b")
    assert suspected is not None
    assert suspected == pytest.approx(3 * health.usual_lag(), abs=0.2)


def test_a_witness_ahead_shows_that_its_peer_stands_still() -> None:
    """Health: the arrivals of a witness are progress of the feed, though nothing of it is released."""
    check_transcript(
        World(2),
        """
        >> connect a
        >> a: b1 b2
        << b1 b2
        >> connect b
        >> wait 0.1
        >> b: b5 b6 b7 b8
        >> wait 1.5
        == a suspect, b witness
        >> wait 6
        << gap:unproven b5 b6 b7 b8
        == b probation
        """,
    )


def test_a_witness_that_receives_nothing_is_suspected() -> None:
    """Requirement 1: a line that is mute from its first moment on never joins, and is found out."""
    world = World(2)
    world.connect("a", "b")
    assert busy(world, 4, mute="b") == pytest.approx(1.1, abs=0.2)


def test_a_suspect_that_catches_up_serves_a_probation() -> None:
    """Health: it has to keep up for a while before it counts as good again."""
    check_transcript(
        World(2),
        """
        >> connect a b
        >> a: b1 b2
        << b1 b2
        >> b: b1 b2
        >> wait 6
        == a good, b good
        >> a: b3 b4 b5
        << b3 b4 b5
        >> wait 1.5
        == a good, b suspect
        >> b: b3 b4 b5
        >> wait 0.1
        == b probation
        >> wait 4
        == b probation
        >> wait 1.5
        == b good
        """,
    )


def test_the_last_line_goes_on_as_best_it_can() -> None:
    """Health: no restart is ordered where no other line is connected."""
    world = check_transcript(
        World(2), ">> connect a b\n>> a: b1 b2\n<< b1 b2\n>> b: b1 b2 b3 b4 b5\n<< b3 b4 b5\n>> kill b"
    )
    check_transcript(world, ">> wait 30\n== a suspect")
    assert not world.orders
    check_transcript(world, ">> a: b3 b4 b5 b6\n<< b6\n>> wait 0.1\n== a probation")


def test_a_quiet_market_is_not_a_dead_feed() -> None:
    """Requirement 2, the core's half: ten minutes of silence on all lines order nothing; the state is quiet."""
    world = World(3)
    world.connect("a", "b", "c")
    busy(world, 8)
    world.wait(600)
    assert world.orders == []
    assert world.states[-2:] == ["live", "quiet"]
    assert {line.health.state for line in world.arbiter.lines.values()} == {"good"}
    busy(world, 1)
    assert world.states[-1] == "live"
    world.assert_exact()


def test_the_states_of_a_feed_follow_its_lines() -> None:
    """A feed is down without lines, syncing without an aligned one, live again with it."""
    world = World(2)
    world.wait(0.1)
    assert world.arbiter.state == "down"
    check_transcript(
        world, ">> connect a\n>> a: b1 b2\n<< b1 b2\n>> wait 0.1\n>> connect b\n>> a: b3\n<< b3\n>> kill a"
    )
    assert world.states == ["live", "syncing"]
    check_transcript(world, ">> b: b4\n<< gap:unproven b4\n>> wait 0.1")
    assert world.states == ["live", "syncing", "live"]
    check_transcript(world, ">> kill b\n>> wait 0.1\n>> connect a\n<< gap:outage\n>> wait 0.1")
    assert world.states[-2:] == ["down", "live"]


def aligned(lines: int, *, health: Health = STRICT) -> World:
    """Return lines in step, quick to judge."""
    world = World(lines, bounds=SHORT, health=health)
    world.connect(*world.names)
    world.emit(b"b1", b"t2", b"b3")
    world.deliver_all()
    world.wait(0.1)
    return world


def disagree(world: World, *, lost_on: str) -> None:
    """Let some lines not get an event, and let enough happen for a verdict."""
    world.emit(b"b%d" % (len(world.source) + 1), lost_on=lost_on)
    world.deliver_all()
    world.wait(0.1)
    for _ in range(5):
        world.emit(b"b%d" % (len(world.source) + 1))
    world.deliver_all()
    world.wait(1)


@pytest.mark.parametrize(("lines", "lost_on"), [(2, "b"), (3, "c"), (4, "b")])
def test_what_one_line_alone_missed_counts_against_it(lines: int, lost_on: str) -> None:
    """Rule R6: two such verdicts, with a bound of two, quarantine the line; nothing is lost or marked."""
    world = aligned(lines)
    disagree(world, lost_on=lost_on)
    assert world.orders == []
    disagree(world, lost_on=lost_on)
    (order,) = world.orders
    assert isinstance(order, Quarantine)
    assert order.line == lost_on
    assert world.arbiter.lines[lost_on].health.state == "quarantined"
    world.assert_exact()


@pytest.mark.parametrize("lines", [3, 4])
def test_what_nobody_else_saw_counts_against_its_bringer(lines: int) -> None:
    """Rule R6: the majority contradicts it, so a gap follows; what was released stays released."""
    world = aligned(lines)
    disagree(world, lost_on=world.names[1:])
    assert [(gap.channel, gap.reason) for gap in world.gaps] == [("M/b", "divergence")]
    assert world.output == world.source
    disagree(world, lost_on=world.names[1:])
    assert [order.line for order in world.orders] == ["a"]


def test_what_a_line_did_is_not_held_against_another_of_its_name() -> None:
    """Rule R6: the name of a line that is gone for good may be given again; the blame goes with the old line."""
    world = aligned(3)
    disagree(world, lost_on="b")
    assert world.notes.count("line_diverged") == 1
    world.remove("b")
    assert world.add() == "b"
    world.connect("b")
    world.emit(b"b50", b"t51", b"b52")
    world.deliver_all()
    world.wait(1)
    disagree(world, lost_on="b")
    assert world.notes.count("line_diverged") == 2
    assert not world.orders


def test_a_verdict_on_a_line_that_is_gone_hits_nobody() -> None:
    """Rule R6: who missed an event and left does not make the one that stays the only misser, nor is it blamed."""
    world = aligned(3)
    check_transcript(world, ">> a: b4 b5\n<< b4 b5\n>> b: b5 b6 b7 b8 b9\n<< b6 b7 b8 b9\n>> wait 1")
    assert world.notes.count("event_missed") == 1
    world.remove("b")
    check_transcript(world, ">> c: b5 b6 b7 b8 b9 b10 b11\n<< b10 b11\n>> a: b6 b7 b8 b9 b10 b11")
    world.wait(1)
    assert world.notes.count("event_missed") == 2
    assert [(gap.channel, gap.reason) for gap in world.gaps] == [("M/b", "divergence")]
    assert not world.orders


def test_two_of_four_prove_nothing() -> None:
    """Rule R6: where several lines brought it and several missed it, nobody is blamed."""
    world = aligned(4)
    for _ in range(4):
        disagree(world, lost_on="cd")
    assert world.notes.count("event_missed") == 8
    assert "line_diverged" not in world.notes
    assert not world.orders


def test_an_incident_tells_what_was_around_it() -> None:
    """Rule R6: the order to quarantine holds the disputed event, its neighbourhood, and every line's place."""
    world = aligned(3)
    disagree(world, lost_on="b")
    disagree(world, lost_on="b")
    (order,) = world.orders
    assert isinstance(order, Quarantine)
    incident = order.incident
    assert (incident["feed"], incident["line"], incident["position"]) == ("M", "b", 9)
    around = incident["neighbourhood"]
    assert isinstance(around, list)
    assert {"position": 9, "line": "a", "channel": "M/b", "payload": b"b10"} in around
    lines = incident["lines"]
    assert isinstance(lines, list)
    assert [one["line"] for one in lines] == ["a", "b", "c"]


def test_a_check_that_fails_on_all_lines_switches_itself_off() -> None:
    """Requirement 13: when every line is as bad, it is not the lines: no quarantine, a note, the events still flow."""
    world = aligned(3)
    for name in "abcabcabc":
        disagree(world, lost_on=name)
    assert world.notes.count("divergence_check_switched_off") == 1
    assert not [order for order in world.orders if order.line != "a"]
    world.assert_complete_and_marked()


def test_nothing_is_judged_once_the_check_is_off() -> None:
    """The verdict that switches the check off may be one of several that are due at once: it is the last one."""
    world = aligned(3)
    for name in "bc":
        disagree(world, lost_on=name)
    lost = [b"b60", b"b61", b"b62", b"b63"]
    world.emit(*lost, lost_on="a")
    world.emit(b"b64", b"b65", b"b66", b"b67", b"b68", b"b69")
    for name in "bca":
        world.deliver(name)
    world.wait(1)
    assert world.notes.count("event_missed") == 2 + len(lost)
    assert world.notes.count("divergence_check_switched_off") == 1
    assert world.notes.count("line_diverged") == 4
    assert not world.orders
    world.assert_complete_and_marked()


def test_a_verdict_waits_for_lines_that_may_still_bring_the_event() -> None:
    """Rule R6: a line that has not got there yet has not missed it."""
    world = aligned(3)
    check_transcript(world, ">> a: b4\n<< b4\n>> b: b5 b6 b7 b8 b9\n<< b5 b6 b7 b8 b9\n>> wait 1")
    assert "event_missed" in world.notes
    assert "line_diverged" not in world.notes
    check_transcript(world, ">> c: b4 b5 b6\n>> wait 0.1")
    assert "line_diverged" in world.notes


def test_blame_is_forgotten_after_an_hour() -> None:
    """Rule R6: two misses an hour apart do not add up."""
    world = aligned(3)
    disagree(world, lost_on="b")
    world.now += 3600
    disagree(world, lost_on="b")
    assert not world.orders


@settings(steady, max_examples=60)
@given(scripts(words=DISTINCT + REPEATED, kinds=CHAOS))
def test_the_wall_clock_only_labels(script: Script) -> None:
    """Requirement 15: stepped by an hour either way at any time, it changes labels and nothing else."""
    steadily = play(World(script.lines), script)
    stepped = play(World(script.lines), script, clock_steps_ns=3600 * 10**9)
    assert unlabelled(stepped) == unlabelled(steadily)


def unlabelled(world: World) -> tuple[object, ...]:
    """Return everything that a world did, without wall-clock times."""
    released = [
        (one.channel, one.payload, one.line, one.kind)
        if isinstance(one, Release)
        else (one.channel, one.reason)
        for one in world.released
        if isinstance(one, Release | Gap)
    ]
    return released, world.orders, world.notes, world.states


def test_the_clocks_are_compared_by_the_newest_event() -> None:
    """(15) The exchange's time minus that of the arrival, negative where it is behind; nothing where none is told."""
    world = World(1)
    world.connect("a")
    assert world.arbiter.clock_offset_s() is None
    world.emit(b"b%d" % 250)
    world.deliver_all()
    assert world.arbiter.clock_offset_s() == pytest.approx(0.25 - world.wall / 1e9)
    world.wall_ns = -(10**9)
    world.emit(b"b%d" % 300)
    world.deliver_all()
    assert world.arbiter.clock_offset_s() == pytest.approx(0.3 - world.wall / 1e9)
    assert world.wall / 1e9 < 0.3
    world.emit(b"bx")
    world.deliver_all()
    assert world.arbiter.clock_offset_s() is None
