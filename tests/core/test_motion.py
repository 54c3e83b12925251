"""What counts as standing still: an old place, with work before it, at one look after the other."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from feedhandler.core.motion import ENDED, Motion, Part


def looked(*looks: list[Part]) -> Motion:
    """Look once a second."""
    motion = Motion()
    for second, parts in enumerate(looks):
        motion.look(parts, float(second))
    return motion


def part(place: int, *, waits: bool = True, key: str = "a", kind: str = "") -> Part:
    """Return a part with its key for a name."""
    return Part(key, key, place, (lambda: True) if waits else (lambda: False), kind)


def test_what_waits_in_its_old_place_stands_still():
    """It stands from the first look that finds it so, and no look before can tell."""
    motion = looked([part(1)], [part(1)], [part(1)])
    assert motion.standing(2.0, 1.0) == ["a"]
    assert motion.standing(2.0, 1.5) == []
    assert looked([part(1)]).standing(9.0, 0.0) == []
    assert motion.longest_s(3.0) == 2.0
    assert looked([part(1)]).longest_s(9.0) == 0.0


def test_what_moves_is_not_asked_whether_it_waits():
    """A look at what moves costs no more than the comparison."""
    asked: list[int] = []
    places = [Part("a", "a", place, lambda: bool(asked.append(1)) or True) for place in (1, 2, 3, 3)]
    motion = looked(*[[one] for one in places])
    assert asked == [1]
    assert motion.standing(3.0, 0.0) == ["a"]


def test_idle_and_slow_are_no_faults():
    """What has nothing to do may stay where it is, and what makes one step between two looks moves."""
    assert looked(*[[part(1, waits=False)]] * 9).standing(9.0, 0.0) == []
    assert looked(*[[part(place)] for place in range(9)]).standing(9.0, 0.0) == []
    assert looked([part(1)], [part(1)], [part(1, waits=False)], [part(1)]).standing(3.0, 0.5) == []


def test_an_end_is_no_progress_for_its_kind():
    """What ended standing still counts until another of its kind moves; what has no kind is forgotten."""
    stuck = [part(1, kind="reading"), part(1, key="b")]
    motion = looked(stuck, stuck, [], [part(1, key="c", kind="reading")])
    assert motion.standing(3.0, 1.0) == ["a"]
    motion.look([part(1, key="c", kind="reading")], 4.0)
    assert motion.standing(4.0, 1.0) == ["a"]
    motion.look([part(2, key="c", kind="reading")], 5.0)
    assert motion.standing(5.0, 0.0) == []


def test_few_ends_are_remembered():
    """However many parts end standing still, `ENDED` of them are remembered."""
    stuck = [part(1, key=str(number), kind="reading") for number in range(3 * ENDED)]
    assert len(looked(stuck, stuck, []).standing(2.0, 0.0)) == ENDED


@dataclass
class Model:
    """One part as it truly is: since when it has waited in its place, as far as the looks can tell."""

    place: int = 0
    waits: bool = False
    since: float | None = None
    places: list[int] = field(default_factory=list)


@given(st.lists(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=3, max_size=3), max_size=20))
def test_against_a_model(looks):
    """Of parts that last, exactly those stand still that waited in one place at each look since."""
    motion = Motion()
    models = [Model() for _ in range(3)]
    for second, steps in enumerate(looks):
        for model, (moves, waits) in zip(models, steps, strict=True):
            model.place += moves
            stays = bool(second) and not moves
            model.waits = waits
            model.since = (model.since if model.since is not None else second) if stays and waits else None
        motion.look([part(one.place, waits=one.waits, key=str(i)) for i, one in enumerate(models)], second)
        for longer_than_s in (0, 3):
            expected = [
                str(i)
                for i, one in enumerate(models)
                if one.since is not None and second - one.since >= longer_than_s
            ]
            assert sorted(motion.standing(second, longer_than_s)) == expected
