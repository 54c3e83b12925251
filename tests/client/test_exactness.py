"""Whatever the server does to its connections, a consumer gets the exact stream, by every face.

The server of this test is a small model: the log of each session, how much of it is released and how much is
forgotten. A plan says for each connection what happens before it and within it. What the consumer got is
compared with the logs alone.
"""

from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedhandler.client import following
from feedhandler.client.core import Event, Gap, Reader, Received, Refused, Subscribed
from feedhandler.client.following import Following
from tests.client.faces import Face, every_face
from tests.client.scripted import A, Act, B, C, Connection, event, hello, line, scripted


class Plan(NamedTuple):
    """What happens to one connection."""

    restart: bool  # the daemon is another one
    release: int  # records released before the greeting
    between: int  # and between greeting and request
    forget: int  # records of the backlog that go before the request
    cut: int  # bytes that the client gets; more than there are: all of them
    reset: bool  # the request is not even read
    busy: bool


plans = st.builds(
    Plan,
    restart=st.sampled_from([False, False, False, True]),
    release=st.integers(0, 6),
    between=st.sampled_from([0, 0, 1, 2]),
    forget=st.sampled_from([0, 0, 0, 2, 5]),
    cut=st.integers(0, 1500),
    reset=st.sampled_from([False, False, False, True]),
    busy=st.sampled_from([False, False, False, True]),
)
LAST = Plan(restart=False, release=3, between=0, forget=0, cut=10**6, reset=False, busy=False)


class Model:
    """A server's sessions: of each, its log of (channel, seq, line); of the present one, what is forgotten."""

    def __init__(self) -> None:
        self.logs: list[list[tuple[str, int, bytes]]] = []
        self.finished = False
        self.restart()

    def restart(self) -> None:
        """Begin another session."""
        self.forgotten = 0
        self.logs.append([])

    def release(self, count: int) -> None:
        """Release the next records."""
        log = self.logs[-1]
        for _ in range(count):
            channel = (A, B, C)[len(log) % min(3, 1 + len(log) // 4)]  # they appear one after the other
            seq = self.next(channel)
            text = event(seq, channel, {"n": len(log), "session": len(self.logs)})
            if len(log) % 5 == 4:
                text = line(
                    type="gap",
                    channel=channel,
                    seq=seq,
                    reason="outage",
                    since=len(log),
                    until=len(self.logs),
                )
            log.append((channel, seq, text))

    def next(self, channel: str) -> int:
        """Return the seq of a channel's next record."""
        return 1 + sum(owner == channel for owner, _, _ in self.logs[-1])

    def open(self) -> tuple[str, ...]:
        """Return the channels that have a record."""
        return tuple(sorted({owner for owner, _, _ in self.logs[-1]}))

    def greet(self) -> bytes:
        """Greet with the session and what there is."""
        return hello(str(len(self.logs)), self.open())

    def answer(self, request: dict[str, Any]) -> bytes:
        """Serve a request as the contract says."""
        resume = request.get("resume", {"session": "", "seq": {}})
        same = resume["session"] == str(len(self.logs))
        first, refusals = {name: self.next(name) for name in self.open()}, b""
        for name, last in resume["seq"].items():
            kept = [seq for owner, seq, _ in self.logs[-1][self.forgotten :] if owner == name]
            oldest = kept[0] if kept else self.next(name)
            if same and oldest <= last + 1 <= self.next(name):
                first[name] = last + 1
            else:
                reason = "too_old" if same else "unknown_session"
                refusals += line(
                    type="refused", channel=name, reason=reason, oldest=oldest, next=self.next(name)
                )
        confirmed = line(type="subscribed", channels={name: {"next": seq} for name, seq in first.items()})
        replay = [text for owner, seq, text in self.logs[-1] if seq >= first[owner]]
        return confirmed + refusals + b"".join(replay)

    def act(self, plan: Plan) -> Act:
        """Carry out a plan."""

        def act(connection: Connection) -> None:
            if plan.restart:
                self.restart()
            self.release(plan.release)
            if plan.busy:
                connection.say(line(type="error", code="busy", detail="x"))
                return
            greeting = self.greet()
            connection.say(greeting[: plan.cut])
            if plan.cut < len(greeting) or plan.reset:
                return
            self.release(plan.between)
            self.forgotten = min(len(self.logs[-1]), self.forgotten + plan.forget)
            answer = self.answer(connection.ask())
            self.finished = plan is LAST
            connection.say(answer[: plan.cut - len(greeting)])
            if self.finished:
                connection.wait()

        return act


class Story:
    """What the consumer got, checked record by record, and whether it has all."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.seqs: dict[str, int] = {}
        self.joined = False
        self.got: list[bytes] = []

    def take(self, received: Received, _: Following) -> bool:
        """Look at a record, and say whether it was the last one."""
        match received.record:
            case Subscribed() as record if not self.joined:
                self.joined = True
                self.seqs = {name: first.next - 1 for name, first in record.channels.items()}
            case Refused() as record:
                self.seqs[record.channel] = record.next - 1
            case Event() | Gap() as record:
                assert record.seq == self.seqs.get(record.channel, 0) + 1
                self.seqs[record.channel] = record.seq
                self.got.append(received.line)
        return self.joined and self.model.finished and self._has_all()

    def _has_all(self) -> bool:
        ends = {name: self.model.next(name) - 1 for name in self.model.open()}
        return ends.items() <= self.seqs.items()


@every_face
@given(before=st.lists(plans, max_size=6))
@settings(max_examples=60)
def test_the_records_are_exactly_those_of_the_logs(face: Face, before: list[Plan]) -> None:
    """(3, 10) Nothing comes twice or out of order, and nothing is missing that no `refused` record tells."""
    model = Model()
    story = Story(model)
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(following, "BACKOFF_MIN_S", 0.0005)
        patch.setattr(following, "BACKOFF_MAX_S", 0.001)
        path = Path(folder) / "feed.sock"
        with scripted(path, *(model.act(plan) for plan in (*before, LAST))):
            face(path, Reader(), story.take)
    order = {text: place for place, (_, _, text) in enumerate(chain.from_iterable(model.logs))}
    places = [order[text] for text in story.got]
    assert places == sorted(set(places))
    assert story.seqs.items() >= {name: model.next(name) - 1 for name in model.open()}.items()
