"""Incident files: what a line disagreed about, kept for a person to look at (rule R6).

One JSON file an incident: the disputed event, its neighbourhood, the lines and their states. They hold market data and
no secrets. Writing happens in a thread, through a bounded queue; the oldest files beyond the bound are deleted.
"""

from functools import partial
from pathlib import Path

import msgspec
import trio

from feedhandler.core.notes import Notify, note

WAITING = 16
"""Incidents that wait to be written; further ones are left out and noted."""


class Incidents:
    """Writes incidents into a folder; with no folder it only forgets them."""

    def __init__(self, folder: Path | None, most_files: int, notify: Notify) -> None:
        self._folder = folder
        self._most_files = most_files
        self._notify = notify
        self._send, self._receive = trio.open_memory_channel[dict[str, object]](WAITING)

    def take(self, incident: dict[str, object]) -> None:
        """Take an incident, at once."""
        if self._folder is None:
            return
        try:
            self._send.send_nowait(incident)
        except trio.WouldBlock:
            self._notify(note("incident_lost", reason="too many at once"))

    async def run(self) -> None:
        """Write what comes, until cancelled."""
        async for incident in self._receive:
            try:
                path = await trio.to_thread.run_sync(partial(self._write, incident), abandon_on_cancel=True)
            except OSError as error:
                self._notify(note("incident_lost", reason=error.strerror or type(error).__name__))
            else:
                self._notify(note("incident_written", file=path.name))

    def _write(self, incident: dict[str, object]) -> Path:
        folder = self._folder
        assert folder is not None
        folder.mkdir(parents=True, exist_ok=True)
        present = sorted(folder.glob("incident-*.json"))
        for old in present[: len(present) + 1 - self._most_files]:
            old.unlink(missing_ok=True)
        number = int(present[-1].stem.rpartition("-")[2]) + 1 if present else 1
        path = folder / f"incident-{number:09}.json"
        path.write_bytes(msgspec.json.encode(incident, enc_hook=repr))
        return path
