"""The command without a server: what is missing or wrong is one line, and the exit code 2."""

import pytest

from feedhandler import cli
from feedhandler.bridge import command

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


def test_a_credentials_file_that_is_not_there(capfd, tmp_path):
    """It is a mistake of whoever started the bridge, found before anything is connected."""
    missing = tmp_path / "none.creds"
    assert cli.main([*ARGUMENTS, "--credentials", str(missing)]) == 2
    assert f"feedhandler: --credentials: {missing}: no such file or directory" in capfd.readouterr().err
