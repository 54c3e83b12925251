# ruff: noqa: ARG001 - the clock works by being asked for
"""What a daemon answers over HTTP: health, readiness, state, and what is asked in vain."""

import re
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from feedhandler.config import Feed, Observe
from feedhandler.errors import OperationalError
from feedhandler.exchange.token import BAD_KEY, LIMITED, REFUSED
from feedhandler.observe import readiness
from feedhandler.observe.liveness import PROGRESS_S
from feedhandler.observe.pages import REST_S
from feedhandler.observe.readiness import DOUBTS
from feedhandler.simulator.settings import Behaviour
from tests.support.stage import BTC, ETH, Stage, staged
from tests.support.web import Browser

HTTP = Observe(http="127.0.0.1:0")


def browser_of(stage: Stage) -> Browser:
    """Return a client of the daemon."""
    server = stage.daemon.observation.server
    assert server is not None
    return Browser(server.addresses[0])


async def readyz(stage: Stage, query: str = "") -> tuple[int, list[str]]:
    """Ask whether the daemon is ready."""
    reply = await browser_of(stage).get(f"/readyz{query}")
    answer = reply.json()
    assert answer["ready"] == (reply.status == 200)
    return reply.status, answer["reasons"]


async def test_readiness_follows_the_feeds(tmp_path: Path, autojump_clock: MockClock) -> None:
    """All feeds, any feed, or one: each question gets its own answer while one market is down, and after."""
    async with staged(tmp_path, markets=(BTC, ETH), observe=HTTP) as stage:
        assert await readyz(stage) == (200, [])
        stage.strike("outage", "all", duration_s=20)
        await stage.talk(5)
        why = [f"{BTC}: no line is aligned"]
        assert await readyz(stage) == (503, why)
        assert await readyz(stage, "?require=all") == (503, why)
        assert await readyz(stage, "?require=any") == (200, [])
        assert await readyz(stage, f"?feed={BTC}") == (503, why)
        assert await readyz(stage, f"?feed={ETH}") == (200, [])
        await stage.talk_until(stage.all_up)
        await stage.until(stage.all_synchronised)
        assert await readyz(stage) == (200, [])


async def test_a_book_in_repair_is_not_ready(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Before its snapshot has come a book is a reason, by its channel."""
    feeds = (Feed(markets=(BTC,), lines=1),)
    async with staged(tmp_path, feeds=feeds, observe=HTTP, wait=False) as stage:
        status, reasons = await readyz(stage)
        await stage.until(stage.all_synchronised)
        await stage.talk_until(stage.all_up)
        after = await readyz(stage)
    assert status == 503
    assert f"{BTC}/publicOrderBook: the book is not synchronised" in reasons
    assert after == (200, [])


async def test_markets_that_are_not_known_yet_are_a_reason(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A daemon that waits for the exchange's list says so, whoever asks for any feed included."""
    feeds = (Feed(markets=("*",), lines=1),)
    async with staged(
        tmp_path, feeds=feeds, observe=HTTP, wait=False, markets_url="http://127.0.0.1:9/"
    ) as stage:
        why = ["the exchange has not told its markets yet"]
        assert await readyz(stage) == (503, why)
        assert await readyz(stage, "?require=any") == (503, why)


@pytest.mark.parametrize(
    ("status", "state"), [(401, BAD_KEY), (403, BAD_KEY), (429, LIMITED), (500, REFUSED)]
)
async def test_a_refused_key_or_token_is_told_and_makes_nothing_unready(
    tmp_path: Path, autojump_clock: MockClock, status: int, state: str
) -> None:
    """(12) The doubt is told while the lines stand, before the reasons once they are gone, and ends with a token."""
    good = Behaviour(token_required=True, token_life_s=60.0)
    bad = Behaviour(token_required=True, token_life_s=60.0, token_status=status)
    keys = {"FEEDHANDLER_API_KEY": "key", "FEEDHANDLER_API_SECRET": "secret"}
    async with staged(tmp_path, observe=HTTP, behaviour=good, token=True, environ=keys) as stage:
        assert await readyz(stage) == (200, [])
        stage.exchange.behaviour = bad
        await stage.until(lambda: bool(stage.named("key_refused", "token_refused")))
        assert await readyz(stage) == (200, [DOUBTS[state]])
        assert await readyz(stage, f"?feed={BTC}") == (200, [DOUBTS[state]])
        told = (await browser_of(stage).get("/status")).json()
        assert (told["ready"], told["reasons"]) == (True, [DOUBTS[state]])
        await trio.sleep(60)
        stage.strike("reset", "all")
        await trio.sleep(1)
        code, reasons = await readyz(stage)
        assert (code, reasons[:2]) == (503, [DOUBTS[state], f"{BTC}: no line is aligned"])
        stage.exchange.behaviour = good
        await stage.talk_until(stage.all_up, every_s=1.0)
        await stage.until(stage.all_synchronised)
        assert await readyz(stage) == (200, [])


async def test_reasons_have_a_bound(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more reasons than are told there is the number."""
    monkeypatch.setattr(readiness, "REASONS", 2)
    markets = tuple(f"M{number}" for number in range(5))
    async with staged(tmp_path, markets=markets, lines=1, observe=HTTP) as stage:
        for market in markets:
            stage.strike("outage", "all", market=market, duration_s=60)
        await stage.talk(3)
        status, reasons = await readyz(stage)
    assert status == 503
    assert reasons[2:] == ["and 3 more"]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/nothing", 404),
        ("/metrics/", 404),
        ("//metrics", 404),
        ("/%2e%2e/etc/passwd", 404),
        ("/readyz?feed=NONE", 404),
        ("/readyz?require=some", 400),
    ],
)
async def test_what_is_asked_in_vain(
    tmp_path: Path, autojump_clock: MockClock, target: str, status: int
) -> None:
    """Paths and feeds that are not there are not found, and a question that makes no sense is a bad one."""
    async with staged(tmp_path, observe=HTTP) as stage:
        assert (await browser_of(stage).get(target)).status == status


async def test_health_is_the_progress_of_the_data_path(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Healthy while the ticker comes round; not any more when it does not, though the event loop runs."""
    async with staged(tmp_path, observe=HTTP) as stage:
        await trio.sleep(60)
        healthy = await browser_of(stage).get("/healthz")
        monkeypatch.setattr("feedhandler.ingest.ticker.TICK_S", 1e6)
        await trio.sleep(PROGRESS_S + 1)
        ill = await browser_of(stage).get("/healthz")
        ready = await readyz(stage)
    assert (healthy.status, healthy.body) == (200, b"ok\n")
    assert ill.status == 503
    assert b"has not come round for 6 s" in ill.body
    assert ready[0] == 503


async def test_a_daemon_that_ends_says_so(tmp_path: Path, autojump_clock: MockClock) -> None:
    """While consumers get what is pending the daemon still answers, and is not ready; then nobody answers."""
    async with staged(tmp_path, observe=HTTP) as stage:
        browser = browser_of(stage)
        async with await trio.open_unix_socket(str(stage.reading.path)) as stuck:
            await stuck.send_all(b'{"op":"subscribe","channels":["*"]}\n')
            while not any(one.status().lag_events > 1000 for one in stage.daemon.publisher.connected()):
                stage.say(500)
                await trio.sleep(0.01)
            stage.daemon.stop()
            await trio.sleep(0.5)
            status, reasons = await readyz(stage)
            health = await browser.get("/healthz")
        assert status == 503
        assert reasons[0] == "the daemon is ending"
        assert health.status == 200
        await trio.sleep(5)
        with pytest.raises(OSError, match=r"connect|refused"):
            await browser.get("/healthz")


async def test_an_address_in_use_ends_the_start(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A second daemon at one address fails with one error that names it, and leaves no socket behind."""
    async with staged(tmp_path, observe=HTTP) as stage:
        host, port = browser_of(stage).address
        other = tmp_path / "other"
        other.mkdir()
        in_use = pytest.RaisesExc(OperationalError, match=rf"{re.escape(host)}:{port}\b")
        with pytest.RaisesGroup(in_use, flatten_subgroups=True, allow_unwrapped=True):
            async with staged(other, observe=Observe(http=f"{host}:{port}")):
                pytest.fail("it has started")
        assert list(other.glob("*.sock")) == []


async def test_the_page_and_the_state_are_served(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The page is HTML with a policy of its own; the state is JSON with the last minutes only for who asks."""
    async with staged(tmp_path, observe=HTTP) as stage:
        await trio.sleep(30)
        page = await browser_of(stage).get("/")
        state = await browser_of(stage).get("/status")
        more = await browser_of(stage).get("/status?history=1")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "script-src 'sha256-" in page.headers["content-security-policy"]
    assert state.headers["content-type"] == "application/json"
    assert state.json()["feeds"][0]["lines"][0]["led"] == []
    assert more.json()["feeds"][0]["lines"][0]["led"] != []


async def test_pictures_are_made_one_at_a_time_with_a_rest(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Who asks again and again waits for his turn, and all get their answer."""
    answers: list[int] = []
    async with staged(tmp_path, observe=HTTP) as stage:
        start = trio.current_time()

        async def ask() -> None:
            nonlocal answers
            answers += [(await browser_of(stage).get(path)).status for path in ("/metrics", "/status")]

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask)
        assert trio.current_time() - start == pytest.approx(19 * REST_S, abs=0.5)
    assert answers == [200] * 20


async def test_switched_off_nobody_listens(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Without an address there is no server, and the daemon runs all the same."""
    async with staged(tmp_path, observe=Observe(http="")) as stage:
        assert stage.daemon.observation.server is None
        await stage.talk(1)


async def test_blocked_scrapers_cost_no_line(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(14) Scrapers that ask again and again and never read, for a minute: pings are answered, no line is lost."""
    behaviour = Behaviour(ping_every_s=0.5)
    async with staged(tmp_path, lines=3, markets=(BTC, ETH), observe=HTTP, behaviour=behaviour) as stage:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(scrape_and_never_read, browser_of(stage))
            await stage.talk(60, every_s=0.05)
            nursery.cancel_scope.cancel()
        await stage.arrived()
        stage.assert_exact()
        assert stage.named("line_lost", "answer_failed", "consumer_dropped") == []
        compliance = stage.exchange.gate.compliance
        assert compliance.pings_sent > 600
        assert compliance.pings_sent - compliance.pongs_received <= 6
        assert compliance.slowest_pong_s < 1
        reply = await browser_of(stage).get("/metrics")
    assert reply.status == 200


async def scrape_and_never_read(browser: Browser) -> None:
    """Ask for everything, as much as is taken, without reading; then again on a new connection."""
    question = b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\nGET /status?history=1 HTTP/1.1\r\nHost: h\r\n\r\n"
    while True:
        async with await browser.connect() as stream:
            with trio.move_on_after(15):
                try:
                    while True:
                        await stream.send_all(question * 50)
                        await trio.sleep(0.5)
                except trio.BrokenResourceError:
                    pass
        await trio.sleep(1)
