"""From files and ``--set`` to one tree of plain values.

One file is read as it is. Of a folder every ``*.toml`` is read, in the order of the names and without
hidden ones: tables are merged, feeds appended, and any other key that stands in two files has the value of
the later one. Overrides come last. A relative path counts from the file that holds it, one in an override
from the current folder; both are made absolute here, while it is still known where they came from. What steps up
(``..``) goes, so that a path reads as what it is; links are followed for that, as the system follows them, and only
for that: a file behind a link may be replaced while the daemon runs.

Only what is no TOML, or can't be read, is a mistake here; what the values mean is checked later.
"""

import itertools
import os
import re
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec

from feedhandler.config.model import Config
from feedhandler.config.readers import FilePath
from feedhandler.config.toml import shown

FILE_BYTES = 1024 * 1024
"""The largest configuration file; a larger one is a mistake."""

Tree = dict[str, Any]

_OVERRIDE = re.compile(r"[A-Za-z0-9_-]+(\[\d{1,6}\])*(\.[A-Za-z0-9_-]+(\[\d{1,6}\])*)*")
_STEP = re.compile(r"[A-Za-z0-9_-]+|\[\d+\]")


def read(path: Path, mistakes: list[str]) -> Tree:
    """Read the file or folder at ``path``."""
    tree: Tree = {}
    for file in _files(path, mistakes):
        base = file.parent.absolute()
        later = _parse(file, mistakes)
        _merge(tree, {name: _anchored_table(name, value, base) for name, value in later.items()})
    return tree


def override(tree: Tree, overrides: Sequence[str], mistakes: list[str]) -> None:
    """Put the values of ``overrides``, each ``KEY=VALUE``, into the tree."""
    for text in overrides:
        path, equals, value = text.partition("=")
        path = path.strip()
        if not equals or not _OVERRIDE.fullmatch(path):
            mistakes.append(f"--set: expected KEY=VALUE such as publish.drain_s=5, got {shown(path)}")
            continue
        steps = [int(step[1:-1]) if step.startswith("[") else step for step in _STEP.findall(path)]
        fault = _put(tree, steps, _value(value))
        if fault:
            mistakes.append(f"--set {path}: {fault}")


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """Read a whole file that may not be larger than ``most_bytes``; OSError where that fails."""
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(f"larger than {most_bytes} bytes")
    return content


def reason(error: OSError) -> str:
    """Say in a few words why a file can't be read, without the path that stands before it anyway."""
    return error.strerror or str(error)


def _anchored_table(section: str, value: object, base: Path) -> object:
    if not isinstance(value, dict):
        return value
    return {name: _anchored_value((section, name), item, base) for name, item in value.items()}


def _anchored_value(steps: tuple[str, str], value: object, base: Path) -> object:
    if steps in _PATH_KEYS and isinstance(value, str) and value:
        return os.fspath(collapsed(base / value))
    return value


def collapsed(path: Path) -> Path:
    """Return the same place without steps up, where the file system can tell which that is."""
    parts = path.parts
    if ".." not in parts:
        return path
    behind = len(parts) - parts[::-1].index("..")
    try:
        return Path(*parts[:behind]).resolve().joinpath(*parts[behind:])
    except (OSError, RuntimeError, ValueError):  # links in a circle, say: who opens it will complain
        return path


def _path_keys() -> Iterable[tuple[str, str]]:
    for section in msgspec.structs.fields(Config):
        if isinstance(section.type, type):
            for field in msgspec.structs.fields(section.type):
                if isinstance(get_args(field.type)[-1], FilePath):
                    yield section.encode_name, field.encode_name


_PATH_KEYS = frozenset(_path_keys())


def _files(path: Path, mistakes: list[str]) -> list[Path]:
    try:
        if not path.is_dir():
            return [path]
        files = sorted(file for file in path.iterdir() if _is_part(file))
    except OSError as error:
        mistakes.append(f"{path}: cannot be read: {reason(error)}")
        return []
    if not files:
        mistakes.append(f"{path}: expected files *.toml in this folder, found none")
    return files


def _is_part(file: Path) -> bool:
    return file.suffix == ".toml" and not file.name.startswith(".")


def _parse(file: Path, mistakes: list[str]) -> Tree:
    try:
        return tomllib.loads(read_bounded(file, FILE_BYTES).decode())
    except OSError as error:
        mistakes.append(f"{file}: cannot be read: {reason(error)}")
    except UnicodeDecodeError as error:
        mistakes.append(f"{file}: expected UTF-8 text (at byte {error.start + 1})")
    except ValueError as error:  # TOML's own errors, and numbers beyond what Python converts
        mistakes.append(f"{file}: {error}")
    except RecursionError:
        mistakes.append(f"{file}: lists or tables nested too deeply")
    return {}


def _merge(tree: Tree, later: Tree) -> None:
    for name, value in later.items():
        earlier = tree.get(name)
        if isinstance(earlier, dict) and isinstance(value, dict):
            _merge(earlier, value)
        elif name == "feed" and isinstance(earlier, list) and isinstance(value, list):
            earlier.extend(value)
        else:
            tree[name] = value


def _value(text: str) -> object:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if parsed.keys() == {"value"} else text


def _put(tree: Tree, steps: Sequence[str | int], value: object) -> str:
    here: Any = tree
    for step, following in itertools.pairwise(steps):
        if isinstance(here, dict) and isinstance(following, str):
            here.setdefault(step, {})
        fault = _fault(here, step)
        if fault:
            return fault
        here = here[step]
    fault = _fault(here, steps[-1], new=True)
    if not fault:
        here[steps[-1]] = _anchored_step(steps, value)
    return fault


def _anchored_step(steps: Sequence[str | int], value: object) -> object:
    match steps:
        case [str(section)]:
            return _anchored_table(section, value, Path.cwd())
        case [str(section), str(name)]:
            return _anchored_value((section, name), value, Path.cwd())
        case _:
            return value


def _fault(here: object, step: str | int, *, new: bool = False) -> str:
    """Say why there is no such ``step`` from ``here``; a ``new`` key of a table may be missing."""
    if isinstance(step, str):
        if not isinstance(here, dict):
            return f"expected a table around {step}, got {shown(here)}"
        return "" if new or step in here else f"there is no list {step}"
    if not isinstance(here, list):
        return f"expected a list around [{step}], got {shown(here)}"
    return "" if step < len(here) else f"there is no [{step}], the list has {len(here)}"
