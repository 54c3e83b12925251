"""The budget of connection attempts."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from feedhandler.core.budget import (
    CAP_RETRY_S,
    DISBELIEF_MAX_S,
    DISBELIEF_S,
    EVERY,
    KEPT_S,
    STARVED_REFUSALS,
    WINDOW_S,
    Budget,
    Caps,
    Request,
)
from tests.support.scripts import steady


def request(priority: int = 0, market: str = "") -> Request:
    """Return a request of a fixed priority."""
    return Request(lambda: priority, lambda: None, market)


def connect(budget: Budget, market: str, now_s: float = 0.0, priority: int = 2) -> bool:
    """Let one line connect; tell whether it may."""
    one = request(priority, market)
    budget.ask(one)
    if not budget.grant(now_s):
        budget.withdraw(one)
        return False
    budget.finish(now_s)
    budget.opened(market, now_s)
    return True


def leave(budget: Budget, market: str, now_s: float, hold_s: float = 0.0) -> None:
    """Let one connection end."""
    budget.closed(market)
    budget.release(market, now_s, hold_s)


def test_the_most_urgent_goes_first_then_the_first_to_ask() -> None:
    """Priority decides, and within one priority the order of asking."""
    budget = Budget(2)
    asked = [request(2), request(1), request(0), request(0), request(1)]
    for one in asked:
        budget.ask(one)

    assert budget.grant(0.0) == [asked[2], asked[3]]
    for _ in range(2):
        budget.finish(0.0)
    assert budget.grant(WINDOW_S) == [asked[1], asked[4]]
    assert budget.waiting == 1


def test_priorities_are_asked_for_at_the_choice() -> None:
    """A grant counts before the next choice: three lines of one feed do not take the first three slots."""
    lines = {"X": 0, "Y": 0}

    def ask(feed: str) -> Request:
        def connecting() -> None:
            lines[feed] += 1

        one = Request(lambda: lines[feed], connecting)
        budget.ask(one)
        return one

    budget = Budget(3)
    x = [ask("X") for _ in range(3)]
    y = [ask("Y") for _ in range(3)]

    assert budget.grant(0.0) == [x[0], y[0], x[1]]


def test_an_attempt_counts_while_it_lasts_and_a_minute_more() -> None:
    """A slow attempt keeps its slot, since the exchange may count it as late as at its end."""
    budget = Budget(1)
    budget.ask(request())
    budget.grant(0.0)
    assert budget.available(100.0) == 0
    assert budget.next_s(100.0) == 100.0 + WINDOW_S
    budget.finish(110.0)
    assert budget.next_s(110.0) == 110.0 + WINDOW_S
    assert budget.available(110.0 + WINDOW_S) == 1


def test_a_withdrawn_request_is_not_served() -> None:
    """Who no longer waits takes no slot."""
    budget = Budget(1)
    gone, stays = request(), request()
    budget.ask(gone)
    budget.ask(stays)
    budget.withdraw(gone)
    assert budget.grant(0.0) == [stays]


def test_a_lower_limit_holds_at_once() -> None:
    """A limit lowered while attempts are counted leaves no negative number of slots."""
    budget = Budget(3)
    for _ in range(3):
        budget.ask(request())
    budget.grant(0.0)
    budget.connections_per_minute = 1
    assert budget.available(0.0) == 0


def test_repr_tells_the_state() -> None:
    """The state shows at a glance."""
    budget = Budget(1)
    for _ in range(2):
        budget.ask(request())
    budget.grant(0.0)
    assert repr(budget) == "<Budget 1/min: 1 waiting, 1 under way, 0 counted>"


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.floats(0, 30), st.floats(0, 15), st.floats(0, 1)), max_size=60),
)
def test_no_minute_ever_sees_more_than_the_limit(
    limit: int, attempts: list[tuple[float, float, float]]
) -> None:
    """Wherever within an attempt the exchange counts it, no sixty seconds hold more than the limit."""
    budget = Budget(limit)
    now_s = 0.0
    ends: list[float] = []
    counted: list[float] = []
    for pause_s, lasts_s, share in attempts:
        now_s += pause_s
        budget.ask(request())
        while True:
            for end_s in sorted(end_s for end_s in ends if end_s <= now_s):
                budget.finish(end_s)
                ends.remove(end_s)
            if budget.grant(now_s):
                break
            following_s = budget.next_s(now_s)
            assert following_s > now_s
            now_s = min([following_s, *ends])
        ends.append(now_s + lasts_s)
        counted.append(now_s + lasts_s * share)
    counted.sort()
    for first_s, last_s in zip(counted, counted[limit:], strict=False):
        assert last_s - first_s >= WINDOW_S - 1e-6


# Places


def test_a_market_has_so_many_connections_at_once_and_no_more() -> None:
    """The third connection of a market that may have two waits for one to end, not for time to pass."""
    budget = Budget(1000, Caps(per_market=2))
    assert [connect(budget, "X") for _ in range(3)] == [True, True, False]
    assert connect(budget, "Y")
    waiting = request(2, "X")
    budget.ask(waiting)
    assert budget.grant(10_000.0) == []
    assert budget.waits_for(waiting, 10_000.0) == "cap"
    leave(budget, "X", 10_000.0)
    assert budget.grant(10_000.0) == [waiting]


def test_all_markets_together_and_those_over_all_have_limits_of_their_own() -> None:
    """Connections over ALL count for nothing but themselves."""
    budget = Budget(1000, Caps(total=2, agnostic=1))
    markets = ("X", "ALL", "Y", "Z", "ALL")
    assert [connect(budget, market) for market in markets] == [True, True, True, False, False]


def test_a_place_is_taken_until_the_end_must_have_been_seen() -> None:
    """Where the goodbye was not answered the place is free a little later, and that is when to look again."""
    budget = Budget(1000, Caps(per_market=1))
    assert connect(budget, "X")
    leave(budget, "X", 10.0, hold_s=5.0)
    assert not connect(budget, "X", 14.9)
    assert budget.next_s(14.9) == 15.0
    assert connect(budget, "X", 15.0)


def test_a_failed_attempt_gives_its_place_back() -> None:
    """What did not become a connection takes no place."""
    budget = Budget(1000, Caps(per_market=1))
    budget.ask(request(2, "X"))
    budget.grant(0.0)
    budget.finish(0.0)
    budget.release("X", 0.0)
    assert connect(budget, "X")


def test_a_blocked_market_holds_up_no_other() -> None:
    """Who waits for a place does not stand before those who wait for their turn only."""
    budget = Budget(1000, Caps(per_market=1))
    connect(budget, "X")
    urgent, other = request(0, "X"), request(2, "Y")
    budget.ask(urgent)
    budget.ask(other)
    assert budget.grant(0.0) == [other]


def test_a_replacement_never_takes_the_place_of_a_line() -> None:
    """Only what all lines together leave, connected or not, may be claimed by one line more."""
    budget = Budget(1000, Caps(per_market=3, total=4))
    for _ in range(2):
        budget.claim("X")
    assert budget.claim_spare("X")
    assert not budget.claim_spare("X")
    budget.claim("Y")
    assert not budget.claim_spare("Y")
    budget.unclaim("X")
    assert budget.claim_spare("Y")


# What is learnt


def test_a_refusal_teaches_a_cap() -> None:
    """With two connected, a refusal says two: the third waits, and one more is tried after the named time."""
    budget = Budget(1000, Caps(per_market=5))
    connect(budget, "X")
    assert connect(budget, "X")
    assert budget.refused("X", 0.0) == 2
    assert budget.learnt() == {"X": 2}
    assert budget.refused("X", 1.0) is None
    assert not connect(budget, "X", CAP_RETRY_S)
    assert connect(budget, "X", CAP_RETRY_S + 1.0)
    assert budget.learnt() == {"X": 3}
    assert not connect(budget, "X", CAP_RETRY_S + 2.0)


def test_what_the_configuration_allows_ends_what_was_learnt() -> None:
    """A cap that has grown up to the configured one is none any more."""
    budget = Budget(1000, Caps(per_market=2))
    connect(budget, "X")
    assert budget.refused("X", 0.0) == 1
    assert connect(budget, "X", CAP_RETRY_S)
    assert budget.learnt() == {}


def test_a_cap_under_which_all_lines_are_connected_is_none() -> None:
    """With every line connected nobody knows of a limit any more: a replacement may try again to overlap."""
    budget = Budget(1000, Caps(per_market=5))
    for _ in range(2):
        budget.claim("X")
    connect(budget, "X")
    assert budget.refused("X", 0.0) == 1
    assert not budget.has_spare("X")
    assert connect(budget, "X", CAP_RETRY_S)
    assert budget.learnt() == {}
    assert budget.has_spare("X")


def test_a_learnt_cap_leaves_no_place_for_a_replacement() -> None:
    """What was learnt counts as the limit for who would only overlap."""
    budget = Budget(1000, Caps(per_market=5))
    for _ in range(2):
        budget.claim("X")
        connect(budget, "X")
    assert budget.has_spare("X")
    budget.refused("X", 0.0)
    assert not budget.claim_spare("X")


def test_a_refusal_with_nobody_connected_teaches_nothing() -> None:
    """Then it may be the key; and with a connection that the exchange may not know to be gone, it may be that."""
    budget = Budget(1000, Caps(per_market=5))
    assert budget.refused("X", 0.0) is None
    connect(budget, "X")
    connect(budget, "X")
    leave(budget, "X", 1.0, hold_s=5.0)
    assert budget.refused("X", 2.0) is None
    assert budget.refused("X", 6.0) == 1


def test_a_learnt_cap_never_takes_the_last_line_of_a_feed() -> None:
    """What was learnt may be wrong: a feed without any line is let through, up to what is configured."""
    budget = Budget(1000, Caps(per_market=3))
    connect(budget, "X")
    connect(budget, "X")
    budget.refused("X", 0.0)
    assert not connect(budget, "X", 1.0, priority=1)
    assert connect(budget, "X", 1.0, priority=0)
    assert not connect(budget, "X", 1.0, priority=0)


# Coverage


def starve(budget: Budget, feed: str, market: str, now_s: float) -> bool:
    """Refuse a feed's first line as often as it takes; tell whether a place is to be given up for it."""
    return [budget.starved(feed, market, now_s) for _ in range(STARVED_REFUSALS)][-1]


def test_a_place_is_given_up_for_a_feed_that_is_refused_again() -> None:
    """(11) The first refusal may be chance; the second asks for a place, and what was connected is the cap of all."""
    budget = Budget(1000)
    for market in ("X", "X", "Y"):
        connect(budget, market)
    assert [budget.starved("Z", "Z", float(n)) for n in range(3)] == [False, True, True]
    assert budget.given_up("Z", EVERY, 3.0) == 3
    assert budget.learnt() == {EVERY: 3}
    leave(budget, "X", 3.0)
    assert not connect(budget, "X", 4.0, priority=1)
    assert connect(budget, "Z", 4.0, priority=0)
    budget.served("Z")
    assert not connect(budget, "X", 5.0, priority=1)
    assert connect(budget, "X", CAP_RETRY_S + 4.0, priority=1)
    assert budget.learnt() == {EVERY: 4}


def test_a_place_that_was_given_up_is_kept_for_a_while_only() -> None:
    """A feed that does not come for it, or is no more, keeps nobody out for long."""
    budget = Budget(1000)
    for market in ("X", "X", "Y"):
        connect(budget, market)
    assert starve(budget, "Z", "Z", 0.0)
    budget.given_up("Z", EVERY, 0.0)
    leave(budget, "X", 0.0)
    assert not connect(budget, "X", KEPT_S - 1.0)
    assert budget.next_s(KEPT_S - 1.0) <= KEPT_S
    assert connect(budget, "X", KEPT_S)
    leave(budget, "X", KEPT_S)
    assert starve(budget, "V", "V", KEPT_S)
    budget.given_up("V", EVERY, KEPT_S)
    budget.served("V")
    assert connect(budget, "X", KEPT_S)


def test_a_place_that_did_not_help_is_taken_back() -> None:
    """(11) Refused although a place was free: it was something else. It is not believed for longer and longer."""
    budget = Budget(1000)
    connect(budget, "X")
    connect(budget, "X")
    now_s = 0.0
    for tries in range(6):
        assert starve(budget, "Z", "Z", now_s)
        assert budget.given_up("Z", EVERY, now_s) == 2
        leave(budget, "X", now_s, hold_s=5.0)
        assert not budget.starved("Z", "Z", now_s + 4.0)  # the exchange may still count the one that left
        assert budget.learnt() == {EVERY: 2}
        assert not budget.starved("Z", "Z", now_s + 6.0)
        assert budget.learnt() == {}
        assert connect(budget, "X", now_s + 6.0)
        longest_s = min(DISBELIEF_S * 2**tries, DISBELIEF_MAX_S)
        assert not starve(budget, "Z", "Z", now_s + 6.0 + longest_s - 1.0)
        now_s += 6.0 + longest_s


def test_a_place_that_another_has_taken_says_nothing() -> None:
    """Two feeds without a line, and the other one was first: one more place is asked for."""
    budget = Budget(1000)
    for _ in range(3):
        connect(budget, "X")
    assert starve(budget, "Y", "Y", 0.0)
    budget.given_up("Y", EVERY, 0.0)
    leave(budget, "X", 0.0)
    other = request(0, "Z")
    budget.ask(other)
    assert budget.grant(1.0) == [other]
    assert not budget.starved("Y", "Y", 1.0)  # somebody is on the way, and may have it
    assert budget.learnt() == {EVERY: 3}
    budget.finish(1.0)
    budget.opened("Z", 1.0)
    assert budget.starved("Y", "Y", 2.0)
    assert budget.given_up("Y", EVERY, 2.0) is None
    leave(budget, "X", 2.0)
    assert connect(budget, "Y", 3.0, priority=0)


def test_what_is_known_of_all_markets_is_not_learnt_anew_of_one() -> None:
    """A refusal at the cap of all says that again, and nothing of the market."""
    budget = Budget(1000)
    for market in ("X", "X", "Y"):
        connect(budget, market)
    assert starve(budget, "Z", "Z", 0.0)
    budget.given_up("Z", EVERY, 0.0)
    leave(budget, "X", 0.0)
    connect(budget, "Z", 1.0, priority=0)
    budget.served("Z")
    assert budget.refused("Y", CAP_RETRY_S) is None
    assert budget.learnt() == {EVERY: 3}
    assert not connect(budget, "Y", CAP_RETRY_S + 1.0)


# Pauses


def test_nobody_tries_before_the_named_time_and_then_one_alone() -> None:
    """Retry-After is meant for all; after it one attempt goes first, and the others when it has not been refused."""
    budget = Budget(1000)
    for _ in range(3):
        budget.ask(request())
    budget.pause(0.0, 30.0)
    assert budget.available(29.0) == 0
    assert budget.next_s(29.0) == 30.0
    assert len(budget.grant(30.0)) == 1
    budget.pause(31.0, 30.0)
    budget.finish(31.0)
    assert budget.grant(60.0) == []
    assert budget.waits_for(request(), 60.0) == "pause"
    assert budget.waits_for(request(), 61.0) == "rate"
    assert len(budget.grant(61.0)) == 1
    budget.finish(62.0)
    assert len(budget.grant(62.0)) == 1


def test_a_pause_has_a_bound() -> None:
    """However long the exchange asks for, it is an hour at most."""
    budget = Budget(1)
    budget.pause(0.0, 1e9)
    assert budget.available(3600.0) == 1


class Places(RuleBasedStateMachine):
    """Connections that come and go, against a model that counts what the exchange may believe to be open."""

    MARKETS = st.sampled_from(["X", "Y", "ALL"])
    CAPS = Caps(per_market=2, total=3, agnostic=1)

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget(1000, self.CAPS)
        self.now_s = 0.0
        self.open: Counter[str] = Counter()
        self.leaving: list[tuple[float, str]] = []
        self.under_way: list[Request] = []
        self.waiting: list[Request] = []

    @rule(market=MARKETS, priority=st.integers(0, 2))
    def ask(self, market: str, priority: int) -> None:
        """Wish to connect."""
        one = request(priority, market)
        self.budget.ask(one)
        self.waiting.append(one)

    @rule()
    def grant(self) -> None:
        """Let in who may."""
        for one in self.budget.grant(self.now_s):
            self.waiting.remove(one)
            self.under_way.append(one)

    @precondition(lambda self: self.under_way)
    @rule(succeeds=st.booleans(), refused=st.booleans())
    def finish(self, *, succeeds: bool, refused: bool) -> None:
        """End an attempt."""
        market = self.under_way.pop(0).market
        if succeeds:
            self.budget.opened(market, self.now_s)
            self.open[market] += 1
        else:
            self.budget.release(market, self.now_s)
        self.budget.finish(self.now_s)
        if not succeeds and refused:
            self.budget.refused(market, self.now_s)

    @rule(market=MARKETS, feed=st.sampled_from("VW"))
    def starve(self, market: str, feed: str) -> None:
        """Refuse a feed without any line; another one is asked for a place, and may be slow to leave."""
        if self.budget.starved(feed, market, self.now_s):
            self.budget.given_up(feed, market if self.open[market] else EVERY, self.now_s)

    @rule(feed=st.sampled_from("VW"))
    def serve(self, feed: str) -> None:
        """Let a feed have a line."""
        self.budget.served(feed)

    @rule(market=MARKETS, hold_s=st.sampled_from([0.0, 5.0]))
    def lose(self, market: str, hold_s: float) -> None:
        """End a connection."""
        if self.open[market]:
            self.open[market] -= 1
            leave(self.budget, market, self.now_s, hold_s)
            self.leaving.append((self.now_s + hold_s, market))

    @rule(seconds=st.sampled_from([1.0, 5.0, CAP_RETRY_S]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds

    @invariant()
    def the_limits_hold(self) -> None:
        """Check that the exchange never sees more connections than it allows."""
        taken = Counter(self.open)
        taken.update(one.market for one in self.under_way)
        taken.update(market for until_s, market in self.leaving if until_s > self.now_s)
        for market, count in taken.items():
            assert count <= self.CAPS.of(market)
        assert taken.total() - taken["ALL"] <= self.CAPS.total


Places.TestCase.settings = settings(steady, max_examples=150, stateful_step_count=50)
TestPlaces = Places.TestCase


def test_a_standby_takes_what_all_lines_of_the_active_daemon_leave() -> None:
    """Five of a market, of which three are the active one's: two, and none of them for a replacement that overlaps."""
    budget = Budget(100, Caps(per_market=5))
    for _ in range(2):
        budget.claim("M")
    budget.leave({"M": 3}, is_first=False)
    assert [connect(budget, "M") for _ in range(3)] == [True, True, False]
    assert not budget.has_spare("M")
    assert connect(budget, "N")


def test_an_active_daemon_leaves_the_standby_its_places() -> None:
    """A replacement overlaps only where a place is left beside those of the standby; own lines come in any case."""
    budget = Budget(100, Caps(per_market=5))
    for _ in range(3):
        budget.claim("M")
    budget.leave({"M": 2}, is_first=True)
    assert not budget.claim_spare("M")
    budget.leave({"M": 1}, is_first=True)
    assert budget.claim_spare("M")
    assert not budget.claim_spare("M")
    budget.leave({"M": 4}, is_first=True)
    assert [connect(budget, "M") for _ in range(5)] == [True] * 4 + [False]


def test_places_of_a_daemon_that_has_ended_count_for_a_while() -> None:
    """Its heir has the rest at once, and all of its own when the exchange must have seen the end."""
    budget = Budget(100, Caps(per_market=4, total=6))
    for _ in range(3):
        budget.claim("M")
    budget.leave({"M": 1}, is_first=True)
    assert connect(budget, "M")
    budget.outlive({"M": 2}, 0.0, 5.0)
    assert not connect(budget, "M", 4.9)
    assert budget.refused("M", 4.9) is None
    assert connect(budget, "M", 5.0)
    assert connect(budget, "M", 5.0)


@given(
    lines=st.lists(
        st.tuples(st.sampled_from(["X", "Y", "ALL"]), st.integers(1, 4), st.integers(0, 4)), max_size=4
    ),
    caps=st.builds(Caps, st.integers(1, 6), st.integers(0, 10), st.integers(1, 6)),
    steps=st.lists(st.tuples(st.booleans(), st.sampled_from(["X", "Y", "ALL"]), st.booleans()), max_size=60),
)
def test_two_daemons_together_stay_within_the_limits(
    lines: list[tuple[str, int, int]], caps: Caps, steps: list[tuple[bool, str, bool]]
) -> None:
    """Whatever both of them try, of their lines and of replacements, and in whatever order."""
    active, standby = Budget(10_000, caps), Budget(10_000, caps)
    places: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    for market, own, other in lines:
        for budget, count, its in zip((active, standby), (own, min(own, other)), places, strict=True):
            its[market] += count
            for _ in range(count):
                budget.claim(market)
    active.leave(places[1], is_first=True)
    standby.leave(places[0], is_first=False)
    open_now: Counter[tuple[bool, str]] = Counter()
    for of_active, market, more in steps:
        budget = active if of_active else standby
        allowed = places[not of_active][market] + (budget.claim_spare(market) if more else 0)
        if open_now[of_active, market] < allowed and connect(budget, market):
            open_now[of_active, market] += 1
        together = Counter({one: open_now[True, one] + open_now[False, one] for one in ("X", "Y", "ALL")})
        assert max(together["X"], together["Y"]) <= caps.per_market
        assert together["ALL"] <= caps.agnostic
        assert not caps.total or together["X"] + together["Y"] <= caps.total
