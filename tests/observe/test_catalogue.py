"""The catalogue against the program: every note that is made is in it, and nothing else is."""

import ast
from collections.abc import Iterator
from pathlib import Path

import feedhandler
from feedhandler.observe.bridging import FAMILIES as BRIDGE_FAMILIES
from feedhandler.observe.catalogue import CATALOGUE, FIELDS, LEVELS, kind_of
from feedhandler.observe.collecting import FAMILIES
from feedhandler.observe.metrics import NOTES
from feedhandler.observe.reference import reference

PACKAGE = Path(feedhandler.__file__).parent
NOTERS = {"note", "_note"}
TAKEN = {"event", "level", "timestamp", "repeated"}


def calls() -> Iterator[ast.Call]:
    """Yield every call that makes a note; the simulated exchange is another program with notes of its own."""
    for path in PACKAGE.rglob("*.py"):
        if "simulator" in path.relative_to(PACKAGE).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and name_of(node.func) in NOTERS and node.args:
                yield node


def name_of(function: ast.expr) -> str:
    """Return what a function is called by."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def words(node: ast.expr) -> set[str]:
    """Return the words that an argument may be."""
    return {
        one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)
    }


def test_the_catalogue_is_what_the_program_notes() -> None:
    """Each name that is noted anywhere stands in the catalogue, and each name in it is noted somewhere."""
    noted = set().union(*(words(call.args[0]) for call in calls()))
    assert noted == set(CATALOGUE)


def test_fields_do_not_hide_what_a_line_says_itself() -> None:
    """No note has a field that a log line has already."""
    for call in calls():
        assert not TAKEN.intersection(keyword.arg or "" for keyword in call.keywords), ast.unparse(call)


def test_every_field_is_described() -> None:
    """What a log line may hold is described, and nothing else is; the consumer's fields are put in by itself."""
    used = {keyword.arg for call in calls() for keyword in call.keywords if keyword.arg}
    assert set(FIELDS) == used | TAKEN | {"consumer", "pid", "uid"}
    assert all(FIELDS.values())


def test_labels_are_fields_of_their_note() -> None:
    """Each label of a note's metric is a field that every note of that name carries, or fixed."""
    by_default = {"feed", "line", "consumer", "pid"}  # put in by the arbiter and by consumers
    for call in calls():
        given = {keyword.arg for keyword in call.keywords} | by_default
        for name in words(call.args[0]) & set(CATALOGUE):
            kind = CATALOGUE[name]
            if kind.metric is not NOTES and None not in given:
                needed = {"kind" if label == "class" else label for label in kind.metric.labels}
                assert needed - set(kind.fixed) <= given, ast.unparse(call)


def test_the_reference_names_everything() -> None:
    """Each metric, note and field has its row in the reference, with what it says."""
    text = reference()
    for name, kind in CATALOGUE.items():
        assert f"| `{name}` | {kind.level} | {kind.meaning} | `feedhandler_{kind.metric.name}` |" in text
    for name, meaning in FIELDS.items():
        assert f"| `{name}` | {meaning} |" in text
    for family in (*FAMILIES, *BRIDGE_FAMILIES):
        shown = f"{{{','.join(family.labels)}}}" if family.labels else ""
        assert f"| `feedhandler_{family.name}{shown}` | {family.kind} | {family.help} |" in text


def test_every_kind_has_a_level_and_a_meaning() -> None:
    """Levels come from the closed set, and a meaning is told once."""
    assert {kind.level for kind in CATALOGUE.values()} <= set(LEVELS)
    meanings = [kind.meaning for kind in CATALOGUE.values()]
    assert all(meanings)
    assert len(set(meanings)) == len(meanings)


def test_keys_name_fields_of_their_note() -> None:
    """What tells one story from another is a field that some note of that name carries; None spreads a mapping."""
    fields: dict[str, set[str | None]] = {}
    for call in calls():
        for word in words(call.args[0]):
            fields.setdefault(word, set()).update(keyword.arg for keyword in call.keywords)
    for name, kind in CATALOGUE.items():
        by_default = {"feed", "line", "consumer", "pid"}  # put in by the arbiter and by consumers
        assert set(kind.key) - by_default <= fields[name], name


def test_a_name_that_nobody_listed_is_a_warning() -> None:
    """A note that is not in the catalogue costs a line in the log and nothing more."""
    assert kind_of("never_heard_of").level == "warning"
