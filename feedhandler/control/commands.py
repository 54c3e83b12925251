"""What the commands of ``feedhandler ctl`` do to a running daemon.

A command is carried out or refused at once, with one line that says why and names what there is; only a reload takes
its time, since files are read in a thread. What a command has changed holds until the configuration is read again or
the daemon begins anew.
"""

from collections.abc import Awaitable, Callable, Iterable

from feedhandler.config import ACCOUNT_STREAMS, ALL, STREAMS, is_market
from feedhandler.control.fleet import Fleet
from feedhandler.control.requests import Answer, Done, Refusal, Request
from feedhandler.errors import LineNeeded
from feedhandler.ingest.feed import Feed

SHOWN = 20
"""Names that a refusal lists; of more it says how many."""


class Commands:
    """The commands; ``reload``, ``drain`` and ``hand_over`` are the daemon's own, ``status`` says what ``list`` shows.

    ``hand_over`` returns why it does nothing.
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        status: Callable[[], Awaitable[object]],
        reload: Callable[[], Awaitable[Answer]],
        drain: Callable[[], None],
        hand_over: Callable[[], str],
        is_ending: Callable[[], bool],
    ) -> None:
        self._fleet = fleet
        self._status = status
        self._reload = reload
        self._drain = drain
        self._hand_over = hand_over
        self._is_ending = is_ending
        self._of_lines: dict[str, tuple[Callable[[Feed, str], None], str]] = {
            "restart": (
                lambda feed, line: feed.crew.restart(line),
                "line {line} of {feed} is being replaced",
            ),
            "pause": (lambda feed, line: feed.crew.pause(line), "line {line} of {feed} is paused"),
            "resume": (lambda feed, line: feed.crew.resume(line), "line {line} of {feed} goes on"),
        }

    async def execute(self, request: Request) -> Answer:
        """Carry out a request; what ends has no feeds to change any more."""
        if self._is_ending() and request.op not in {"list", "drain"}:
            return Refusal("draining", "the daemon is about to end")
        match request.op:
            case "list":
                return Done(await self._status())
            case "reload":
                return await self._reload()
            case "drain":
                self._drain()
                return Done("the daemon lets its consumers go and ends")
            case "handover":
                against = self._hand_over()
                return Refusal("no_standby", against) if against else Done("the standby takes over")
            case "add-market":
                return self._add_market(request)
            case "drop-market":
                return self._drop_market(request)
        feed = self._fleet.feeds.get(request.feed)
        if feed is None:
            return Refusal(
                "unknown_feed", f"there is no feed {request.feed}; {_there_are(self._fleet.feeds)}"
            )
        return self._execute_on(feed, request)

    def _execute_on(self, feed: Feed, request: Request) -> Answer:
        """Carry out a request that concerns one feed."""
        if request.op == "rotate":
            return _rotate(feed)
        if request.op in {"add-stream", "drop-stream"}:
            return self._change_stream(feed, request)
        if request.line not in feed.lines:
            text = f"there is no line {request.line} of {feed.label}; {_there_are(feed.lines)}"
            return Refusal("unknown_line", text)
        act, said = self._of_lines[request.op]
        line = feed.lines[request.line]
        if request.op == "restart" and line.is_paused:
            return Refusal("paused", f"line {line.name} of {feed.label} is paused: resume it instead")
        if request.op == "restart" and not line.is_open:
            said = f"line {{line}} of {{feed}} is not connected ({line.doing}); it is tried as soon as the limits allow"
        try:
            act(feed, request.line)
        except LineNeeded as needed:
            return Refusal("line_needed", str(needed))
        return Done(said.format(line=request.line, feed=feed.label))

    def _change_stream(self, feed: Feed, request: Request) -> Answer:
        stream, label = request.stream, feed.label
        now = self._fleet.running[label]
        if stream not in STREAMS:
            return Refusal("unknown_stream", f"there is no stream {stream}; {_there_are(STREAMS)}")
        if request.op == "add-stream":
            if stream in now.streams:
                return Refusal("no_change", f"{label} has {stream} already")
            streams, said = (*now.streams, stream), f"{stream} is being added to {label}"
            if not ACCOUNT_STREAMS.isdisjoint(streams) and not ACCOUNT_STREAMS.issuperset(streams):
                return Refusal("conflict", "account streams get their own feed")
        else:
            if stream not in now.streams:
                return Refusal("unknown_stream", f"{label} has no {stream}; {_there_are(now.streams)}")
            if len(now.streams) == 1:
                return Refusal("conflict", f"{stream} is the only stream of {label}: drop its market instead")
            streams = tuple(one for one in now.streams if one != stream)
            said = f"{stream} is being dropped from {label}"
        against = self._fleet.set_by_hand(label, now._replace(streams=streams))
        return Refusal("conflict", against) if against else Done(said)

    def _add_market(self, request: Request) -> Answer:
        market, sections = request.market, self._fleet.sections()
        if not is_market(market) or market in {ALL, "*"}:
            return Refusal("bad_market", "expected the name of one market")
        if request.feed and request.feed not in sections:
            return Refusal("unknown_section", f"there is no section {request.feed}; {_there_are(sections)}")
        if not request.feed and len(sections) != 1:
            return Refusal(
                "which_section", f"name the section that the market is added to; {_there_are(sections)}"
            )
        section = request.feed or next(iter(sections))
        label, feed = self._fleet.section_feed(sections[section], market)
        if label in self._fleet.feeds:
            return Refusal("no_change", f"there is a feed {label} already")
        against = self._fleet.set_by_hand(label, feed)
        return Refusal("conflict", against) if against else Done(f"feed {label} is opened")

    def _drop_market(self, request: Request) -> Answer:
        """Give up the feed of a market; where several are on it, their labels tell which one."""
        running = self._fleet.running
        labels = [label for label, feed in running.items() if request.market in {label, feed.market}]
        if request.market in running:
            labels = [request.market]
        if not labels:
            return Refusal("unknown_market", f"no feed is over {request.market}; {_there_are(running)}")
        if len(labels) > 1:
            return Refusal("which_feed", f"several feeds are over {request.market}: {', '.join(labels)}")
        self._fleet.set_by_hand(labels[0], None)
        return Done(f"feed {labels[0]} is given up")


def _rotate(feed: Feed) -> Answer:
    """Have the connected lines of a feed replaced; say which ones are not."""
    apart = [name for name, line in feed.lines.items() if not line.is_open]
    if len(apart) == len(feed.lines):
        return Refusal("not_connected", f"no line of {feed.label} is connected: there is nothing to replace")
    feed.crew.rotate()
    text = f"; not connected, so left alone: {', '.join(apart)}" if apart else ""
    return Done(f"the lines of {feed.label} are being replaced, one after the other{text}")


def _there_are(names: Iterable[str]) -> str:
    """Name what there is, bounded."""
    found = list(names)
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"there are: {', '.join(found[:SHOWN])}{more}" if found else "there is none"
