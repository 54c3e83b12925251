"""The TCP socket of a line: how it comes about, and a stream like trio's own, cheaper to read.

A host may have several addresses, and what leads to one of them may break. So the lines of a feed begin at different
ones: each has a number, its **path**, and begins at the address whose turn that is. The others are its fall-backs, in
order: the next one is tried when one fails, or does not answer for `STAGGER_S` (happy eyeballs), and the first that
answers wins. The name is resolved anew for each attempt. The addresses are put in order, since a name server that
gives them in another order each time would lead all lines to the same one now and then.

Rules of the stream:

- A read waits first and receives then: a line is idle nearly always when it is read, so trying first would cost a
  system call and an exception each time. The wait is also the checkpoint, so a busy line lets the others run.
- **No await between receiving and returning**: a read that is cancelled has taken nothing.
- The descriptor is asked for again after the wait. Whoever closes the stream meanwhile ends the read, and what is
  opened next under the same number is not touched.
- A read asks for little, and for all that it may take only after one that got as much as it had asked for: a large
  buffer, cut down to what came, leaves a hole in the heap, which the events that stay fill up, and memory grows for
  minutes.
"""

import os
import select
import socket
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import trio
from trio.abc import Stream

LITTLE_BYTES: Final = 16 * 1024
"""Asked for by a read after one that did not get all that it had asked for."""

STAGGER_S: Final = 0.25
"""How long an address may take to answer before the next one is tried as well."""
ADDRESSES: Final = 16
"""Addresses of a host that one attempt tries; further ones are left out."""


class Address(NamedTuple):
    """One address of a host: its family and what a socket connects to."""

    family: int
    place: Any


async def dial(host: str, port: int, path: int) -> "TcpStream":
    """Connect to a host, beginning with the address whose turn is ``path``; the caller bounds it.

    Raise ``socket.gaierror`` where the name does not resolve, another ``OSError`` where no address answers: its cause
    is a group of the reasons.
    """
    addresses = in_turn(await _resolve(host, port), path)
    failures: list[OSError] = []
    stream = await _race(addresses, failures)
    if stream is None:
        raise OSError(f"no address of {host} answers") from ExceptionGroup("all failed", failures)
    return TcpStream(stream)


def in_turn(addresses: Sequence[Address], path: int) -> list[Address]:
    """Put addresses in the order in which a path tries them: the families as found, each in the order of addresses."""
    families = list(dict.fromkeys(address.family for address in addresses))
    known = sorted(set(addresses), key=lambda address: (families.index(address.family), str(address.place)))
    first = path % len(known) if known else 0
    return [*known[first:], *known[:first]][:ADDRESSES]


async def _resolve(host: str, port: int) -> list[Address]:
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [Address(family, place) for family, _, _, _, place in found]


async def _race(addresses: Sequence[Address], failures: list[OSError]) -> trio.SocketStream | None:
    """Connect to the first address that answers, one after the other and then side by side; None if none does."""
    winner: trio.SocketStream | None = None
    async with trio.open_nursery() as nursery:

        async def attempt(index: int) -> None:
            nonlocal winner
            failed = trio.Event()
            if index + 1 < len(addresses):
                nursery.start_soon(follow, index + 1, failed)
            try:
                stream = await _connect(addresses[index])
            except OSError as error:
                failures.append(error)
                failed.set()
                return
            if winner is None:
                winner = stream
                nursery.cancel_scope.cancel()
            else:
                await trio.aclose_forcefully(stream)

        async def follow(index: int, failed: trio.Event) -> None:
            with trio.move_on_after(STAGGER_S):
                await failed.wait()
            await attempt(index)

        if addresses:
            nursery.start_soon(attempt, 0)
    return winner


async def _connect(address: Address) -> trio.SocketStream:
    sock = trio.socket.socket(address.family, socket.SOCK_STREAM)
    connected = False
    try:
        await sock.connect(address.place)
        connected = True
    finally:
        if not connected:
            sock.close()
    return trio.SocketStream(sock)


class Transport(Stream):
    """A stream that tells whether something has come, without taking it."""

    @abstractmethod
    def readable(self) -> bool:
        """Tell whether a read would return at once."""


class TcpStream(Transport):
    """A connected TCP socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._socket = stream.socket
        self._ask_bytes = LITTLE_BYTES

    @property
    def peer(self) -> str:
        """The address and port at the other end; empty where it is gone already."""
        try:
            host, port, *_ = self._socket.getpeername()
        except OSError:
            return ""
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait until something has come, and take it; ``b""`` at the end."""
        while True:
            await trio.lowlevel.wait_readable(self._descriptor())
            try:
                return self._receive(max_bytes or LITTLE_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError from error

    def readable(self) -> bool:
        """Tell whether a read would return at once."""
        descriptor = self._socket.fileno()
        if descriptor < 0:
            return False
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(0))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the socket takes data."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close the socket; a read that waits for it ends."""
        await self._stream.aclose()

    def _descriptor(self) -> int:
        descriptor = self._socket.fileno()
        if descriptor < 0:
            raise trio.ClosedResourceError
        return descriptor

    def _receive(self, max_bytes: int) -> bytes:
        ask_bytes = min(self._ask_bytes, max_bytes)
        data = os.read(self._descriptor(), ask_bytes)
        self._ask_bytes = max_bytes if len(data) == ask_bytes else LITTLE_BYTES
        return data
