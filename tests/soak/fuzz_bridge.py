"""Many thousand random plays of hosts that forward one exchange into one stream: how many are wrong, or marked.

    .venv/bin/python -m tests.soak.fuzz_bridge [KIND]... [--seeds 1000] [--first 0] [--shrink]

Not one of the tests that always run; what was found here stands in `tests/bridge/test_counter_examples.py` by name.
Each seed is one play, the same on every machine. Each host has a daemon with a numbering of its own, and a bridge;
bridges start late and again, with a backlog that is too short or not; links break with what is in them, the server is
full, its limits delete what is old, hosts die for good. The stream is judged against what the exchange has sent:

    steady      the daemons are exact; contents recur
    faulty      daemons have outages, miss events, bring them late, begin anew; all events are distinct; books

Printed is for each kind how many plays there were, how many had any mark (a gap or a late event), and how many were
wrong, with the seeds and what was wrong; with ``--shrink`` the shortest play that still is. The exit code is 0 if none
was wrong.
"""

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from feedhandler.bridge.entries import ID, MISNUMBERED, SEQ, entry_of
from feedhandler.bridge.merge import Merge
from feedhandler.client import Event, Gap, Snapshot
from tests.bridge.model import PATIENCE_S, STEP_S, Host, Server, event, payload_of, timeless

TRADES, OTHERS, BOOK = "M/publicTrades", "N/publicTrades", "M/publicOrderBook"
CHANNELS: Final = (TRADES, OTHERS, BOOK)
KINDS: Final = (
    *(("bring",) * 10),
    *(("tick",) * 6),
    *(("deliver",) * 8),
    *(("answer",) * 6),
    *(("read",) * 6),
    *("link", "link", "break", "start", "restart", "full", "wait", "ask"),
)
RARE: Final = ("die", "delete", "wait long")
TAIL: Final = 9
"""The last events, which come when all is well: they show every hole."""

SETTLING_STEPS: Final = 900
NAMED_SEEDS: Final = 12
"""So many wrong seeds of a kind are named."""

Message = Event | Gap | Snapshot


class Step(NamedTuple):
    """One thing that happens to a host, with a size."""

    kind: str
    host: int
    size: int


class Said(NamedTuple):
    """One record of a daemon's socket, and in which of its sessions."""

    record: Message
    session: str


@dataclass
class Play:
    """What the exchange sends, what each daemon makes of it, how much a backlog keeps, and what happens."""

    truth: list[Event]
    scripts: list[list[Said]]
    backlog: int
    steps: list[Step]


# What the exchange sends, and what a daemon makes of it


def _book(lasts: int, lacks: set[int], reason: str) -> Snapshot:
    """Make the book after so many events, some of which it lacks."""
    data = {"n": lasts, "lacks": sorted(lacks)}
    message = json.dumps({"resultType": "publicOrderBook", "data": data}).encode()
    return Snapshot(BOOK, 0, reason, msgspec.Raw(message))


class Daemon:
    """What a daemon says: the truth, with its own faults."""

    def __init__(self, name: str, draw: random.Random, truth: list[Event], *, faulty: bool) -> None:
        self.said: list[Said] = []
        self._name = name
        self._draw = draw
        self._faulty = faulty
        self._sessions = 0
        self._seqs: Counter[str] = Counter()
        self._held: list[tuple[int, Event]] = []
        self._last = 0
        self._lacks: set[int] = set()
        self._skew = draw.choice([0, 0, 3, -3]) if faulty else 0
        self._say(_book(0, set(), "start"))
        index = 0
        while index < len(truth):
            if index == len(truth) - TAIL:
                self._release(all_=True)
            index += self._meet(truth, index)
        self._release(all_=True)

    def _meet(self, truth: list[Event], index: int) -> int:
        """Bring an event, or have a fault; return how many events that took."""
        chance = self._draw.random() if self._faulty and index < len(truth) - TAIL else 1.0
        one = truth[index]
        if chance < 0.02:
            return self._outage(truth, index, self._draw.randint(1, min(12, len(truth) - TAIL - index)))
        if chance < 0.03:
            return self._begin_anew(truth, index, self._draw.randint(1, min(8, len(truth) - TAIL - index)))
        if chance < 0.05 and one.channel != BOOK:
            return 1
        if chance < 0.07:
            self._held.append((self._draw.randint(1, 4), one))
            if one.channel == BOOK:
                self._lacks.add(_number(one))
            return 1
        self._bring(one)
        self._release()
        return 1

    def _bring(self, one: Event, kind: str = "") -> None:
        if one.channel == BOOK:
            self._last = max(self._last, _number(one))
        recv = one.recv + self._skew
        self._say(msgspec.structs.replace(one, event_class=kind, recv=recv))

    def _release(self, *, all_: bool = False) -> None:
        """Bring what is late by now."""
        self._held = [(count - 1, one) for count, one in self._held]
        for count, one in list(self._held):
            if count <= 0 or all_:
                self._held.remove((count, one))
                newest = one.channel == BOOK and _number(one) > self._last
                self._lacks.discard(_number(one))
                self._bring(one, "" if newest else "late")
                if one.channel == BOOK and not newest:
                    self._say(_book(self._last, self._lacks, "late"))

    def _outage(self, truth: list[Event], index: int, count: int) -> int:
        """Miss some events, and say so."""
        self._release(all_=True)
        before, behind = truth[index].recv, truth[min(index + count, len(truth) - 1)].recv
        self._pass_over(truth[index : index + count])
        for channel in CHANNELS:
            self._say(Gap(channel, 0, "outage", before + self._skew, behind + self._skew))
        self._say(_book(self._last, self._lacks, "gap"))
        return count

    def _begin_anew(self, truth: list[Event], index: int, count: int) -> int:
        """Begin another session, some events later."""
        self._pass_over([*(one for _, one in self._held), *truth[index : index + count]])
        self._held.clear()
        self._lacks.clear()
        self._sessions += 1
        self._seqs.clear()
        self._say(_book(self._last, set(), "start"))
        return count

    def _pass_over(self, missed: list[Event]) -> None:
        self._last = max([self._last, *(_number(one) for one in missed if one.channel == BOOK)])

    def _say(self, record: Message) -> None:
        self._seqs[record.channel] += 1
        record = msgspec.structs.replace(record, seq=self._seqs[record.channel])
        self.said.append(Said(record, f"{self._name}.{self._sessions}"))


def _number(one: Event) -> int:
    return int(json.loads(bytes(one.msg))["data"]["n"])


def _truth(draw: random.Random, count: int, *, recurs: bool) -> list[Event]:
    """Return events of three channels; those of the book are numbered from 1."""
    events: list[Event] = []
    books = 0
    for ts in range(1, count + 1):
        channel = draw.choice([TRADES, TRADES, OTHERS, BOOK])
        if channel == BOOK:
            books += 1
            events.append(event(BOOK, books, ts))
        elif recurs and draw.random() < 0.3:
            events += [timeless(channel, draw.randint(0, 2), ts)] * draw.choice([1, 1, 3])
        else:
            events.append(event(channel, ts, ts))
    for ts in range(count + 1, count + TAIL // 3 + 1):
        books += 1
        events += [event(BOOK, books, ts), event(TRADES, ts, ts), event(OTHERS, ts, ts)]
    return events


def _drawn(seed: int, *, faulty: bool) -> Play:
    draw = random.Random(seed)
    truth = _truth(draw, draw.randint(10, 100), recurs=not faulty)
    hosts = draw.randint(1, 3)
    rare = [kind for kind in RARE if draw.random() < 0.5]
    scripts = [Daemon(f"d{number}", draw, truth, faulty=faulty).said for number in range(hosts)]
    steps = [
        Step(draw.choice([*KINDS, *rare]), draw.randrange(hosts), draw.randint(0, 7))
        for _ in range(draw.randint(100, 800))
    ]
    return Play(truth, scripts, draw.choice([10, 40, 10_000]), steps)


# The hosts


class Forwarder(Host):
    """A bridge at a daemon's socket: it reads what the backlog still has, and a book for itself alone."""

    def __init__(self, name: str, server: "Store", script: list[Said]) -> None:
        super().__init__(name, server, random.Random(0))
        self.store = server
        self.script = script
        self.head = 0
        """What the daemon has said so far."""
        self.at = 0
        self.runs = False
        self.dead = False
        self.brought: set[bytes] = set()
        self.met: dict[str, bytes | None] = {}
        """Of each channel that had begun before: the first event that this run has read in the stream."""
        self.session = ""
        self._books: list[tuple[int, Snapshot]] = []

    def start(self, backlog: int, now: float) -> None:
        """Start anew, and read from the oldest record on; the stream's end is read before."""
        self.merge = Merge(self.notes.append)
        self._sent.clear()
        self._answers.clear()
        self.runs, self.linked = True, False
        self.brought.clear()
        self.met.clear()
        self.link(now)
        self._read_from_oldest(backlog)

    def _read_from_oldest(self, backlog: int) -> None:
        """Begin with what is kept of the daemon's present session."""
        self.session = self.script[max(self.head - 1, 0)].session
        first = next(i for i, one in enumerate(self.script) if one.session == self.session)
        self.at = max(first, self.head - backlog)
        self._books.clear()
        self.ask()

    def ask(self) -> None:
        """Have a book sent that belongs behind what the daemon has said last."""
        if self.head and self.script[self.head - 1].session == self.session:
            book = _book_of(self.script[: self.head], self.session)
            if book is not None:
                self._books.append((self.head, book))

    def say(self, count: int, *, but: int = 0) -> None:
        """Let the daemon say more, all but the last so many."""
        self.head = max(self.head, min(self.head + count, len(self.script) - but))

    def read_socket(self, count: int, backlog: int, now: float) -> None:
        """Read what the daemon has said."""
        for _ in range(count):
            for at, book in list(self._books):
                if at <= self.at:
                    self._books.remove((at, book))
                    if at == self.at:
                        self.merge.bring(entry_of(book, self.session, now), now)
            if self.at == self.head:
                return
            said = self.script[self.at]
            if said.session != self.session:
                for name in self.merge.channels:
                    self.merge.lose_place(name)
                self._read_from_oldest(backlog)
                continue
            self.at += 1
            if isinstance(said.record, Snapshot):
                self._books = [(at, book) for at, book in self._books if book.seq > said.record.seq]
            self.merge.bring(entry_of(said.record, said.session, now), now)
            if isinstance(said.record, Event):
                self.brought.add(bytes(said.record.msg))

    def link(self, now: float) -> None:
        """Connect, and read what the stream has; at first the newest of each channel, and some way back."""
        self.linked = True
        start = self.merge.sequence + 1
        if not self.merge.sequence:
            start = max(1, len(self.store.messages) - self.store.read_back + 1)
            newest = {one.channel: sequence for sequence, one in enumerate(self.store.messages, 1)}
            for sequence in sorted(newest.values()):
                if self.store.deleted < sequence < start:
                    stored = self.store.read(sequence)
                    assert stored is not None
                    self._meet(sequence)
                    self.merge.recall(stored, now)
        self._read = max(start - 1, self.store.deleted)
        while self._read < len(self.store.messages):
            self.read(now)
        if self.merge.sequence < len(self.store.messages):
            self.merge.take(len(self.store.messages), None, now)

    def read(self, now: float) -> None:
        """Read a message, unless it is gone; who leads does not read."""
        if not self.merge.leads:
            self._read = max(self.merge.sequence, self.store.deleted)
            if self.linked and self._read < len(self.store.messages):
                self._meet(self._read + 1)
            super().read(now)

    def _meet(self, sequence: int) -> None:
        """Take note of the first event of a channel that is read, if some of the channel stood before it."""
        name, headers, data = self.store.messages[sequence - 1]
        known = self.merge.channels.get(name)
        if (known is None or not known.begun) and headers[SEQ] != "1":
            self.met[name] = None
        record = json.loads(data)
        if self.met.get(name, b"") is None and record["type"] == "event":
            self.met[name] = payload_of(data)

    def cut(self, arrived: int) -> None:
        """Lose the connection; so many of the messages on the way arrive still, and no answer."""
        for _ in range(min(arrived, len(self._sent))):
            self.store.store(self._sent.popleft()[1])
        self._sent.clear()
        self._answers.clear()
        self.linked = False
        self.merge.follow("lost")

    def die(self, arrived: int) -> None:
        """Be gone for good."""
        self.cut(arrived)
        self.runs, self.dead = False, True


class Store(Server):
    """The stream, of which limits delete the oldest messages."""

    def __init__(self, read_back: int) -> None:
        super().__init__()
        self.deleted = 0
        self.read_back = read_back

    def delete(self, but: int) -> None:
        """Delete all but the last so many, and the newest of each channel."""
        newest = {one.channel: sequence for sequence, one in enumerate(self.messages, 1)}
        self.deleted = max(self.deleted, min([len(self.messages) - but, *(n - 1 for n in newest.values())]))


def _book_of(said: list[Said], session: str) -> Snapshot | None:
    """Return the book after all that a daemon has said."""
    state: set[int] | None = None
    seq = 0
    for record, of in said:
        if of == session and record.channel == BOOK:
            seq = record.seq
            if isinstance(record, Snapshot):
                state = _state(bytes(record.msg))
            elif isinstance(record, Event) and state is not None:
                state.add(_number(record))
    if state is None:
        return None
    last = max(state, default=0)
    book = _book(last, set(range(1, last + 1)) - state, "join")
    return msgspec.structs.replace(book, seq=seq)


def _state(message: bytes) -> set[int]:
    data = json.loads(message)["data"]
    return set(range(1, data["n"] + 1)) - set(data["lacks"])


class Fleet:
    """The hosts of a play."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.now = 0.0
        self.store = Store(read_back=play.backlog)
        self.hosts = [
            Forwarder(f"host{number}", self.store, script) for number, script in enumerate(play.scripts)
        ]
        self.hosts[0].start(play.backlog, self.now)

    def perform(self) -> None:
        """Let the play happen; what cannot happen is left out."""
        for step in self.play.steps:
            self.now += STEP_S
            host = self.hosts[step.host % len(self.hosts)]
            if step.kind == "bring":
                for one in self.hosts:
                    one.say(1 + step.size % 3, but=TAIL)
            if step.kind == "wait":
                self.now += step.size / 4
            elif step.kind == "wait long":
                self.now += 2 * PATIENCE_S
            elif step.kind == "delete":
                self.store.delete(4 * step.size)
            elif step.kind == "full":
                self.store.full = not self.store.full
            elif not host.dead:
                self._happen_to(host, step)

    def _happen_to(self, host: Forwarder, step: Step) -> None:
        backlog = self.play.backlog
        if step.kind == "start" and not host.runs:
            host.start(backlog, self.now)
        elif step.kind == "restart" and host.runs:
            host.cut(step.size)
            host.start(backlog, self.now)
        elif step.kind == "die" and sum(one.runs for one in self.hosts) > 1 and host.runs:
            host.die(step.size)
        elif host.runs:
            self._let_run(host, step)

    def _let_run(self, host: Forwarder, step: Step) -> None:
        if step.kind == "bring":
            host.read_socket(step.size + 1, self.play.backlog, self.now)
        elif step.kind == "ask" and list(host.merge.wanted_books()):
            host.ask()
        elif step.kind == "link" and not host.linked:
            host.link(self.now)
        elif step.kind == "break" and host.linked:
            host.cut(step.size)
        elif step.kind == "tick":
            host.tick(self.now)
        elif step.kind in {"deliver", "answer", "read"}:
            for _ in range(step.size + 1):
                self._move(host, step.kind)

    def _move(self, host: Forwarder, kind: str) -> None:
        if kind == "deliver":
            host.deliver()
        elif kind == "answer":
            host.answer(self.now)
        else:
            host.read(self.now)

    def settle(self) -> None:
        """Let all that live read and send all there is."""
        self.store.full = False
        for number in range(SETTLING_STEPS):
            self.now += STEP_S
            for host in self.hosts:
                if host.dead:
                    continue
                if not host.runs:
                    host.start(self.play.backlog, self.now)
                elif not host.linked:
                    host.link(self.now)
                host.say(1, but=TAIL if number < SETTLING_STEPS // 3 else 0)
                host.read_socket(2, self.play.backlog, self.now)
                if list(host.merge.wanted_books()):
                    host.ask()
                for kind in ("deliver", "answer", "read") * 4:
                    self._move(host, kind)
                host.tick(self.now)


# What a play came to


class Outcome(NamedTuple):
    """What a play came to: whether it had marks, and what was wrong."""

    marked: bool
    wrong: str


def steady(seed: int, play: Play | None = None) -> Outcome:
    """Judge a play of exact daemons."""
    return _judged(play or draw_steady(seed), exact=True)


def faulty(seed: int, play: Play | None = None) -> Outcome:
    """Judge a play of daemons with faults."""
    return _judged(play or draw_faulty(seed), exact=False)


def _judged(play: Play, *, exact: bool) -> Outcome:
    fleet = Fleet(play)
    fleet.perform()
    fleet.settle()
    marked = False
    wrong = []
    for channel in CHANNELS:
        records = fleet.store.records(channel)
        marked |= any(one["type"] == "gap" or one.get("class") for one in records)
        wrong += [f"{channel}: {fault}" for fault in _faults(fleet, channel, records, exact=exact)]
    ids = Counter(message.headers[ID] for message in fleet.store.messages)
    wrong += [f"the id {one} twice" for one, count in ids.items() if count > 1]
    return Outcome(marked, "; ".join(wrong))


def _faults(fleet: Fleet, channel: str, records: list[dict], *, exact: bool) -> Iterator[str]:  # type: ignore[type-arg]
    truth = [bytes(one.msg) for one in fleet.play.truth if one.channel == channel]
    found = fleet.store.messages_of(channel)
    if not _is_numbered(records):
        yield "seqs have a hole that no gap record tells of"
    doubled = Counter(found) - Counter(truth)
    if doubled:
        yield f"doubled {dict(doubled)}"
        return
    if exact:
        yield from _holes(truth, found, records)
        return
    place = {payload: index for index, payload in enumerate(truth)}
    order: list[int | None] = []
    newest = -1
    payloads = iter(found)
    for one in records:
        if one["type"] == "gap":
            order.append(None)
        elif one["type"] == "event":
            here = place[next(payloads)]
            if not one.get("class"):
                if here < newest:
                    yield f"{truth[here]!r} is out of order"
                order.append(here)
            newest = max(newest, here)
    yield from _missing(fleet, channel, truth, found, order)
    if channel == BOOK:
        yield from _book_faults(fleet, records, found, truth)


def _is_numbered(records: list[dict]) -> bool:  # type: ignore[type-arg]
    """Tell whether each seq follows the highest before it, or one gap record behind says that one did not."""
    highest, told = 0, True
    for one in records:
        follows = one["seq"] == highest + 1
        if one.get("reason") == MISNUMBERED:
            if told or not follows:
                return False
            told = True
        told = told and follows
        highest = max(highest, one["seq"])
    return told


def _missing(
    fleet: Fleet, channel: str, truth: list[bytes], found: list[bytes], order: list[int | None]
) -> Iterator[str]:
    """Name what is neither in the stream nor within a gap, though a host that lives has brought it.

    A channel begins with its first event that is not late: what is older is in the book before it, or was never there.
    Of what is older than the oldest event of the channel that a host could read in the stream it can't know whether it
    stood there: limits have deleted that, or its first reading does not reach so far back. That excused one play
    of 1,800, the beginning none.
    """
    there = set(found)
    first = next((one for one in order if one is not None), len(truth))
    for host in fleet.hosts:
        if host.dead:
            continue
        met = host.met.get(channel)
        begun = max(first, truth.index(met) if met else 0)
        for index, payload in enumerate(truth):
            is_due = payload in host.brought and payload not in there and index > begun
            if is_due and not _in_gap(order, index):
                yield f"{payload!r} is missing"


def _holes(truth: list[bytes], found: list[bytes], records: list[dict]) -> Iterator[str]:  # type: ignore[type-arg]
    """Where there is no mark the stream is a run of the truth up to its end."""
    if any(one["type"] == "gap" or one.get("class") for one in records):
        return
    if found != truth[len(truth) - len(found) :]:
        yield f"no run: {found} of {truth}"


def _in_gap(order: list[int | None], index: int) -> bool:
    for at, one in enumerate(order):
        if one is None:
            before = max((i for i in order[:at] if i is not None), default=-1)
            after = [i for i in order[at:] if i is not None and i > before]
            if before < index < min(after, default=10**9):
                return True
    return False


def _book_faults(fleet: Fleet, records: list[dict], found: list[bytes], truth: list[bytes]) -> Iterator[str]:  # type: ignore[type-arg]
    state: set[int] | None = None
    payloads = iter(found)
    for one in records:
        if one["type"] == "snapshot":
            state = _state(json.dumps(one["msg"]).encode())
        elif one["type"] == "event":
            number = int(json.loads(next(payloads))["data"]["n"])
            if state is None:
                yield f"{number} before the first book"
                return
            if number in state and not one.get("class"):
                yield f"{number} is in the book already"
            state.add(number)
    if state is not None and state != set(range(1, len(truth) + 1)):
        lacks = set(range(1, len(truth) + 1)) - state
        known = {
            int(json.loads(one)["data"]["n"])
            for host in fleet.hosts
            if not host.dead
            for one in host.brought
            if b"BookDelta" in one and one in truth
        }
        if lacks & known:
            yield f"the book lacks {sorted(lacks & known)}"


def draw_steady(seed: int) -> Play:
    """Return a play of exact daemons."""
    return _drawn(seed, faulty=False)


def draw_faulty(seed: int) -> Play:
    """Return a play of daemons with faults."""
    return _drawn(seed, faulty=True)


JUDGES: Final = {"steady": steady, "faulty": faulty}
DRAWS: Final = {"steady": draw_steady, "faulty": draw_faulty}


def shrunk(kind: str, seed: int) -> Play:
    """Return the shortest play that is wrong in the same way."""
    judge, play = JUDGES[kind], DRAWS[kind](seed)
    fault = _sort(judge(seed, play).wrong)
    size = len(play.steps) // 2
    while size:
        start = 0
        while start < len(play.steps):
            fewer = Play(
                play.truth, play.scripts, play.backlog, play.steps[:start] + play.steps[start + size :]
            )
            if _sort(judge(seed, fewer).wrong) == fault:
                play = fewer
            else:
                start += size
        size //= 2
    return play


def _sort(wrong: str) -> str:
    words = (
        "doubled",
        "is missing",
        "no run",
        "out of order",
        "twice",
        "lacks",
        "already",
        "first book",
        "hole",
    )
    return next((word for word in words if word in wrong), wrong)


def main() -> int:
    """Play what the command line asks for; return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kinds", nargs="*", choices=[*JUDGES, []], metavar="KIND", help=", ".join(JUDGES))
    parser.add_argument("--seeds", type=int, default=1000, help="plays of each kind (default: 1000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--shrink", action="store_true", help="show the shortest play of each wrong one")
    given = parser.parse_args()
    wrong = sum(_report(kind, given) for kind in given.kinds or JUDGES)
    return 1 if wrong else 0


def _report(kind: str, given: argparse.Namespace) -> int:
    """Play the seeds of one kind; say and return how many were wrong."""
    outcomes = {seed: JUDGES[kind](seed) for seed in range(given.first, given.first + given.seeds)}
    faults = {seed: outcome for seed, outcome in outcomes.items() if outcome.wrong}
    marked = sum(outcome.marked for outcome in outcomes.values())
    _say(f"{kind}: {len(outcomes)} plays, {marked} with marks, {len(faults)} wrong")
    for seed, outcome in list(faults.items())[:NAMED_SEEDS]:
        _say(f"  seed {seed}: {outcome.wrong[:200]}")
        if given.shrink:
            _say(*(f"    {step}" for step in shrunk(kind, seed).steps))
    return len(faults)


def _say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)  # noqa: T201 - a script speaks


if __name__ == "__main__":
    sys.exit(main())
