"""The window: positions, look-ups and bounds, against a list that forgets nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.config import Bounds
from feedhandler.core import window as window_module
from feedhandler.core.window import KEPT_EVENTS, Window

SMALL = Bounds(window_events=16, window_s=3600)


def filled(words: list[bytes], bounds: Bounds = SMALL) -> Window:
    """Return a window that these words were appended to, one a second."""
    window = Window(bounds)
    for second, word in enumerate(words):
        window.append(word, "M/b", "a", float(second))
    return window


def trimmed(window: Window, now: float) -> bool:
    """Drop what is over the bounds; tell whether anything went."""
    excess = window.excess(now)
    window.drop(excess)
    return excess > 0


@given(st.lists(st.sampled_from([b"x", b"y", b"z"]), max_size=80), st.integers(1, 20))
def test_look_ups_find_every_occurrence_that_is_kept(words: list[bytes], every: int) -> None:
    """Whatever is trimmed and asked in between, an event is found where it stands, and only there."""
    window = Window(SMALL)
    for second, word in enumerate(words):
        assert window.append(word, "M/b", "a", float(second)) == second
        if second % every == 0:
            window.find(b"x")
            trimmed(window, float(second))
    assert window.payloads == words[window.base :]
    for word in (b"x", b"y", b"z"):
        places = [place for place, one in enumerate(words) if one == word and place >= window.base]
        assert list(window.find(word)) == places
        assert list(window.find_from(word, 5)) == [place for place in places if place >= 5]


def test_too_many_events_go_oldest_first_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound in events: trimmed by a share over it, here an eighth, down to it."""
    monkeypatch.setattr(window_module, "TRIM_SHARE", 8)
    window = filled([b"%d" % n for n in range(18)])
    assert not trimmed(window, 18)
    window.append(b"18", "M/b", "a", 18)
    assert trimmed(window, 18)
    assert (window.base, window.head, window.payload(3)) == (3, 19, b"3")
    assert window.released_at(3) == 3.0
    assert (window.channel(3), window.line(3)) == ("M/b", "a")


def test_too_many_bytes_go_oldest_first() -> None:
    """The bound in bytes: likewise."""
    window = filled([b"x" * 2**18] * 5, Bounds(window_mib=1))
    assert trimmed(window, 5)
    assert window.bytes == 2**20
    assert window.base == 1


def test_what_is_old_goes_but_some_events_stay() -> None:
    """The bound in time: a quiet market keeps enough for a line to join."""
    window = filled([b"%d" % n for n in range(2 * KEPT_EVENTS)], Bounds(window_s=1))
    assert trimmed(window, 10_000)
    assert len(window.payloads) == KEPT_EVENTS


def test_trimming_forgets_gaps_and_places_of_what_went() -> None:
    """A gap record and a late event's place go with the events they belong to."""
    window = filled([b"%d" % n for n in range(10)])
    window.append(b"late", "M/b", "a", 10, before=4)
    window.gaps.append(11)
    assert window.late == {10: 4}
    assert (window.proven_from(10), window.proven_from(11)) == (0, 11)
    assert (window.gap_from(3), window.gap_from(12)) == (11, None)
    for n in range(30):
        window.append(b"%d" % (100 + n), "M/b", "a", 11)
    assert trimmed(window, 11)
    assert window.base == 25
    assert window.late == {}
    assert window.gaps == []
    assert window.proven_from(30) == 25


def test_of_what_is_settled_a_few_events_stay() -> None:
    """The bound in settled events: what is before the given place goes, up to it."""
    window = filled([b"%d" % n for n in range(10)], Bounds(settled_events=4))
    assert not window.settle(0)
    assert window.settle(3)
    assert window.base == 3
    assert window.settle(10)
    assert (window.base, window.head, window.payloads) == (6, 10, [b"6", b"7", b"8", b"9"])
    assert not window.settle(10)


def test_it_is_known_which_channels_stood_in_what_went() -> None:
    """The newest ordinary event of each channel that was dropped is remembered by its position."""
    window = Window(Bounds(settled_events=1))
    for number, channel in enumerate("bbtbtb"):
        window.append(b"%d" % number, channel, "a", 0.0, before=2 if number == 4 else None)
    assert window.settle(2)
    assert window.gone == {"b": 1}
    assert window.settle(5)
    assert window.gone == {"b": 3, "t": 2}


def test_values_are_compared_once_a_line_asked_for_it() -> None:
    """Rule R1: from then on other bytes of the same value are found."""
    window = filled([b'{"a":1,"b":2}'])
    assert not window.find(b'{ "b": 2, "a": 1 }')
    window.compare_values()
    assert list(window.find(b'{ "b": 2, "a": 1 }')) == [0]


def test_a_run_is_added_like_its_events_one_by_one() -> None:
    """Positions, channels, sizes and the newest of each channel are the same."""
    one_by_one, at_once = filled([b"x"]), filled([b"x"])
    payloads, channels = [b"a", b"bb", b"ccc"], ["M/b", "M/t", "M/b"]
    for payload, channel in zip(payloads, channels, strict=True):
        one_by_one.append(payload, channel, "c", 9.0)
    assert at_once.extend(payloads, channels, "c", 9.0) == 1
    for name in ("payloads", "channels", "released", "lines", "bytes", "newest", "ordinary", "head"):
        assert getattr(at_once, name) == getattr(one_by_one, name)
