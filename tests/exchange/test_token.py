"""The token: fetched once for all, renewed in time, and never shown."""

import json
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.config import Credentials
from feedhandler.core.notes import Note
from feedhandler.errors import ConfigError, TokenRefused
from feedhandler.exchange.token import (
    BAD_KEY_PAUSE_S,
    DOCUMENTED_LIFE_S,
    LIFE_MAX_S,
    REPLACE_EVERY_S,
    REQUESTS_PER_MINUTE,
    WINDOW_S,
    Token,
    TokenSource,
    read_token,
)
from feedhandler.exchange.web import ANSWER_MAX_BYTES, Answer, retry_after_s

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
    autojump_clock.autojump_threshold = 0.005
    return TokenSource(endpoint.url, keys, ssl.create_default_context(), notes.append, draw=lambda: 0.0)


Clock = trio.testing.MockClock


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
    autojump_clock.autojump_threshold = 0.005
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
    autojump_clock.autojump_threshold = 0.005
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


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("9" * 400, 999_999_999_999.0),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Thu, 01 Jan 1970 00:02:00", 20.0),
        ("soon", None),
        ("-5", None),
        ("\u0661", None),
        ("", None),
    ],
)
def test_retry_after(value: str, wait_s: float | None) -> None:
    """Seconds or a date, read against the wall clock; anything else is no wish."""
    assert retry_after_s(value, 100.0) == wait_s


@given(st.text(max_size=60))
def test_any_retry_after_is_read(value: str) -> None:
    """No header raises."""
    result = retry_after_s(value, 0.0)
    assert result is None or result >= 0
