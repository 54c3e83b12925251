"""The key and the secret of the API: looked for at each call, never part of the configuration.

Each comes from the first place that has it: the file that the configuration names, the systemd credential,
the environment. A file that is named must be there: falling back from it in silence could log in as
somebody else. The files may change while the program runs, so nothing is remembered. No mistake quotes what
was found.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from feedhandler.config.model import Config
from feedhandler.config.reading import read_bounded, reason
from feedhandler.errors import ConfigError

CREDENTIAL_BYTES = 16 * 1024
"""The largest file of a key or secret; both become a header of one request."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key and its secret; neither shows in a representation, rich's included."""

    key: str = field(repr=False)
    secret: str = field(repr=False)


def read_credentials(config: Config, environ: Mapping[str, str]) -> Credentials | None:
    """Read key and secret; None where no token is fetched, ConfigError where one is and they are missing."""
    if not config.exchange.token_url:
        return None
    mistakes: list[str] = []
    exchange = config.exchange
    credentials = Credentials(
        key=_read("api_key", exchange.api_key_file, environ, mistakes),
        secret=_read("api_secret", exchange.api_secret_file, environ, mistakes),
    )
    if mistakes:
        raise ConfigError(mistakes)
    return credentials


def have_files(config: Config, environ: Mapping[str, str]) -> bool:
    """Tell whether key or secret may come from a file, so that reading them can block."""
    exchange = config.exchange
    return bool(exchange.api_key_file or exchange.api_secret_file or environ.get("CREDENTIALS_DIRECTORY"))


def _read(name: str, file: Path | None, environ: Mapping[str, str], mistakes: list[str]) -> str:
    path = f"exchange.{name}_file"
    credential = name.replace("_", "-")
    variable = f"FEEDHANDLER_{name.upper()}"
    if file is None:
        file = _credential_file(environ, credential)
    if file is not None:
        return _from_file(file, path, mistakes)
    if environ.get(variable):
        return _checked(environ[variable], f"{path}: ${variable}", mistakes)
    mistakes.append(
        f'{path}: exchange.token_url needs this file, the systemd credential "{credential}" or ${variable}'
    )
    return ""


def _credential_file(environ: Mapping[str, str], name: str) -> Path | None:
    folder = environ.get("CREDENTIALS_DIRECTORY", "")
    file = Path(folder) / name
    return file if folder and os.path.lexists(file) else None


def _from_file(file: Path, path: str, mistakes: list[str]) -> str:
    try:
        content = read_bounded(file, CREDENTIAL_BYTES)
    except OSError as error:
        mistakes.append(f"{path}: {file} cannot be read: {reason(error)}")
        return ""
    return _checked(content.decode("ascii", "replace"), f"{path}: {file}", mistakes)


def _checked(text: str, where: str, mistakes: list[str]) -> str:
    """Take what can stand in a header: visible ASCII, with white space around it removed."""
    value = text.strip()
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        mistakes.append(f"{where}: expected one word of visible ASCII characters")
    return value
