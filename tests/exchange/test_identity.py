"""What has an identity, tried where it matters: refusals that really repeat, and lines that join and die among them."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedhandler.config import Bounds, Health
from feedhandler.core.arbiter import Arbiter
from feedhandler.exchange.messages import Dialect
from feedhandler.simulator.account import Account, Said
from feedhandler.simulator.messages import Wording
from feedhandler.simulator.settings import Behaviour
from tests.support.lines import World
from tests.support.scripts import Script, play, scripts, steady

CREATE, CANCEL, REFUSE, FILL = b"create", b"cancel", b"refuse", b"fill"


class AccountWorld(World):
    """Lines of an account feed: each word of a script is something that happens to an account."""

    def __init__(self, lines: int, behaviour: Behaviour) -> None:
        super().__init__(lines)
        dialect = Dialect("ALL", hears_account=lambda: True)
        self.arbiter = Arbiter("M", self.names, dialect, bounds=Bounds(), limits=Health(), now=self.now)
        self.account = Account(behaviour, Wording(behaviour), 1)

    def emit(self, *payloads: bytes, **_: object) -> None:
        """Let something happen; what settles the world are fills."""
        for word in payloads:
            said = self._happen(word)
            super().emit(*[one.payload for one in said])

    def _happen(self, word: bytes) -> list[Said]:
        account, ts = self.account, len(self.source) // 3
        if word == CREATE or not account.orders:
            return account.create("A-B", ("buy", "1", "1"), "", ts)
        order = next(iter(account.orders.values()))
        if word == CANCEL:
            return account.cancel(order, "", ts)
        if word == REFUSE:
            return account.refuse("cancelOrder", order, 409, "")
        return account.fill([(order, "1")], ts)


@settings(steady, max_examples=400)
@given(
    scripts(
        words=[CREATE, CANCEL, REFUSE, REFUSE, REFUSE, FILL],
        kinds=["emit", "emit", "emit", "read", "read", "connect", "connect", "kill", "wait"],
        most=120,
    ),
    st.builds(Behaviour, refusals_show_order=st.booleans(), partial_fill_times=st.booleans()),
)
def test_the_account_s_events_come_out_once_whatever_joins_and_dies(
    script: Script, behaviour: Behaviour
) -> None:
    """(7) With real repeats everywhere: nothing is doubled; without a gap nothing is missing, and all is in order."""
    world = AccountWorld(script.lines, behaviour)
    play(world, script)
    world.settle()
    if not world.blind:
        assert not Counter(world.output) - Counter(world.source)
    if not world.gaps and world.output:
        assert world.output == world.source[-len(world.output) :]
        assert not world.late


@pytest.mark.parametrize("repeats", [1, 2, 5])
def test_a_refusal_that_repeats_proves_no_place(repeats: int) -> None:
    """A line that joins between two equal refusals holds the second: taken for the first, it would be lost unseen."""
    world = AccountWorld(2, Behaviour(refusals_show_order=True))
    world.connect("a")
    world.emit(CREATE, REFUSE, CREATE)
    seen = list(world.source)
    world.connect("b")
    world.deliver("a")
    world.emit(*(repeats * [REFUSE]))
    assert set(world.source[len(seen) :]) == {seen[2]}
    world.deliver("b")
    assert world.arbiter.lines["b"].owing is None
    world.kill("a")
    world.settle()
    assert [gap.reason for gap in world.gaps] == ["unproven"]
    assert world.output[: len(seen)] == seen
    assert not Counter(world.output) - Counter(world.source)
