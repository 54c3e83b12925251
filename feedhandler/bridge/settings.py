"""What a bridge is told, and what it wants of the JetStream stream, and of consumers that others will read it with.

What is not there is created; **what is there is never changed**: where a setting is another than wanted, one line names
it, what was found and what was expected, and whoever runs the bridge decides which of them is wrong. `discard` is
``old`` or ``new``: what a full stream does, with its oldest messages or with the ones that come.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from feedhandler.bridge.subjects import pattern_of

MIB: Final = 1024**2
GIB: Final = 1024**3
UNLIMITED: Final = -1


class StreamSettings(NamedTuple):
    """The stream: its name, the beginning of its subjects, where it is kept, how much and how long."""

    name: str = "FEED"
    prefix: str = "feed"
    storage: str = "file"
    replicas: int = 1
    max_bytes: int = 16 * GIB
    max_msgs: int = UNLIMITED
    max_age_s: float = 0.0
    discard: str = "old"
    duplicate_window_s: float = 120.0

    @property
    def subjects(self) -> str:
        """All subjects of the stream."""
        return f"{self.prefix}.>"

    def wanted(self) -> dict[str, object]:
        """Return the settings by JetStream's names; times in ns."""
        return {
            "subjects": [self.subjects],
            "retention": "limits",
            "storage": self.storage,
            "num_replicas": self.replicas,
            "max_bytes": self.max_bytes,
            "max_msgs": self.max_msgs,
            "max_msgs_per_subject": UNLIMITED,
            "max_msg_size": UNLIMITED,
            "max_age": round(self.max_age_s * 1e9),
            "discard": self.discard,
            "duplicate_window": round(self.duplicate_window_s * 1e9),
        }

    def differences(self, found: Mapping[str, object]) -> Iterator[str]:
        """Yield one line for each setting of an existing stream that is another than wanted."""
        return _differences(f"stream {self.name}", self.wanted(), found)


class ConsumerSettings(NamedTuple):
    """A durable consumer of the stream, from which clients pull: its name, and what it reads."""

    name: str
    channels: str = "*"

    def wanted(self, prefix: str) -> dict[str, object]:
        """Return the settings by JetStream's names; times in ns."""
        return {
            "durable_name": self.name,
            "filter_subject": pattern_of(prefix, self.channels),
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": round(ACK_WAIT_S * 1e9),
            "max_ack_pending": ACK_PENDING,
            "max_deliver": UNLIMITED,
        }

    def differences(self, prefix: str, found: Mapping[str, object]) -> Iterator[str]:
        """Yield one line for each setting of an existing consumer that is another than wanted."""
        wanted = {**self.wanted(prefix), "deliver_subject": ""}
        return _differences(f"consumer {self.name}", wanted, found)


ACK_WAIT_S: Final = 5.0
"""What a client has not acknowledged for so long comes again; so long waits one that goes on after it was killed."""

ACK_PENDING: Final = 1000
"""Messages that may be on their way to a client, or in its hands."""


def _differences(what: str, wanted: Mapping[str, object], found: Mapping[str, object]) -> Iterator[str]:
    """Yield one line for each setting that is another than wanted; the server leaves out what is 0 or empty."""
    for key, expected in wanted.items():
        value = found.get(key) or type(expected)()
        if value != expected:
            option = f" ({OPTIONS[key]})" if key in OPTIONS else ""
            yield f"{what}: {key}: expected {_shown(key, expected)}, found {_shown(key, value)}{option}"


OPTIONS: Final[Mapping[str, str]] = {
    "subjects": "--prefix",
    "storage": "--storage",
    "num_replicas": "--replicas",
    "max_bytes": "--max-gib",
    "max_msgs": "--max-msgs",
    "max_age": "--max-age-h",
    "discard": "--discard",
    "duplicate_window": "--duplicate-window-s",
    "filter_subject": "--consumer",
}
"""By which option a setting is wanted; others are fixed."""


def _shown(key: str, value: object) -> str:
    """Return a setting for people; times in seconds."""
    if key in {"max_age", "duplicate_window", "ack_wait"} and isinstance(value, int):
        return f"{value / 1e9:g} s"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value) or "none"


class Access(NamedTuple):
    """How a server lets us in; secrets are read from files at each connection, and shown nowhere."""

    credentials_file: Path | None = None
    user: str = ""
    password_file: Path | None = None
    ca_file: Path | None = None


class BridgeSettings(NamedTuple):
    """Everything that a bridge is told."""

    socket: Path
    servers: tuple[str, ...]
    stream: StreamSettings = StreamSettings()
    access: Access = Access()
    channels: tuple[str, ...] = ("*",)
    takeover_s: float = 1.0
    drain_s: float = 5.0
    pending_bytes: int = 64 * MIB
    http: tuple[str, int] | None = None
    snapshot_every_s: float = 60.0
    consumers: tuple[ConsumerSettings, ...] = ()

    @property
    def patience_s(self) -> float:
        """How long a channel that nobody goes on with waits for a proof (s); longer than a takeover takes."""
        return 2.5 * self.takeover_s
