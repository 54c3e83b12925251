"""What the tests of running bridges share: the bridge, the exchange, and the stream against the truth."""

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from feedhandler.bridge.subjects import channel_of
from tests.bridge.nats import NatsServer, Received
from tests.support.processes import (
    PATIENCE_S,
    Child,
    Simulated,
    differences,
    read_truth,
    simulated,
    started,
    until,
)

MARKETS = ("BTC-USD", "ETH-USD")


@asynccontextmanager
async def bridge(
    server: NatsServer,
    socket: Path,
    *arguments: object,
    url: str = "",
    within: Sequence[str] = (),
    **environ: str,
) -> AsyncIterator[Child]:
    """Run a bridge beside the body."""
    command = ("bridge", "nats", "--socket", socket, "--server", url or server.url)
    async with started(*command, *arguments, within=within, **environ) as child:
        yield child


@asynccontextmanager
async def exchange(
    folder: Path, *arguments: object, markets: Sequence[str] = MARKETS
) -> AsyncIterator[Simulated]:
    """Run an exchange that writes down the truth."""
    named = [one for market in markets for one in ("--market", market)]
    async with simulated(*named, "--truth", folder / "truth", *arguments, tls=False) as running:
        yield running


def payloads(messages: Sequence[Received]) -> dict[str, list[bytes]]:
    """Return the exchange's messages of each channel."""
    found: defaultdict[str, list[bytes]] = defaultdict(list)
    for message in messages:
        record = message.record
        assert channel_of("feed", message.subject) == record["channel"]
        if record["type"] == "event":
            found[record["channel"]].append(message.payload)
    return dict(found)


def marks(messages: Sequence[Received]) -> list[str]:
    """Return everything that says that the stream is not whole and in order."""
    records = [message.record for message in messages]
    return [
        f"{one['channel']}: {one.get('class', one['type'])}"
        for one in records
        if one["type"] == "gap" or "class" in one
    ]


def is_contiguous(messages: Sequence[Received]) -> bool:
    """Tell whether the seqs of each channel have no hole."""
    seqs: defaultdict[str, list[int]] = defaultdict(list)
    for message in messages:
        seqs[message.record["channel"]].append(message.record["seq"])
    return all(one == list(range(1, len(one) + 1)) for one in seqs.values())


async def settled(
    server: NatsServer, count: int, *, patience_s: float = PATIENCE_S, **access: Any
) -> list[Received]:
    """Wait until the stream has so many events, or surely will not any more, and return it."""
    found: list[Received] = []
    with trio.move_on_after(patience_s):
        while sum(one.record["type"] == "event" for one in found) < count:
            found = await server.messages(**access)
    return found


def sent_events(folder: Path) -> int:
    """Return how many events the exchange has sent so far."""
    path = folder / "truth"
    return path.read_bytes().count(b"\n") if path.exists() else 0


async def sent_more(folder: Path, count: int) -> None:
    """Wait until the exchange has sent so many events more."""
    least = sent_events(folder) + count
    await until(lambda: sent_events(folder) >= least)


async def ended(
    folder: Path, running: Simulated, server: NatsServer, **access: Any
) -> tuple[dict[str, list[bytes]], list[Received]]:
    """Let the exchange end, and return what it sent and what the stream has."""
    await running.child.stop()
    sent = read_truth(folder / "truth")
    return sent, await settled(server, sum(map(len, sent.values())), **access)


def check(sent: Mapping[str, list[bytes]], found: Sequence[Received]) -> None:
    """Compare the stream with the truth: nothing is missing, doubled, out of place or marked."""
    ids = [one.headers["Nats-Msg-Id"] for one in found]
    faults = differences(sent, payloads(found)) + marks(found)
    faults += [] if is_contiguous(found) else ["seqs have a hole"]
    faults += [] if len(set(ids)) == len(ids) else ["an id comes twice"]
    assert not faults, faults
