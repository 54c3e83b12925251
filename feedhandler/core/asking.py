"""Asking for snapshots: which line is asked for what, and which reply is for which request (rule R8).

Asking has bounds: `MOST_ASKED` requests of a feed are under way at a time, one for each channel, and no more than
``recovery.requests_per_s`` are made; repairs come before audits, and who was asked for longest ago comes first. The
lines are asked in turn. A request without an answer for ``recovery.reply_s`` is **overdue** and made again, on the next
line; its answer is still of use when it comes, and is forgotten with the `OVERDUE`-th younger one, or after
`LAG_MOST_S`.

A reply that carries no id is for the request that its line was asked first, of those that it can be for. What was
asked before a gap is **void**: its answer is swallowed. Over ALL a reply may name not even its market; until they are
seen to name one, or to carry ids, each line is asked for one thing of a kind at a time.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from feedhandler.config import Recovery as Settings
from feedhandler.core.book_repair import LAG_MOST_S
from feedhandler.core.bookkeeper import BookKeeper
from feedhandler.core.channels import split
from feedhandler.core.messages import Reply
from feedhandler.core.trades import TradeKeeper

MOST_ASKED: Final = 4
"""Requests under way in one feed at a time; further ones wait."""

OVERDUE: Final = 64
"""Requests of a feed whose answers are still of use although another one was made since."""

Keeper = BookKeeper | TradeKeeper


class RequestDesk(Protocol):
    """How the exchange writes requests and replies."""

    def request(self, kind: str, market: str, request_id: str) -> str:
        """Return a request for a snapshot."""

    def answers(self, reply: Reply) -> str:
        """Return which kind of request a reply may answer, "" for none."""

    def refuses(self, reply: Reply) -> bool:
        """Tell whether a reply says that its request failed."""

    def named(self, reply: Reply) -> str:
        """Return the market that a reply is for, "" where it may be any."""


@dataclass
class Asked:
    """A request under way, overdue, or void: made before a gap."""

    keeper: Keeper
    line: str
    at: float
    overdue: bool = False
    void: bool = False


class Asking:
    """The requests of one feed; ``new_id`` names each."""

    def __init__(self, desk: RequestDesk, settings: Settings, new_id: Callable[[], str]) -> None:
        self.settings = settings
        self._desk = desk
        self._new_id = new_id
        self._asked: dict[str, Asked] = {}
        self._turn = 0
        self._allowed = settings.requests_per_s
        self._allowed_at = 0.0
        self._nameless = not desk.named(Reply("", "", b""))

    def __len__(self) -> int:
        return len(self._asked)

    # Requests

    def ask(self, keepers: Iterable[Keeper], lines: Sequence[str], now: float) -> Iterator[tuple[str, str]]:
        """Ask lines for what the keepers want, as far as the bounds allow; yield line and text of each request."""
        waiting = {asked.keeper.channel for asked in self._asked.values() if not asked.overdue}
        wanted = [keeper for keeper in keepers if keeper.channel not in waiting and keeper.wants(now)]
        wanted.sort(key=lambda keeper: (not keeper.syncing, keeper.asked_at))
        for keeper in wanted:
            free = [line for line in lines if not self._is_taken(line, keeper)]
            if free and len(waiting) < MOST_ASKED and self._is_allowed(now):
                waiting.add(keeper.channel)
                line = free[self._turn % len(free)]
                yield line, self._ask_for(keeper, line, now)

    def _is_allowed(self, now: float) -> bool:
        """Take one of the requests that may be made in a second, if any is left."""
        most = self.settings.requests_per_s
        self._allowed = min(most, self._allowed + (now - self._allowed_at) * most)
        self._allowed_at = now
        if self._allowed < 1 and self._allowed < most:
            return False
        self._allowed -= 1
        return True

    def _is_taken(self, line: str, keeper: Keeper) -> bool:
        """Tell whether a reply of a line could not be told from one that it owes already."""
        return self._nameless and any(
            asked.line == line and asked.keeper.kind == keeper.kind for asked in self._asked.values()
        )

    def _ask_for(self, keeper: Keeper, line: str, now: float) -> str:
        self._turn += 1
        request_id = self._new_id()
        self._asked[request_id] = Asked(keeper, line, now)
        if len(self._asked) > OVERDUE:
            del self._asked[next(iter(self._asked))]
        keeper.asked(now)
        return self._desk.request(keeper.kind, split(keeper.channel)[0], request_id)

    # What becomes of them

    def overdue(self, now: float) -> list[Keeper]:
        """Let time pass; return whose requests have been in vain since the last time."""
        late = []
        for request_id, asked in list(self._asked.items()):
            if now - asked.at >= LAG_MOST_S:
                del self._asked[request_id]
            if not asked.overdue and now - asked.at >= self.settings.reply_s:
                asked.overdue = True
                late.append(asked.keeper)
        return late

    def void(self, keeper: Keeper) -> None:
        """Let the answers to what was asked for a channel so far be of no use: they are too old."""
        for asked in self._asked.values():
            if asked.keeper is keeper:
                asked.overdue = asked.void = True

    def forget(self, line: str) -> None:
        """Hear that a line is gone, and the answers that were to come on it."""
        self._asked = {key: asked for key, asked in self._asked.items() if asked.line != line}

    def answered(self, line: str, reply: Reply) -> Asked | None:
        """Return the request that a reply of a line answers; None where nobody asked for it, or nobody any more."""
        asked = self._asked.pop(self._request_of(line, reply), None)
        return None if asked is None or asked.void else asked

    def _request_of(self, line: str, reply: Reply) -> str:
        """Return the request that a reply answers: by its id, or without one the first that it can be for.

        Something else with the id of a request, an acknowledgement, is not the answer; it is still to come.
        """
        kind, own = self._desk.answers(reply), self.is_own(reply.request_id)
        if not kind and not own:
            return ""
        market = self._desk.named(reply)
        self._nameless = self._nameless and not (kind and (own or market))
        if reply.request_id:
            return reply.request_id if own and (kind or self._desk.refuses(reply)) else ""
        for request_id, asked in self._asked.items():
            keeper = asked.keeper
            if asked.line == line and keeper.kind == kind and market in {"", split(keeper.channel)[0]}:
                return request_id
        return ""

    # What is known of them

    def is_own(self, request_id: str) -> bool:
        """Tell whether a request of this id was made here."""
        return request_id in self._asked

    @property
    def under_way(self) -> bool:
        """Whether any answer is waited for."""
        return any(not asked.overdue for asked in self._asked.values())

    def due(self) -> list[float]:
        """Return when each request is forgotten."""
        return [asked.at + LAG_MOST_S for asked in self._asked.values()]
