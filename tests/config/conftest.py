"""What the stories about the configuration share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from feedhandler.config import Config, load
from feedhandler.errors import ConfigError

HEAD = (
    '[exchange]\nwebsocket_url = "wss://exchange.example"\nmarkets_url = "https://exchange.example/markets"\n'
)

Loads = Callable[..., Config]
Finds = Callable[..., list[str]]


@pytest.fixture
def loads(tmp_path: Path) -> Loads:
    """Load a text, by default behind an `[exchange]` that is right."""

    def load_text(
        text: str, *overrides: str, head: str = HEAD, environ: dict[str, str] | None = None
    ) -> Config:
        file = tmp_path / "feedhandler.toml"
        file.write_text(head + text)
        return load(file, overrides, environ=environ or {})

    return load_text


@pytest.fixture
def finds(loads: Loads) -> Finds:
    """Give the mistakes of a text; none where it loads."""

    def mistakes_of(
        text: str, *overrides: str, head: str = HEAD, environ: dict[str, str] | None = None
    ) -> list[str]:
        try:
            loads(text, *overrides, head=head, environ=environ)
        except ConfigError as error:
            return list(error.mistakes)
        return []

    return mistakes_of
