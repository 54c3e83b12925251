"""The effective configuration as TOML: every key with its value, readable by `load` again.

There is nothing to mask in it: key and secret are no part of the configuration, only the paths of their
files are.
"""

from collections.abc import Iterator

import msgspec

from feedhandler.config.model import Config
from feedhandler.config.toml import literal


def render(config: Config) -> str:
    """Write the configuration as TOML; a key that has no value stands in a comment."""
    parts: list[str] = []
    for field in msgspec.structs.fields(Config):
        value = getattr(config, field.name)
        if isinstance(value, tuple):
            parts += [_table(f"[[{field.encode_name}]]", feed) for feed in value]
        else:
            parts.append(_table(f"[{field.encode_name}]", value))
    return "\n".join(parts)


def _table(head: str, section: msgspec.Struct) -> str:
    return "".join(f"{line}\n" for line in (head, *_lines(section)))


def _lines(section: msgspec.Struct) -> Iterator[str]:
    for field in msgspec.structs.fields(section):
        value = getattr(section, field.name)
        if value is None and field.encode_name == "account_uids":
            yield "# account_uids: the daemon's own uid and root"
        else:
            yield f"{field.encode_name} = {literal('' if value is None else value)}"
