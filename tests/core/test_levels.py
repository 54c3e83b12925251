"""Price levels: checked, keyed by value, sorted by their keys."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.core import levels as module
from feedhandler.core.levels import DIGITS, Broken, Level, Levels, crossed, is_zero, keyed, normal

SPELLINGS = st.text("0123456789.,eE+- ", max_size=8) | st.sampled_from(
    ["0", "0.00", "00", "1,5", "1.50", "0e3", "NaN"]
)
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


@given(st.lists(SPELLINGS | NUMBERS, max_size=20))
def test_many_levels_are_checked_as_each_by_itself(quantities: list[str]) -> None:
    """What a quantity is does not depend on those around it: it is refused, or is a zero, or is kept as sent."""
    rows = [bid(str(price), quantity) for price, quantity in enumerate(quantities, 1)]
    alone = [keyed([row]) for row in rows]
    one_by_one: Levels = {}
    for levels in alone:
        if not isinstance(levels, Broken):
            one_by_one.update(levels)
    assert keyed(rows) == (Broken("number") if Broken("number") in alone else one_by_one)


@pytest.mark.parametrize("many", [1, 50])
@pytest.mark.parametrize(
    "text", ["", ",", "1,5", "1,", ",1", "1,2,3", "1\n", "00,0", "-1", "0x1", "9" * (DIGITS + 1)]
)
def test_one_bad_quantity_among_many_breaks_the_message(text: str, many: int) -> None:
    """Checked as one or not, and wherever it stands, a bad quantity is refused, commas within it not excepted."""
    good = [bid(str(price)) for price in range(1, many + 1)]
    for rows in ([ask("1", text), *good], [*good, ask("1", text)]):
        assert keyed(rows) == Broken("number")


def test_keys_of_prices_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the first ones are forgotten, and made anew to the same."""
    monkeypatch.setattr(module, "PRICES_KEPT", 8)
    monkeypatch.setattr(module, "PRICES_FORGOTTEN", 3)
    keys = module._Keys("b")
    monkeypatch.setattr(module, "_bid_keys", keys)
    rows = [bid(str(price)) for price in range(1, 21)]
    once, kept = keyed(rows), list(keys)
    assert kept == [str(price) for price in range(13, 21)]
    assert keyed(rows) == once
    assert len(keys) <= 8


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
