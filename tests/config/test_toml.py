"""How values are written and quoted."""

import datetime as dt
from pathlib import Path

import pytest

from feedhandler.config.toml import SHOWN_CHARS, key, literal, shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (3, "3"),
        (0.5, "0.5"),
        ('a"b\\c\n', '"a\\"b\\\\c\\u000a"'),
        (Path("/x"), '"/x"'),
        ((), "[]"),
        (("a", 1), '["a", 1]'),
    ],
)
def test_literals(value, text):
    """Values look as they do in a file."""
    assert literal(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({}, "a table"),
        ([{}], "a list of tables"),
        ([], "[]"),
        (dt.date(2026, 1, 2), "2026-01-02"),
        ("x" * 100, '"' + "x" * (SHOWN_CHARS - 2) + "…"),
    ],
)
def test_quoted_in_a_mistake(value, text):
    """Tables are named, everything else is quoted and cut."""
    assert shown(value) == text


def test_keys():
    """Keys are bare where they can be."""
    assert (key("a-b_1"), key("a.b"), key("")) == ("a-b_1", '"a.b"', '""')
