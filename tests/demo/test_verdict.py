"""The verdict against a naive reference that tries everything."""

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.demo.verdict import Verdict, compare

words = st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=7)


def naive(sent: list[bytes], got: list[bytes]) -> Verdict:
    """Count by hand: copies by number, and the longest run in order by trying every choice."""
    left = Counter(sent)
    numbered: list[tuple[bytes, int]] = []
    seen: Counter[bytes] = Counter()
    duplicated = 0
    for word in got:
        if left[word]:
            left[word] -= 1
            numbered.append((word, seen[word]))
            seen[word] += 1
        else:
            duplicated += 1
    source: list[tuple[bytes, int]] = [(word, sent[:place].count(word)) for place, word in enumerate(sent)]
    places = [source.index(one) for one in numbered]
    longest = max(
        size
        for size in range(len(places) + 1)
        if any(list(run) == sorted(run) for run in combinations(places, size))
    )
    return Verdict(len(sent), left.total(), duplicated, len(places) - longest)


@given(words, words)
def test_it_agrees_with_counting_by_hand(sent: list[bytes], got: list[bytes]) -> None:
    """Lost, duplicated and reordered are what trying everything gives."""
    assert compare({"c": sent}, {"c": got}) == naive(sent, got)


@given(st.dictionaries(st.sampled_from("xyz"), words))
def test_the_same_is_exact(sent: dict[str, list[bytes]]) -> None:
    """Equal sequences are exact, channels without events included."""
    verdict = compare(sent, {name: list(events) for name, events in sent.items() if events})
    assert verdict.exact
    assert verdict.events == sum(map(len, sent.values()))


@given(words, words)
def test_exact_means_equal(sent: list[bytes], got: list[bytes]) -> None:
    """Nothing but the same sequence is exact."""
    assert compare({"c": sent}, {"c": got}).exact == (sent == got)


def test_channels_are_compared_one_by_one() -> None:
    """What is lost in one channel is not made good by a duplicate in another."""
    verdict = compare({"x": [b"1", b"2"], "y": [b"3"]}, {"x": [b"1"], "y": [b"3", b"3"], "z": [b"4"]})
    assert verdict == Verdict(3, 1, 2, 0)


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (Verdict(12345, 0, 0, 0), "12,345 events, 0 lost, 0 duplicated, 0 reordered"),
        (Verdict(1, 2, 3, 4), "1 events, 2 lost, 3 duplicated, 4 reordered"),
    ],
)
def test_it_reads_as_promised(verdict: Verdict, text: str) -> None:
    """The sentence has the form that scripts rely on."""
    assert str(verdict) == text
