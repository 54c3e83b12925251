"""The budget of connection attempts."""

from hypothesis import given
from hypothesis import strategies as st

from feedhandler.core.budget import WINDOW_S, Budget, Request


def request(priority: int = 0) -> Request:
    """Return a request of a fixed priority."""
    return Request(lambda: priority, lambda: None)


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
