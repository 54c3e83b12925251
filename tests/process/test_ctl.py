"""`feedhandler ctl` against a real daemon: what it prints, its exit codes, and what a hangup does."""

import os
import signal
import tomllib

import msgspec
import pytest

from tests.support.processes import Recorder, daemon, finished, simulated, write_config

NOWHERE = "ws://127.0.0.1:9"


async def test_a_running_daemon_is_steered(tmp_path, nursery):
    """(3) Listed, a line paused and resumed, a stream dropped and added, a market added: the rest is contiguous."""
    async with simulated("--market", "BTC-USD", "--market", "ETH-USD", "--rate", 200, tls=False) as exchange:
        config = write_config(tmp_path, exchange.url)
        async with daemon(config) as child:
            recorder = Recorder(tmp_path / "feed.sock")
            nursery.start_soon(recorder.run)
            await recorder.wait_for(100)

            async def ctl(*arguments):
                return await finished("ctl", "--config", config, *arguments)

            listed = await ctl("list")
            assert listed.process.returncode == 0
            assert str(tmp_path / "control.sock") in listed.output.lines[0]
            assert any(line.startswith("BTC-USD/publicTrades ") for line in listed.output.lines)
            listed = await finished("ctl", "--socket", tmp_path / "feed.sock", "--json", "list")
            answer = msgspec.json.decode(str(listed.output))
            assert answer["ok"]
            assert [feed["name"] for feed in answer["result"]["feeds"]] == ["BTC-USD"]

            for arguments, note in (
                (("pause", "BTC-USD", "a"), "line_paused"),
                (("resume", "BTC-USD", "a"), "line_resumed"),
                (("drop-stream", "BTC-USD", "publicTrades"), "feed_changed"),
                (("add-stream", "BTC-USD", "publicTrades"), "stream_joined"),
                (("add-market", "ETH-USD"), "feed_opened"),
                (("drop-market", "ETH-USD"), "feed_retired"),
                (("restart", "BTC-USD", "b"), "replacement_begun"),
            ):
                done = await ctl(*arguments)
                assert done.process.returncode == 0, str(done.errors)
                assert len(done.output.lines) == 1
                await child.errors.wait_for(f'"{note}"')

            refused = await ctl("rotate", "XRP-USD")
            assert refused.process.returncode == 1
            assert refused.errors.lines == ["feedhandler: there is no feed XRP-USD; there are: BTC-USD"]
            assert refused.output.lines == []
            refused = await ctl("--json", "rotate", "XRP-USD")
            assert refused.process.returncode == 1
            assert msgspec.json.decode(str(refused.output))["code"] == "unknown_feed"
            await recorder.wait_for(recorder.count + 100)
            assert recorder.is_contiguous()
            assert {one.channel for one in recorder.others if one.type == "gap"} == {"BTC-USD/publicTrades"}

            drained = await ctl("drain")
            assert drained.process.returncode == 0
            assert await child.wait() == 0
    gone = await finished("ctl", "--config", config, "list")
    assert gone.process.returncode == 1
    assert gone.errors.lines == [f"feedhandler: {tmp_path}/control.sock: no daemon is running there"]


async def test_a_file_that_has_changed_is_read_again(tmp_path):
    """A hangup and `ctl reload` do the same; a mistake is told, and costs nothing; what needs a restart is named."""
    config = write_config(tmp_path, NOWHERE)
    async with daemon(config) as child:
        text = config.read_text()
        config.write_text(text.replace('["BTC-USD"]', '["BTC-USD", "ETH-USD"]'))
        child.process.send_signal(signal.SIGHUP)
        await child.errors.wait_for('"config_reloaded"')
        assert [one["feed"] for one in child.notes("feed_opened")] == ["ETH-USD"]
        config.write_text(text.replace("lines = 3", "lines = 0"))
        refused = await finished("ctl", "--config", tmp_path / "feedhandler.toml", "reload")
        assert refused.process.returncode == 2  # the command reads the file, too
        refused = await finished("ctl", "--socket", tmp_path / "control.sock", "reload")
        assert refused.process.returncode == 1
        assert refused.errors.lines == ["feedhandler: feed[0].lines: expected 1..8, got 0"]
        config.write_text(text + "consumers = 7\n")
        done = await finished("ctl", "--socket", tmp_path / "control.sock", "reload")
        assert done.output.lines == ["the configuration is in force; at the next start: bounds.consumers"]
        assert [one["feed"] for one in child.notes("feed_retired")] == ["ETH-USD"]
        assert [one["key"] for one in child.notes("config_needs_restart")] == ["bounds.consumers"]
        assert tomllib.loads(config.read_text())["bounds"]["consumers"] == 7
        assert await child.stop() == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["list"],
        ["--socket", "s"],
        ["--socket", "s", "dance"],
        ["--socket", "s", "restart", "BTC-USD"],
        ["--socket", "s", "--config", "c", "list"],
        ["--config", "not-there.toml", "list"],
        ["--socket", "s", "--set", "publish.socket=x", "list"],
    ],
)
async def test_bad_usage(arguments):
    """A command line that says nothing useful ends with 2 and a word about it."""
    child = await finished("ctl", *arguments)
    assert child.process.returncode == 2
    assert child.errors.lines[-1].startswith("feedhandler")


async def test_what_is_no_socket_is_bad_usage(tmp_path):
    """A folder and a file are told from a socket where no daemon is."""
    file = tmp_path / "feed.sock"
    for path, what in ((tmp_path, "got a folder; name the socket in it"), (file, "got a file")):
        file.touch()
        child = await finished("ctl", "--socket", path, "list")
        assert child.process.returncode == 2
        assert child.errors.lines == [f"feedhandler: {path}: expected a socket, {what}"]


async def test_the_configuration_is_overridden_as_the_daemons_was(tmp_path):
    """A daemon that was told its socket by hand is found in the same way."""
    config = write_config(tmp_path, NOWHERE)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    options = ("--set", f"publish.socket={elsewhere}/feed.sock")
    async with daemon(config, *options) as child:
        assert (await finished("ctl", "--config", config, "list")).process.returncode == 1
        listed = await finished("ctl", "--config", config, *options, "list")
        assert listed.process.returncode == 0
        assert str(elsewhere / "control.sock") in listed.output.lines[0]
        assert await child.stop() == 0


async def test_help_says_how_long_a_change_lasts():
    """The help of the command, and of each command of it, says what becomes of a change."""
    for arguments in (["--help"], ["add-stream", "--help"], ["drop-market", "--help"]):
        child = await finished("ctl", *arguments)
        assert child.process.returncode == 0
        assert "until the configuration is read again" in " ".join(str(child.output).split())


async def test_the_control_socket_is_the_owners(tmp_path):
    """Nobody else may even connect; who names another daemon's feed socket in the same folder steers nothing."""
    async with daemon(write_config(tmp_path, NOWHERE)) as child:
        assert os.stat(tmp_path / "control.sock").st_mode & 0o777 == 0o600
        other = await finished("ctl", "--socket", tmp_path / "other.sock", "drain")
        assert other.process.returncode == 1
        assert other.errors.lines == ["feedhandler: the daemon here serves feed.sock, not other.sock"]
        assert await child.stop() == 0
    assert not (tmp_path / "control.sock").exists()
