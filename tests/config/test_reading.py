"""Files, folders, overrides, and what relative paths count from."""

from pathlib import Path

import pytest

from feedhandler.config import load
from feedhandler.config.reading import FILE_BYTES, collapsed
from feedhandler.errors import ConfigError

EXCHANGE = '[exchange]\nwebsocket_url = "wss://e"\n'


def mistakes_of(path: Path, *overrides: str) -> tuple[str, ...]:
    """Give the mistakes that loading ``path`` raises."""
    with pytest.raises(ConfigError) as caught:
        load(path, overrides, environ={})
    return caught.value.mistakes


def test_a_folder_is_read_in_order_merged_and_appended(tmp_path):
    """Tables are merged, the later value stands, feeds follow each other, other files are ignored."""
    (tmp_path / "20-more.toml").write_text('[publish]\ngroup = "b"\n[[feed]]\nmarkets = ["B"]\n')
    (tmp_path / "10-base.toml").write_text(
        EXCHANGE + '[publish]\ngroup = "a"\ndrain_s = 1\n[[feed]]\nmarkets = ["A"]\n'
    )
    (tmp_path / ".30-hidden.toml").write_text("not toml")
    (tmp_path / "notes.txt").write_text("not toml")
    config = load(tmp_path, environ={})
    assert [feed.markets for feed in config.feeds] == [("A",), ("B",)]
    assert (config.publish.group, config.publish.drain_s) == ("b", 1.0)


def test_a_folder_without_files_is_a_mistake(tmp_path):
    """An empty folder is named, not read as an empty configuration."""
    assert mistakes_of(tmp_path) == (f"{tmp_path}: expected files *.toml in this folder, found none",)


def test_every_faulty_file_of_a_folder_is_reported(tmp_path):
    """One broken file does not hide the next one."""
    (tmp_path / "a.toml").write_text("a = [1, 2")
    (tmp_path / "b.toml").write_bytes(b"# ok \xff\n")
    (tmp_path / "c.toml").write_text("x = 1\nx = 2\n")
    (tmp_path / "d.toml").mkdir()
    found = mistakes_of(tmp_path)
    assert [mistake.split(": ")[0] for mistake in found] == [f"{tmp_path}/{name}.toml" for name in "abcd"]
    assert "byte 6" in found[1]
    assert "line 2" in found[2]
    assert found[3].endswith("cannot be read: Is a directory")
    assert not any("\n" in mistake for mistake in found)


@pytest.mark.parametrize("content", ["x = " + "[" * 100_000, "x = " + "9" * 5000])
def test_a_hostile_file_is_one_mistake(tmp_path, content):
    """What the TOML parser chokes on in its own ways is a mistake like any other."""
    file = tmp_path / "f.toml"
    file.write_text(content)
    (found,) = mistakes_of(file)
    assert found.startswith(f"{file}: ")
    assert "\n" not in found


def test_a_file_has_a_bound(tmp_path):
    """A file that is too large is not parsed, and one that does not end is not read to its end."""
    file = tmp_path / "f.toml"
    file.write_text("#" * (FILE_BYTES + 1))
    assert mistakes_of(file) == (f"{file}: cannot be read: larger than {FILE_BYTES} bytes",)
    assert mistakes_of(Path("/dev/zero")) == (f"/dev/zero: cannot be read: larger than {FILE_BYTES} bytes",)


def test_a_missing_file_is_one_line(tmp_path):
    """A path that leads nowhere is named with the system's reason."""
    assert mistakes_of(tmp_path / "no.toml") == (
        f"{tmp_path}/no.toml: cannot be read: No such file or directory",
    )
    assert mistakes_of(Path("x" * 5000))[0].endswith(": cannot be read: File name too long")


def test_relative_paths_count_from_their_file(tmp_path, monkeypatch):
    """Each file of a folder has its own base, overrides have the current folder, absolute paths stay."""
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "a.toml").write_text(EXCHANGE + '[[feed]]\nmarkets = ["A"]\n[publish]\nsocket = "feed.sock"\n')
    (folder / "b.toml").write_text('[observe]\nincidents = "/var/incidents"\n')
    monkeypatch.chdir(tmp_path)
    config = load(Path("etc"), environ={})
    assert config.publish.socket == folder / "feed.sock"
    assert config.observe.incidents == Path("/var/incidents")
    for override in ("publish.socket=./x.sock", 'publish={socket="x.sock"}'):
        assert load(Path("etc"), [override], environ={}).publish.socket == tmp_path / "x.sock"


def test_paths_that_step_up_read_as_what_they_are(tmp_path):
    """``..`` goes, by the links that the system would follow; other links stay, and a circle of them is no mistake."""
    (tmp_path / "real" / "config").mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "real" / "config")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "real" / "keys").symlink_to(tmp_path / "real" / "config")
    at = tmp_path / "linked"
    assert collapsed(at / ".." / "feed.sock") == tmp_path / "real" / "feed.sock"
    assert collapsed(at / ".." / "keys" / "key") == tmp_path / "real" / "keys" / "key"
    assert collapsed(at / "feed.sock") == at / "feed.sock"
    assert collapsed(tmp_path / "away" / ".." / "feed.sock") == tmp_path / "feed.sock"
    for odd in (tmp_path / "circle" / ".." / "x", tmp_path / "a\0b" / ".." / "x"):
        assert collapsed(odd) in {odd, tmp_path / "x"}
    assert collapsed(Path("/..") / "x") == Path("/x")


def test_overrides_are_toml_or_else_text(loads):
    """Numbers, lists and quoted text are TOML; what is not stands as it is; the last one counts."""
    config = loads(
        '[[feed]]\nmarkets = ["A"]\n',
        "publish.drain_s=1",
        "publish.drain_s = 2.5",
        "feed[0].lines=3",
        'feed[0].markets=["B", "C"]',
        "feed[0].markets[1]=D",
        "publish.mode=0600",
        'log.level="debug"',
        "log.format=json",
        "observe.http=",
        "publish.group=a=b",
        "limits={connections_per_minute=7}",
    )
    assert config.publish.drain_s == 2.5
    assert (config.feeds[0].lines, config.feeds[0].markets) == (3, ("B", "D"))
    assert (config.publish.mode, config.publish.group) == ("0600", "a=b")
    assert (config.log.level, config.log.format, config.observe.http) == ("debug", "json", "")
    assert config.limits.connections_per_minute == 7


def test_an_override_cannot_bring_a_second_key(finds):
    """A value with a line break is text and no further TOML."""
    assert finds('[[feed]]\nmarkets = ["A"]', 'log.level="info"\nx=1') == [
        'log.level: expected one of "debug", "info", "warning", "error", got "\\"info\\"\\u000ax=1"'
    ]


@pytest.mark.parametrize(
    ("override", "mistake"),
    [
        ("drain", '--set: expected KEY=VALUE such as publish.drain_s=5, got "drain"'),
        ("a..b=secret", '--set: expected KEY=VALUE such as publish.drain_s=5, got "a..b"'),
        ("=3", '--set: expected KEY=VALUE such as publish.drain_s=5, got ""'),
        ("feed[1].lines=3", "--set feed[1].lines: there is no [1], the list has 1"),
        ("feed.lines=3", "--set feed.lines: expected a table around lines, got a list of tables"),
        ("publish[0]=3", "--set publish[0]: there is no list publish"),
        ("log.level[0]=3", '--set log.level[0]: expected a list around [0], got "info"'),
        ("log.level.x=3", '--set log.level.x: expected a table around x, got "info"'),
        ("publish.sokket=x", "publish.sokket: unknown key, did you mean socket?"),
        ("publish.socket=/\udcff", 'publish.socket: expected a path, got "/\\udcff"'),
        ("feed[0].lines=x", 'feed[0].lines: expected 1..8, got "x"'),
    ],
)
def test_a_faulty_override_is_named(finds, override, mistake):
    """Overrides that lead nowhere, or to a wrong value, are one mistake each."""
    assert finds('[[feed]]\nmarkets = ["A"]\n[log]\nlevel = "info"', override) == [mistake]
