"""The account's channels and real users: consumers are processes of other uids, the daemon is one of root's.

Starting a process of another uid takes root privilege. Without it these tests say so and are skipped, which CI, where
tests run as root, takes for a failure.
"""

import errno
import grp
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from feedhandler.simulator.exchange import Exchange
from feedhandler.simulator.server import serve
from feedhandler.simulator.settings import Settings
from tests.support.processes import PATIENCE_S, Recorder, daemon, until, write_config

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="root privilege: a process of another uid cannot be started"
)

READER, STRANGER, OVERSIZE = 1001, 1002, 2**31 + 7
"""Who may read the account, who may not, and a uid that is negative as a signed number."""
GROUP = grp.getgrgid(1).gr_name
PUBLIC = {f"{market}/{stream}" for market in ("A-B", "C-D") for stream in ("publicTrades", "publicOrderBook")}
ACCOUNT = {"ALL/trades", "A-B/orders", "A-B/other"}

BECOME = """
import json, os, socket, sys
os.setgroups([])
os.setresgid(*3 * [int(sys.argv[1])])
os.setresuid(*3 * [int(sys.argv[2])])
del sys.argv[1:3]
"""
"""For good, and before anything else: the interpreter's files need not be readable to others than root."""
CONSUMER = """
files = []
for request in json.loads(sys.argv[2]):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(sys.argv[1])
    files.append(sock.makefile("rwb"))
    files[-1].write(json.dumps(request).encode() + b"\\n")
    files[-1].flush()
for file in files:
    lines = [{"type": ""}]
    while lines[-1]["type"] not in {"heartbeat", "error", "bye"}:
        lines.append(json.loads(file.readline()))
    print(json.dumps(lines[1:]))
"""
COMMAND = f"""
import feedhandler.control.client, feedhandler.daemon, feedhandler.observe.logs
from feedhandler.cli import main
{BECOME}
sys.exit(main(sys.argv[1:]))
"""
HANDING_OVER = """
with socket.socket(socket.AF_UNIX) as sock, socket.socket(fileno=int(sys.argv[2])) as heir:
    sock.connect(sys.argv[1])
    socket.send_fds(heir, [b"x"], [sock.fileno()])
"""
TRADE = b'{"resultType":"completedOrdersDelta","data":[{"market":"A-B","matchId":"m%d","orderFilledAt":%d}]}'
ORDER = b'{"resultType":"createOrder","data":{"order":{"market":"A-B","orderId":"%d","updatedAt":%d},"statusCode":200}}'
MATCH = (
    b'{"resultType":"publicCompletedOrdersDelta","market":"A-B","data":{"orders":[{"executionType":"taker",'
    b'"matchId":"p%d","orderType":"buy","price":"1","quantity":"1","updatedAt":%d}],"statusCode":200}}'
)


def as_user(uid: int, gid: int, script: str, *arguments: object) -> list[str]:
    """Return a program that becomes a user and does something then."""
    return [sys.executable, "-I", "-c", BECOME + script, *map(str, (gid, uid, *arguments))]


def ask(
    path: Path, uid: int, *requests: dict[str, Any], group: int | None = None
) -> list[list[dict[str, Any]]]:
    """Let a user ask the daemon, once for each request; return what came up to the first heartbeat."""
    gid = uid if group is None else group
    done = subprocess.run(
        as_user(uid, gid, CONSUMER, path, json.dumps(requests)),
        capture_output=True,
        timeout=PATIENCE_S,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def wish(*channels: str, **keys: Any) -> dict[str, Any]:
    """Return a request."""
    return {"op": "subscribe", "channels": list(channels), **keys}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder that every user may enter; those of pytest are for their owner only."""
    with tempfile.TemporaryDirectory(prefix="feedhandler-uids-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@asynccontextmanager
async def published(folder: Path, **publish: object) -> AsyncIterator[Path]:
    """Run an exchange and a daemon with a feed of the account, and have everything published that there is."""
    async with trio.open_nursery() as nursery:
        exchange: Exchange = await nursery.start(partial(serve, Settings(markets=("A-B", "C-D"))))
        config = write_config(folder, exchange.url, markets=("A-B", "C-D"), lines=2)
        with config.open("a") as file:
            file.write('[[feed]]\nname = "account"\nmarkets = ["ALL"]\nstreams = ["orders", "trades"]\n')
        overrides = [part for key, value in publish.items() for part in ("--set", f"publish.{key}={value}")]
        calm = ("--set", "health.quiet_s=3600", "--set", "recovery.audit_s=0")  # states stay as they are
        async with daemon(config, *calm, *overrides):
            path = folder / "feed.sock"
            root = Recorder(path)  # of the daemon's own uid, and yet it reads what the configuration says
            nursery.start_soon(root.run)
            await until(lambda: all(len(exchange.connections(name)) == 2 for name in ("A-B", "C-D", "ALL")))
            await until(lambda: root.seqs.keys() >= {"A-B/publicOrderBook", "C-D/publicOrderBook"})
            for number in range(1, 6):
                exchange.broadcast("A-B", "publicTrades", MATCH % (number, number))
                exchange.broadcast("ALL", "trades", TRADE % (number, number))
                exchange.broadcast("A-B", "orders", ORDER % (number, number))
                exchange.broadcast(
                    "A-B", "other", b'{"resultType":"orderFilled","data":{"number":%d}}' % number
                )
                exchange.broadcast("A-B", "publicTrades", MATCH % (100 + number, number))
            await until(lambda: len(root.channels["A-B/publicTrades"]) == 10)
            yield path
        nursery.cancel_scope.cancel()


def about(records: list[dict[str, Any]], channels: set[str]) -> list[dict[str, Any]]:
    """Return what records say about these channels, without the time of now."""
    kept = []
    for record in records:
        if record["type"] in {"hello", "subscribed", "heartbeat"}:
            key = {"hello": "channels", "subscribed": "channels", "heartbeat": "next"}[record["type"]]
            named = record[key]
            only = (
                sorted(channels.intersection(named))
                if isinstance(named, list)
                else {name: value for name, value in named.items() if name in channels}
            )
            kept.append({**record, key: only, "now": 0})
        elif record.get("channel") in channels:
            kept.append(record)
    return kept


def of(records: list[dict[str, Any]]) -> set[str]:
    """Return all channels that records name anywhere."""
    text = json.dumps(records)
    known = {record["channel"] for record in records if "channel" in record}
    return known | {name for name in PUBLIC | ACCOUNT if json.dumps(name) in text}


async def test_another_user_is_forbidden_the_account_and_nothing_else(folder: Path) -> None:
    """Two users ask the same: to one the account is not there, and all else is the same to the byte."""
    async with published(folder, mode="0666", account_uids=[READER, OVERSIZE]) as path:
        session = ask(path, STRANGER, wish("*"))[0][0]["session"]
        start = dict.fromkeys(sorted(PUBLIC | ACCOUNT), 0)
        ahead = dict.fromkeys(start, 1000)
        requests = [
            wish("*", snapshot=True, resume={"session": session, "seq": start}),
            wish("*/*", "ALL/*", "*/trades", "*/orders", "*/other", slow="conflate"),
            wish("A-B/*", resume={"session": session, "seq": ahead}),
            wish("*", resume={"session": "another", "seq": start}),
        ]
        stranger, reader, oversize = (ask(path, uid, *requests) for uid in (STRANGER, READER, OVERSIZE))
        assert of(stranger[0]) == PUBLIC
        assert of(stranger[1]) == PUBLIC
        assert of(reader[0]) == PUBLIC | ACCOUNT
        assert [about(records, ACCOUNT) for records in reader] == [about(r, ACCOUNT) for r in oversize]
        for theirs, ours in zip(stranger, reader, strict=True):
            assert about(theirs, PUBLIC) == about(ours, PUBLIC)
        events = [
            one["msg"]["data"] for one in reader[0] if one.get("channel") == "ALL/trades" and "msg" in one
        ]
        assert [rows[0]["matchId"] for rows in events] == [f"m{number}" for number in range(1, 6)]
        unread = [record for records in stranger[2:] for record in records if record["type"] == "refused"]
        assert {one["next"] for one in unread if one["channel"] not in PUBLIC} == {1}


async def test_an_exact_name_of_the_account_is_forbidden(folder: Path) -> None:
    """Whether there is such a channel or not, and to root, too, where others are named; other names are unknown."""
    secret = ["ALL/trades", "A-B/orders", "C-D/orders", "A-B/other", "X/trades"]
    async with published(folder, mode="0666", account_uids=[READER]) as path:
        for uid in (STRANGER, 0):
            answers = ask(path, uid, *(wish("A-B/publicTrades", name) for name in secret), wish("X/Y"))
            assert [records[-1].get("code") for records in answers] == ["forbidden"] * 5 + ["unknown_channel"]
        (answer,) = ask(path, READER, wish("ALL/trades", "A-B/orders"))
        assert answer[-1]["type"] == "heartbeat"
        assert answer[-1]["next"] == {"ALL/trades": 6, "A-B/orders": 6}


@pytest.mark.parametrize("uids", [[], None])
async def test_nobody_and_the_default(folder: Path, uids: list[int] | None) -> None:
    """An empty list is nobody, not even root; without one it is the daemon's own user, who is root here."""
    keys = {} if uids is None else {"account_uids": uids}
    async with published(folder, mode="0666", **keys) as path:
        assert of(ask(path, STRANGER, wish("*"))[0]) == PUBLIC
        assert ("ALL/trades" in of(ask(path, 0, wish("*"))[0])) == (uids is None)


async def test_the_socket_s_group_lets_users_in(folder: Path) -> None:
    """Mode and group say who may connect at all; what one may read there is another question."""
    async with published(folder, mode="0660", group=GROUP, account_uids=[READER]) as path:
        assert path.stat().st_gid == 1
        assert of(ask(path, STRANGER, wish("*"), group=1)[0]) == PUBLIC
        assert "ALL/trades" in of(ask(path, READER, wish("*"), group=1)[0])
        for uid in (READER, STRANGER):
            with pytest.raises(subprocess.CalledProcessError) as failed:
                ask(path, uid, wish("*"))
            assert b"PermissionError" in failed.value.stderr


@pytest.mark.parametrize(("giver", "reads"), [(READER, True), (STRANGER, False)])
async def test_rights_go_with_the_socket_and_not_with_its_holder(
    folder: Path, giver: int, *, reads: bool
) -> None:
    """A user who connected, handed the socket over and is dead: the holder, whoever he is, reads what he could."""
    async with published(folder, mode="0666", account_uids=[READER, 0]) as path:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours, theirs:
            subprocess.run(
                as_user(giver, giver, HANDING_OVER, path, theirs.fileno()),
                pass_fds=[theirs.fileno()],
                timeout=PATIENCE_S,
                check=True,
            )
            _, (descriptor,), _, _ = socket.recv_fds(ours, 1, 1)
        with socket.socket(fileno=descriptor) as sock, sock.makefile("rb") as file:
            sock.settimeout(PATIENCE_S)
            assert ("ALL/trades" in json.loads(file.readline())["channels"]) == reads


@pytest.mark.parametrize(
    ("words", "name"), [(("ctl", "--socket", "{}", "list"), "control.sock"), (("run",), "feed.sock.lock")]
)
def test_a_folder_that_may_not_be_entered_is_one_line(
    folder: Path, words: tuple[str, ...], name: str
) -> None:
    """Whoever may not enter the socket's folder is told so in a line, by `ctl` and by `run`."""
    config = write_config(folder, "ws://127.0.0.1:9")
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    more = (
        ("--config", config, "--set", f"publish.socket={closed / 'feed.sock'}") if words == ("run",) else ()
    )
    arguments = [word.format(closed / "feed.sock") for word in words]
    done = subprocess.run(
        [sys.executable, "-I", "-c", COMMAND, *map(str, (STRANGER, STRANGER, *arguments, *more))],
        capture_output=True,
        timeout=PATIENCE_S,
        text=True,
        check=False,
    )
    assert done.stderr == f"feedhandler: {closed / name}: {os.strerror(errno.EACCES)}\n"
    assert done.returncode == 1
