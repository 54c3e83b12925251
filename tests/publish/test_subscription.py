"""Subscriptions against a model of the whole stream: exactly what it says, or an explicit refusal."""

import json
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from feedhandler.core.channels import Channel, Channels
from feedhandler.publish import records
from feedhandler.publish.backlog import RECORD_COST_BYTES, Backlog
from feedhandler.publish.request import Request, Resume
from feedhandler.publish.subscription import (
    Refusal,
    Shelf,
    Stream,
    Subscription,
    conflate,
    states_track,
    subscribe,
)

SESSION = "session"
NAMES = ("m/a", "m/b", "n/a")
BOOKS = ("m/a", "m/b")
SECRET = "ALL/trades"


@dataclass
class World:
    """A shelf, and everything that was ever put on it."""

    limit_bytes: int = 1_000_000
    reach_bytes: int = 0
    stream: list[dict[str, Any]] = field(default_factory=list)
    states: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.channels = Channels()
        self.backlog = Backlog(self.limit_bytes, self.reach_bytes)
        self.images: list[str] = []  # the channels of which an image was made
        self.shelf = Shelf(
            SESSION,
            self.channels,
            self.backlog,
            lambda channel: self.states.get(channel.name, b""),
            self.image,
        )
        for name in NAMES:
            self.open(name)

    def open(self, name: str, *, account: bool = False) -> None:
        """Open a channel and its tracks."""
        self.channels.open(name, feed="feed", account=account)
        self.backlog.track()
        self.backlog.track()

    def image(self, channel: Channel) -> bytes:
        """Return the book of one of the channels."""
        self.images.append(channel.name)
        return b'{"book":%d}' % (channel.next - 1) if channel.name in BOOKS else b""

    def event(self, name: str, size: int = 0) -> None:
        """Publish an event."""
        channel = self.channels.get(name)
        assert channel
        record = channel.event("a", len(self.stream), b'{"x":"%b"}' % (b"x" * size))
        self.backlog.append(record, 2 * channel.number)
        self.stream.append(json.loads(record))

    def costs(self, place: int) -> int:
        """Return what all from a kept place on costs the backlog."""
        head = self.backlog.head
        return self.backlog.size(place, head) + RECORD_COST_BYTES * (head - place)

    def back(self, name: str, count: int) -> int:
        """Return the seq of a consumer that has not got the last so many events, as far as they are kept."""
        channel = self.channels.get(name)
        assert channel
        return max(channel.next - 1 - count, self.backlog.oldest(2 * channel.number) - 1)

    def state(self, name: str, word: str) -> None:
        """Publish a state."""
        channel = self.channels.get(name)
        assert channel
        self.states[name] = record = records.state(name, word, 0)
        self.backlog.append(record, states_track(channel))
        self.stream.append(json.loads(record))

    def subscribe(self, request: Request, *, account: bool = False) -> Stream:
        """Subscribe, where that works."""
        outcome = subscribe(self.shelf, request, account=account)
        assert isinstance(outcome, Stream)
        return outcome


def lines(data: bytes) -> list[dict[str, Any]]:
    """Read records."""
    return [json.loads(line) for line in data.splitlines()]


def drained(subscription: Subscription, most_bytes: int = 300) -> list[dict[str, Any]]:
    """Take all that there is, in stretches."""
    taken = []
    while subscription.behind and not subscription.overrun():
        taken += lines(subscription.take(most_bytes))
    return taken


def wish(*channels: str, resume: Resume | None = None) -> Request:
    """Make a request."""
    return Request("subscribe", list(channels), resume=resume)


steps = st.lists(
    st.tuples(
        st.sampled_from(["event", "event", "event", "state"]), st.sampled_from(NAMES), st.integers(0, 200)
    ),
    max_size=60,
)


def play(world: World, steps: list[tuple[str, str, int]]) -> None:
    """Publish what the steps say."""
    for kind, name, size in steps:
        if kind == "event":
            world.event(name, size)
        else:
            world.state(name, f"state{size}")


@given(
    before=steps,
    after=steps,
    limit=st.integers(400, 20_000),
    share=st.floats(0.1, 1),
    session=st.sampled_from([SESSION, SESSION, SESSION, "old"]),
    seqs=st.dictionaries(st.sampled_from((*NAMES, "z/z")), st.integers(0, 40)),
    patterns=st.lists(st.sampled_from(["*", "*/a", "m/*", *NAMES]), min_size=1, max_size=3),
    pull=st.integers(1, 1_000),
)
@settings(max_examples=300)
def test_a_consumer_gets_what_the_model_says_or_a_refusal(
    before: list[tuple[str, str, int]],
    after: list[tuple[str, str, int]],
    limit: int,
    share: float,
    session: str,
    seqs: dict[str, int],
    patterns: list[str],
    pull: int,
) -> None:
    """(9, 10) Whatever is appended, trimmed and resumed: the model's records in order, never a silent hole.

    What is kept is served, be it out of reach; what gets out of reach before it is taken makes an overrun.
    """
    world = World(limit, int(limit * share))
    play(world, before)
    request = wish(*patterns, resume=Resume(session, seqs))
    stream = world.subscribe(request)
    confirmed, *others = lines(stream.preamble)
    refused = {record["channel"]: record for record in others if record["type"] == "refused"}
    first = {name: value["next"] for name, value in confirmed["channels"].items()}
    joined = len(world.stream)

    def wanted(place: int, record: dict[str, Any]) -> bool:
        if record["channel"] not in first:
            return False
        return place >= joined if record["type"] == "state" else record["seq"] >= first[record["channel"]]

    for name, seq in first.items():
        newest = max(
            (r["seq"] for r in world.stream[:joined] if r["channel"] == name and "seq" in r), default=0
        )
        if name in refused:
            assert seq == newest + 1 == refused[name]["next"]
            reason = refused[name]["reason"]
            if session != SESSION:
                assert reason == "unknown_session"
            elif seqs[name] > newest:
                assert reason == "future"
            else:
                assert reason == "too_old"
                assert seqs[name] + 1 < refused[name]["oldest"] <= newest + 1
        else:
            assert seq == (seqs[name] + 1 if name in seqs else newest + 1)
    expected = [record for place, record in enumerate(world.stream) if wanted(place, record)]
    got = drained(stream.subscription, pull)
    assert got == expected
    play(world, after)
    expected = [record for place, record in enumerate(world.stream) if wanted(place, record)][len(got) :]
    lost = any(wanted(place, world.stream[place]) for place in range(joined, world.backlog.reach))
    assert stream.subscription.overrun() == lost
    if not lost:
        assert drained(stream.subscription, pull) == expected
        assert not stream.subscription.behind


CHOICES = [["*"], ["m/*"], ["*/a"], ["m/a", "n/a"], ["n/a", "m/a"], ["m/b", "*/b"]]


@given(
    bursts=st.lists(
        st.tuples(st.sampled_from(["burst", "burst", "burst", "join", "open"]), steps, st.integers(0, 5)),
        min_size=1,
        max_size=12,
    ),
    limit=st.integers(500, 50_000),
    share=st.floats(0.1, 1),
    most=st.integers(1, 20_000),
)
@settings(max_examples=200)
def test_what_is_put_together_for_one_is_right_for_all_like_it(
    bursts: list[tuple[str, list[tuple[str, str, int]], int]], limit: int, share: float, most: int
) -> None:
    """The piece of the first who is level is what each of the others would take by itself, whenever it joined.

    A piece that would be more than a send, or reaches back beyond the reach, is none.
    """
    world = World(limit, int(limit * share))
    pairs: list[tuple[Subscription, Subscription]] = []
    opened = 0
    for kind, steps, number in bursts:
        if kind == "open" and opened < 4:
            opened += 1
            world.open(f"m/{opened}", account=bool(opened % 2))
            channel = list(world.channels)[-1]
            for one in (one for pair in pairs for one in pair):
                one.offer(channel)
        if kind == "join":
            request = Request("subscribe", CHOICES[number], slow="conflate" if number % 2 else "disconnect")
            pair = [world.subscribe(request, account=number > 2).subscription for _ in range(2)]
            pairs.append((pair[0], pair[1]))
        place = world.backlog.head
        play(world, steps)
        pieces: dict[str, bytes | None] = {}
        for shared, alone in pairs:
            assert shared.cursor == alone.cursor == place
            if shared.selection not in pieces:
                pieces[shared.selection] = shared.piece(most)
            move_on(world, shared, alone, pieces[shared.selection], most)
            assert shared.next_seqs() == alone.next_seqs()
            assert shared._taken == alone._taken or not shared.conflates


def move_on(world: World, shared: Subscription, alone: Subscription, piece: bytes | None, most: int) -> None:
    """Let one take a piece that may be another's, and one take the same by itself; both are level again."""
    place = shared.cursor
    if piece is not None:
        shared.advance()
        assert piece == b"".join(alone.take(most) for _ in range(alone.behind))
        return
    assert place < world.backlog.reach or world.costs(place) > most
    for one in (shared, alone):
        one.jump()
        while one.skipping:
            one.skip()


def test_only_the_same_choice_is_the_same_selection() -> None:
    """The order of patterns does not matter, nor their repetition; who may read the account is another."""
    world = World()

    def selection(*channels: str, account: bool = False) -> str:
        return world.subscribe(wish(*channels), account=account).subscription.selection

    assert selection("m/*", "*/a") == selection("*/a", "m/*", "m/*")
    assert selection("*", "m/a") == selection("*/*")
    distinct = [selection(*one, account=account) for one in CHOICES[:4] for account in (False, True)]
    assert len(set(distinct)) == len(distinct)


@given(steps=steps, limit=st.integers(2_000, 20_000), data=st.data())
def test_the_next_seqs_are_true_of_every_place(
    steps: list[tuple[str, str, int]], limit: int, data: st.DataObject
) -> None:
    """At every point of a replay, each channel's next seq is that of the record which then comes next."""
    world = World(limit)
    play(world, steps)
    oldest = {channel.name: world.backlog.oldest(2 * channel.number) for channel in world.channels}
    names = data.draw(st.sets(st.sampled_from(NAMES)))
    stream = world.subscribe(wish("*", resume=Resume(SESSION, {name: oldest[name] - 1 for name in names})))
    subscription = stream.subscription
    lag = subscription.lag_events()
    while subscription.behind:
        promised = subscription.next_seqs()
        for record in lines(subscription.take(1)):
            if record["type"] == "event":
                assert record["seq"] == promised[record["channel"]]
                lag -= 1
        assert subscription.lag_events() == lag
    assert lag == 0
    assert subscription.lag_bytes() == 0
    assert subscription.next_seqs() == {channel.name: channel.next for channel in world.channels}


def test_the_answer_stands_in_the_order_of_the_contract() -> None:
    """`subscribed`, then per channel its state and refusal, then refusals of channels not yet there."""
    world = World()
    world.state("m/a", "quiet")
    world.state("m/b", "live")
    stream = world.subscribe(wish("m/*", resume=Resume("old", {"m/a": 5, "m/later": 7, "n/a": 1})))
    assert lines(stream.preamble) == [
        {"type": "subscribed", "channels": {"m/a": {"next": 1}, "m/b": {"next": 1}}},
        {"type": "state", "channel": "m/a", "state": "quiet", "since": 0},
        {"type": "refused", "channel": "m/a", "reason": "unknown_session", "oldest": 1, "next": 1},
        {"type": "state", "channel": "m/b", "state": "live", "since": 0},
        {"type": "refused", "channel": "m/later", "reason": "unknown_session", "oldest": 1, "next": 1},
    ]
    assert stream.refusals == {"unknown_session": 2}


def test_a_resume_is_served_from_the_oldest_kept_record_on() -> None:
    """(10) One seq decides: a resume that needs the oldest kept record is served, one earlier is not."""
    world = World(2_000)
    for _ in range(50):
        world.event("m/a", 100)
    oldest = world.backlog.oldest(0)
    assert oldest > 2
    resumes = (Resume(SESSION, {"m/a": oldest - back}) for back in (1, 2))
    served, refused = (world.subscribe(wish("m/a", resume=resume)) for resume in resumes)
    assert [record["seq"] for record in drained(served.subscription)] == list(range(oldest, 51))
    assert lines(refused.preamble)[1] == {
        "type": "refused",
        "channel": "m/a",
        "reason": "too_old",
        "oldest": oldest,
        "next": 51,
    }
    assert not refused.subscription.behind


def test_states_are_not_replayed() -> None:
    """A resumed consumer gets the state of now, not the states of then."""
    world = World()
    world.event("m/a")
    world.state("m/a", "down")
    world.event("m/a")
    world.state("m/a", "live")
    stream = world.subscribe(wish("m/a", resume=Resume(SESSION, {"m/a": 0})))
    assert [record.get("state") for record in lines(stream.preamble)] == [None, "live"]
    assert [record["seq"] for record in drained(stream.subscription)] == [1, 2]


def test_account_channels_are_for_those_who_may_read_them() -> None:
    """A pattern passes over what the peer may not read, an exact name is `forbidden`; no secret is told."""
    world = World()
    world.open(SECRET, account=True)
    world.event(SECRET)
    assert subscribe(world.shelf, wish(SECRET), account=False) == Refusal(
        "forbidden", "the channel ALL/trades is not for this user"
    )
    stream = world.subscribe(wish("*", resume=Resume("old", {SECRET: 1, "ALL/nothing": 1})))
    assert SECRET not in lines(stream.preamble)[0]["channels"]
    refused = [record for record in lines(stream.preamble) if record["type"] == "refused"]
    secret, nothing = ({**record, "channel": ""} for record in refused)
    assert secret == nothing
    world.event(SECRET)
    assert drained(stream.subscription) == []
    allowed = world.subscribe(wish(SECRET, resume=Resume(SESSION, {SECRET: 0})), account=True)
    assert [record["seq"] for record in drained(allowed.subscription)] == [1, 2]


def test_an_unknown_name_is_refused_and_an_unknown_pattern_is_not() -> None:
    """Only an exact name answers `unknown_channel`."""
    world = World()
    assert subscribe(world.shelf, wish("m/a", "x/y"), account=True) == Refusal(
        "unknown_channel", "there is no channel x/y"
    )
    assert world.subscribe(wish("x/*")).subscription.channels == []


def test_a_channel_that_appears_later_comes_from_its_first_record() -> None:
    """A pattern takes up new channels; a consumer of exact names does not."""
    world = World()
    every, one = (world.subscribe(wish(name)).subscription for name in ("*", "m/a"))
    world.open("new/a")
    for subscription in (every, one):
        subscription.offer(list(world.channels)[-1])
    world.event("new/a")
    world.event("m/a")
    assert [record["channel"] for record in drained(every)] == ["new/a", "m/a"]
    assert [record["channel"] for record in drained(one)] == ["m/a"]


def test_a_consumer_of_a_quiet_channel_is_not_overrun_by_others() -> None:
    """The records that went are looked at: only those that were wanted count as lost, states among them."""
    world = World(4_000, 2_000)
    quiet, told = (world.subscribe(wish("n/a")).subscription for _ in range(2))
    for _ in range(50):
        world.event("m/a", 100)
    assert not quiet.overrun()
    assert not quiet.behind
    world.state("n/a", "down")
    assert drained(quiet) != []
    for _ in range(50):
        world.event("m/a", 100)
    assert not quiet.overrun()
    assert told.overrun()


def test_a_wanted_record_that_gets_out_of_reach_makes_an_overrun() -> None:
    """(9) The limit is reached with the record that is one too many, while all that was missed is still kept."""
    world = World(1_000_000, 2_000)
    stream = world.subscribe(wish("m/a")).subscription
    world.event("n/a", 1_000)
    world.event("m/a")
    world.event("n/a", 1_000)
    assert not stream.overrun()
    assert stream.lag_bytes() < 2_000
    world.event("n/a", 1_000)
    assert stream.overrun()
    assert world.backlog.base == 0


def test_who_resumes_from_out_of_reach_may_catch_up() -> None:
    """(9) A consumer that comes back for its records is overrun only by the backlog, until it was within reach."""
    world = World(40_000, 20_000)
    for _ in range(30):
        world.event("m/a", 1_000)
    resumed = [
        world.subscribe(wish("m/a", resume=Resume(SESSION, {"m/a": 2}))).subscription for _ in range(3)
    ]
    quick, slow, late = resumed
    near = world.subscribe(wish("m/a", resume=Resume(SESSION, {"m/a": 25}))).subscription
    assert near.cursor >= world.backlog.reach
    assert quick.cursor < world.backlog.reach
    assert not any(one.overrun() for one in resumed)
    assert [record["seq"] for record in drained(quick)] == list(range(3, 31))
    slow.take(1_000)
    for _ in range(4):
        world.event("m/a", 1_000)
    assert not late.overrun()
    late.take(30_000)
    assert late.cursor >= world.backlog.reach
    for _ in range(12):
        world.event("m/a", 1_000)
    assert not quick.overrun()
    assert slow.cursor < world.backlog.base
    assert slow.overrun()
    assert near.overrun()
    assert world.backlog.base < late.cursor < world.backlog.reach
    assert late.overrun()


def test_a_consumer_at_the_head_is_told_of_a_state_that_it_missed() -> None:
    """A state takes no seq: where nothing else of its channel was left out, the present one comes all the same."""
    world = World(4_000, 2_000)
    stream = world.subscribe(Request("subscribe", ["*"], slow="conflate")).subscription
    world.state("n/a", "down")
    world.state("m/b", "live")
    stream.take(1)
    stream.take(1)
    world.state("n/a", "live")
    for _ in range(50):
        world.event("m/a", 100)
    assert stream.overrun()
    stream.jump()
    assert lines(conflate(world.shelf, stream, 10_000)) == [
        {"type": "skipped", "channel": "m/a", "from": 1, "to": 50},
        {"type": "snapshot", "channel": "m/a", "seq": 50, "reason": "conflated", "msg": {"book": 50}},
        {"type": "state", "channel": "n/a", "state": "live", "since": 0},
    ]
    assert not stream.behind


def test_a_consumer_of_many_books_is_taken_to_the_head_book_by_book() -> None:
    """(8) A book is made when there is room for it; what comes meanwhile is skipped, or sent after it."""
    world = World(8_000, 4_000)
    stream = world.subscribe(Request("subscribe", ["m/*"], slow="conflate")).subscription
    for _ in range(50):
        world.event("m/a", 100)
        world.event("m/b", 100)
    assert stream.overrun()
    stream.jump()
    first = conflate(world.shelf, stream, 1)
    assert world.images == ["m/a"]
    world.event("m/a")
    world.event("m/b")
    assert stream.skipping
    assert stream.next_seqs()["m/a"] == 51
    second = conflate(world.shelf, stream, 1)
    assert [(record["channel"], record["to"]) for record in lines(first + second) if "to" in record] == [
        ("m/a", 50),
        ("m/b", 51),
    ]
    world.event("m/b")
    assert [(record["channel"], record["seq"]) for record in drained(stream)] == [("m/a", 51), ("m/b", 52)]


def test_a_jump_is_finished_before_the_next_one() -> None:
    """(9) What comes in the middle of a jump makes no new one of it: each channel has its turn."""
    world = World(8_000, 4_000)
    stream = world.subscribe(Request("subscribe", ["m/*"], slow="conflate")).subscription
    for name in ("m/a", "m/b"):
        world.event(name)
    stream.jump()
    for name in ("m/a", "m/b"):
        conflate(world.shelf, stream, 1)
        world.event(name, 5_000)
        world.event("n/a")
        assert stream.overrun() == (not stream.skipping)


class Accounts:
    """A consumer that conflates, and accounts for every seq that it got or was told it would not get."""

    def __init__(self, world: World, channels: list[str], resume: Resume | None) -> None:
        self.world = world
        stream = world.subscribe(Request("subscribe", channels, resume=resume, slow="conflate"))
        confirmed, *others = lines(stream.preamble)
        self.stream = stream.subscription
        self.next = {name: value["next"] for name, value in confirmed["channels"].items()}
        self.states = {record["channel"]: record["state"] for record in others if record["type"] == "state"}

    def pull(self, most_bytes: int) -> None:
        """Take the next stretch, as a consumer's connection does."""
        if self.stream.overrun():
            self.stream.jump()
        if self.stream.skipping:
            self.check(lines(conflate(self.world.shelf, self.stream, most_bytes)))
            return
        assert self.stream.next_seqs() == self.next
        self.check(lines(self.stream.take(most_bytes)))

    def check(self, records: list[dict[str, Any]]) -> None:
        """Let no seq go missing, and no book come at a wrong one."""
        for record in records:
            channel = record["channel"]
            match record["type"]:
                case "event":
                    assert record["seq"] == self.next[channel]
                    self.next[channel] += 1
                case "skipped":
                    assert record["from"] == self.next[channel] <= record["to"]
                    self.next[channel] = record["to"] + 1
                case "snapshot":
                    assert record["seq"] == record["msg"]["book"] == self.next[channel] - 1
                case "state":
                    self.states[channel] = record["state"]


@given(
    before=steps,
    rounds=st.lists(st.tuples(steps, st.lists(st.integers(1, 2_000), max_size=4)), max_size=6),
    limit=st.integers(400, 12_000),
    share=st.floats(0.1, 1),
    back=st.dictionaries(st.sampled_from(NAMES), st.integers(0, 20)),
    patterns=st.lists(st.sampled_from(["*", "*/a", "m/*", *NAMES]), min_size=1, max_size=3),
)
@settings(max_examples=400)
def test_what_a_conflating_consumer_gets_and_skips_adds_up(
    before: list[tuple[str, str, int]],
    rounds: list[tuple[list[tuple[str, str, int]], list[int]]],
    limit: int,
    share: float,
    back: dict[str, int],
    patterns: list[str],
) -> None:
    """(9, 10) However slowly it reads, each seq comes once or is skipped once, and it knows the present states."""
    world = World(limit, int(limit * share))
    play(world, before)
    one = Accounts(
        world, patterns, Resume(SESSION, {name: world.back(name, count) for name, count in back.items()})
    )
    for published, pulls in rounds:
        play(world, published)
        for most_bytes in pulls:
            one.pull(most_bytes)
    while one.stream.behind:
        one.pull(300)
    wanted = {channel.name: channel for channel in one.stream.channels}
    assert one.next == {name: channel.next for name, channel in wanted.items()}
    present = {name: json.loads(state)["state"] for name, state in world.states.items() if name in wanted}
    assert one.states == present
