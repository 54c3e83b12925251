"""The account of the simulated exchange: its orders, and what is said of them (exchange-api.md, 6.3 and 6.4).

A request causes messages of the stream ``orders``: an acknowledgement and then the new state of the order, or a
refusal. A fill causes one of the stream ``trades``, which cover all markets. Who gets them, and what they hold beyond
what is documented, is up to the `Behaviour`. An account has at most `ORDERS_MAX` orders; with one more the oldest is
forgotten.

Refusals say nothing that would tell one from the next, so that they really repeat: the same request, made again, gets
the same answer, byte for byte.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import NamedTuple

import msgspec

from feedhandler.simulator.messages import ACCOUNT_TRADES, ALL, ORDERS, Wording
from feedhandler.simulator.settings import Behaviour
from feedhandler.simulator.traffic import Step, uuid

ORDERS_MAX = 64
VERBS = frozenset({"createOrder", "modifyOrder", "cancelOrder"})

_PER_BURST = 3
"""Messages that an act of the traffic has on average, more or less."""
_WITHIN_BURST_S = 50e-6


class Said(NamedTuple):
    """One message about the account: its market (``ALL`` for trades), its stream, its bytes."""

    market: str
    stream: str
    payload: bytes


class Order(msgspec.Struct, rename="camel"):
    """An order as messages show it."""

    market: str
    order_id: str
    order_type: str
    price: str
    quantity: str
    created_at: int
    updated_at: int
    order_status: str = "pending"
    filled_quantity: str = "0"
    trade_type: str = "limit"
    leverage: str = "1"
    avg_fill_price: str = "0"
    post_only: bool = False


class Account:
    """The orders of one account, and what is said about them."""

    def __init__(self, behaviour: Behaviour, wording: Wording, seed: int) -> None:
        self._behaviour = behaviour
        self._wording = wording
        self._random = Random(f"{seed}/account")  # noqa: S311 - traffic, no secret
        self._ids: dict[str, str] = {}
        """Of each order the id of the request that made it."""
        self.orders: dict[str, Order] = {}

    def request(self, verb: str, market: str, content: Mapping[str, object], ts: int) -> list[Said]:
        """Return what a client's request causes; ``market`` is that of its connection, or the one it names."""
        request_id = content.get("clientRequestId")
        asked = request_id if isinstance(request_id, str) else ""
        if verb == "createOrder":
            wish = [content.get(key) for key in ("orderType", "price", "quantity")]
            texts = [one for one in wish if isinstance(one, str)]
            if len(texts) < len(wish):
                return [self._refusal(verb, market, 400, "orderType, price and quantity are needed", asked)]
            return self.create(market, (texts[0], texts[1], texts[2]), asked, ts)
        order = self.orders.get(str(content.get("orderId")))
        if order is None or order.market != market:
            return [self._refusal(verb, market, 404, "no such order", asked)]
        if verb == "cancelOrder":
            return self.cancel(order, asked, ts)
        return self.modify(order, str(content.get("price", order.price)), asked, ts)

    def create(self, market: str, level: tuple[str, str, str], request_id: str, ts: int) -> list[Said]:
        """Open an order."""
        side, price, quantity = level
        name = f"01{self._random.getrandbits(120):024X}"[:26]
        order = Order(market, name, side, price, quantity, created_at=ts, updated_at=ts)
        self.orders[name] = order
        self._ids[name] = request_id
        if len(self.orders) > ORDERS_MAX:
            self.close(next(iter(self.orders)))
        return [
            self._state("createOrder", order, 202, "pending", request_id, ts),
            self._state("createOrder", order, 200, "active", request_id, ts),
        ]

    def modify(self, order: Order, price: str, request_id: str, ts: int) -> list[Said]:
        """Give an order another price."""
        said = [self._state("modifyOrder", order, 202, "modifying", request_id, ts)]
        order.price = price
        if self._behaviour.modify_replies == 4:
            said.append(self._state("modifyOrder", order, 200, "modified", request_id, ts))
        return [
            *said,
            self._state("modifyOrder", order, 200, "pending", request_id, ts),
            self._state("createOrder", order, 200, "active", request_id, ts),
        ]

    def cancel(self, order: Order, request_id: str, ts: int) -> list[Said]:
        """Take an order back."""
        said = [
            self._state("cancelOrder", order, 202, "cancelling", request_id, ts),
            self._state("cancelOrder", order, 200, "cancelled", request_id, ts),
        ]
        self.close(order.order_id)
        return said

    def refuse(self, verb: str, order: Order, status: int, request_id: str, times: int = 1) -> list[Said]:
        """Refuse the same request so many times: nothing of the order changes, nor of the message."""
        shown = order if self._behaviour.refusals_show_order else None
        return times * [self._refusal(verb, order.market, status, "refused", request_id, shown)]

    def fill(self, fills: Sequence[tuple[Order, str]], ts: int) -> list[Said]:
        """Fill some of each order; as many of these as the behaviour says are told in one message."""
        rows = [self._row(order, quantity, ts) for order, quantity in fills]
        size = self._behaviour.fills_per_message
        return [
            Said(ALL, ACCOUNT_TRADES, self._message("completedOrdersDelta", "", rows[at : at + size]))
            for at in range(0, len(rows), size)
        ]

    def close(self, order_id: str) -> None:
        """Forget an order."""
        del self.orders[order_id], self._ids[order_id]

    # Messages

    def _state(
        self, kind: str, order: Order, status: int, order_status: str, request_id: str, ts: int
    ) -> Said:
        if status == 200:
            order.updated_at = ts
        order.order_status = order_status
        more: dict[str, object] = {"apiQuotaUsed": 1} if status == 202 else {}
        return self._about(kind, order.market, status, order_status, request_id, order, more)

    def _refusal(
        self, kind: str, market: str, status: int, text: str, request_id: str, order: Order | None = None
    ) -> Said:
        return self._about(kind, market, status, text, request_id, order, {})

    def _about(
        self,
        kind: str,
        market: str,
        status: int,
        text: str,
        request_id: str,
        order: Order | None,
        more: dict[str, object],
    ) -> Said:
        behaviour = self._behaviour
        data: dict[str, object] = {**more, "body": text}
        if request_id and behaviour.order_request_id:
            data["clientRequestId"] = request_id
        if order is not None:
            data["order"] = self._shown(order)
        if behaviour.order_status:
            data["statusCode"] = status
        named = market if behaviour.order_market == "always" else ""
        return Said(market, ORDERS, self._message(kind, named, data))

    def _shown(self, order: Order) -> dict[str, object]:
        shown: dict[str, object] = msgspec.to_builtins(order)
        own = self._ids.get(order.order_id, "")
        return (
            {"clientRequestId": own, **shown} if own and self._behaviour.order_request_id_in_order else shown
        )

    def _row(self, order: Order, quantity: str, ts: int) -> dict[str, object]:
        whole = self._random.random() < 0.5
        told = whole or self._behaviour.partial_fill_times
        return {
            "market": order.market,
            "orderId": order.order_id,
            "matchId": uuid(self._random.getrandbits(128)),
            "orderType": order.order_type,
            "tradeType": order.trade_type,
            "executionType": self._random.choice(("taker", "maker")),
            "fillType": "complete" if whole else "partial",
            "price": order.price,
            "quantity": quantity,
            "leverage": order.leverage,
            "fees": "0.01",
            "triggerType": "none",
            "triggerPrice": "0",
            "orderCreatedAt": order.created_at,
            "orderFilledAt": ts if told else 0,
            "triggerCreatedAt": 0,
        }

    def _message(self, kind: str, market: str, data: object) -> bytes:
        head = {"resultType": kind, **({"market": market} if market else {})}
        return self._wording.dress(msgspec.json.encode({**head, "data": data}))


class AccountTraffic:
    """What happens to an account in the course of time."""

    def __init__(self, account: Account, markets: Sequence[str], rate: float, seed: int) -> None:
        self._account = account
        self._markets = markets
        self._pause_s = _PER_BURST / rate
        self._random = Random(f"{seed}/account traffic")  # noqa: S311 - traffic, no secret

    def steps(self, start_ms: int) -> Iterator[Step]:
        """Yield events for ever; ``start_ms``: the exchange's clock at the start of playing."""
        now = 0.0
        while True:
            now += self._random.expovariate(1 / self._pause_s)
            for said in self._act(start_ms + int(now * 1000)):
                yield Step(now, *said)
                now += self._random.random() * _WITHIN_BURST_S

    def _act(self, ts: int) -> Iterable[Said]:
        lots, account = self._random, self._account
        asked = uuid(lots.getrandbits(128))
        order = lots.choice(list(account.orders.values())) if account.orders else None
        lot = lots.random()
        if order is None or lot < 0.35:
            level = (lots.choice(("buy", "sell")), self._price(), f"{lots.uniform(0.1, 5):.3f}")
            return account.create(lots.choice(self._markets), level, asked, ts)
        if lot < 0.5:
            return account.cancel(order, asked, ts)
        if lot < 0.6:
            return account.modify(order, self._price(), asked, ts)
        if lot < 0.75:
            verb, status = lots.choice((("cancelOrder", 409), ("rejectOrder", 400), ("modifyOrder", 409)))
            return account.refuse(verb, order, status, lots.choice(("", asked)), lots.randint(1, 4))
        orders = lots.choices(list(account.orders.values()), k=lots.randint(1, 5))
        return account.fill([(one, f"{lots.uniform(0.01, 1):.3f}") for one in orders], ts)

    def _price(self) -> str:
        return f"{self._random.uniform(50, 150):.2f}"
