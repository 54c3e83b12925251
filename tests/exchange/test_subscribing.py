"""Subscribing on live lines: what is asked, and what a reply says."""

import json
from itertools import count
from typing import Any

import pytest

from feedhandler.core.messages import Reply
from feedhandler.exchange.messages import Dialect
from feedhandler.exchange.subscribing import ANSWER_S, Outcome, Subscriptions

TRADES, BOOK = "publicTrades", "publicOrderBook"


def subscriptions(*streams: str) -> Subscriptions:
    """Return subscriptions whose ids are 1, 2, 3."""
    numbers = count(1)
    return Subscriptions(streams, lambda: str(next(numbers)))


def reply(own: Subscriptions, kind: str, **data: Any) -> Reply:
    """Return a reply as the dialect reads it."""
    payload = json.dumps({"resultType": kind, "data": data}).encode()
    message = Dialect("M", own.is_own).classify(payload)
    assert isinstance(message, Reply)
    return message


def changed() -> Subscriptions:
    """Return subscriptions of one line that was asked to exchange its stream."""
    own = subscriptions(TRADES)
    own.opened("a", [TRADES])
    own.wanted = frozenset({BOOK})
    asked = [json.loads(text) for text in own.ask("a", 0.0)]
    assert asked == [
        {"message": "subscribe", "content": {"clientRequestId": "1", "subscriptions": [BOOK]}},
        {"message": "unsubscribe", "content": {"clientRequestId": "2", "subscriptions": [TRADES]}},
    ]
    return own


def test_only_what_differs_is_asked_for_and_once() -> None:
    """A line that has what is wanted is left alone, and so is one that was asked already, or is not connected."""
    own = changed()
    assert own.ask("a", 1.0) == []
    assert own.ask("b", 1.0) == []
    own.opened("b", [BOOK])
    assert own.ask("b", 1.0) == []


def test_a_change_of_mind_is_asked_for_on_top() -> None:
    """What is wanted again while the opposite is under way is asked for behind it."""
    own = changed()
    own.wanted = frozenset({TRADES, BOOK})
    (text,) = own.ask("a", 1.0)
    assert json.loads(text)["content"] == {"clientRequestId": "3", "subscriptions": [TRADES]}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("listed", [True, False])
def test_replies_are_told_by_id_or_by_kind(named: bool, listed: bool) -> None:
    """With its id or without, with its lists or without: each reply ends its own request."""
    own = changed()
    lists = {"activeSubscriptions": [BOOK], "requestedSubscriptions": [TRADES]} if listed else {}
    name = {"clientRequestId": "2"} if named else {}
    assert own.answer("a", reply(own, "unsubscribed", **lists, **name)) == Outcome(
        "a", "unsubscribe", frozenset({TRADES}), done=True
    )
    assert own.busy
    assert not own.has("a", TRADES)
    lists = {"activeSubscriptions": [BOOK, TRADES], "requestedSubscriptions": [BOOK]} if listed else {}
    outcome = own.answer(
        "a", reply(own, "subscribed", **lists, **({"clientRequestId": "1"} if named else {}))
    )
    assert outcome == Outcome("a", "subscribe", frozenset({BOOK}), done=True)
    assert own.has("a", BOOK)
    assert not own.busy


def test_what_a_server_tells_of_a_new_connection_is_no_answer() -> None:
    """`subscribed` without an id, for other streams than were asked for, answers nothing."""
    own = changed()
    told = reply(own, "subscribed", activeSubscriptions=[TRADES], requestedSubscriptions=[TRADES])
    assert own.answer("a", told) is None
    assert own.answer("b", reply(own, "subscribed", clientRequestId="1")) is None
    assert own.answer("a", reply(own, "pong", clientRequestId="x")) is None


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("error", {"statusCode": 400}),
        ("subscribed", {"activeSubscriptions": [TRADES]}),
        ("subscribe", {"statusCode": 403, "body": "no"}),
    ],
)
def test_a_refusal_is_told_from_success(kind: str, data: dict[str, Any]) -> None:
    """An error, or a success that does not list the stream: the request has failed."""
    own = changed()
    outcome = own.answer("a", reply(own, kind, clientRequestId="1", **data))
    assert outcome == Outcome("a", "subscribe", frozenset({BOOK}), done=False)
    assert not own.has("a", BOOK)


def test_hostile_replies_never_raise() -> None:
    """Lists that are none are as good as not there."""
    own = changed()
    payload = b'{"resultType":"subscribed","data":{"clientRequestId":"1","activeSubscriptions":7}}'
    assert own.answer("a", Reply("subscribed", "1", payload)) == Outcome(
        "a", "subscribe", frozenset({BOOK}), done=True
    )


def test_silence_is_bounded_and_a_lost_line_owes_nothing() -> None:
    """What is not answered in time is given up; what was asked of a line that is gone is forgotten."""
    own = changed()
    assert own.overdue(ANSWER_S - 0.1) == []
    assert [one.verb for one in own.overdue(ANSWER_S)] == ["subscribe", "unsubscribe"]
    assert own.overdue(2 * ANSWER_S) == []
    own = changed()
    assert own.carries(TRADES)
    own.closed("a")
    assert not own.carries(TRADES)
    assert own.overdue(2 * ANSWER_S) == []
