"""Key, secret and tokens show nowhere: whatever fails, all output of the whole daemon is searched for their values."""

import io
import json
import logging
import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import structlog.tracebacks
import trio
from rich.console import Console
from rich.traceback import Traceback
from trio.testing import MockClock

from feedhandler.config import Health, Log, Observe, render
from feedhandler.errors import ConnectionFailed
from feedhandler.exchange.token import Token
from feedhandler.exchange.web import Secret
from feedhandler.ingest.line import Line
from feedhandler.observe.logs import Journal
from feedhandler.simulator.settings import Behaviour, EndpointAnswer
from tests.support.processes import Child, finished, simulated, started, write_config
from tests.support.stage import Stage, staged

KEY, SECRET, TOKEN = "marked-key-c0ffee", "marked-secret-5ca1ab1e", "simulated.token-"
MARKS = (KEY, SECRET, TOKEN, "authorization#")
ENVIRON = {"FEEDHANDLER_API_KEY": KEY, "FEEDHANDLER_API_SECRET": SECRET}
HARMLESS = {"bad_token_status", "echo_subprotocol", "token_life_s"}
"""With these the lines come back without a failed attempt."""

SECONDS = 6.0

FAILURES: tuple[dict[str, Any], ...] = (
    *({"endpoint_answer": kind} for kind in get_args(EndpointAnswer) if kind != "ordinary"),
    *({"token_status": status, "retry_after_s": 1} for status in (302, 401, 403, 404, 429, 500, 503)),
    *({"handshake_status": status} for status in (200, 302, 400, 401, 403, 429, 500, 503)),
    {"bad_token_status": 403},
    {"read_only_key": "token"},
    {"read_only_key": "handshake"},
    {"echo_subprotocol": False},
    {"token_life_s": 5.0, "close_at_token_expiry": True},
)


def found(text: str) -> list[str]:
    """Return the places where a mark stands, with a little around them."""
    places = [(text.find(mark), mark) for mark in MARKS]
    return [text[max(0, place - 60) : place + len(mark)] for place, mark in places if place >= 0]


def rendered(error: BaseException) -> str:
    """Render an exception in every way that shows the values of its frames."""
    plain = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    screen = io.StringIO()
    Console(file=screen, width=400).print(
        Traceback.from_exception(
            type(error), error, error.__traceback__, show_locals=True, locals_max_string=None
        )
    )
    info = (type(error), error, error.__traceback__)
    structured = [
        structlog.tracebacks.ExceptionDictTransformer(
            show_locals=True, locals_max_string=100_000, use_rich=use_rich
        )(info)
        for use_rich in (True, False)
    ]
    return f"{plain}{screen.getvalue()}{structured!r}{error!r}"


def test_the_search_finds_what_is_shown() -> None:
    """The test can fail: a value in a frame is found by each renderer, one that is masked is not."""

    def fail(value: object) -> str:
        try:
            raise ConnectionFailed("token", "no value" if value else "")  # noqa: TRY301 - its frame is the matter
        except ConnectionFailed as error:
            return rendered(error)

    assert fail(SECRET).count(SECRET) >= 4
    assert found(fail({"key": [SECRET]})) != []
    assert found(fail({"key": [Secret(SECRET)], "token": Token(f"{TOKEN}1", 1.0)})) == []


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the failed attempts of all lines, each kind rendered once with the values of its frames."""
    seen: dict[str, str] = {}
    texts: list[str] = []
    failed = Line._failed

    def watch(line: Line, failure: ConnectionFailed) -> float:
        frames = [frame.name for frame in traceback.extract_tb(failure.__traceback__)]
        kind = repr((failure, frames))
        if kind not in seen:
            seen[kind] = rendered(failure)
            texts.append(seen[kind])
        return failed(line, failure)

    monkeypatch.setattr(Line, "_failed", watch)
    return texts


class Everything:
    """All that a daemon in this process says."""

    def __init__(self) -> None:
        self.logged: list[str] = []
        self.journals = [
            Journal(
                Log(level="debug", format=form), self.logged.append, terminal=False, now=trio.current_time
            )
            for form in ("json", "console")
        ]

    def log(self, note: Any) -> None:
        """Take a note, in both formats."""
        for journal in self.journals:
            journal(note)

    def of(self, stage: Stage, folder: Path) -> Iterator[str]:
        """Return one text after another."""
        for journal in self.journals:
            journal.finish()
        yield "\n".join(self.logged)
        yield repr(stage.notes)
        yield b"\n".join(stage.reading.lines).decode()
        yield render(stage.daemon.config)
        objects = {name: value for name, value in vars(stage.daemon).items() if name != "_environ"}
        yield repr((objects, stage.daemon))
        yield repr([line for feed in stage.daemon.feeds.values() for line in feed.lines.values()])
        yield repr([vars(line) for feed in stage.daemon.feeds.values() for line in feed.lines.values()])
        yield from (file.read_text() for file in (folder / "incidents").glob("*"))


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
async def test_no_failure_shows_a_secret(
    tmp_path: Path,
    autojump_clock: MockClock,  # noqa: ARG001 - by name
    failures: list[str],
    caplog: pytest.LogCaptureFixture,
    failure: dict[str, Any],
) -> None:
    """(11) Whatever token endpoint and handshake do: no log, note, record, frame or object has a value."""
    caplog.set_level(logging.DEBUG)
    said = Everything()
    behaviour = Behaviour(token_required=True)
    async with staged(tmp_path, behaviour=behaviour, token=True, environ=ENVIRON, log=said.log) as stage:
        stage.exchange.behaviour = Behaviour(token_required=True, **failure)
        stage.exchange.gate.revoke()
        stage.strike("reset", "all")
        await stage.talk(SECONDS, every_s=0.5)
        texts = ["\n".join(failures), caplog.text, *said.of(stage, tmp_path)]
    assert [place for text in texts for place in found(text)] == []
    assert failures or HARMLESS & failure.keys()
    assert "HTTP Request: POST" in caplog.text
    assert stage.named("line_lost")


async def test_no_incident_shows_a_secret(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The file that tells of a quarantined line has nothing of what opened it."""
    said = Everything()
    async with staged(
        tmp_path,
        lines=3,
        behaviour=Behaviour(token_required=True),
        token=True,
        environ=ENVIRON,
        log=said.log,
        health=Health(quarantine_divergences=3),
        observe=Observe(http="", incidents=tmp_path / "incidents"),
    ) as stage:
        stage.strike("drop", 2, count=6)
        await stage.talk_until(lambda: bool(stage.named("line_quarantined")))
        autojump_clock.autojump_threshold = 0.02  # a thread writes
        await stage.until(lambda: bool(stage.named("incident_written")))
        texts = list(said.of(stage, tmp_path))
    assert '"neighbourhood"' in texts[-1]
    assert [place for text in texts for place in found(text)] == []


# As processes


def write_plan(folder: Path, **behaviour: object) -> Path:
    """Write how the exchange behaves, and that its lines break all the time."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in behaviour.items()]
    path = folder / "plan.toml"
    path.write_text(
        "[behaviour]\n" + "\n".join(lines) + '\n[random]\nkinds = ["reset"]\nevery_s = 0.3\nspare = 0\n'
    )
    return path


def write_keys(folder: Path, secret: str = SECRET) -> list[str]:
    """Write key and secret to files, and return the options that name them."""
    (folder / "key").write_text(f"{KEY}\n")
    (folder / "secret").write_text(f"{secret}\n")
    files = {"api_key_file": folder / "key", "api_secret_file": folder / "secret"}
    return [word for key, path in files.items() for word in ("--set", f"exchange.{key}={path}")]


@pytest.mark.parametrize(
    ("behaviour", "word"),
    [
        ({}, "line_lost"),
        ({"endpoint_answer": "odd_token"}, "token_refused"),
        ({"token_status": 429, "retry_after_s": 1}, "token_refused"),
        ({"handshake_status": 401}, "connect_failed"),
        ({"read_only_key": "token"}, "key_refused"),
        ({"wrong": True}, "key_refused"),
    ],
)
async def test_no_output_of_a_process_shows_a_secret(
    tmp_path: Path, behaviour: dict[str, Any], word: str
) -> None:
    """Logs at debug level, what a consumer gets, `check` and the command line: no value, with TLS and key files."""
    wrong = behaviour.pop("wrong", False)
    plan = write_plan(tmp_path, token_required=True, **behaviour)
    options = write_keys(tmp_path, "marked-secret-5ca1ab1e-wrong" if wrong else SECRET)
    keys = ("--api-key", KEY, "--api-secret", SECRET)
    async with simulated("--market", "BTC-USD", "--rate", 500, "--faults", plan, *keys) as exchange:
        config = write_config(tmp_path, exchange.url, ca_file=exchange.ca_file, lines=2)
        url = exchange.url.replace("wss:", "https:") + "/api/v1/token"
        options += ["--set", f"exchange.token_url={url}", "--set", 'log.level="debug"']
        check = await finished("check", "--config", config, *options)
        async with started("run", "--config", config, *options) as daemon:
            await daemon.errors.wait_for(f'"{word}"')
            tail = await consumer(tmp_path, daemon)
            assert await daemon.stop() == 0
        breaches = [line for line in exchange.child.output.lines if line.startswith("breach")]
    assert check.process.returncode == 0
    said = [one for child in (check, daemon) for one in (str(child.output), str(child.errors))]
    assert [place for text in (*said, tail) for place in found(text)] == []
    assert '"level":"debug"' in said[3].replace(" ", "") or word != "line_lost"
    assert breaches == []


async def consumer(folder: Path, daemon: Child) -> str:
    """Return what a consumer of the daemon's socket gets first, and how the daemon was started."""
    async with await trio.open_unix_socket(os.fspath(folder / "feed.sock")) as stream:
        await stream.send_all(b'{"op":"subscribe","channels":["*"]}\n')
        received = b""
        with trio.move_on_after(10):
            while received.count(b"\n") < 3:
                received += await stream.receive_some()
    return received.decode() + Path(f"/proc/{daemon.pid}/cmdline").read_text()
