# ruff: noqa: ARG001 - the clock works by being asked for
"""The token: fetched once for all, renewed in time, and never shown."""

import json
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from feedhandler.config import Config, Credentials, Exchange, Feed, read_credentials
from feedhandler.core.notes import Note
from feedhandler.errors import ConfigError, ConnectionFailed, TokenRefused
from feedhandler.exchange import token as token_module
from feedhandler.exchange.token import (
    BAD_KEY_PAUSE_S,
    DOCUMENTED_LIFE_S,
    LIFE_MAX_S,
    LIMITED,
    REPLACE_EVERY_S,
    REQUESTS_PER_MINUTE,
    TIMEOUT_S,
    WINDOW_S,
    Token,
    TokenSource,
    read_token,
)
from feedhandler.exchange.web import ANSWER_MAX_BYTES, Answer
from feedhandler.ingest import ledger as ledgers
from tests.support.clock import jumping_clock

KEY = "the-key-value"
SECRET = "top-secret-value"


def keys() -> Credentials:
    """Return the credentials of the tests."""
    return Credentials(key=KEY, secret=SECRET)


class Endpoint:
    """A token endpoint on loopback: answers with numbered tokens, or with what a test tells it."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.port = 0
        self.status = 200
        self.headers = ""
        self.life_s: object = 1800
        self.body: bytes | None = None
        self.pause_s = 0.0

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}/api/v1/token"

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer one request."""
        head = bytearray()
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some()
        self.requests.append(head.decode())
        await trio.sleep(self.pause_s)
        body = self.body
        if body is None:
            body = json.dumps(
                {"access_token": f"token-{len(self.requests)}", "expires_in": self.life_s}
            ).encode()
        await stream.send_all(
            f"HTTP/1.1 {self.status} X\r\nContent-Length: {len(body)}\r\n{self.headers}\r\n".encode() + body
        )


@pytest.fixture
async def endpoint(nursery: trio.Nursery) -> Endpoint:
    """Start an endpoint."""
    endpoint = Endpoint()
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    endpoint.port = listener.socket.getsockname()[1]

    async def play(stream: trio.SocketStream) -> None:
        try:
            await endpoint.serve(stream)
        except trio.BrokenResourceError:
            await trio.lowlevel.checkpoint()
        finally:
            await trio.aclose_forcefully(stream)

    nursery.start_soon(trio.serve_listeners, play, [listener])
    return endpoint


@pytest.fixture
def notes() -> list[Note]:
    """Return the notes of a test."""
    return []


@pytest.fixture
def source(endpoint: Endpoint, notes: list[Note], autojump_clock: trio.testing.MockClock) -> TokenSource:
    """Return a token source for the endpoint, on a clock that jumps."""
    return TokenSource(endpoint.url, keys, ssl.create_default_context(), notes.append, draw=lambda: 0.0)


Clock = trio.testing.MockClock


def fields(notes: list[Note], name: str) -> list[dict[str, Any]]:
    """Return what the notes of a name say."""
    return [one.fields for one in notes if one.name == name]


async def refused(get: Callable[[], Awaitable[Any]]) -> TokenRefused:
    """Return a refusal, and make sure that it tells no secret."""
    with pytest.raises(TokenRefused) as caught:
        await get()
    shown = repr(caught.value) + str(caught.value) + repr(caught.value.__context__)
    assert SECRET not in shown
    assert KEY not in shown
    return caught.value


async def test_one_request_for_all(endpoint: Endpoint, source: TokenSource, autojump_clock: Clock) -> None:
    """However many lines ask at once, the endpoint is asked once, with key and secret."""
    endpoint.pause_s = 1
    tokens: list[str] = []

    async def get() -> None:
        tokens.append((await source.get()).text)

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(get)
    assert tokens == ["token-1"] * 20
    assert len(endpoint.requests) == 1
    assert endpoint.requests[0].startswith("POST /api/v1/token HTTP/1.1\r\n")
    assert f"x-api-secret: {SECRET}" in endpoint.requests[0].lower()
    assert autojump_clock.current_time() >= 1


async def test_a_cancelled_request_is_made_by_the_next(
    endpoint: Endpoint, source: TokenSource, autojump_clock: Clock
) -> None:
    """The line that asks may be cancelled; the others are not left without a token."""
    endpoint.pause_s = 2
    tokens: list[str] = []

    async def get() -> None:
        tokens.append((await source.get()).text)

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(1):
            nursery.start_soon(get)
            await source.get()
    assert len(tokens) == 1
    assert autojump_clock.current_time() < 15


async def test_it_is_renewed_before_its_end(
    endpoint: Endpoint, source: TokenSource, notes: list[Note], autojump_clock: Clock
) -> None:
    """A token is not handed out in the last three minutes of its life, nor renewed before."""
    assert (await source.get()).text == "token-1"
    autojump_clock.jump(1619)
    assert (await source.get()).text == "token-1"
    autojump_clock.jump(2)
    assert (await source.get()).text == "token-2"
    assert [one.name for one in notes] == ["token_renewed", "token_renewed"]
    assert source.age_s == pytest.approx(0, abs=0.1)
    assert repr(source) == (
        f"<TokenSource {endpoint.url} fresh: Token(life_s=1800.0, asked_s={source._token.asked_s!r})>"
    )


async def test_it_is_renewed_before_anyone_has_to_wait(
    nursery: trio.Nursery, endpoint: Endpoint, source: TokenSource, autojump_clock: Clock
) -> None:
    """(12) In the background a token is fetched at the start, and the next one a margin before it is needed."""
    endpoint.pause_s = 2
    nursery.start_soon(source.run)
    await trio.sleep(10)
    for number in range(2, 6):
        await trio.sleep(1425)
        assert (await source.get()).text == f"token-{number - 1}"
        await trio.sleep(15)
        before = trio.current_time()
        assert (await source.get()).text == f"token-{number}"
        assert trio.current_time() == before
    assert len(endpoint.requests) == 5
    assert autojump_clock.current_time() > 5000


async def test_an_endpoint_that_fails_for_a_margin_costs_nothing(
    nursery: trio.Nursery, endpoint: Endpoint, notes: list[Note], autojump_clock: Clock
) -> None:
    """While the renewal fails the old token is handed out until its margin, and the state says what happens."""
    context = ssl.create_default_context()
    source = TokenSource(endpoint.url, keys, context, notes.append, draw=lambda: 0.5)
    nursery.start_soon(source.run)
    await source.wait_renewed()
    endpoint.status = 503
    await trio.sleep(1500)
    assert source.state == "refused"
    assert (await source.get()).text == "token-1"
    assert source.expires_in_s == pytest.approx(300, abs=1)
    endpoint.status = 200
    await source.wait_renewed()
    assert source.state == "fresh"
    assert autojump_clock.current_time() < 1540
    assert {one["status"] for one in fields(notes, "token_refused")} == {503}


async def test_very_short_lives_leave_requests_to_the_lines(
    nursery: trio.Nursery, endpoint: Endpoint, source: TokenSource, autojump_clock: Clock
) -> None:
    """A token that lives for two seconds is not renewed in the background more often than every six."""
    endpoint.life_s = 2
    nursery.start_soon(source.run)
    await trio.sleep(59)
    assert len(endpoint.requests) == 10
    assert autojump_clock.current_time() >= 59


async def test_the_states_of_a_token(endpoint: Endpoint, source: TokenSource, autojump_clock: Clock) -> None:
    """None, fresh, stale, refused, limited and bad key are told apart; a token makes good for everything."""
    assert (source.state, source.age_s, source.expires_in_s, source.retry_in_s) == ("none", None, None, None)
    token = await source.get()
    assert source.state == "fresh"
    assert token.ends_s == token.asked_s + 1800
    assert source.expires_in_s == pytest.approx(1800, abs=0.1)
    autojump_clock.jump(1700)
    assert source.state == "stale"
    for status, state in ((500, "refused"), (429, "limited"), (403, "bad_key"), (401, "bad_key")):
        endpoint.status = status
        await refused(source.get)
        assert source.state == state
        pause_s = source.retry_in_s
        assert pause_s
        autojump_clock.jump(pause_s)
    autojump_clock.jump(200)
    assert source.expires_in_s is not None
    assert source.expires_in_s < 0
    endpoint.status = 200
    await source.get()
    assert (source.state, source.retry_in_s) == ("fresh", None)


async def test_short_lives_have_short_margins(
    endpoint: Endpoint, source: TokenSource, autojump_clock: Clock
) -> None:
    """(12) A token that lives for a minute is used for three quarters of it."""
    endpoint.life_s = 60
    assert source.age_s is None
    await source.get()
    autojump_clock.jump(44)
    assert (await source.get()).text == "token-1"
    autojump_clock.jump(2)
    assert (await source.get()).text == "token-2"


async def test_a_refused_token_is_replaced_once(
    endpoint: Endpoint, source: TokenSource, autojump_clock: Clock
) -> None:
    """Lines that were all refused with the same token cause one request together."""
    token = await source.get()
    autojump_clock.jump(10)
    replaced: list[bool] = []

    async def replace() -> None:
        replaced.append(await source.replace(token))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(replace)
    assert replaced == [True] * 5
    assert len(endpoint.requests) == 2
    assert (await source.get()).text == "token-2"


async def test_refusals_do_not_use_up_the_requests(
    endpoint: Endpoint, source: TokenSource, autojump_clock: Clock
) -> None:
    """(12) A token that replaced a refused one and is refused itself is not replaced at once: its age is no reason."""
    assert await source.replace(await source.get())
    assert not await source.replace(await source.get())
    assert len(endpoint.requests) == 2
    autojump_clock.jump(REPLACE_EVERY_S)
    assert await source.replace(await source.get())
    assert (await source.get()).text == "token-3"


async def test_whoever_waits_for_a_token_hears_of_the_next_one(
    endpoint: Endpoint, source: TokenSource, autojump_clock: Clock
) -> None:
    """A line that got none goes on with the next token, not with a refusal."""
    endpoint.status = 500
    woken: list[float] = []

    async def wait() -> None:
        await source.wait_renewed()
        woken.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await refused(source.get)
        await trio.sleep(10)
        assert woken == []
        endpoint.status = 200
        await source.get()
    assert len(woken) == 1
    assert autojump_clock.current_time() < 12


async def test_a_replacement_that_fails_leaves_the_token(
    endpoint: Endpoint, source: TokenSource, autojump_clock: Clock
) -> None:
    """Where the endpoint has no other token, the handshake's refusal stands and the token is kept: it may be good."""
    token = await source.get()
    endpoint.status = 503
    assert not await source.replace(token)
    assert (await source.get()).text == token.text
    autojump_clock.jump(REPLACE_EVERY_S)
    endpoint.status = 200
    assert await source.replace(token)
    assert (await source.get()).text == "token-3"


async def test_a_token_and_a_key_that_are_refused_are_of_no_use(
    endpoint: Endpoint, source: TokenSource, autojump_clock: Clock
) -> None:
    """Where the token is refused and then the key as well, nobody tries that token again."""
    token = await source.get()
    endpoint.status = 401
    assert (await refused(lambda: source.replace(token))).status == 401
    assert (source.state, source.age_s) == ("bad_key", None)
    assert (await refused(source.get)).status == 401
    assert not await source.replace(token)
    assert len(endpoint.requests) == 2
    assert autojump_clock.current_time() < 1


async def test_a_bad_key_is_retried_ever_more_slowly(
    nursery: trio.Nursery, endpoint: Endpoint, source: TokenSource, notes: list[Note], autojump_clock: Clock
) -> None:
    """(11) The pause doubles up to five minutes; in an hour a bad key is asked with fifteen times, not seventy."""
    endpoint.status = 401
    nursery.start_soon(source.run)
    await trio.sleep(3600)
    pauses = [one["retry_s"] for one in fields(notes, "key_refused")]
    assert pauses == [30.0, 60.0, 120.0, 240.0, *[300.0] * 11]
    assert len(endpoint.requests) == len(pauses)
    endpoint.status = 200
    await source.wait_renewed()
    assert source.state == "fresh"
    assert autojump_clock.current_time() < 3900


async def test_an_outage_of_half_an_hour(
    nursery: trio.Nursery, endpoint: Endpoint, notes: list[Note], autojump_clock: Clock
) -> None:
    """(11) Pauses grow with full jitter up to half a minute, nothing is given up, and the end is found in time."""
    lots = Random(4)
    source = TokenSource(endpoint.url, keys, ssl.create_default_context(), notes.append, draw=lots.random)
    endpoint.status = 503
    nursery.start_soon(source.run)
    await trio.sleep(1800)
    pauses = [one["retry_s"] for one in fields(notes, "token_refused")]
    assert max(pauses) <= 30
    assert min(pauses[6:]) < 5
    assert max(pauses[6:]) > 25
    assert 100 < len(endpoint.requests) < 160
    endpoint.status = 200
    with trio.fail_after(30):
        await source.wait_renewed()


@pytest.mark.parametrize("status", [401, 403])
async def test_a_bad_key_is_distinct_and_not_asked_with_again_soon(
    endpoint: Endpoint, source: TokenSource, notes: list[Note], autojump_clock: Clock, status: int
) -> None:
    """(11) The key's refusal is told to all who ask within the pause, without another request."""
    endpoint.status = status
    for _ in range(3):
        refusal = await refused(source.get)
        assert refusal.status == status
        assert "key is not accepted" in str(refusal)
    assert len(endpoint.requests) == 1
    detail = f"the API key is not accepted (HTTP status {status})"
    fields = {"state": "bad_key", "status": status, "detail": detail, "retry_s": BAD_KEY_PAUSE_S}
    assert notes == [Note("key_refused", fields)]
    assert source.state == "bad_key"
    endpoint.status = 200
    autojump_clock.jump(BAD_KEY_PAUSE_S)
    assert (await source.get()).text == "token-2"


async def test_retry_after_holds_for_all(
    endpoint: Endpoint, source: TokenSource, autojump_clock: Clock
) -> None:
    """After a 429 nobody asks before the named time, and the rest of the wait is told."""
    endpoint.status, endpoint.headers = 429, "Retry-After: 40\r\n"
    assert (await refused(source.get)).retry_after == 40
    autojump_clock.jump(15)
    assert (await refused(source.get)).retry_after == pytest.approx(25, abs=0.1)
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(("after_s", "pause_s"), [(5, BAD_KEY_PAUSE_S), (120, 120), (99_999_999, 3600)])
async def test_retry_after_holds_with_a_bad_key(
    endpoint: Endpoint, source: TokenSource, autojump_clock: Clock, after_s: int, pause_s: float
) -> None:
    """A 403 that names a time may come of anything: nobody asks before, and the pause is no shorter for it."""
    endpoint.status, endpoint.headers = 403, f"Retry-After: {after_s}\r\n"
    await refused(source.get)
    assert source.retry_in_s == pytest.approx(pause_s, abs=1)
    assert autojump_clock.current_time() < 1


async def test_retry_after_as_a_date(endpoint: Endpoint, source: TokenSource, autojump_clock: Clock) -> None:
    """A date means the time until then, whatever the daemon's own timers show."""
    endpoint.status = 429
    endpoint.headers = f"Retry-After: {formatdate(time.time() + 90, usegmt=True)}\r\n"
    await refused(source.get)
    assert source.retry_in_s == pytest.approx(89, abs=2)
    autojump_clock.jump(91)
    endpoint.status = 200
    assert (await source.get()).text == "token-2"


async def test_an_absurd_retry_after_is_an_hour(
    endpoint: Endpoint, source: TokenSource, autojump_clock: Clock
) -> None:
    """Nothing is given up for ever."""
    endpoint.status, endpoint.headers = 503, "Retry-After: 99999999\r\n"
    await refused(source.get)
    assert source.retry_in_s == pytest.approx(3600, abs=1)
    assert autojump_clock.current_time() < 1


async def test_the_limit_of_requests_is_kept(
    endpoint: Endpoint, source: TokenSource, autojump_clock: Clock
) -> None:
    """Twenty requests in a minute, whatever happens; the refusal says how long to wait."""
    endpoint.status = 500
    for _ in range(REQUESTS_PER_MINUTE + 5):
        refusal = await refused(source.get)
        autojump_clock.jump(1.01)
    assert len(endpoint.requests) == REQUESTS_PER_MINUTE
    assert refusal.retry_after
    assert autojump_clock.current_time() + refusal.retry_after == pytest.approx(WINDOW_S, abs=2)


async def test_another_configuration_does_not_reset_the_count(
    endpoint: Endpoint, source: TokenSource, autojump_clock: Clock
) -> None:
    """(11) After a reload the requests of the last minute count on; another endpoint's token is another token."""
    endpoint.status = 500
    for _ in range(REQUESTS_PER_MINUTE):
        await refused(source.get)
        autojump_clock.jump(1.01)
    endpoint.status = 200
    source.change(f"{endpoint.url}?new", keys, ssl.create_default_context())
    refusal = await refused(source.get)
    assert (source.state, len(endpoint.requests)) == ("limited", REQUESTS_PER_MINUTE)
    assert refusal.retry_after is not None
    autojump_clock.jump(refusal.retry_after + 0.01)
    await source.get()
    assert "?new" in endpoint.requests[-1]
    source.change(f"{endpoint.url}?newer", keys, ssl.create_default_context())
    assert source.state == "none"
    autojump_clock.jump(2)
    await source.get()
    assert "?newer" in endpoint.requests[-1]


async def test_another_configuration_ends_the_pause_of_a_bad_key(
    nursery: trio.Nursery, endpoint: Endpoint, source: TokenSource, autojump_clock: Clock
) -> None:
    """Where the files of the key have other names after a reload, they are tried at once."""
    endpoint.status = 401
    nursery.start_soon(source.run)
    await trio.sleep(5)
    endpoint.status = 200
    source.change(endpoint.url, lambda: Credentials(key="another", secret="s"), ssl.create_default_context())
    with trio.fail_after(1):
        await source.wait_renewed()
    assert "another" in endpoint.requests[-1]
    assert autojump_clock.current_time() < 7


class Ledger:
    """A token endpoint in the place of `ask`: each request is counted at some moment of its time."""

    def __init__(self, lots: Random) -> None:
        self.counted_s: list[float] = []
        self._lots = lots

    async def ask(self, *_: object, **__: object) -> Answer:
        """Take a while, count, take a while again, and answer with anything."""
        lots = self._lots
        await trio.sleep(lots.choice([0, 0, 0.1, 3]))
        self.counted_s.append(trio.current_time())
        await trio.sleep(lots.choice([0, 0, 0.1, 6]))
        kind = lots.randrange(6)
        if kind == 0:
            raise ConnectionFailed("timeout", "no answer of the endpoint in time")
        if kind == 1:
            return Answer(429, b"", lots.choice([None, 0.0, 2.0]))
        life_s = lots.choice([0.5, 2, 7])
        status = lots.choice([200, 200, 401, 500])
        return Answer(status, b'{"access_token":"x%d","expires_in":%g}' % (len(self.counted_s), life_s))

    def most_in_a_minute(self) -> int:
        """Return the most that any minute holds."""
        return max(sum(start <= moment < start + 60 for moment in self.counted_s) for start in self.counted_s)


@settings(max_examples=25)
@given(st.integers(0, 2**32))
def test_no_minute_has_more_requests_than_it_may(seed: int) -> None:
    """(11) Failures, cancelled lines, refused tokens, tiny lives, reloads: 20 in any minute as the endpoint counts."""
    lots = Random(seed)
    ledger = Ledger(lots)
    context = ssl.create_default_context()

    async def line(source: TokenSource) -> None:
        while True:
            with trio.move_on_after(lots.choice([0.05, 5, 100])):
                try:
                    token = await source.get()
                    if lots.random() < 0.5:
                        await source.replace(token)
                except TokenRefused:
                    await trio.lowlevel.checkpoint()
            await trio.sleep(lots.uniform(0, 2))

    async def reload(source: TokenSource) -> None:
        while True:
            await trio.sleep(lots.uniform(1, 20))
            source.change(f"http://{lots.randrange(2)}/", keys, context)

    async def live() -> None:
        source = TokenSource("http://0/", keys, context, lambda _: None, draw=lots.random)
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(line, source)
            nursery.start_soon(reload, source)
            nursery.start_soon(source.run)
            await trio.sleep(300)
            nursery.cancel_scope.cancel()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_module, "ask", ledger.ask)
        trio.run(live, clock=jumping_clock())
    assert len(ledger.counted_s) > 25
    assert ledger.most_in_a_minute() <= REQUESTS_PER_MINUTE


# Key and secret in files


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the files all the time: reading them takes a thread, and with it real time."""
    monkeypatch.setattr(token_module, "KEYS_POLL_S", 0.01)


def write_keys(folder: Path, key: str, secret: str = SECRET) -> Callable[[], Credentials | None]:
    """Write key and secret as an administrator does, and return how to read them."""
    for name, value in (("key", key), ("secret", secret)):
        (folder / "new").write_text(f"{value}\n")
        (folder / "new").replace(folder / name)
    exchange = Exchange(
        websocket_url="wss://e",
        token_url="https://t",
        api_key_file=folder / "key",
        api_secret_file=folder / "secret",
    )
    config = Config(exchange=exchange, feeds=(Feed(markets=("A",)),))
    return partial(read_credentials, config, {})


@pytest.mark.usefixtures("quick")
async def test_a_new_key_ends_the_pause_of_a_bad_one(
    nursery: trio.Nursery, endpoint: Endpoint, notes: list[Note], tmp_path: Path
) -> None:
    """(11) A key that is not accepted is replaced in its file: it is used at once, long before the pause is over."""
    credentials = write_keys(tmp_path, "bad")
    endpoint.status = 401
    source = TokenSource(
        endpoint.url, credentials, ssl.create_default_context(), notes.append, in_thread=True
    )
    nursery.start_soon(source.run)
    while source.state != "bad_key":
        await trio.testing.wait_all_tasks_blocked(0.001)
    endpoint.status = 200
    write_keys(tmp_path, "good")
    with trio.fail_after(10):
        await source.wait_renewed()
    assert source.state == "fresh"
    assert "x-api-key: bad" in endpoint.requests[0].lower()
    assert "x-api-key: good" in endpoint.requests[-1].lower()


@pytest.mark.usefixtures("quick")
async def test_a_key_that_changes_is_used_at_once(
    nursery: trio.Nursery, endpoint: Endpoint, notes: list[Note], tmp_path: Path
) -> None:
    """A changed key fetches a new token although the old one is fresh; an unchanged one asks no more."""
    read = write_keys(tmp_path, "one")
    reads: list[Credentials | None] = []
    context = ssl.create_default_context()
    source = TokenSource(
        endpoint.url, lambda: reads.append(read()) or reads[-1], context, notes.append, in_thread=True
    )
    nursery.start_soon(source.run)
    with trio.fail_after(10):
        while len(reads) < 10:
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert len(endpoint.requests) == 1
        write_keys(tmp_path, "one", "another-secret")
        await source.wait_renewed()
    assert "another-secret" in endpoint.requests[-1]
    assert (await source.get()).text == f"token-{len(endpoint.requests)}"


async def test_another_key_does_not_obey_the_pause_of_the_last_one(
    endpoint: Endpoint, notes: list[Note], tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """A 429 is about a key: other daemons with that one obey it, and nobody who is given another meanwhile."""

    def sharing() -> TokenSource:
        shared = ledgers.Ledger(
            tmp_path / "feed.sock", lambda: TIMEOUT_S, notes.append, of=ledgers.REQUESTS_FOR_TOKENS
        )
        context = ssl.create_default_context()
        return TokenSource(endpoint.url, keys, context, notes.append, draw=lambda: 0.0, shared=shared)

    endpoint.status, endpoint.headers = 429, "Retry-After: 300\r\n"
    with pytest.raises(TokenRefused):
        await sharing().get()
    endpoint.status, endpoint.headers = 200, ""
    other = sharing()
    with pytest.raises(TokenRefused) as refused:
        await other.get()
    assert other.state == LIMITED
    assert refused.value.status == 0
    assert len(endpoint.requests) == 1
    await trio.sleep(60)
    other.change(endpoint.url, keys, ssl.create_default_context())
    assert (await other.get()).text == "token-2"


@pytest.mark.usefixtures("quick")
async def test_a_key_file_that_goes_and_comes_back(
    nursery: trio.Nursery, endpoint: Endpoint, notes: list[Note], tmp_path: Path
) -> None:
    """Without its file the key is a bad one, in one line that names the path; when it is back, it is used."""
    credentials = write_keys(tmp_path, "the-key")
    (tmp_path / "key").unlink()
    source = TokenSource(
        endpoint.url, credentials, ssl.create_default_context(), notes.append, in_thread=True
    )
    nursery.start_soon(source.run)
    while source.state != "bad_key":
        await trio.testing.wait_all_tasks_blocked(0.001)
    (told,) = fields(notes, "key_refused")
    assert (
        told["detail"] == f"exchange.api_key_file: {tmp_path}/key cannot be read: No such file or directory"
    )
    assert endpoint.requests == []
    write_keys(tmp_path, "the-key")
    with trio.fail_after(10):
        await source.wait_renewed()


async def test_a_disk_that_hangs_holds_up_nothing(
    endpoint: Endpoint, notes: list[Note], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Key files are read in a thread, with a bound; while one read hangs no second one is sent after it."""
    monkeypatch.setattr(token_module, "KEYS_TIMEOUT_S", 0.05)
    monkeypatch.setattr(token_module, "BAD_KEY_PAUSE_S", 0.0)
    released, started = threading.Event(), []

    def hang() -> Credentials | None:
        started.append(threading.get_ident())
        released.wait(30)
        return keys()

    source = TokenSource(endpoint.url, hang, ssl.create_default_context(), notes.append, in_thread=True)
    source._bad_key_pause_s = 0.0
    for _ in range(3):
        refusal = await refused(source.get)
        assert str(refusal) == "the API key and secret cannot be read in time"
    assert source.state == "bad_key"
    assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
    released.set()
    with trio.fail_after(10):
        while source._reading.borrowed_tokens:
            await trio.testing.wait_all_tasks_blocked(0.001)
    assert len(started) == 1
    assert started[0] != threading.get_ident()
    monkeypatch.setattr(token_module, "KEYS_TIMEOUT_S", 10)
    assert (await source.get()).text == "token-1"


def unreadable() -> Credentials:
    """Find that the file of the key is gone."""
    raise ConfigError(["exchange.api_key_file: can't be read"])


@pytest.mark.parametrize("credentials", [lambda: None, unreadable])
async def test_no_credentials(
    endpoint: Endpoint, notes: list[Note], credentials: Callable[[], Credentials | None]
) -> None:
    """Without key and secret, or when their files have gone, nothing is sent."""
    source = TokenSource(endpoint.url, credentials, ssl.create_default_context(), notes.append)
    assert (await refused(source.get)).status == 0
    assert not endpoint.requests


async def test_an_odd_key_is_sent_or_refused(endpoint: Endpoint, notes: list[Note]) -> None:
    """A key with characters that no header takes, or few do, raises nothing but a refusal."""
    context = ssl.create_default_context()
    odd = TokenSource(
        endpoint.url, lambda: Credentials(key="schl\xfcssel", secret="s"), context, notes.append
    )
    assert (await odd.get()).text == "token-1"
    bad = TokenSource(endpoint.url, lambda: Credentials(key="a\r\nb", secret="s"), context, notes.append)
    assert (await refused(bad.get)).status == 0
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("fault", ["refused", "mute", "garbage", "endless", "redirect", "no host"])
async def test_faults_of_the_endpoint(
    endpoint: Endpoint, notes: list[Note], autojump_clock: Clock, fault: str
) -> None:
    """Whatever the endpoint does, the answer is a refusal with a status, and nothing goes elsewhere."""
    url = endpoint.url
    if fault == "refused":
        url = "http://127.0.0.1:1/"
    elif fault == "no host":
        url = "http://"
    elif fault == "mute":
        endpoint.pause_s = 1e6
    elif fault == "garbage":
        endpoint.headers = "\0\0\r\n"
    elif fault == "endless":
        endpoint.body = b" " * (ANSWER_MAX_BYTES + 1)
    else:
        endpoint.status, endpoint.headers = 302, f"Location: {endpoint.url}\r\n"
    source = TokenSource(url, keys, ssl.create_default_context(), notes.append)
    assert (await refused(source.get)).status == (302 if fault == "redirect" else 0)
    assert len(endpoint.requests) <= 1


async def test_an_unverified_endpoint_gets_no_key(
    endpoint: Endpoint, notes: list[Note], autojump_clock: Clock
) -> None:
    """A server that does not speak TLS is never sent the key."""
    url = endpoint.url.replace("http:", "https:")
    source = TokenSource(url, keys, ssl.create_default_context(), notes.append)
    assert (await refused(source.get)).status == 0
    assert not any(SECRET in request for request in endpoint.requests)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"token":"x"}',
        b'{"access_token":null}',
        b'{"access_token":7}',
        b'{"access_token":""}',
        b'{"access_token":"has space"}',
        b'{"access_token":"x\\r\\nInjected: yes"}',
        b'{"access_token":"\xc3\xa9"}',
        b'{"access_token":"' + b"x" * 9000 + b'"}',
    ],
)
def test_answers_without_a_token(body: bytes) -> None:
    """What would not pass as a subprotocol is no token."""
    with pytest.raises(TokenRefused) as caught:
        read_token(Answer(200, body))
    assert caught.value.status == 200


@pytest.mark.parametrize(
    ("expires_in", "life_s"),
    [
        ("1800", 1800),
        ("59.5", 59.5),
        ("1e30", LIFE_MAX_S),
        ("1" + "0" * 400, LIFE_MAX_S),
        ("0", DOCUMENTED_LIFE_S),
        ("-5", DOCUMENTED_LIFE_S),
        ("true", DOCUMENTED_LIFE_S),
        ('"1800"', DOCUMENTED_LIFE_S),
        ("null", DOCUMENTED_LIFE_S),
    ],
)
def test_lives(expires_in: str, life_s: float) -> None:
    """A life that makes no sense is the documented one, an absurd one is cut; the token is used."""
    answer = Answer(200, b'{"access_token":"a.b-c_d","expires_in":%s}' % expires_in.encode())
    assert read_token(answer, 7.0) == Token("a.b-c_d", life_s, 7.0)


@given(st.integers(100, 599), st.binary(max_size=200))
def test_any_answer_is_a_token_or_a_refusal(status: int, body: bytes) -> None:
    """Data never raises anything else."""
    try:
        read_token(Answer(status, body))
    except TokenRefused as refusal:
        assert refusal.status == status  # noqa: PT017 either outcome is fine
