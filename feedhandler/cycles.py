"""When memory is searched for cycles: at a moment when nothing moves.

What the daemon handles goes when nobody holds it any more; only lost connections and the like leave cycles behind. To
search all of memory for them takes tens of milliseconds, and Python does it in the middle of whatever happens.

- What is there at the start stays for good, and is not searched at all (``gc.freeze``).
- The young generations are searched as always, which takes some microseconds.
- The oldest is searched once in `EVERY_S`, when nothing has moved for `CALM_S`; where something always moves, once in
  `LONGEST_S`, for what has gathered by then has to go.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

LOOK_S: Final = 0.5
"""Between two looks whether it is a good moment."""

CALM_S: Final = 0.3
"""So long nothing has moved where it is one."""

EVERY_S: Final = 60.0
"""The shortest time between two searches."""

LONGEST_S: Final = 900.0
"""The longest time between two searches."""

NEVER: Final = 1_000_000_000
"""More searches of the middle generation than there ever are: the oldest is not searched by itself."""


async def sweep(moved_s: Callable[[], float]) -> None:
    """Search at good moments until cancelled; ``moved_s`` tells when something has moved last."""
    with _by_hand():
        swept_s = trio.current_time()
        while True:
            await trio.sleep(LOOK_S)
            now_s = trio.current_time()
            if now_s - swept_s >= (EVERY_S if now_s - moved_s() >= CALM_S else LONGEST_S):
                gc.collect()
                swept_s = now_s


@contextmanager
def _by_hand() -> Iterator[None]:
    """Have the oldest generation not searched by itself, and what is there now not at all."""
    young, middle, old = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(young, middle, NEVER)
    try:
        yield
    finally:
        gc.set_threshold(young, middle, old)
        gc.unfreeze()
