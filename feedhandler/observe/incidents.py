"""Incident files: what a line disagreed about, kept for a person to look at (rule R6).

One JSON file an incident: the disputed event, its neighbourhood, the lines and their states. They hold market data,
the account's too, so only the daemon's own user may read them, and no secrets. Writing happens in a thread, through a
bounded queue; what a blocked disk leaves no room for is noted and left out. The oldest files beyond the bound are
deleted; nothing else in the folder is touched.
"""

import json
import re
from functools import partial
from pathlib import Path
from typing import Final

import trio

from feedhandler.core.notes import Notify, note

WAITING: Final = 16
"""Incidents that wait to be written; further ones are left out and noted."""

_NAME: Final = re.compile(r"incident-(\d{9,18})\.json")


class Incidents:
    """Writes incidents into a folder; with no folder it only forgets them."""

    def __init__(self, folder: Path | None, most_files: int, notify: Notify) -> None:
        self._folder = folder
        self._most_files = most_files
        self._notify = notify
        self._send, self._receive = trio.open_memory_channel[dict[str, object]](WAITING)

    @property
    def waiting(self) -> int:
        """How many incidents wait to be written."""
        return self._send.statistics().current_buffer_used

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
        if self._folder is None:
            return
        async for incident in self._receive:
            write = partial(_write, self._folder, self._most_files, incident)
            try:
                name = await trio.to_thread.run_sync(write, abandon_on_cancel=True)
            except OSError as error:
                self._notify(note("incident_lost", reason=error.strerror or type(error).__name__))
            else:
                self._notify(note("incident_written", file=name))


def _write(folder: Path, most_files: int, incident: dict[str, object]) -> str:
    """Write one file and delete the oldest; return its name."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = sorted(
        int(match[1]) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name)) is not None
    )
    for number in numbers[: max(0, len(numbers) + 1 - most_files)]:
        _path(folder, number).unlink(missing_ok=True)
    path = _path(folder, numbers[-1] + 1 if numbers else 1)
    path.touch(mode=0o600)
    path.write_text(json.dumps(incident, indent=1, default=_readable) + "\n", encoding="utf-8")
    return path.name


def _path(folder: Path, number: int) -> Path:
    return folder / f"incident-{number:09}.json"


def _readable(value: object) -> str:
    """Return what JSON has no word for as text; a payload need not be UTF-8."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else repr(value)
