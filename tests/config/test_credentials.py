"""Key and secret: where they come from, and that they show nowhere."""

import pprint

import pytest
from rich.pretty import pretty_repr

from feedhandler.config import Config, Credentials, Exchange, Feed, have_files, read_credentials, render
from feedhandler.config.credentials import CREDENTIAL_BYTES
from feedhandler.errors import ConfigError

ENVIRON = {"FEEDHANDLER_API_KEY": "env-key", "FEEDHANDLER_API_SECRET": "env-secret"}


def config(**exchange: object) -> Config:
    """Make a configuration that fetches a token."""
    known = {"websocket_url": "wss://e", "token_url": "https://t"}
    return Config(exchange=Exchange(**(known | exchange)), feeds=(Feed(markets=("A",)),))


def faults(found: Config, environ: dict[str, str]) -> tuple[str, ...]:
    """Give the mistakes of the credentials."""
    with pytest.raises(ConfigError) as caught:
        read_credentials(found, environ)
    return caught.value.mistakes


def test_no_token_needs_no_credentials():
    """Without a token_url nothing is looked for."""
    assert read_credentials(config(token_url=""), ENVIRON) is None


def test_file_then_credential_then_environment(tmp_path):
    """The first place that has one counts, for key and secret separately; white space around it is cut."""
    file = tmp_path / "key"
    file.write_text(" file-key\n")
    (tmp_path / "api-key").write_text("credential-key\n")
    (tmp_path / "api-secret").write_text("credential-secret\n")
    environ = ENVIRON | {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert read_credentials(config(), ENVIRON) == Credentials(key="env-key", secret="env-secret")
    assert read_credentials(config(), environ) == Credentials(
        key="credential-key", secret="credential-secret"
    )
    assert read_credentials(config(api_key_file=file), environ) == Credentials(
        key="file-key", secret="credential-secret"
    )
    (tmp_path / "api-secret").unlink()
    assert read_credentials(config(api_key_file=file), environ) == Credentials(
        key="file-key", secret="env-secret"
    )


def test_only_systemd_names_the_folder_of_credentials(tmp_path, monkeypatch):
    """Without $CREDENTIALS_DIRECTORY a file of that name in the current folder is none."""
    (tmp_path / "api-key").write_text("stray-key")
    monkeypatch.chdir(tmp_path)
    assert read_credentials(config(), ENVIRON) == Credentials(key="env-key", secret="env-secret")


def test_files_are_read_anew(tmp_path):
    """A file that changes while the program runs counts at the next call."""
    file = tmp_path / "key"
    for key in ("one", "two"):
        file.write_text(key)
        assert read_credentials(config(api_key_file=file), ENVIRON) == Credentials(
            key=key, secret="env-secret"
        )


def test_missing_credentials_name_all_three_places(finds):
    """With a token_url and nothing to log in with, loading fails and says where key and secret may be."""
    needs = "exchange.token_url needs this file, the systemd credential"
    text = 'token_url = "https://t"\n[[feed]]'
    assert finds(text, environ={"FEEDHANDLER_API_KEY": ""}) == [
        f'exchange.api_key_file: {needs} "api-key" or $FEEDHANDLER_API_KEY',
        f'exchange.api_secret_file: {needs} "api-secret" or $FEEDHANDLER_API_SECRET',
    ]
    assert finds(text, environ=ENVIRON) == []


def test_a_named_file_must_be_there(tmp_path):
    """A file that is named and missing is a mistake although the environment has a key."""
    assert faults(config(api_key_file=tmp_path / "no"), ENVIRON) == (
        f"exchange.api_key_file: {tmp_path}/no cannot be read: No such file or directory",
    )


@pytest.mark.parametrize(
    "content", [b"", b" \n", b"two words", b"a\nb", b"\xff", b"a\x00b", b"x" * (CREDENTIAL_BYTES + 1)]
)
def test_a_credential_is_one_word(tmp_path, content):
    """What can't stand in a header is refused, and nothing of it is quoted."""
    file = tmp_path / "secret-file"
    file.write_bytes(content)
    (found,) = faults(config(api_secret_file=file), ENVIRON)
    assert found.startswith(f"exchange.api_secret_file: {file}")
    assert "two" not in found
    assert "\n" not in found


@pytest.mark.parametrize("value", ["two\nlines", "schl\xfcssel", "\udcff", "a\x00b", "\ufeffkey"])
def test_a_value_of_the_environment_is_one_word(value):
    """(11) What the environment holds is judged likewise: one line that names the variable and not its value."""
    (found,) = faults(config(), ENVIRON | {"FEEDHANDLER_API_KEY": value})
    expected = "expected one word of visible ASCII characters"
    assert found == f"exchange.api_key_file: $FEEDHANDLER_API_KEY: {expected}"


def test_whether_files_are_read(tmp_path):
    """Only an environment can be read without a disk."""
    assert not have_files(config(), ENVIRON)
    assert have_files(config(), {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert have_files(config(api_key_file=tmp_path / "k"), {})
    assert have_files(config(api_secret_file=tmp_path / "s"), {})


def test_nothing_shows_the_values(tmp_path):
    """Neither a representation nor the rendered configuration holds key or secret."""
    (tmp_path / "k").write_text("hunter-key")
    (tmp_path / "s").write_text("hunter-secret")
    found = config(api_key_file=tmp_path / "k", api_secret_file=tmp_path / "s")
    credentials = read_credentials(found, {})
    assert credentials == Credentials(key="hunter-key", secret="hunter-secret")
    for text in (
        repr(credentials),
        pprint.pformat(credentials),
        pretty_repr(credentials),
        render(found),
        repr(found),
    ):
        assert "hunter" not in text
