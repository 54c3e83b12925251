"""The simulated exchange's nursery tree.

    serve
    ├── the listener, and one task for each client (`_visit`), which becomes its WebSocket connection
    ├── the player, which starts when enough connections are there
    ├── faults by lot
    └── the flushing of the truth

The exchange ends by being cancelled; the truth is complete whatever ends it.
"""

import math
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import trio
import trustme

from feedhandler.core.notes import Note, Notify
from feedhandler.simulator import wire
from feedhandler.simulator.answers import odd_answer
from feedhandler.simulator.exchange import Exchange, parse_subscriptions
from feedhandler.simulator.faults import OnFault
from feedhandler.simulator.gate import Answer
from feedhandler.simulator.messages import ALL
from feedhandler.simulator.player import play
from feedhandler.simulator.settings import Settings
from feedhandler.simulator.truth import Truth

TOKEN_PATH = "/api/v1/token"  # noqa: S105 - a path
MARKETS_PATH = "/api/v1/markets"


def _ignore_fault(kind: str, market: str, line: int, detail: str) -> None:
    """Take no notice of a fault."""


def _ignore_note(note: Note) -> None:
    """Take no notice of a note."""


def _ignore_breach(text: str) -> None:
    """Take no notice of a breach; it is written down all the same (`gate.Compliance`)."""


async def serve(
    settings: Settings,
    *,
    on_fault: OnFault = _ignore_fault,
    notify: Notify = _ignore_note,
    on_breach: Callable[[str], None] = _ignore_breach,
    task_status: trio.TaskStatus[Exchange] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a simulated exchange until cancelled; reports the `Exchange` as soon as it listens."""
    with _authority(settings) as (tls, ca_file), Truth(settings.truth) as truth:
        async with trio.open_nursery() as nursery:
            exchange = Exchange(settings, truth, nursery, on_fault, notify, on_breach)
            listeners = await trio.open_tcp_listeners(settings.port, host=settings.host)
            visit = partial(_visit, exchange, tls)
            await nursery.start(partial(trio.serve_listeners, visit, listeners, handler_nursery=nursery))
            port = listeners[0].socket.getsockname()[1]
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            exchange.url = f"{'wss' if tls else 'ws'}://{host}:{port}"
            exchange.http_url = f"{'https' if tls else 'http'}://{host}:{port}"
            exchange.ca_file = ca_file
            nursery.start_soon(_play, exchange)
            nursery.start_soon(truth.keep_flushed)
            if settings.plan.random is not None:
                nursery.start_soon(exchange.faults.strike_at_random, settings.plan.random)
            task_status.started(exchange)


async def _play(exchange: Exchange) -> None:
    with exchange.playing:
        await play(exchange)


@contextmanager
def _authority(settings: Settings) -> Iterator[tuple[ssl.SSLContext | None, Path | None]]:
    """Make up a certificate authority and a certificate, where TLS is wanted."""
    if not settings.tls:
        yield None, None
        return
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(settings.host, "localhost").configure_cert(context)
    with tempfile.TemporaryDirectory(prefix="simulated-exchange-") as folder:
        path = settings.ca_file or Path(folder) / "ca.pem"
        authority.cert_pem.write_to_path(path)
        yield context, path


async def _visit(exchange: Exchange, tls: ssl.SSLContext | None, socket_stream: trio.SocketStream) -> None:
    """Serve one client from its first byte."""
    stream: wire.Stream = socket_stream
    if tls is not None:
        stream = trio.SSLStream(socket_stream, tls, server_side=True, https_compatible=True)
    peer = wire.HttpPeer(stream)
    try:
        while True:
            await _serve_request(exchange, peer, await peer.receive())
    except wire.ClientGoneError:
        return
    finally:
        await trio.aclose_forcefully(stream)


async def _serve_request(exchange: Exchange, peer: wire.HttpPeer, asked: wire.Asked) -> None:
    if "x-api-secret" in asked.headers and asked.path != TOKEN_PATH:
        exchange.gate.compliance.breach(
            "key and secret were sent to an address that is not the token endpoint"
        )
    if (asked.method, asked.path) == ("POST", TOKEN_PATH):
        await _serve_token(exchange, peer, asked)
    elif (asked.method, asked.path) == ("GET", MARKETS_PATH):
        await peer.answer(200, _markets_answer(exchange))
    elif (asked.method, asked.path) == ("GET", "/"):
        await _serve_handshake(exchange, peer, asked)
    else:
        await peer.answer(404, {"statusCode": 404, "body": "not found"})


def _markets_answer(exchange: Exchange) -> object:
    names = list(exchange.markets)
    shape = exchange.behaviour.markets_shape
    if shape == "strings":
        return names
    objects = [{"market": name} for name in names]
    return objects if shape == "objects" else {"markets": objects}


async def _serve_token(exchange: Exchange, peer: wire.HttpPeer, asked: wire.Asked) -> None:
    key, secret = asked.headers.get("x-api-key", ""), asked.headers.get("x-api-secret", "")
    answer, token = exchange.gate.issue(trio.current_time(), key, secret)
    behaviour = exchange.behaviour
    if answer.status != 200:
        await _refuse(exchange, peer, answer, "no token")
    elif behaviour.endpoint_answer == "ordinary":
        life_s = int(behaviour.token_life_s)
        await peer.answer(200, {"access_token": token, "token_type": "Bearer", "expires_in": life_s})
    else:
        await _answer_oddly(exchange, peer, token)


async def _answer_oddly(exchange: Exchange, peer: wire.HttpPeer, token: str) -> None:
    """Answer something else than a token; that is the end of the connection."""
    kind = exchange.behaviour.endpoint_answer
    if kind == "silence":
        await _keep_silent(peer.stream)
    if kind == "reset":
        wire.reset_at_close(peer.stream)
    for piece in odd_answer(kind, token, f"{exchange.http_url}/elsewhere"):
        await peer.send(piece)
    raise wire.ClientGoneError


async def _refuse(exchange: Exchange, peer: wire.HttpPeer, answer: Answer, body: str) -> None:
    again = exchange.gate.retry_after(answer, time.time())
    await peer.answer(answer.status, {"statusCode": answer.status, "body": body}, again)


async def _serve_handshake(exchange: Exchange, peer: wire.HttpPeer, asked: wire.Asked) -> None:
    upgrade = peer.upgrade(asked)
    if upgrade is None:
        await peer.answer(400, {"statusCode": 400, "body": "no WebSocket handshake"})
        return
    behaviour, gate = exchange.behaviour, exchange.gate
    if behaviour.handshake == "silence":
        await _keep_silent(peer.stream)
    market = asked.query.get("market", "")
    known = market == ALL or market in exchange.markets
    answer = gate.admit(trio.current_time(), market, upgrade.token, known=known)
    if answer.status != 101:
        await _refuse(exchange, peer, answer, "refused")
        return
    gate.opened(market)
    try:
        protocol = await upgrade.accept(echo=behaviour.echo_subprotocol)
    except BaseException:
        gate.closed(market)
        raise
    subscriptions = parse_subscriptions(asked.query.get("subscriptions"))
    await exchange.serve_line(
        peer.stream, protocol, market, subscriptions, _close_at(exchange, upgrade.token)
    )
    raise wire.ClientGoneError


async def _keep_silent(stream: wire.Stream) -> None:
    """Never answer; end when the client has had enough."""
    try:
        while await stream.receive_some(wire.READ_BYTES):
            pass
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise wire.ClientGoneError from error
    raise wire.ClientGoneError


def _close_at(exchange: Exchange, token: str) -> float:
    behaviour = exchange.behaviour
    close_at = math.inf
    if behaviour.max_connection_age_s:
        close_at = trio.current_time() + behaviour.max_connection_age_s
    expiry = exchange.gate.expiry(token)
    if behaviour.close_at_token_expiry and expiry is not None:
        close_at = min(close_at, expiry)
    return close_at
