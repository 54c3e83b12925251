"""What a bridge is told, and what it wants of the JetStream stream.

A stream that is not there is created; **one that is there is never changed**: where a setting is another than wanted,
one line names it, what was found and what was expected, and whoever runs the bridge decides which of them is wrong.
`discard` is ``old`` or ``new``: what a full stream does, with its oldest messages or with the ones that come.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

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
        for key, expected in self.wanted().items():
            value = found.get(key, 0)
            if value != expected:
                yield f"stream {self.name}: {key}: expected {_shown(key, expected)}, found {_shown(key, value)}"


def _shown(key: str, value: object) -> str:
    """Return a setting for people; times in seconds."""
    if key in {"max_age", "duplicate_window"} and isinstance(value, int):
        return f"{value / 1e9:g} s"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


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

    @property
    def patience_s(self) -> float:
        """How long a channel that nobody goes on with waits for a proof (s); longer than a takeover takes."""
        return 2.5 * self.takeover_s
