"""Channels: names, numbering, the bytes of numbered records, patterns."""

import json
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.core.channels import END, Channel, Channels, Patterns, split

text = st.text(st.characters(exclude_categories=["Cs"]))
parts = st.text(st.sampled_from("ab*é\"'\n "), max_size=3)


def opened(name: str = "BTC-USD/publicTrades") -> Channel:
    """Open one channel."""
    return Channels().open(name, feed="BTC-USD", account=False)


def test_an_ordinary_event_is_encoded_as_the_contract_shows_it() -> None:
    """An ordinary event has its keys in the contract's order and the message last, byte for byte."""
    record = opened().event("a", 1772576154169000000, b'{ "resultType" : "publicTrades" }')
    assert record == (
        b'{"type":"event","channel":"BTC-USD/publicTrades","seq":1,"line":"a","recv":1772576154169000000,'
        b'"msg":{ "resultType" : "publicTrades" }}\n'
    )


def test_a_class_stands_after_recv_and_only_where_there_is_one() -> None:
    """The class of an event that is not ordinary follows `recv`, and the next ordinary event has none."""
    channel = opened()
    late, ordinary = channel.event("b", 7, b"{}", "late"), channel.event("b", 7, b"{}")
    assert late.endswith(b'"seq":1,"line":"b","recv":7,"class":"late","msg":{}}\n')
    assert ordinary.endswith(b'"seq":2,"line":"b","recv":7,"msg":{}}\n')


@given(st.lists(st.binary(max_size=3), max_size=12), st.integers(0, 1001))
def test_events_that_came_at_once_are_encoded_as_one_by_one(payloads: list[bytes], before: int) -> None:
    """The records and the numbering are the same, also behind an event with a class."""
    at_once, one_by_one = opened('%d"\\'), opened('%d"\\')
    at_once.next = one_by_one.next = before + 1
    for channel in (at_once, one_by_one):
        channel.event("a", 7, b"{}", "late")
    heads = at_once.heads("a", 7, len(payloads))
    records = [head + payload + END for head, payload in zip(heads, payloads, strict=True)]
    assert records == [one_by_one.event("a", 7, one) for one in payloads]
    assert at_once.next == one_by_one.next
    assert at_once.event("b", 8, b"{}") == one_by_one.event("b", 8, b"{}")


def test_a_gap_is_encoded_as_the_contract_shows_it() -> None:
    """A gap takes the next seq of its channel."""
    channel = opened()
    channel.event("a", 1, b"{}")
    assert channel.gap("outage", 10, 20) == (
        b'{"type":"gap","channel":"BTC-USD/publicTrades","seq":2,"reason":"outage","since":10,"until":20}\n'
    )
    assert channel.next == 3


@given(name=text, line=text, word=text)
def test_whatever_the_names_are_a_record_is_one_line_of_json(name: str, line: str, word: str) -> None:
    """Hostile names are escaped: the record is one line, and reads back."""
    channel = opened(name)
    for record in (channel.event(line, 5, b'{"a":1}', word), channel.gap(word, 1, 2)):
        assert record.count(b"\n") == 1
        assert record.endswith(b"\n")
        assert json.loads(record)["channel"] == name
    assert json.loads(channel.event(line, 5, b"{}"))["line"] == line


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("ab"), st.integers(0, 2), st.booleans())))
def test_seqs_of_each_channel_are_contiguous(steps: list[tuple[int, str, int, bool]]) -> None:
    """Whatever is encoded in whatever order, each channel's seqs go 1, 2, 3, with the right fields."""
    channels = Channels()
    opened = [channels.open(f"m/{number}", feed="m", account=False) for number in range(3)]
    seen = {channel.name: 0 for channel in opened}
    for number, line, recv, is_gap in steps:
        channel = opened[number]
        record = channel.gap("outage", 0, recv) if is_gap else channel.event(line, recv, b"{}")
        fields = json.loads(record)
        seen[channel.name] += 1
        assert fields["seq"] == seen[channel.name]
        assert is_gap or (fields["line"], fields["recv"]) == (line, recv)


def test_channels_keep_the_order_of_their_opening() -> None:
    """Channels are numbered from 0 in the order of opening, found by name, and a name opens once."""
    channels = Channels()
    first = channels.open("ALL/trades", feed="account/ALL", account=True)
    second = channels.open("a/b/c", feed="a/b", account=False)
    assert list(channels) == [first, second]
    assert [channel.number for channel in channels] == [0, 1]
    assert (second.market, second.stream, second.feed) == ("a/b", "c", "a/b")
    assert first.account
    assert channels.get("a/b/c") is second
    assert channels.get("a/b") is None
    assert len(channels) == 2
    with pytest.raises(ValueError, match="open already"):
        channels.open("a/b/c", feed="x", account=False)


def test_a_name_is_split_at_its_last_slash() -> None:
    """A market may hold slashes, a stream holds none."""
    assert split("a/b/c") == ("a/b", "c")
    assert split("none") == ("", "none")


@given(
    patterns=st.lists(st.one_of(st.just("*"), st.builds("{}/{}".format, parts, parts)), max_size=4),
    market=parts,
    stream=parts,
)
def test_patterns_match_whole_parts(patterns: list[str], market: str, stream: str) -> None:
    """`*` stands for a whole part, `*` alone for everything, any other text for itself."""

    def matches(pattern: str) -> bool:
        wanted_market, wanted_stream = split(pattern)
        whole = (wanted_market in ("*", market)) and (wanted_stream in ("*", stream))
        return pattern in ("*", f"{market}/{stream}") or (whole and wanted_market != "")

    assert Patterns(patterns).match(f"{market}/{stream}") == any(map(matches, patterns))


def test_only_names_without_a_star_part_are_exact() -> None:
    """Exact names are listed once and in order; patterns are not among them."""
    patterns = Patterns(["b/x", "*", "*/x", "b/*", "b*/x", "b/x", "*/*", "plain"])
    assert patterns.exact == ["b/x", "b*/x", "plain"]


def test_a_star_inside_a_part_stands_for_itself() -> None:
    """Parts are no globs: `BTC-*` names a market of that very name."""
    assert fnmatchcase("BTC-USD", "BTC-*")
    assert not Patterns(["BTC-*/publicTrades"]).match("BTC-USD/publicTrades")


def test_events_are_counted_without_marks() -> None:
    """Gaps and snapshots take seqs and are no events; the newest event has its time."""
    channel = Channel("M/s", number=0, feed="M", account=False)
    assert (channel.published, channel.last_ns) == (0, -1)
    channel.snapshot("start", b"{}")
    channel.event("a", 5, b"{}")
    channel.gap("outage", 5, 9)
    channel.event("b", 9, b"{}")
    channel.snapshot_at(1, "join", b"{}")
    assert (channel.next, channel.published, channel.last_ns) == (5, 2, 9)


# Channels that end and go on


def test_a_retired_channel_goes_on_where_it_ended() -> None:
    """Opened again it has its number, its next seq, and whose it is by then; meanwhile it is there, and retired."""
    channels = Channels()
    first = channels.open("m/a", feed="f", account=False)
    first.event("a", 5, b"{}")
    channels.retire(first, 9)
    assert repr(first) == "<Channel m/a next=2 retired>"
    assert channels.get("m/a") is first
    assert first.last_ns == 5
    assert channels.open("m/a", feed="g", account=True) is first
    assert (first.number, first.next, first.feed, first.account, first.retired) == (0, 2, "g", True, False)


def test_what_is_proven_of_a_channel_without_events_ends_with_it() -> None:
    """Where no event has ever come, the time of its end stands for that of the last one."""
    channels = Channels()
    channel = channels.open("m/a", feed="f", account=False)
    channels.retire(channel, 9)
    assert channel.last_ns == 9


def test_a_number_is_given_to_another_and_the_name_is_remembered() -> None:
    """The one retired longest ago gives way as soon as nothing is kept of it; one that had no record is forgotten."""
    channels = Channels()
    used, unused = (channels.open(name, feed="f", account=False) for name in ("m/used", "m/unused"))
    used.event("a", 5, b"{}")
    channels.retire(used, 9)
    channels.retire(unused, 9)
    assert channels.open("m/b", feed="f", account=False, is_gone=lambda _: False).number == 2
    assert channels.open("m/c", feed="f", account=False, is_gone=lambda _: True).number == used.number
    assert channels.open("m/d", feed="f", account=False, is_gone=lambda _: True).number == unused.number
    assert channels.get("m/used") is None
    assert channels.forgotten("m/used") == (2, 5, False)
    assert channels.forgotten("m/unused") is None
    again = channels.open("m/used", feed="f", account=False)
    assert (again.number, again.next, again.last_ns) == (3, 2, 5)
    assert channels.forgotten("m/used") is None
    assert [channel.name for channel in channels] == ["m/c", "m/d", "m/b", "m/used"]
    assert len(channels) == 4


def test_names_are_bounded() -> None:
    """A session numbers so many channels and no more; those that it has numbered may always come again."""
    channels = Channels(2)
    first = channels.open("m/a", feed="f", account=False)
    assert channels.has_room("m/b")
    channels.open("m/b", feed="f", account=False)
    assert not channels.has_room("m/c")
    channels.retire(first, 1)
    assert not channels.has_room("m/c")
    assert channels.has_room("m/a")
