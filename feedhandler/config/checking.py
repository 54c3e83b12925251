"""From a tree of plain values to the model: every key is known and holds what it may hold.

The walk follows the fields of the model and never stops at a mistake. A section with mistakes is built from
the stand-ins of its readers; the caller throws it away once the list of mistakes is complete.
"""

from difflib import get_close_matches
from typing import Any, TypeVar, get_args

import msgspec

from feedhandler.config.model import Config, Feed
from feedhandler.config.readers import Reader
from feedhandler.config.toml import key, shown

Section = TypeVar("Section", bound=msgspec.Struct)


def build(tree: dict[str, Any], mistakes: list[str]) -> Config:
    """Build the configuration that ``tree`` describes; with mistakes it is good for further checks only."""
    sections = {field.encode_name: field for field in msgspec.structs.fields(Config)}
    _refuse_unknown(tree, list(sections), "", mistakes)
    values: dict[str, Any] = {"feeds": _feeds(tree.get("feed"), mistakes)}
    for name, field in sections.items():
        if isinstance(field.type, type):
            values[field.name] = _section(field.type, tree.get(name, {}), name, mistakes)
    return Config(**values)


def reader_of(field: msgspec.structs.FieldInfo) -> Reader:
    """Give the reader that the annotation of a field carries."""
    reader: Reader = get_args(field.type)[-1]
    return reader


def _feeds(value: object, mistakes: list[str]) -> tuple[Feed, ...]:
    if value is None or value == []:
        mistakes.append("feed: expected at least one [[feed]], got none")
    elif not isinstance(value, list):
        mistakes.append(f"feed: expected [[feed]], a list of tables, got {shown(value)}")
    else:
        return tuple(_section(Feed, item, f"feed[{index}]", mistakes) for index, item in enumerate(value))
    return ()


def _section(kind: type[Section], value: object, path: str, mistakes: list[str]) -> Section:
    if not isinstance(value, dict):
        mistakes.append(f"{path}: expected a table, got {shown(value)}")
        return kind(**{field.name: _stand_in(field) for field in msgspec.structs.fields(kind)})
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    _refuse_unknown(value, list(fields), f"{path}.", mistakes)
    return kind(
        **{field.name: _field(field, value, f"{path}.{name}", mistakes) for name, field in fields.items()}
    )


def _field(field: msgspec.structs.FieldInfo, table: dict[str, Any], path: str, mistakes: list[str]) -> object:
    if field.encode_name in table:
        return reader_of(field)(table[field.encode_name], path, mistakes)
    if field.required:
        mistakes.append(f"{path}: missing; it has no default")
    return _stand_in(field)


def _stand_in(field: msgspec.structs.FieldInfo) -> object:
    return "" if field.required else field.default


def _refuse_unknown(table: dict[str, Any], known: list[str], path: str, mistakes: list[str]) -> None:
    for name in table:
        if name not in known:
            hint = _hint(name, known)
            mistakes.append(f"{path}{key(name)}: unknown key" + (f", did you mean {hint}?" if hint else ""))


def _hint(name: str, known: list[str]) -> str:
    """Name the key that was meant: one that belongs elsewhere, or the most similar one."""
    for section in msgspec.structs.fields(Config):
        path, kind = (
            (section.encode_name, section.type) if isinstance(section.type, type) else ("feed[0]", Feed)
        )
        if any(field.encode_name == name for field in msgspec.structs.fields(kind)):
            return f"{path}.{name}"
    return next(iter(get_close_matches(name, known, n=1)), "")
