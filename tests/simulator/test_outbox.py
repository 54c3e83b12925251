"""What one connection still has to send."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from feedhandler.simulator.outbox import TAKE_MAX_BYTES, URGENT_MAX, Ending, Interleaver, Outbox


def test_everything_due_goes_in_one_piece_and_bounded():
    """What is due is joined, up to a bound; what is not due waits."""
    outbox = Outbox()
    for number in range(3):
        outbox.put_event("s", (float(number), b"%d" % number))
    assert outbox.take(1.0) == b"01"
    assert outbox.take(1.0) is None
    assert outbox.take(2.0) == b"2"
    for _ in range(3):
        outbox.put_event("s", (0.0, b"x" * TAKE_MAX_BYTES))
    assert outbox.take(3.0) == b"x" * TAKE_MAX_BYTES
    assert outbox.backlog_bytes == 2 * TAKE_MAX_BYTES


def test_urgent_things_overtake_and_endings_keep_their_place():
    """A control frame goes first; an ending comes behind what was queued before it."""
    outbox = Outbox()
    outbox.put_event("s", (0.0, b"event"))
    outbox.put_ending(0.0, Ending("reset"))
    outbox.put_event("s", (0.0, b"later"))
    outbox.put_urgent(b"pong")
    assert [outbox.take(0.0) for _ in range(4)] == [b"pong", b"event", Ending("reset"), b"later"]


def test_no_more_urgent_things_than_the_bound():
    """What would overtake beyond the bound is left unsaid; an ending never is."""
    outbox = Outbox()
    for _ in range(URGENT_MAX + 5):
        outbox.put_urgent(b"pong")
    outbox.put_urgent(Ending("reset"))
    assert [outbox.take(0.0) for _ in range(URGENT_MAX + 1)][-2:] == [b"pong", Ending("reset")]
    assert outbox.take(0.0) is None


def test_a_reply_overtakes_events_only_on_a_muted_line():
    """Replies keep their place, and on a muted line only they come; nothing is lost."""
    outbox = Outbox()
    outbox.put_event("s", (0.0, b"a"))
    outbox.put_reply(0.0, b"b")
    outbox.mute(10.0)
    outbox.put_event("s", (1.0, b"c"))
    outbox.put_reply(1.0, b"d")
    assert [outbox.take(1.0), outbox.take(1.0)] == [b"d", None]
    assert outbox.take(10.0) == b"abc"
    assert outbox.backlog_bytes == 0


def test_a_throttled_outbox_gives_one_frame_at_a_time():
    """Under a throttle frames come one by one, so that control frames fit between them."""
    outbox = Outbox()
    outbox.throttle(100)
    outbox.put_event("s", (0.0, b"a"))
    outbox.put_event("s", (0.0, b"b"))
    assert [outbox.take(0.0), outbox.take(0.0)] == [b"a", b"b"]


@given(streams=st.lists(st.sampled_from("bt"), max_size=60), depth=st.integers(1, 10), seed=st.integers())
def test_interleaving_is_bounded_and_loses_nothing(streams, depth, seed):
    """Nothing is lost, each stream keeps its order, and nothing moves by more than the depth."""
    interleaver = Interleaver(depth, Random(seed))
    events = [(float(number), f"{stream}{number}".encode()) for number, stream in enumerate(streams)]
    out = []
    for stream, event in zip(streams, events, strict=True):
        out += interleaver.push(stream, event)
    out += interleaver.flush()
    assert sorted(out) == events
    for stream in "bt":
        assert [e for e in out if e[1].startswith(stream.encode())] == [
            e for e in events if e[1].startswith(stream.encode())
        ]
    assert all(abs(place - int(number)) <= depth for place, (number, _) in enumerate(out))


ACTIONS = {
    "event": lambda outbox, now: outbox.put_event("bt"[int(now) % 2], (now, b"x" * int(now))),
    "reply": lambda outbox, now: outbox.put_reply(now, b"reply"),
    "take": lambda outbox, now: outbox.take(now),
    "delay": lambda outbox, now: outbox.delay(now % 3),
    "drop": lambda outbox, _: outbox.drop(1),
    "interleave": lambda outbox, now: outbox.interleave(Interleaver(3, Random(now))),
    "stop": lambda outbox, _: outbox.interleave(None),
    "throttle": lambda outbox, now: outbox.throttle(int(now) % 2),
    "dress": lambda outbox, _: outbox.dress_next(lambda frame: frame + b"!"),
}


@given(actions=st.lists(st.sampled_from(sorted(ACTIONS)), max_size=50))
def test_the_backlog_is_what_waits(actions):
    """Whatever happens to an outbox, its backlog is exactly the bytes that still come out."""
    outbox = Outbox()
    for number, action in enumerate(actions):
        ACTIONS[action](outbox, float(number))
    outbox.interleave(None)
    waiting = outbox.backlog_bytes
    size = 0
    while piece := outbox.take(1000.0):
        size += len(piece)
    assert size == waiting
    assert outbox.backlog_bytes == 0
