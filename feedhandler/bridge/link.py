"""One connection to NATS: the only file that knows nats-py, and where its exceptions become ours.

A link is made, used and lost as a whole; nothing of it reconnects by itself, since what was on its way then must be
looked up in the stream and not be sent again. It is lost when the connection ends, when the server has not answered
pings for `PING_S` times `PINGS`, when nothing is heard of the stream's reading for `SILENCE_S`, or when a message has
waited for its confirmation for `CONFIRM_S`.

**Secrets show nowhere**: what nats-py says of a failure may quote an address with a password in it, so only the words
of `_reason` are passed on. And **where TLS is asked for, nothing is said without**: nats-py would go on in the clear
with a server that does not ask for it.
"""

import asyncio
import json
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import nats
import nats.errors
from nats.aio.client import Client, RawCredentials
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import api
from nats.js.errors import APIError, NotFoundError
from nats.js.errors import Error as JetStreamError

from feedhandler.bridge.entries import Stored, read_stored
from feedhandler.bridge.merge import Flight
from feedhandler.bridge.settings import (
    ACK_WAIT_S,
    Access,
    BridgeSettings,
    ConsumerSettings,
    StreamSettings,
)
from feedhandler.bridge.subjects import channel_of, subject_of
from feedhandler.bridge.window import COUNTED_MESSAGES
from feedhandler.errors import ConfigError, OperationalError

CONNECT_S: Final = 5
PING_S: Final = 2
PINGS: Final = 2
HEARTBEAT_S: Final = 2.0
SILENCE_S: Final = 3 * HEARTBEAT_S
CONFIRM_S: Final = 5.0
REQUEST_S: Final = 5.0
CLOSE_S: Final = 2.0

READ_BACK_MESSAGES: Final = COUNTED_MESSAGES
"""How far back in the stream the first reading begins, all channels together; of others the newest message is read."""

INACTIVE_S: Final = 30.0
"""A reading that nobody reads is forgotten by the server after so long."""

FORBIDDEN: Final = "permissions violation"
"""What a server says of a subject that we may not use."""

WRONG_LAST: Final = frozenset({10070, 10071})
"""The server's codes for a condition that does not hold: another id, another sequence."""


class LinkLost(OperationalError):
    """The connection to NATS is gone, or there is none; ``reason`` is for people and free of secrets."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class AccessRefused(OperationalError):
    """The server does not let us in, or we do not trust it."""


class _NoTls(nats.errors.Error):
    """A server that offers no TLS."""


class _TlsClient(Client):
    """A client that says nothing to a server without TLS: this is called before anything is sent."""

    def _connect_command(self) -> bytes:
        if not self._server_info.get("tls_required"):
            raise _NoTls
        return super()._connect_command()


class Answer(NamedTuple):
    """What the server said of a message, the ``flight``: stored (``code`` 0) at ``sequence``, known, or refused."""

    batch: int
    flight: int
    sequence: int
    code: int = 0
    known: bool = False
    detail: str = ""


class Link:
    """A connection with a stream."""

    def __init__(
        self, client: Client, settings: StreamSettings, consumers: tuple[ConsumerSettings, ...] = ()
    ) -> None:
        self._client = client
        self._settings = settings
        self._consumers = consumers
        self._streams = client.jetstream(timeout=REQUEST_S)
        self._inbox = ""
        self._heard_at = _now()
        self._reading: list[Subscription] = []
        self.lost = asyncio.Event()
        self.reason = ""

    @property
    def max_bytes(self) -> int:
        """The largest message that the server takes, headers included."""
        return self._client.max_payload

    @property
    def reads(self) -> bool:
        """Whether the stream is being read."""
        return bool(self._reading)

    @property
    def last_error(self) -> str:
        """Why the connection has ended."""
        return self.reason or _reason(self._client.last_error)

    def lose(self, reason: str) -> None:
        """Give the connection up."""
        self.reason = self.reason or reason
        self.lost.set()

    async def open_stream(self) -> int:
        """Create the stream and its consumers, or check them; return the sequence of its last message."""
        try:
            info = await self._streams.stream_info(self._settings.name)
        except NotFoundError:
            info = await self._streams.add_stream(_config(self._settings))
        mistakes = list(self._settings.differences(info.config.as_dict()))
        for one in () if mistakes else self._consumers:
            mistakes += await self._open_consumer(one)
        if mistakes:
            raise ConfigError(mistakes)
        return info.state.last_seq

    async def _open_consumer(self, wanted: ConsumerSettings) -> list[str]:
        """Create a consumer or check it; return what differs."""
        stream, prefix = self._settings.name, self._settings.prefix
        try:
            info = await self._streams.consumer_info(stream, wanted.name)
        except NotFoundError:
            config = {**wanted.wanted(prefix), "ack_wait": ACK_WAIT_S}
            info = await self._streams.add_consumer(stream, api.ConsumerConfig(**config))  # type: ignore[arg-type]
        return list(wanted.differences(prefix, info.config.as_dict() if info.config else {}))

    async def listen(self, take: Callable[[Answer], None]) -> None:
        """Hand the server's answers on from now on."""

        async def answered(message: Msg) -> None:  # noqa: ASYNC124 - nats-py wants it so
            take(_answer(message))

        self._inbox = self._client.new_inbox()
        await self._client.subscribe(f"{self._inbox}.*", cb=answered)

    async def send(self, flight: Flight, batch: int) -> None:
        """Send a message; the answer names its batch, and the sequence that it was to have."""
        subject = subject_of(self._settings.prefix, flight.entry.channel)
        await self._client.publish(
            subject, flight.data, reply=f"{self._inbox}.{batch}-{flight.sequence}", headers=flight.headers
        )

    # Reading the stream.

    async def newest(self) -> list[Stored]:
        """Return the newest message of each channel, oldest first."""
        found: dict[int, Stored] = {}
        ended = asyncio.Event()

        def take(sequence: int, stored: Stored | None, left: int) -> None:
            if stored is not None:
                found[sequence] = stored
            if not left:
                ended.set()

        left = await self._read(take, deliver_policy=api.DeliverPolicy.LAST_PER_SUBJECT)
        if left:
            async with asyncio.timeout(REQUEST_S):
                await ended.wait()
        await self.stop_reading()
        return [found[sequence] for sequence in sorted(found)]

    async def follow(self, start: int, take: Callable[[int, Stored | None], None]) -> None:
        """Hand on the messages from a sequence on; return once all that there are have been."""
        ended = asyncio.Event()

        def one(sequence: int, stored: Stored | None, left: int) -> None:
            take(sequence, stored)
            if not left:
                ended.set()

        left = await self._read(
            one, deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=max(start, 1)
        )
        while left and not ended.is_set():
            await self._wait(ended)

    async def _wait(self, ended: asyncio.Event) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(HEARTBEAT_S):
                await ended.wait()
        if self.lost.is_set():
            raise LinkLost(self.last_error)
        self.check_silence()
        if self.lost.is_set():
            raise LinkLost(self.last_error)

    async def _read(self, take: Callable[[int, Stored | None, int], None], **start: Any) -> int:
        """Begin to read; return how many messages will come at once."""
        inbox = self._client.new_inbox()
        expected = 0

        async def received(message: Msg) -> None:
            nonlocal expected
            self._heard_at = _now()
            if message.headers and "Status" in message.headers:
                await self._control(message)
                return
            expected += 1
            data = message.metadata
            if data.sequence.consumer != expected:
                self.lose("a message of the stream was missed")
                return
            channel = channel_of(self._settings.prefix, message.subject)
            stored = read_stored(data.sequence.stream, channel, message.headers, message.data)
            take(data.sequence.stream, stored, data.num_pending)

        reading = await self._client.subscribe(inbox, cb=received)
        self._reading.append(reading)
        self._heard_at = _now()
        info = await self._streams.add_consumer(
            self._settings.name,
            api.ConsumerConfig(
                deliver_subject=inbox,
                filter_subject=self._settings.subjects,
                ack_policy=api.AckPolicy.NONE,
                flow_control=True,
                idle_heartbeat=HEARTBEAT_S,
                inactive_threshold=INACTIVE_S,
                mem_storage=True,
                num_replicas=1,
                **start,
            ),
        )
        return (info.num_pending or 0) + (info.delivered.consumer_seq if info.delivered else 0)

    async def stop_reading(self) -> None:
        """Read no more; the server forgets the reading by itself."""
        while self._reading:
            await self._reading.pop().unsubscribe()

    async def _control(self, message: Msg) -> None:
        """Answer what the server asks of whoever reads, so that it goes on."""
        stalled = (message.headers or {}).get("Nats-Consumer-Stalled", "")
        if message.reply or stalled:
            await self._client.publish(message.reply or stalled)

    def check_silence(self) -> None:
        """Give the connection up when nothing is heard of the stream that is read."""
        if self._reading and _now() - self._heard_at > SILENCE_S:
            self.lose("nothing is heard of the stream")


@asynccontextmanager
async def linked(settings: BridgeSettings) -> AsyncIterator[Link]:
    """Connect, and take care that the connection is closed."""
    access = _access(settings.access, settings.servers)
    client = _TlsClient() if "tls" in access else Client()
    link = Link(client, settings.stream, settings.consumers)
    try:
        await _connect(client, settings.servers, access, link)
        yield link
    except (nats.errors.Error, JetStreamError, TimeoutError, OSError) as error:
        raise LinkLost(link.reason or _reason(error)) from None
    finally:
        await _close(client)


async def _connect(client: Client, servers: tuple[str, ...], access: dict[str, Any], link: Link) -> None:
    """Connect once, to any of the servers."""

    async def closed() -> None:  # noqa: ASYNC124 - nats-py wants it so
        link.lost.set()

    told: list[
        Exception
    ] = []  # why each attempt has failed; at last nats-py knows only that no server is left

    async def failed(error: Exception) -> None:  # noqa: ASYNC124 - nats-py wants it so
        """Take what the server forbids, which gets no other answer; what ends the connection is told by its end."""
        told[:] = [error]
        if FORBIDDEN in str(error).lower():
            link.lose(str(error).removeprefix("nats: "))

    try:
        async with asyncio.timeout(CONNECT_S * len(servers) + CONNECT_S):
            await client.connect(
                list(servers),
                name="feedhandler bridge",
                allow_reconnect=False,
                max_reconnect_attempts=1,  # else it tries for ever here, and nobody is told why
                reconnect_time_wait=0,
                connect_timeout=CONNECT_S,
                ping_interval=PING_S,
                max_outstanding_pings=PINGS,
                error_cb=failed,
                closed_cb=closed,
                **access,
            )
    except (nats.errors.Error, OSError, TimeoutError, ssl.SSLError) as error:
        last = told[0] if told and isinstance(error, nats.errors.NoServersError) else client.last_error
        raise _fault(error, last) from None


async def _close(client: Client) -> None:
    with suppress(nats.errors.Error, OSError, TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await client.close()


def _access(access: Access, servers: tuple[str, ...]) -> dict[str, Any]:
    """Return what lets us in, read anew; a file that can't be read is a mistake of its own."""
    given: dict[str, Any] = {}
    if access.credentials_file:
        given["user_credentials"] = RawCredentials(_read_credentials(access.credentials_file))
    if access.password_file:
        given["user"] = access.user
        given["password"] = _read_file("--password-file", access.password_file)
    if access.ca_file or any(urlsplit(server).scheme == "tls" for server in servers):
        given["tls"] = _tls(access)
    return given


_CREDENTIALS: Final = re.compile(
    r"-BEGIN NATS USER JWT-+\n[\w-]+\.[\w-]+\.[\w-]+\n-.*-BEGIN USER NKEY SEED-+\nSU[A-Z2-7]{56}\n-",
    re.DOTALL,
)


def _read_credentials(path: Path) -> str:
    """Return a .creds file; nats-py waits for ever for the end of what is none."""
    text = "".join(f"{line.strip()}\n" for line in _read_file("--credentials", path).splitlines())
    if find_spec("nkeys") is None:
        raise ConfigError(["--credentials: nkeys is not installed: pip install 'feedhandler[nats]'"])
    if _CREDENTIALS.search(text) is None:
        raise ConfigError([f"--credentials: {path}: expected a user's JWT and its seed, as in a .creds file"])
    return text


def _tls(access: Access) -> ssl.SSLContext:
    if access.ca_file is None:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cafile=str(access.ca_file))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError([f"--tls-ca: {access.ca_file}: {_words(error)}"]) from None


def _read_file(option: str, path: Path) -> str:
    try:
        return str(path.read_text().strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{option}: {path}: {_words(error)}"]) from None


def _words(error: Exception) -> str:
    return (
        (error.strerror or "").lower() if isinstance(error, OSError) and error.strerror else "can't be read"
    )


def _config(settings: StreamSettings) -> api.StreamConfig:
    wanted = dict(settings.wanted())
    return api.StreamConfig(
        name=settings.name,
        description="feedhandler: written by its bridges alone",
        **{
            **wanted,
            "max_age": settings.max_age_s,
            "duplicate_window": settings.duplicate_window_s,
        },  # type: ignore[arg-type]
    )


def _answer(message: Msg) -> Answer:
    """Read what the server said of a message."""
    batch, flight = map(int, message.subject.rpartition(".")[2].split("-"))
    if message.headers and message.headers.get("Status") == "503":
        return Answer(batch, flight, 0, 503, detail="no stream answers")
    try:
        said = json.loads(message.data)
        error = said.get("error")
        if error:
            return Answer(
                batch, flight, 0, int(error.get("err_code", 1)), detail=str(error.get("description", ""))
            )
        return Answer(batch, flight, int(said["seq"]), known=bool(said.get("duplicate")))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Answer(batch, flight, 0, 1, detail="an answer that can't be read")


def _fault(error: Exception, last: Exception | None) -> OperationalError:
    """Return our exception for a failure to connect."""
    for one in (error, last):
        words = str(one).lower()
        if isinstance(one, _NoTls):
            return AccessRefused("the server does not offer TLS")
        if isinstance(one, ssl.SSLCertVerificationError):
            return AccessRefused(f"the server's certificate is not accepted: {one.verify_message}")
        if isinstance(one, nats.errors.AuthorizationError) or "authoriz" in words or "authentic" in words:
            return AccessRefused("the server refuses the credentials")
    return LinkLost(_reason(last or error))


def _reason(error: BaseException | None) -> str:
    """Return a failure in words that hold nothing secret."""
    if isinstance(error, APIError):
        return f"JetStream: {error.description or 'nobody answers for it; is it enabled there?'}"
    if isinstance(error, nats.errors.StaleConnectionError):
        return "the server does not answer"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or 'failed'}"
    if isinstance(error, TimeoutError):
        return "the server does not answer in time"
    if isinstance(error, socket.gaierror):
        return "the server's name is not known"
    if isinstance(error, OSError):
        return (os.strerror(error.errno) if error.errno else type(error).__name__).lower()
    return type(error).__name__ if error else "the server closed the connection"


def _now() -> float:
    return asyncio.get_running_loop().time()
