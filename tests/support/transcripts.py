"""Transcripts: a story of lines, written as what is given and what is expected.

| line | meaning |
| --- | --- |
| ``>> connect a b`` | lines connect |
| ``>> a: b1 t2`` | a line reads these messages at once |
| ``>> kill a`` | a connection ends |
| ``>> wait 2`` | time passes, in steps of a tenth of a second |
| ``<< b1 t2!late gap:outage gap:M/b:unproven`` | exactly this was released since the last such line |
| ``== a good, b witness`` | the lines' states |

What follows ``#`` is a remark. Nothing may be left unexpected at the end.
"""

from feedhandler.core.messages import Gap, Release
from tests.support.lines import World


def check_transcript(world: World, story: str) -> World:
    """Let a story happen and compare what comes of it."""
    told = len(world.released)
    for raw in story.strip().splitlines():
        sign, _, rest = raw.split("#")[0].strip().partition(" ")
        match sign:
            case ">>":
                _happen(world, rest.split())
            case "<<":
                assert _show(world.released[told:]) == rest.split(), raw
                told = len(world.released)
            case "==":
                states = [pair.split() for pair in rest.split(", ")]
                assert [[name, world.arbiter.lines[name].health.state] for name, _ in states] == states, raw
            case _:
                assert not sign, raw
    assert _show(world.released[told:]) == []
    return world


def _happen(world: World, words: list[str]) -> None:
    match words:
        case ["connect", *names]:
            world.connect(*names)
        case ["kill", name]:
            world.kill(name)
        case ["wait", seconds]:
            world.wait(float(seconds))
        case [name, *payloads]:
            world.receive(name.removesuffix(":"), *[payload.encode() for payload in payloads])


def _show(released: list[Release | Gap]) -> list[str]:
    return [
        ("gap:" + ":".join(filter(None, (one.channel, one.reason))))
        if isinstance(one, Gap)
        else one.payload.decode() + (f"!{one.kind}" if one.kind else "")
        for one in released
    ]
