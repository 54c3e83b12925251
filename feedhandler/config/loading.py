"""From a path to the configuration, or to all of its mistakes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from feedhandler.config.checking import build
from feedhandler.config.credentials import read_credentials
from feedhandler.config.model import Config
from feedhandler.config.reading import override, read, reason
from feedhandler.config.rules import broken_rules
from feedhandler.errors import ConfigError


def load(path: Path, overrides: Sequence[str] = (), *, environ: Mapping[str, str]) -> Config:
    """Load the file or folder at ``path``, with ``overrides`` (``KEY=VALUE``) put over it.

    ConfigError holds all mistakes, one line each. Where a file can't be read or is no TOML, nothing else is
    looked at. Credentials and certificates are looked for, and not kept.
    """
    mistakes: list[str] = []
    tree = read(path, mistakes)
    if mistakes:
        raise ConfigError(mistakes)
    override(tree, overrides, mistakes)
    config = build(tree, mistakes)
    mistakes += broken_rules(config)
    mistakes += _unreadable(config, environ)
    if mistakes:
        raise ConfigError(mistakes)
    return config


def _unreadable(config: Config, environ: Mapping[str, str]) -> list[str]:
    mistakes: list[str] = []
    if config.exchange.ca_file:
        try:
            config.exchange.ca_file.open("rb").close()
        except OSError as error:
            mistakes.append(f"exchange.ca_file: {config.exchange.ca_file} cannot be read: {reason(error)}")
    try:
        read_credentials(config, environ)
    except ConfigError as error:
        mistakes += error.mistakes
    return mistakes
