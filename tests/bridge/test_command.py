"""The command without a server: what is missing or wrong is one line, and the exit code 2."""

import inspect

import pytest

from feedhandler import cli
from feedhandler.bridge import command
from feedhandler.bridge.settings import OPTIONS, ConsumerSettings, StreamSettings

ARGUMENTS = ("bridge", "nats", "--socket", "feed.sock", "--server", "nats://127.0.0.1:9")


def test_without_its_library(monkeypatch, capsys):
    """Where nats-py is not installed, the message says how to get it."""
    monkeypatch.setattr(command, "find_spec", lambda _: None)
    assert cli.main(ARGUMENTS) == 2
    said = capsys.readouterr().err
    assert said == "feedhandler: bridge nats: nats-py is not installed: pip install 'feedhandler[nats]'\n"


@pytest.mark.parametrize(
    ("option", "value"),
    [("--takeover-s", "0"), ("--max-age-h", "-1"), ("--pending-mib", "inf"), ("--replicas", "6")],
)
def test_values_out_of_range(option, value, capsys):
    """A number that makes no sense is refused with the option's name."""
    with pytest.raises(SystemExit, match="2"):
        cli.main([*ARGUMENTS, option, value])
    assert option in capsys.readouterr().err


def test_differences_name_options():
    """Whatever an option says of a stream or a consumer is named by it where it is compared."""
    assert set(OPTIONS) <= {*StreamSettings().wanted(), *ConsumerSettings("desk").wanted("feed")}
    known = inspect.getsource(command)
    assert all(f'"{option}"' in known for option in OPTIONS.values())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--consumer", "a b"], "--consumer: expected a name of letters, digits, - and _, got a b"),
        (["--consumer", "a=x"], "--consumer: a: expected MARKET/STREAM, * for either or for all, got x"),
        (["--consumer", "a", "--consumer", "a=*/x"], "--consumer: a name comes twice"),
        (["--max-msgs", "0"], "--max-msgs: expected 1 or more, or -1, got 0"),
    ],
)
def test_options_that_make_no_sense(options, said, capsys):
    """Each is one line with what was expected."""
    assert cli.main([*ARGUMENTS, *options]) == 2
    assert capsys.readouterr().err == f"feedhandler: {said}\n"


def test_a_credentials_file_that_is_not_there(capfd, tmp_path):
    """It is a mistake of whoever started the bridge, found before anything is connected."""
    missing = tmp_path / "none.creds"
    assert cli.main([*ARGUMENTS, "--credentials", str(missing)]) == 2
    assert f"feedhandler: --credentials: {missing}: no such file or directory" in capfd.readouterr().err
