"""The text formats of Prometheus: one family after the other, each with its head and its series.

Two formats differ in little: OpenMetrics names a counter's family without ``_total`` and ends with a mark. Everything
is made piece by piece (`feedhandler.observe.slices`): a piece holds the series of one line, channel or feed, and since
those of a family stand together in the format, a family is gone through at once, one piece after the other.
"""

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Final, NamedTuple

from feedhandler.core.histogram import Histogram
from feedhandler.observe.metrics import PREFIX, Family

TEXT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text"

LABEL_CHARS: Final = 64
"""The longest value of a label; of a longer one the beginning stays."""

_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Block(NamedTuple):
    """A family and its series, in pieces."""

    family: Family
    pieces: Iterable[str]


def labels(**values: str) -> str:
    r"""Return labels as they stand between the braces.

    >>> labels(feed='a"b', line="a")
    'feed="a\\"b",line="a"'
    """
    return ",".join(f'{name}="{value[:LABEL_CHARS].translate(_ESCAPES)}"' for name, value in values.items())


def sample(name: str, text: str, value: float) -> str:
    """Return one series of a family; ``text`` is what `labels` made, or nothing."""
    shown = f"{{{text}}}" if text else ""
    return f"{PREFIX}{name}{shown} {value!r}\n"


def buckets(name: str, text: str, histogram: Histogram) -> str:
    """Return the series of one histogram."""
    begin = f'{PREFIX}{name}_bucket{{{text}{"," if text else ""}le="'
    sums = list(accumulate(histogram.counts))
    parts = [f'{begin}{bound}"}} {count}\n' for bound, count in zip(histogram.bounds, sums, strict=False)]
    parts.append(f'{begin}+Inf"}} {sums[-1]}\n')
    parts.append(sample(f"{name}_sum", text, histogram.sum))
    parts.append(sample(f"{name}_count", text, sums[-1]))
    return "".join(parts)


def wants_openmetrics(accept: str) -> bool:
    """Tell from an ``Accept`` header whether OpenMetrics is preferred to plain text, as Prometheus asks for it."""
    return _quality(accept, OPENMETRICS) > 0 and _quality(accept, OPENMETRICS) >= _quality(
        accept, "text/plain"
    )


def _quality(accept: str, media_type: str) -> float:
    """Return how much a media type is wanted; 0 where it is not named."""
    best = 0.0
    for entry in accept.split(","):
        name, *parameters = (part.strip().lower() for part in entry.split(";"))
        if name == media_type:
            qualities = [one.removeprefix("q=") for one in parameters if one.startswith("q=")]
            best = max(best, _number(qualities[0]) if qualities else 1.0)
    return best


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def exposition(blocks: Iterable[Block], *, openmetrics: bool) -> Iterator[str]:
    """Return the text of all families, in pieces; a family without series has no head."""
    for family, pieces in blocks:
        head = _head(family, openmetrics=openmetrics)
        for piece in pieces:
            yield head + piece if piece else ""
            head = "" if piece else head
    if openmetrics:
        yield "# EOF\n"


def _head(family: Family, *, openmetrics: bool) -> str:
    name = PREFIX + (family.name.removesuffix("_total") if openmetrics else family.name)
    return f"# HELP {name} {family.help}\n# TYPE {name} {family.kind}\n"
