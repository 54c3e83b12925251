"""The rules of the merge, one story each (`tests.support.transcripts` says how to read them)."""

import pytest

from feedhandler.config import Bounds, Health
from feedhandler.core.arbiter import GHOSTS
from feedhandler.core.messages import Release
from tests.support.lines import World
from tests.support.transcripts import check_transcript


def pair() -> World:
    """Return two lines that are aligned and in step."""
    return check_transcript(World(3), ">> connect a b\n>> a: b1 t2 b3\n<< b1 t2 b3\n>> b: b1 t2 b3\n<<")


def test_equal_values_in_other_bytes_are_the_same_event() -> None:
    """Rule R1: a line that spaces its JSON differently brings duplicates, found by value from then on."""
    world = check_transcript(
        World(2),
        """
        >> connect a b
        >> a: {"b":1} {"b":2}
        << {"b":1} {"b":2}
        >> b: {"b":1} {"b":2}
        """,
    )
    world.receive("b", b'{"b":3}')
    world.receive("a", b'{ "b": 3 }', b'{ "b": 4 }')
    world.receive("b", b'{"b":4}')
    assert world.output[2:] == [b'{"b":3}', b'{ "b": 4 }']
    assert world.notes.count("values_compared") == 1


def test_a_witness_with_other_bytes_joins_by_value() -> None:
    """Rule R1: a line that writes every message differently is found out while it waits to join."""
    world = World(2)
    world.connect("a", "b")
    for number in range(1, 20):
        world.receive("a", b'{"b":%d}' % number)
        world.receive("b", b'{ "b": %d }' % number)
        world.wait(0.2)
    assert world.output == [b'{"b":%d}' % number for number in range(1, 20)]
    assert world.arbiter.lines["b"].up


def test_what_is_repeated_with_its_time_is_no_proof_where_the_line_has_brought_what_is_behind_it() -> None:
    """(3, 7) Rule R4: c brings b5 and a repeat of b4; taken for the first b4, it would bring b5 as late once more."""
    check_transcript(
        pair(),
        """
        >> connect c
        >> a: b4 b5
        << b4 b5
        >> b: b4 b5
        >> c: b5 b4       # it has not heard the first b4
        == c witness
        >> a: b4
        << b4
        >> b: b4 b6
        << b6
        >> a: b6
        >> c: b6
        <<
        """,
    )


def test_what_recurs_is_no_proof() -> None:
    """Rule R4: a witness never joins on events that may recur, whatever their number."""
    world = check_transcript(
        World(2),
        """
        >> connect a b
        >> a: bx by bx by
        << bx by bx by
        >> b: bx by bx by bx by
        <<
        == b witness
        """,
    )
    assert world.arbiter.lines["b"].waiting


def test_replies_and_garbage_are_no_events() -> None:
    """Rule R2: replies go back to the caller, garbage is counted, neither disturbs the merge."""
    world = check_transcript(pair(), ">> a: >one !x b4 >two\n<< b4\n>> b: !y b4\n<<")
    assert [reply.request_id for reply in world.replies] == ["one", "two"]
    assert world.notes.count("garbage_received") == 2


def test_unknown_messages_flow_through_once() -> None:
    """Requirement 13: an unknown type is published, marked, as often as any one line brings it."""
    check_transcript(
        pair(),
        """
        >> a: ?new
        << ?new!unknown
        >> b: ?new ?new
        << ?new!unknown
        >> a: ?new b4
        << b4
        """,
    )


def test_an_owed_event_is_a_duplicate_wherever_it_stands() -> None:
    """Rule R3.1 and R3.2: in order or in another interleaving, what is owed is not released again."""
    check_transcript(pair(), ">> a: b4 t5 b6 t7\n<< b4 t5 b6 t7\n>> b: t5 t7 b4 b6 t8\n<< t8")


def test_the_same_bytes_are_owed_as_often_as_they_came() -> None:
    """Rule R3: each copy is an event of its own; one more than was owed is new."""
    check_transcript(pair(), ">> a: bx bx bx\n<< bx bx bx\n>> b: bx bx bx bx\n<< bx")


def test_what_others_have_dropped_is_late() -> None:
    """Rule R3.3: an event that belongs before what its line still owes is late."""
    check_transcript(pair(), ">> a: b5 b6\n<< b5 b6\n>> b: b4 b5 b6\n<< b4!late\n>> a: b7\n<< b7")


def test_what_is_not_owed_is_new_and_ordinary() -> None:
    """Rule R3.3: nothing of the channel is owed, so the event leads, whatever is owed of other channels."""
    check_transcript(pair(), ">> a: t4 t5\n<< t4 t5\n>> b: b6\n<< b6")


def test_a_line_that_dropped_an_event_and_leads_is_not_late_for_ever() -> None:
    """Against the letter of R3.3: a line dropped b4 and leads with b5 and b6: times decide."""
    check_transcript(pair(), ">> a: b4\n<< b4\n>> b: b5 b6\n<< b5 b6\n>> a: b5 b6 b7\n<< b7\n>> b: b8\n<< b8")


def test_a_repeat_of_a_passed_event_is_another_event() -> None:
    """Against the letter of R3.2: a line dropped bx, then leads with a real repeat of it; the others die.

    By the letter the repeat is the passed bx, a duplicate, and once the others are gone it is lost.
    """
    check_transcript(
        pair(),
        """
        >> a: bx b4
        << bx b4
        >> b: b4          # has dropped bx, which is passed now
        >> b: bx          # the repeat
        << bx
        >> kill a
        >> b: b5
        << b5
        """,
    )


def test_a_passed_event_with_identity_is_a_duplicate_when_it_comes() -> None:
    """Rule R3.2: order within a channel was broken by the line, and nothing is doubled for it."""
    world = check_transcript(pair(), ">> a: b4 b5\n<< b4 b5\n>> b: b5 b4 b6\n<< b6")
    assert "order_contradicted" in world.notes


def test_copies_taken_out_of_order_are_put_right() -> None:
    """Rule R3: what a line brought before an event that it had passed was not what stands after that event."""
    world = check_transcript(
        pair(),
        """
        >> a: bx bx
        << bx bx
        >> b: bx
        >> a: b4 bx
        << b4 bx
        >> b: bx bx      # the second copy, and what looks like the one after b4
        >> b: b4         # so that was another one, from before b4
        << bx!late
        >> b: bx
        <<
        """,
    )
    assert "order_contradicted" in world.notes


def test_missed_is_what_stays_passed_for_a_while() -> None:
    """Rule R3: passed becomes missed only when count and time are both over."""
    world = World(2, bounds=Bounds(passed_events=4, passed_s=1))
    check_transcript(
        world,
        ">> connect a b\n>> a: b1 b2\n<< b1 b2\n>> b: b1 b2\n>> a: b3 b4\n<< b3 b4\n>> b: b4\n>> wait 2",
    )
    assert "event_missed" not in world.notes
    check_transcript(world, ">> a: b5 b6\n<< b5 b6\n>> b: b5 b6\n>> wait 0.2")
    assert world.notes.count("event_missed") == 1
    assert world.arbiter.lines["b"].owing
    check_transcript(world, ">> b: b7\n<< b7")


def test_a_line_that_owes_more_than_the_window_holds_is_a_witness() -> None:
    """Rule R3: the window goes on without it, and it joins again when it shares something."""
    world = World(2, bounds=Bounds(window_events=16, window_s=3600))
    check_transcript(world, ">> connect a b\n>> a: b1 b2\n<< b1 b2\n>> b: b1 b2")
    words = [f"b{n}" for n in range(3, 60)]
    check_transcript(
        world, f">> a: {' '.join(words)}\n<< {' '.join(words)}\n>> wait 0.1\n== a probation, b witness"
    )
    check_transcript(world, f">> b: {' '.join(words)}\n<<\n== b probation\n>> b: b60\n<< b60")


def test_a_line_joins_ahead_of_the_others() -> None:
    """Rule R4: a joining line's first messages are nowhere in the window yet; they wait for their turn."""
    check_transcript(
        pair(),
        """
        >> connect c
        >> c: b5 t6
        <<
        >> a: b4 b5
        << b4 b5
        >> a: t6 b7
        << t6 b7
        >> c: b7 b8
        << b8
        """,
    )


def test_the_newest_event_of_a_channel_is_no_proof_yet() -> None:
    """Rule R4: lines may interleave channels differently, so one event more has to tell."""
    check_transcript(
        pair(),
        """
        >> connect c
        >> a: b4
        << b4
        >> c: b4
        == c witness
        >> a: b5
        << b5
        == c probation
        """,
    )


def test_the_newest_event_is_proof_where_no_other_line_is_good() -> None:
    """Rule R4: nobody else can bring a better proof."""
    check_transcript(
        pair(), ">> kill b\n>> connect c\n>> a: b4\n<< b4\n>> c: b4 b5\n>> kill a\n<< b5\n== c probation"
    )


def test_a_shared_event_proves_continuity_over_a_death() -> None:
    """Rule R8: the older line delivered the younger one's first event while it was up, so there is no gap."""
    check_transcript(
        pair(), ">> connect c\n>> a: b4\n<< b4\n>> c: b4 b5\n>> kill a\n>> kill b\n<< b5\n>> c: b6\n<< b6"
    )


def test_without_a_shared_event_there_is_a_gap() -> None:
    """Rule R8: subscription alone proves nothing, for the older line may have lagged."""
    check_transcript(
        pair(),
        ">> connect c\n>> c: b5\n>> kill a\n>> kill b\n<< gap:unproven b5\n>> c: b6\n<< b6",
    )


def test_an_outage_is_a_gap_with_its_bounds() -> None:
    """Requirement 4, the core's half: all lines are gone, and what follows stands behind one gap record.

    The first line that is back brings only what is new, so the gap ends there, whether anything happens or not.
    """
    world = check_transcript(
        pair(),
        ">> wait 1\n>> a: b4\n<< b4\n>> kill a\n>> kill b\n>> wait 3\n>> connect a\n<< gap:outage\n>> wait 1",
    )
    check_transcript(world, ">> a: b9\n<< b9\n>> connect b\n>> a: b10 b11\n<< b10 b11\n>> b: b10 b11\n<<")
    assert (world.gaps[0].since, world.gaps[0].until) == (2_000_000_000, 5_000_000_000)


def test_who_is_subscribed_longer_has_its_chance_before_a_feed_is_anchored_in_silence() -> None:
    """Rule R4: c may still bring what it was sent; so a, which holds nothing either, waits for it."""
    check_transcript(
        pair(),
        """
        >> connect c
        >> a: b4
        << b4
        >> kill b
        >> kill a
        >> connect a
        <<
        >> wait 0.5
        >> c: b4 b5
        << b5
        """,
    )
    check_transcript(
        pair(),
        """
        >> connect c
        >> a: b4
        << b4
        >> kill b
        >> kill a
        >> connect a
        >> wait 2
        << gap:unproven
        >> a: b6
        << b6
        """,
    )


def test_the_longest_subscribed_witness_is_the_anchor() -> None:
    """Rule R4: at the start of a feed the first line leads, without a gap."""
    check_transcript(
        World(2), ">> connect a b\n>> b: b1 b2\n<<\n>> a: b0 b1 b2\n<< b0 b1 b2\n== a probation, b probation"
    )


def test_a_witness_that_is_behind_is_no_anchor() -> None:
    """Rule R4: messages older than the newest released are waited for, since they will reach the window."""
    check_transcript(
        pair(),
        """
        >> connect c
        >> a: b4 b5 b6 b7
        << b4 b5 b6 b7
        >> kill b
        >> kill a
        >> c: b5
        == c probation       # shares an event: it joins, behind
        >> c: b6 b7 b8
        << b8
        """,
    )
    check_transcript(
        pair(),
        """
        >> connect c
        >> a: b5             # has dropped b4
        << b5
        >> c: b4
        >> kill a
        >> kill b
        <<
        == c witness
        >> c: b5 b6
        << b4!late b6
        """,
    )


def test_what_an_anchor_held_from_before_the_gap_falls_into_it() -> None:
    """Rule R9: what may have been released already is left out under the gap; nothing ever says "doubled"."""
    world = check_transcript(
        pair(),
        """
        >> connect c
        >> a: bx
        << bx
        >> kill a
        >> kill b
        >> c: bx
        <<
        >> c: b9
        << gap:unproven b9
        """,
    )
    assert "hold_outdated" in world.notes


def test_what_a_line_brings_that_connected_after_the_last_release_is_new() -> None:
    """Cause comes before effect: a line connected later than anything was released, so its first event is kept."""
    check_transcript(
        pair(), ">> kill a\n>> kill b\n>> connect a\n>> a: bx\n<< gap:outage bx\n>> a: b9\n<< b9"
    )


def test_contents_that_recur_after_a_line_began_to_connect_are_not_their_earlier_copies() -> None:
    """Rule R1's counter-example: b3 recurs with its ``ts``, cut where c begins; by the letter c joined at the first."""
    check_transcript(
        pair(),
        """
        >> a: b4 b5
        << b4 b5
        >> connect c
        >> c: b4 b5
        <<
        == c witness
        >> a: b4 b5 b6
        << b4 b5 b6
        == c probation
        >> kill a
        >> kill b
        >> c: b6 b7
        << b7
        """,
    )


def test_an_anchor_that_brings_an_event_from_before_the_gap_does_not_double_it() -> None:
    """Rule R9: behind a gap an event with identity that was released before it is a duplicate."""
    check_transcript(
        pair(),
        """
        >> connect c
        >> a: t4
        << t4
        >> kill a
        >> kill b
        >> c: b5
        << gap:unproven b5
        >> c: t4 t6          # interleaves channels differently
        << t6
        """,
    )


def test_what_comes_from_before_an_anchor_is_late() -> None:
    """Rule R4: after a gap another line brings what the anchor did not get."""
    check_transcript(
        pair(),
        """
        >> kill b
        >> connect c
        >> a: b4
        << b4
        >> kill a
        >> connect a
        >> a: b7
        <<                   # c is subscribed longer and may bring more
        >> wait 2
        << gap:unproven b7
        >> c: b5 b6 b7 b8
        <<
        >> a: b8 b9
        << b8 b9 b5!late b6!late
        """,
    )


def test_what_may_have_been_released_before_a_gap_is_a_gap_where_it_is_left_out() -> None:
    """R9: c holds what may be from before the gap or from behind it, and what is out is past that."""
    check_transcript(
        pair(),
        """
        >> connect c
        >> a: b4
        << b4
        >> kill b
        >> kill a
        >> connect a
        >> wait 2
        << gap:unproven
        >> a: b6 b7
        << b6 b7
        >> c: bx b6 b7
        << gap:M/b:unproven
        """,
    )


def test_a_feed_without_identities_is_anchored_by_time() -> None:
    """Rule R4: where nothing held has an identity, time has to do; it is noted."""
    world = check_transcript(
        World(2),
        """
        >> connect a b
        >> a: bx by
        << bx by
        >> kill a
        >> b: bx
        >> wait 0.5
        <<
        >> wait 2
        << gap:unproven bx
        >> b: by
        << by
        """,
    )
    assert world.blind


def test_a_line_that_comes_to_a_gap_has_to_prove_its_place_behind_it() -> None:
    """Rule R8: the same bytes on both sides of a gap need not be the same event."""
    check_transcript(
        pair(),
        """
        >> a: b4 bx t5
        << b4 bx t5
        >> wait 2
        == b suspect         # it stands still and does not count
        >> kill a
        >> connect a
        >> a: b8
        >> wait 6
        << gap:unproven b8
        >> b: b4 bx t5 bx b7 # from before the gap, then from within
        == b witness
        >> a: b9
        << b9
        >> b: b8
        << bx!late b7!late
        >> b: b9 b10
        << b10
        """,
    )


def test_a_first_message_of_an_unproven_channel_waits_for_a_line_that_knows() -> None:
    """Rule R4: another line that is up may still bring older events of that channel."""
    check_transcript(
        pair(),
        """
        >> connect c
        >> c: b4 b5
        >> a: b4 b5
        << b4 b5
        >> c: t7             # t6 may be on its way to a
        <<
        >> a: t6
        << t6
        >> a: t7
        << t7
        >> c: t8
        << t8
        """,
    )


def test_what_was_put_aside_is_released_when_the_others_are_gone() -> None:
    """Rule R5: nothing waits for nobody; where all lines kept one order, that order is proof enough."""
    check_transcript(
        pair(),
        ">> connect c\n>> c: b4 b5\n>> a: b4 b5\n<< b4 b5\n>> c: t6\n>> kill a\n>> kill b\n<< t6\n>> c: t7\n<< t7",
    )


def test_where_lines_interleave_differently_an_unproven_channel_gets_a_gap() -> None:
    """Rule R8: with another order over channels, a place in one channel proves nothing about the other."""
    check_transcript(
        pair(),
        """
        >> a: b4 t5
        << b4 t5
        >> b: t5 b4          # interleaves
        >> connect c
        >> c: b6 b7
        >> a: b6 b7
        << b6 b7
        >> c: t9
        >> kill a
        >> kill b
        << gap:M/t:unproven t9
        """,
    )


def test_what_was_put_aside_is_judged_in_its_channels_order() -> None:
    """Rule R3.3: an event before the proof that nobody released comes out late."""
    check_transcript(
        pair(),
        """
        >> connect c
        >> c: b4 b5
        >> a: b4 b5
        << b4 b5
        >> c: t6 t7
        >> a: t7             # has dropped t6
        << t7 t6!late
        >> b: b4 b5 t7
        >> c: t8
        << t8
        """,
    )


def test_waiting_for_another_line_is_bounded() -> None:
    """Rule R5: what is put aside goes on after the hold's time even if the others never bring it."""
    check_transcript(
        pair(),
        """
        >> connect c
        >> c: b4 b5
        >> a: b4 b5
        << b4 b5
        >> b: b4 b5
        >> c: t6
        >> wait 4
        <<
        >> wait 2
        << t6
        """,
    )


def test_what_a_dead_witness_held_is_used() -> None:
    """Rule R5: a ghost's events come out when the sequence has reached them."""
    world = check_transcript(
        pair(), ">> connect c\n>> c: b4 b5 b6\n>> kill c\n>> a: b4\n<< b4\n>> a: b5\n<< b5 b6"
    )
    assert not world.arbiter.ghosts


def test_a_ghost_that_shares_nothing_comes_out_by_its_time() -> None:
    """Rule R5: the others dropped all that it held; its events are older than what is released: they are late."""
    world = check_transcript(
        pair(),
        """
        >> connect c
        >> c: b4
        >> kill c
        >> a: b5
        << b5
        >> wait 3
        <<
        >> wait 3
        << b4!late
        """,
    )
    assert "ghost_forgotten" in world.notes
    assert not world.arbiter.ghosts


def test_ghosts_are_bounded() -> None:
    """Rule R5 and the bounds: beyond so many ghosts the oldest is forgotten, and noted."""
    world = World(2)
    check_transcript(world, ">> connect a\n>> a: b1\n<< b1")
    for number in range(GHOSTS + 1):
        check_transcript(world, f">> connect b\n>> b: b{number + 10}\n>> kill b")
    assert len(world.arbiter.ghosts) == GHOSTS
    assert world.notes.count("ghost_forgotten") == 1


def test_a_full_hold_forgets_its_oldest_quarter() -> None:
    """The hold's bound: the line joins later, and says so."""
    world = World(2, bounds=Bounds(hold_events=8))
    check_transcript(world, ">> connect a b\n>> a: b1\n<< b1")
    check_transcript(
        world, ">> b: b2 b3 b4 b5 b6 b7 b8 b9 b10 b11\n>> a: b2 b3 b4 b5\n<< b2 b3 b4 b5\n== b witness"
    )
    assert "hold_overflowed" in world.notes
    check_transcript(world, ">> a: b6\n<< b6 b7 b8 b9 b10 b11")


@pytest.mark.parametrize("payload", [b"", b"!", b"b", b"?", b">", b"b" * 1_000_000, b"\xff\xfe", b"b\n"])
def test_hostile_messages_never_raise(payload: bytes) -> None:
    """Rule R11: whatever comes, in any state of a line, is answered by a note, an event or nothing."""
    world = World(2)
    world.connect("a", "b")
    for _ in range(3):
        for name in "ab":
            world.receive(name, payload, b"b1", payload)
        world.wait(3)
    world.kill("a")
    world.wait(3)
    assert {type(one) for one in world.released} <= {Release, *map(type, world.gaps)}


def test_an_event_is_released_before_the_next_is_looked_at() -> None:
    """Rule R10: when `receive` returns, what was new is in the outputs."""
    world = pair()
    world.receive("b", b"b4")
    assert world.output[-1] == b"b4"
    assert world.released[-1] == Release("M/b", b"b4", "b", world.wall, "", position=3)


def test_health_defaults_do_not_matter_to_the_merge() -> None:
    """Rules R3 to R5 hold whatever the health limits are: a suspect's events count like any other's."""
    world = World(2, health=Health(stall_min_s=0.01, stall_events=1))
    check_transcript(
        world, ">> connect a b\n>> a: b1 b2\n<< b1 b2\n>> b: b1 b2\n>> a: b3\n<< b3\n>> wait 1\n== b suspect"
    )
    check_transcript(world, ">> b: b3 b4\n<< b4\n>> wait 0.1\n== b probation")


def test_what_is_settled_still_tells_who_owes_a_late_event() -> None:
    """Rule R3: a line that had its place in a channel owes what comes late there, be all older events forgotten."""
    world = World(3)
    world.connect("a", "b", "c")
    world.emit(b"b1", b"t2", b"b3", b"t4")
    world.deliver_all()
    for number in range(10, 30):
        world.emit(b"b%d" % number)
        world.deliver_all()
    assert world.arbiter.window.gone["M/t"] >= max(line.joined_at for line in world.arbiter.lines.values())
    world.emit(b"tx", lost_on="a")
    world.emit(b"t100")
    for name in "acb":
        world.deliver(name)
    assert world.output.count(b"tx") == 1
    assert world.late == [b"tx"]


def test_what_a_line_far_behind_had_put_aside_from_before_the_window_is_no_news() -> None:
    """A line that the window has left behind brings, message by message, what was released and is there no more."""
    world = World(2, bounds=Bounds(window_events=16))
    world.connect("a", "b")
    world.emit(b"t1", b"b2", b"t3", *(b"%s%d" % (b"tb"[i % 2 : i % 2 + 1], 10 + i) for i in range(14)))
    world.deliver("a")
    world.wait(0.1)
    assert world.arbiter.window.payloads[0] == b"b2"
    assert world.arbiter.lines["b"].owing is None
    world.deliver("b", each=True)
    world.emit(b"t30", b"b30")
    world.deliver_all()
    world.assert_exact()


@pytest.mark.parametrize("dies", [True, False])
def test_what_is_put_aside_where_the_window_has_left_it_behind_is_a_gap(*, dies: bool) -> None:
    """(5, 11) A burst outruns a line or its ghost that waits for proof in another channel: that is marked, no bug."""
    world = World(2, bounds=Bounds(window_events=16))
    world.connect("a")
    world.emit(b"b1", b"t1")
    world.deliver_all()
    world.wait(1)
    world.connect("b")
    world.emit(b"b2", b"b3")
    world.emit(b"t3", lost_on="a")
    world.emit(b"b4")
    world.deliver("a")
    world.deliver("b", each=True)
    assert [held.payload for held in world.arbiter.lines["b"].aside] == [b"t3", b"b4"]
    if dies:
        world.kill("b")
    for number in range(5, 60):
        world.emit(b"b%d" % number)
    world.deliver("a")
    world.wait(15)
    assert world.arbiter.ghosts == []
    assert b"t3" in world.output or ("M/t", "unproven") in [(gap.channel, gap.reason) for gap in world.gaps]
    assert [one for one in world.output if one[:1] == b"b"] == [b"b%d" % number for number in range(1, 60)]


def test_what_a_line_has_yet_to_bring_from_before_a_gap_is_no_news_behind_it() -> None:
    """(9) Lines interleave differently: one comes to the gap in one channel, then to what is older in another."""
    world = World(3)
    world.connect("a", "b")
    for number in range(3):
        world.emit(b"b%d" % number, b"t%d" % number, ahead=(0, number % 2))
        world.deliver_all()
    world.wait(6)
    world.emit(*(b"t%d" % number for number in range(10, 20)))
    world.deliver("a")
    world.wait(5)
    assert not world.arbiter.lines["b"].up
    world.kill("a")
    world.connect("c")
    world.emit(b"b30", b"b31", ahead=(0, 20))
    world.deliver("c")
    world.wait(6)
    assert [gap.reason for gap in world.gaps] == ["unproven"]
    world.emit(b"b32", b"t33")
    world.deliver("c")
    world.deliver("b", each=True)
    world.emit(b"b34", b"t35")
    world.deliver_all()
    world.wait(12)
    world.assert_complete_and_marked()


def test_what_a_ghost_holds_from_before_the_window_is_not_released_again() -> None:
    """(5) What it held came out, and the window has left it behind since: nothing says that it is new."""
    world = World(3, bounds=Bounds(window_events=16))
    world.connect("a", "b", "c")
    world.receive("a", b"t1")
    world.receive("c", b"b3")
    world.receive("b", b"b3", b"t1", b"t4")
    world.kill("a")
    world.kill("c")
    assert world.output == [b"t1", b"b3", b"t4"]
    for number in range(5, 60):
        world.receive("b", b"b%d" % number)
    world.wait(15)
    assert world.output.count(b"b3") == 1
    assert world.arbiter.ghosts == []
