# ruff: noqa: ARG001 - the clock works by being asked for
"""The life of a line: what the feed hears, when the next attempt comes, and that it never ends."""

import contextlib
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing

from feedhandler.config import Bounds, Health
from feedhandler.errors import HandshakeRefused, TokenRefused
from feedhandler.exchange.requests import ping
from feedhandler.exchange.token import Token
from feedhandler.ingest.connect import tls_context
from feedhandler.ingest.gate import Gate
from feedhandler.ingest.handshake import Target
from feedhandler.ingest.line import OUTBOX_REQUESTS, Line, Means

Serve = Callable[..., Awaitable[int]]
CLOSE = b"\x88\x02\x03\xe8"


def text(payload: bytes) -> bytes:
    """Encode a short text frame."""
    return bytes([0x81, len(payload)]) + payload


class Tokens:
    """A token source without an endpoint."""

    def __init__(self, *tokens: str | Exception) -> None:
        self.tokens = list(tokens)
        self.replaced: list[str] = []
        self.renewed = trio.Event()

    async def get(self) -> Token:
        """Return the token in force."""
        await trio.lowlevel.checkpoint()
        if isinstance(self.tokens[0], Exception):
            raise self.tokens[0]
        return Token(self.tokens[0], life_s=1800.0)

    async def replace(self, refused: Token) -> bool:
        """Go on to the next token, if there is one."""
        await trio.lowlevel.checkpoint()
        self.replaced.append(refused.text)
        if len(self.tokens) == 1:
            return False
        del self.tokens[0]
        return True

    async def wait_renewed(self) -> None:
        """Wait for a test to renew the token."""
        await self.renewed.wait()


def line_to(port: int, journal: Any, **changes: Any) -> Line:
    """Return a line to a test's server; waits take the longest that they may."""
    settings: dict[str, Any] = {
        "gate": Gate(1000),
        "tokens": None,
        "ssl_context": tls_context(None),
        "health": Health(),
        "bounds": Bounds(),
        "make_ping": ping,
        "draw": lambda: 1.0,
    }
    target = Target.from_url(f"ws://127.0.0.1:{port}/?market=X")
    return Line("a", target, journal, Means(**(settings | changes)), priority=lambda: 0)


@pytest.fixture
def running(nursery: trio.Nursery, journal: Any) -> Callable[..., Line]:
    """Run a line in the background of a test."""

    def start(port: int, **changes: Any) -> Line:
        line = line_to(port, journal, **changes)
        nursery.start_soon(line.run)
        return line

    return start


async def test_the_story_of_two_connections(
    serve: Serve, journal: Any, running: Callable[..., Line], autojump_clock: trio.testing.MockClock
) -> None:
    """The feed hears everything in order, and after a loss the line comes back."""

    async def script(peer: Any) -> None:
        await peer.accept()
        await peer.send(text(b"one") + text(b"two") + b"\x82\x00" + CLOSE)
        await peer.frame()

    running(await serve(script))
    await journal.wait_for("lost", "a", "closed", times=2)
    story = [
        ("connecting", "a"),
        ("connected", "a"),
        ("received", "a", (b"one", b"two")),
        ("rejected", "a", "binary"),
        ("lost", "a", "closed"),
    ]
    assert journal.entries[:10] == story * 2


async def test_backoff_grows_until_good_data_comes(
    serve: Serve, journal: Any, running: Callable[..., Line], autojump_clock: trio.testing.MockClock
) -> None:
    """Connections that bring nothing good count as failures; the feed's word starts the waits over."""
    opened_s: list[float] = []

    async def script(peer: Any) -> None:
        opened_s.append(trio.current_time())
        await peer.accept()
        await peer.send(text(b"data") + CLOSE)

    line = running(await serve(script), bounds=Bounds(backoff_min_s=1, backoff_max_s=5))
    await journal.wait_for("lost", "a", "closed", times=5)
    journal.on_received = line.reset_backoff
    await journal.wait_for("lost", "a", "closed", times=7)
    waits_s = [later_s - earlier_s for earlier_s, later_s in pairwise(opened_s)]
    assert waits_s == pytest.approx([1, 2, 4, 5, 5, 1], abs=0.05)


async def test_retry_after_is_obeyed(
    serve: Serve, journal: Any, running: Callable[..., Line], autojump_clock: trio.testing.MockClock
) -> None:
    """The wait that the exchange asks for comes on top of our own, and the feed is told."""

    async def script(peer: Any) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 429 Slow down\r\nRetry-After: 100\r\n\r\n")

    running(await serve(script))
    await journal.wait_for("failed", "a", "handshake", times=2)
    assert [retry_s for _, retry_s in journal.failures[:2]] == [101, 102]
    assert trio.current_time() >= 101


async def test_it_never_gives_up(
    journal: Any, running: Callable[..., Line], autojump_clock: trio.testing.MockClock
) -> None:
    """(11) An exchange that is away for hours is tried again at the longest interval, for ever."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    running(port)
    await journal.wait_for("failed", "a", "refused", times=100)
    assert {retry_s for _, retry_s in journal.failures[5:]} == {30.0}


async def test_a_mute_connection_is_lost(
    serve: Serve, journal: Any, running: Callable[..., Line], autojump_clock: trio.testing.MockClock
) -> None:
    """Where nothing arrives, not even pongs, the line is lost after the ping's interval and time-out."""
    pings: list[bytes] = []

    async def script(peer: Any) -> None:
        await peer.accept()
        while True:
            opcode, payload = await peer.frame()
            if opcode != 1:
                return
            pings.append(payload)

    running(await serve(script), health=Health(ping_interval_s=5, pong_timeout_s=10))
    await journal.wait_for("connected", "a")
    before_s = trio.current_time()
    await journal.wait_for("lost", "a", "silent")
    assert 15 <= trio.current_time() - before_s <= 18.1
    assert len(pings) >= 2
    assert pings[0].startswith(b'{"message":"ping","content":{"clientRequestId":"')


async def test_pongs_keep_a_quiet_line(
    serve: Serve, journal: Any, running: Callable[..., Line], autojump_clock: trio.testing.MockClock
) -> None:
    """(2) Ten minutes without any data but with pongs are no reason to reconnect."""

    async def script(peer: Any) -> None:
        await peer.accept()
        while (await peer.frame())[0] == 1:
            await peer.send(text(b'{"resultType":"pong"}'))

    running(await serve(script))
    await trio.sleep(600)
    assert [entry[0] for entry in journal.entries].count("connecting") == 1
    assert len(journal.payloads) >= 100


async def test_a_daemon_that_stood_still_blames_itself(
    serve: Serve, journal: Any, running: Callable[..., Line], autojump_clock: trio.testing.MockClock
) -> None:
    """Minutes in which nothing ran are not silence of the exchange; the line goes on and pings again."""

    async def script(peer: Any) -> None:
        await peer.accept()
        while (await peer.frame())[0] == 1:
            await peer.send(text(b'{"resultType":"pong"}'))

    running(await serve(script))
    await journal.wait_for("connected", "a")
    for _ in range(10):
        autojump_clock.jump(60)
        await trio.sleep(6)
    assert [entry[0] for entry in journal.entries].count("connecting") == 1
    assert len(journal.payloads) >= 10


async def test_lines_that_connect_together_ping_apart(
    serve: Serve, running: Callable[..., Line], autojump_clock: trio.testing.MockClock
) -> None:
    """The first ping of each comes at a moment drawn from the interval, and all others at the interval."""
    pinged_s: list[list[float]] = []

    async def script(peer: Any) -> None:
        await peer.accept()
        own: list[float] = []
        pinged_s.append(own)
        while (await peer.frame())[0] == 1:
            own.append(trio.current_time())
            await peer.send(text(b'{"resultType":"pong"}'))

    port = await serve(script)
    for share in (0.1, 0.5, 0.9):
        running(port, draw=lambda share=share: share)
    await trio.sleep(30)
    firsts = sorted(own[0] for own in pinged_s)
    assert firsts == pytest.approx([0.5, 2.5, 4.5], abs=0.2)
    for own in pinged_s:
        assert [later - earlier for earlier, later in pairwise(own)] == pytest.approx([5.0] * 5, abs=0.01)


async def test_data_without_pongs_keeps_a_line(
    serve: Serve, journal: Any, running: Callable[..., Line], autojump_clock: trio.testing.MockClock
) -> None:
    """A server that never answers a ping but sends data is alive."""

    async def script(peer: Any) -> None:
        await peer.accept()
        while True:
            await peer.send(text(b"data"))
            await trio.sleep(4)

    running(await serve(script))
    await trio.sleep(300)
    assert [entry[0] for entry in journal.entries].count("connecting") == 1


async def test_restart_within_a_delivery(
    serve: Serve, journal: Any, running: Callable[..., Line], autojump_clock: trio.testing.MockClock
) -> None:
    """The feed may end a connection within a delivery: nothing more of it arrives, and a new one comes."""
    seen: list[int] = []

    async def script(peer: Any) -> None:
        await peer.accept()
        seen.append(1)
        await peer.send(text(b"first"))
        while (await peer.frame())[0] not in {8, -1}:
            pass  # pragma: no cover
        await peer.send(text(b"second"))

    def restart() -> None:
        journal.on_received = lambda: None
        line.restart("divergence", pause_s=60)

    journal.on_received = restart
    line = running(await serve(script))
    await journal.wait_for("lost", "a", "divergence")
    lost_s = trio.current_time()
    assert journal.payloads == [b"first"]
    await journal.wait_for("connected", "a", times=2)
    assert trio.current_time() - lost_s == pytest.approx(60, abs=0.1)


async def test_the_goodbye_and_the_wait_pass_together(
    serve: Serve, journal: Any, running: Callable[..., Line], autojump_clock: trio.testing.MockClock
) -> None:
    """A connection whose other side does not answer the close frame delays the next by nothing."""
    stuck: list[int] = []

    async def script(peer: Any) -> None:
        await peer.accept()
        stuck.append(1)
        await trio.sleep_forever()

    line = running(await serve(script))
    await journal.wait_for("connected", "a")
    line.restart("stall")
    await journal.wait_for("lost", "a", "stall")
    lost_s = trio.current_time()
    await journal.wait_for("connected", "a", times=2)
    assert trio.current_time() - lost_s == pytest.approx(1, abs=0.1)


async def test_restart_without_a_connection_changes_nothing(journal: Any) -> None:
    """There is nothing to end and nothing to send on while a line is down."""
    line = line_to(1, journal)
    line.restart("stall")
    assert not line.send("request")
    assert repr(line) == "<Line a: backoff>"


async def test_requests_are_sent_in_order_and_bounded(
    serve: Serve, journal: Any, running: Callable[..., Line], autojump_clock: trio.testing.MockClock
) -> None:
    """Requests go out in order; more than the outbox holds are refused."""
    heard: list[bytes] = []
    enough = trio.Event()

    async def script(peer: Any) -> None:
        await peer.accept()
        while len(heard) < OUTBOX_REQUESTS:
            heard.append((await peer.frame())[1])
        enough.set()
        await peer.frame()

    line = running(await serve(script))
    await journal.wait_for("connected", "a")
    taken = [line.send(f"request {i}") for i in range(OUTBOX_REQUESTS + 40)]
    await enough.wait()
    assert taken.count(True) >= OUTBOX_REQUESTS
    assert not taken[-1]
    assert heard == [b"request %d" % i for i in range(OUTBOX_REQUESTS)]


def refusing(status: int, valid: str) -> Callable[[Any], Awaitable[None]]:
    """Return a script that takes one token only."""

    async def script(peer: Any) -> None:
        await peer.read_request()
        if peer.header("sec-websocket-protocol") != f"authorization#{valid}":
            await peer.send(f"HTTP/1.1 {status} No\r\n\r\n".encode())
            return
        await peer.send(peer.answer())
        await peer.frame()

    return script


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_token_is_replaced_before_any_backoff(
    serve: Serve,
    journal: Any,
    running: Callable[..., Line],
    autojump_clock: trio.testing.MockClock,
    status: int,
) -> None:
    """(12) 401 and 403 refresh the token once, and the attempt is repeated at once."""
    tokens = Tokens("old", "new")
    running(await serve(refusing(status, "new")), tokens=tokens)
    await journal.wait_for("connected", "a")
    assert tokens.replaced == ["old"]
    assert journal.entries == [("connecting", "a"), ("connecting", "a"), ("connected", "a")]
    assert trio.current_time() < 1


@pytest.mark.parametrize("tokens", [Tokens("only"), Tokens("one", "two"), None])
async def test_a_second_refusal_backs_off(
    serve: Serve,
    journal: Any,
    running: Callable[..., Line],
    autojump_clock: trio.testing.MockClock,
    tokens: Tokens | None,
) -> None:
    """Where another token does not help, or there is none, the backoff holds."""
    running(await serve(refusing(403, "never")), tokens=tokens)
    await journal.wait_for("failed", "a", "handshake")
    failure, retry_s = journal.failures[0]
    assert isinstance(failure, HandshakeRefused)
    assert (failure.status, retry_s) == (403, 1.0)
    attempts = 2 if tokens and tokens.tokens == ["two"] else 1
    assert journal.entries.count(("connecting", "a")) == attempts


async def test_a_bad_key_is_retried_slowly_and_takes_no_slot(
    journal: Any, running: Callable[..., Line], autojump_clock: trio.testing.MockClock
) -> None:
    """(11) A key that is not accepted waits the longest time at once, and spends nothing of the budget."""
    gate = Gate(5)
    running(1, gate=gate, tokens=Tokens(TokenRefused(401, "the API key is not accepted")))
    await journal.wait_for("failed", "a", "token", times=3)
    assert [retry_s for _, retry_s in journal.failures] == [30.0, 30.0, 30.0]
    assert gate.available() == 5
    assert ("connecting", "a") not in journal.entries


async def test_a_line_without_a_token_goes_on_with_the_next_one(
    serve: Serve, journal: Any, running: Callable[..., Line], autojump_clock: trio.testing.MockClock
) -> None:
    """(11) A token that is there at last ends the long wait that a bad key has cost, and nothing else does."""
    tokens = Tokens(TokenRefused(401, "the API key is not accepted"))
    running(await serve(refusing(401, "new")), tokens=tokens)
    await journal.wait_for("failed", "a", "token")
    await trio.sleep(5)
    assert journal.entries == [("failed", "a", "token")]
    tokens.tokens = ["new"]
    tokens.renewed.set()
    await journal.wait_for("connected", "a")
    assert trio.current_time() < 6


async def test_many_restarts_leave_nothing_behind(
    serve: Serve, journal: Any, running: Callable[..., Line], autojump_clock: trio.testing.MockClock
) -> None:
    """A hundred connections later there are as many tasks as after the first."""

    async def script(peer: Any) -> None:
        await peer.accept()
        await peer.send(text(b"data"))
        with contextlib.suppress(trio.BrokenResourceError):
            while (await peer.frame())[0] not in {8, -1}:
                pass  # pragma: no cover
            await peer.send(CLOSE)

    line = running(await serve(script), draw=lambda: 0.0)
    counts: list[int] = []
    for round_ in range(1, 101):
        await journal.wait_payloads(round_)
        await trio.testing.wait_all_tasks_blocked(0.001)
        counts.append(trio.lowlevel.current_statistics().tasks_living)
        line.restart("again")
    assert max(counts) <= counts[0] + 2
