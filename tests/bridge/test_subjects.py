"""Names of channels as subjects: reversible, and nothing that NATS keeps for itself."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from feedhandler.bridge.subjects import (
    TOKEN_BYTES,
    channel_of,
    escape,
    is_prefix,
    subject_of,
    unescape,
)

NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)


@given(NAMES, NAMES.filter(lambda name: "/" not in name))
@example("", "")
@example("a.b c*>\t\r\n\0", "%2E")
@example("x/y", "%")
@settings(deadline=None)
def test_a_subject_is_read_back(market, stream):
    """Whatever a market and a stream are called, the subject has three safe tokens and says both."""
    channel = f"{market}/{stream}"
    subject = subject_of("feed", channel)
    assert re.fullmatch(r"feed\.[A-Za-z0-9_%-]+\.[A-Za-z0-9_%-]+", subject)
    long = max(len(escape(market)), len(escape(stream))) > TOKEN_BYTES or "%%" in subject
    assert channel_of("feed", subject) == (None if long else channel)


@given(st.text(max_size=30))
@example("%2e")
@example("%41")
@example("%FF")
@example("Ā")
@settings(deadline=None)
def test_only_what_was_written_is_read(token):
    """A token that `escape` does not write stands for no name, so two channels never share a subject."""
    name = unescape(token)
    assert name is None or escape(name) == token


@pytest.mark.parametrize("length", [TOKEN_BYTES, TOKEN_BYTES + 1, 100_000])
def test_a_long_name(length):
    """A name too long for a subject has a digest there; two of them have two."""
    one, other = "x" * length, "x" * (length - 1) + "y"
    assert escape(one) != escape(other)
    assert len(escape(one)) <= TOKEN_BYTES
    assert (unescape(escape(one)) is None) == (length > TOKEN_BYTES)


@pytest.mark.parametrize("subject", ["feed", "feed.a", "food.a.b", "feed.a.b.c", "x.feed.a.b", "feed..b"])
def test_other_subjects(subject):
    """A subject that is no channel's says so."""
    assert channel_of("feed", subject) is None


def test_prefixes():
    """A prefix has one or more plain tokens, and may have dots."""
    assert is_prefix("a")
    assert is_prefix("desk-1.feed")
    assert channel_of("desk-1.feed", subject_of("desk-1.feed", "M/s")) == "M/s"
    assert not any(map(is_prefix, ["", ".", "a.", "a b", "a.*", ">", "$JS"]))
