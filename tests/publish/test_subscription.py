"""Subscriptions against a model of the whole stream: exactly what it says, or an explicit refusal."""

import json
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from feedhandler.core.channels import Channels
from feedhandler.publish import records
from feedhandler.publish.backlog import Backlog
from feedhandler.publish.request import Request, Resume
from feedhandler.publish.subscription import Refusal, Shelf, Stream, Subscription, states_track, subscribe

SESSION = "session"
NAMES = ("m/a", "m/b", "n/a")
SECRET = "ALL/trades"


@dataclass
class World:
    """A shelf, and everything that was ever put on it."""

    limit_bytes: int = 1_000_000
    stream: list[dict[str, Any]] = field(default_factory=list)
    states: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.channels = Channels()
        self.backlog = Backlog(self.limit_bytes)
        self.shelf = Shelf(
            SESSION, self.channels, self.backlog, lambda channel: self.states.get(channel.name, b"")
        )
        for name in NAMES:
            self.open(name)

    def open(self, name: str, *, account: bool = False) -> None:
        """Open a channel and its tracks."""
        self.channels.open(name, feed="feed", account=account)
        self.backlog.track()
        self.backlog.track()

    def event(self, name: str, size: int = 0) -> None:
        """Publish an event."""
        channel = self.channels.get(name)
        assert channel
        record = channel.event("a", len(self.stream), b'{"x":"%b"}' % (b"x" * size))
        self.backlog.append(record, 2 * channel.number)
        self.stream.append(json.loads(record))

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
    session=st.sampled_from([SESSION, SESSION, SESSION, "old"]),
    seqs=st.dictionaries(st.sampled_from((*NAMES, "z/z")), st.integers(0, 40)),
    patterns=st.lists(st.sampled_from(["*", "*/a", "m/*", *NAMES]), min_size=1, max_size=3),
    pull=st.integers(1, 1_000),
)
@settings(deadline=None, max_examples=300)
def test_a_consumer_gets_what_the_model_says_or_a_refusal(
    before: list[tuple[str, str, int]],
    after: list[tuple[str, str, int]],
    limit: int,
    session: str,
    seqs: dict[str, int],
    patterns: list[str],
    pull: int,
) -> None:
    """(10) Whatever is appended, trimmed and resumed: the model's records in order, never a silent hole."""
    world = World(limit)
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
    lost = any(wanted(place, world.stream[place]) for place in range(joined, world.backlog.base))
    assert stream.subscription.overrun() == lost
    if not lost:
        assert drained(stream.subscription, pull) == expected
        assert not stream.subscription.behind


@given(steps=steps, limit=st.integers(2_000, 20_000), data=st.data())
@settings(deadline=None)
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
    world = World(2_000)
    quiet, told = (world.subscribe(wish("n/a")).subscription for _ in range(2))
    for _ in range(50):
        world.event("m/a", 100)
    assert not quiet.overrun()
    assert quiet.cursor == world.backlog.base
    world.state("n/a", "down")
    assert drained(quiet) != []
    for _ in range(50):
        world.event("m/a", 100)
    assert not quiet.overrun()
    assert told.overrun()
