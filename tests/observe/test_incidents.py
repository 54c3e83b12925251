"""Incident files: written aside, bounded, for the daemon's own user only."""

import json
import stat
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from feedhandler.core.notes import Note
from feedhandler.observe import incidents as incidents_module
from feedhandler.observe.incidents import WAITING, Incidents

Start = Callable[..., Awaitable[Incidents]]


@pytest.fixture
def notes() -> list[Note]:
    """Return what is noted."""
    return []


@pytest.fixture
def start(nursery: trio.Nursery, notes: list[Note]) -> Start:
    """Run incidents in the background of a test."""

    async def start(folder: Path | None, most_files: int = 100) -> Incidents:
        await trio.lowlevel.checkpoint()
        incidents = Incidents(folder, most_files, notes.append)
        nursery.start_soon(incidents.run)
        return incidents

    return start


async def noted(notes: list[Note], count: int) -> None:
    """Wait for so many notes."""
    with trio.fail_after(10):
        while len(notes) < count:
            await trio.sleep(0.001)


async def test_an_incident_becomes_a_file_that_people_can_read(
    tmp_path: Path, start: Start, notes: list[Note]
) -> None:
    """Payloads stand in it as text, whatever their bytes, and nobody else may read it."""
    incidents = await start(tmp_path / "a" / "b")
    incidents.take({"feed": "m", "neighbourhood": [{"payload": b'{"x":"\xff\xc3\xa4"}'}], "place": 1j})
    await noted(notes, 1)
    path = tmp_path / "a" / "b" / "incident-000000001.json"
    assert notes == [Note("incident_written", {"file": path.name})]
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "feed": "m",
        "neighbourhood": [{"payload": '{"x":"\\xff\N{LATIN SMALL LETTER A WITH DIAERESIS}"}'}],
        "place": "1j",
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("most_files", [1, 3, 7])
async def test_the_oldest_files_go_and_no_others(
    tmp_path: Path, start: Start, notes: list[Note], most_files: int
) -> None:
    """As many files stay as are allowed, the newest ones; numbers go on over restarts, strangers stay."""
    strangers = [tmp_path / name for name in ("incident-x.json", "incident-1.json", "notes.txt")]
    for path in strangers:
        path.touch()
    for _ in range(2):
        incidents = await start(tmp_path, most_files)
        for _ in range(6):
            wanted = len(notes) + 1
            incidents.take({})
            await noted(notes, wanted)
    kept = sorted(path.name for path in tmp_path.iterdir() if path not in strangers)
    assert kept == [f"incident-{number:09}.json" for number in range(13 - most_files, 13)]
    assert all(path.exists() for path in strangers)


async def test_a_folder_that_cannot_be_written_is_noted(
    tmp_path: Path, start: Start, notes: list[Note]
) -> None:
    """The incident is lost, the reason told, and the next one is tried again."""
    (tmp_path / "file").touch()
    incidents = await start(tmp_path / "file" / "folder")
    incidents.take({})
    await noted(notes, 1)
    (tmp_path / "file").unlink()
    incidents.take({})
    await noted(notes, 2)
    assert notes == [
        Note("incident_lost", {"reason": "Not a directory"}),
        Note("incident_written", {"file": "incident-000000001.json"}),
    ]


async def test_a_disk_that_hangs_costs_incidents_only(
    tmp_path: Path, start: Start, notes: list[Note], monkeypatch: pytest.MonkeyPatch
) -> None:
    """(14) What waits is bounded, the rest is noted, and the end does not wait for the disk."""
    released, begun = threading.Event(), threading.Event()

    def hang(*_: object) -> str:
        begun.set()
        released.wait(10)
        return ""

    monkeypatch.setattr(incidents_module, "_write", hang)
    incidents = await start(tmp_path)
    incidents.take({})
    await trio.to_thread.run_sync(begun.wait)
    for _ in range(WAITING + 3):
        incidents.take({})
    assert notes == 3 * [Note("incident_lost", {"reason": "too many at once"})]
    released.set()
    await noted(notes, 3 + 1 + WAITING)


async def test_without_a_folder_nothing_is_kept(tmp_path: Path, start: Start, notes: list[Note]) -> None:
    """Incidents are forgotten where nobody wants them."""
    incidents = await start(None)
    for _ in range(2 * WAITING):
        incidents.take({})
    assert notes == []
    assert list(tmp_path.iterdir()) == []
