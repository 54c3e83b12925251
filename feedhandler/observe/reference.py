"""Everything that operators meet by name, as tables for a runbook: metrics, notes of the log, fields of those.

The text is made of what the program goes by, so it cannot be out of date.
"""

from collections.abc import Iterable, Iterator, Sequence

from feedhandler.observe.bridging import FAMILIES as BRIDGE_FAMILIES
from feedhandler.observe.catalogue import CATALOGUE, FIELDS
from feedhandler.observe.collecting import FAMILIES
from feedhandler.observe.metrics import PREFIX, Family


def reference() -> str:
    """Return the tables, as Markdown."""
    parts = [
        *_table(("metric", "type", "what it says"), map(_metric, sorted((*FAMILIES, *BRIDGE_FAMILIES)))),
        "",
        *_table(("note", "level", "what it says", "counted by"), map(_note, sorted(CATALOGUE))),
        "",
        *_table(
            ("field", "what it says"), ((f"`{name}`", meaning) for name, meaning in sorted(FIELDS.items()))
        ),
        "",
    ]
    return "\n".join(parts)


def _metric(family: Family) -> Sequence[str]:
    labels = f"{{{','.join(family.labels)}}}" if family.labels else ""
    return f"`{PREFIX}{family.name}{labels}`", family.kind, family.help


def _note(name: str) -> Sequence[str]:
    kind = CATALOGUE[name]
    return f"`{name}`", kind.level, kind.meaning, f"`{PREFIX}{kind.metric.name}`"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for cells in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cells)} |"
