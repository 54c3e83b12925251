"""Price levels: checked, keyed by value, sorted by their keys."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.core import levels as module
from feedhandler.core.levels import DIGITS, Broken, Level, crossed, is_zero, keyed, normal

NUMBERS = st.from_regex(r"[0-9]{1,6}(\.[0-9]{1,6})?([eE][+-]?[0-9])?", fullmatch=True)


def bid(price: str, quantity: str = "1") -> Level:
    """Make a bid."""
    return Level("buy", price, quantity)


def ask(price: str, quantity: str = "1") -> Level:
    """Make an ask."""
    return Level("sell", price, quantity)


@given(NUMBERS, NUMBERS)
def test_normal_is_equal_exactly_when_the_numbers_are(one: str, two: str) -> None:
    """Two spellings share their normal form if and only if they are the same number."""
    assert (normal(one) == normal(two)) == (Decimal(one) == Decimal(two))


@given(st.lists(NUMBERS, min_size=1, max_size=20))
def test_keys_sort_as_prices_do(prices: list[str]) -> None:
    """The keys of one side have the order of the prices, and asks come before bids."""
    levels = keyed([bid(price) for price in prices] + [ask(price) for price in prices])
    assert isinstance(levels, dict)
    values = [(level.side == "buy", Decimal(level.price)) for _, level in sorted(levels.items())]
    assert values == sorted(values)
    assert len(values) == 2 * len({Decimal(price) for price in prices})


def test_two_spellings_of_one_price_are_one_level_and_the_last_wins() -> None:
    """The later of two levels with one price counts, its strings as sent."""
    levels = keyed([bid("1.0", "2"), bid("1.00", "3"), ask("01", "4")])
    assert isinstance(levels, dict)
    assert list(levels.values()) == [bid("1.00", "3"), ask("01", "4")]


@pytest.mark.parametrize(
    "zero", ["0", "0.0", "0.00000000", "00", "00.0", "0." + "0" * DIGITS, "0E-8", "0e5", "0.00e+2"]
)
def test_zero_is_known_however_it_is_spelled(zero: str) -> None:
    """Every spelling of zero removes a level."""
    levels = keyed([bid("1", zero)])
    assert isinstance(levels, dict)
    assert all(map(is_zero, levels.values()))


@pytest.mark.parametrize("quantity", ["1", "0.00000001", "1E-8", "10", "100.0", "0.10"])
def test_what_is_not_zero_is_kept_as_sent(quantity: str) -> None:
    """A quantity above zero removes nothing and keeps its text."""
    levels = keyed([bid("1", quantity)])
    assert isinstance(levels, dict)
    assert [(is_zero(level), level.quantity) for level in levels.values()] == [(False, quantity)]


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "1.", ".5", "1.2.3", "-1", "-0", "+1", " 1", "1 ", "1\n", "NaN", "nan", "Infinity", "1e400", "1e99",
        "1E-99", "0x1", "1_000", "1,5", "\u0661", "\u00b2", "9" * (DIGITS + 1), "0." + "0" * (DIGITS + 1),
        "1" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_plain_decimal_breaks_the_message(text: str) -> None:
    """A bad number is refused in the price and in the quantity."""
    assert keyed([bid("1"), bid(text)]) == Broken("number")
    assert keyed([bid("1"), ask("2", text)]) == Broken("number")


def test_the_longest_numbers_are_read() -> None:
    """Numbers of exactly the bound are fine, and sort above shorter ones."""
    levels = keyed([bid("9" * DIGITS + "." + "9" * DIGITS), bid("5")])
    assert isinstance(levels, dict)
    assert next(level.price for _, level in sorted(levels.items())) == "5"


def test_more_levels_than_the_bound_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message with one level too many is broken, one with the bound is not."""
    monkeypatch.setattr(module, "LEVELS_MOST", 2)
    assert keyed([bid("1"), bid("2"), bid("3")]) == Broken("levels")
    assert len(keyed([bid("1"), bid("2")])) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], False),
        ([bid("5")], False),
        ([ask("5")], False),
        ([bid("5"), bid("6")], False),
        ([bid("9.99"), ask("10")], False),
        ([bid("10"), ask("10.0")], True),
        ([bid("10"), ask("9.99")], True),
        ([bid("1"), bid("100"), ask("11"), ask("200")], True),
    ],
)
def test_crossed_compares_the_best_of_both_sides(rows: list[Level], expected: bool) -> None:
    """A bid at or above an ask is a crossed book; one side alone never is."""
    levels = keyed(rows)
    assert isinstance(levels, dict)
    assert crossed(levels) is expected
