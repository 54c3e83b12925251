"""The answers to what clients ask on their connections.

Whatever a client sends gets one answer, or as the behaviour is none; what is no request, or an unknown one, gets an
error with status 400. Answers depend on the markets and change nothing but the asking connection's subscriptions. A
request for an order is the exception: it is only read here, and what it causes is the account's business.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import msgspec

from feedhandler.simulator.account import VERBS
from feedhandler.simulator.market import Market
from feedhandler.simulator.messages import ALL, STREAMS, Wording
from feedhandler.simulator.settings import SUBSCRIBE_LATE_S, Behaviour


class Asker(Protocol):
    """The connection that asks."""

    market: str
    subscriptions: list[str]


class Answer(NamedTuple):
    """What is answered, nothing where it is empty; and how much later."""

    message: bytes
    late_s: float = 0.0


class _Request(msgspec.Struct):
    message: str
    content: dict[str, Any] = {}


_decode = msgspec.json.Decoder(_Request).decode


class Desk:
    """Answers requests."""

    def __init__(
        self, behaviour: Behaviour, wording: Wording, markets: Mapping[str, Market], start_ms: int
    ) -> None:
        self.behaviour = behaviour
        self._wording = wording
        self._markets = markets
        self._start_ms = start_ms

    def answer(self, asker: Asker, raw: bytes, now: float) -> Answer:
        """Return the one answer to a request, and how late it comes."""
        try:
            request = _decode(raw)
        except msgspec.DecodeError:
            return Answer(self._error("the request is not readable", {}))
        if request.message in {"subscribe", "unsubscribe"}:
            return self._change_subscriptions(asker, request)
        return Answer(self._usual(asker, request, now))

    def _usual(self, asker: Asker, request: _Request, now: float) -> bytes:
        echo = self._echo(request)
        match request.message:
            case "ping":
                return self._wording.reply("pong", {**echo, "statusCode": 200})
            case "emitPublicOrderBook" | "emitPublicCompletedOrders":
                return self._snapshot(asker, request, echo, now)
            case _:
                return self._error("unknown message", echo)

    def order(self, asker: Asker, raw: bytes) -> tuple[str, str, dict[str, Any]] | None:
        """Return verb, market and content of a request for an order; None for any other."""
        try:
            request = _decode(raw)
        except msgspec.DecodeError:
            return None
        market = request.content.get("market") if asker.market == ALL else asker.market
        if request.message not in VERBS or not isinstance(market, str) or market not in self._markets:
            return None
        return request.message, market, request.content

    def subscribed(self, asker: Asker, requested: list[str], echo: Mapping[str, object], verb: str) -> bytes:
        """Say what an asker is subscribed to."""
        data = {"activeSubscriptions": asker.subscriptions, **echo, "requestedSubscriptions": requested}
        return self._wording.reply(verb, data)

    def book_snapshot(self, market: str, now: float, request_id: str | None = None) -> bytes:
        """Return a market's book as a snapshot message."""
        state = self._markets[market]
        rows = state.level_rows(now)
        return self._wording.snapshot("publicOrderBook", market, rows, state.ts or self._start_ms, request_id)

    def trade_snapshot(self, market: str, now: float, request_id: str | None = None) -> bytes:
        """Return a market's recent trades as a snapshot message."""
        state = self._markets[market]
        rows = state.trade_rows(now)
        if self.behaviour.trades_newest_first:
            rows.reverse()
        return self._wording.snapshot(
            "publicCompletedOrders", market, rows, state.ts or self._start_ms, request_id
        )

    def _echo(self, request: _Request) -> dict[str, object]:
        request_id = request.content.get("clientRequestId")
        return {} if request_id is None else {"clientRequestId": request_id}

    def _error(self, text: str, echo: Mapping[str, object]) -> bytes:
        return self._wording.reply("error", {"body": text, **echo, "statusCode": 400})

    def _change_subscriptions(self, asker: Asker, request: _Request) -> Answer:
        streams, how = request.content.get("subscriptions"), self.behaviour.subscribe_answer
        echo = self._echo(request) if self.behaviour.subscribe_request_id else {}
        if not isinstance(streams, list) or not all(stream in STREAMS for stream in streams):
            return Answer(self._error("subscriptions: expected a list of known streams", echo))
        if how == "error":
            return Answer(self._error("subscriptions can't be changed", echo))
        if how == "silence":
            return Answer(b"")
        if request.message == "subscribe":
            asker.subscriptions = list(dict.fromkeys([*asker.subscriptions, *streams]))
        else:
            asker.subscriptions = [stream for stream in asker.subscriptions if stream not in streams]
        if how == "deaf":
            return Answer(b"")
        reply = self.subscribed(asker, streams, echo, f"{request.message}d")
        return Answer(reply, SUBSCRIBE_LATE_S if how == "late" else 0.0)

    def _snapshot(self, asker: Asker, request: _Request, echo: Mapping[str, object], now: float) -> bytes:
        market = request.content.get("market") if asker.market == ALL else asker.market
        named = request.content.get("market", market)
        if not isinstance(market, str) or named != market or market not in self._markets:
            return self._error("market: expected the connection's market, or over ALL a known one", echo)
        request_id = str(echo["clientRequestId"]) if echo else None
        if request.message == "emitPublicOrderBook":
            return self.book_snapshot(market, now, request_id)
        return self.trade_snapshot(market, now, request_id)
