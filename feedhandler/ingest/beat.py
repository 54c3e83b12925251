"""Wake-ups in step: what many lines and feeds do at intervals, they do at common moments.

To wake a process that is idle costs more than what it then does for one line, and the second line of the same moment
costs half of the first. So waits that need not be exact end on a **beat**, which all share who wait in that step.
"""

from typing import Final

import trio

BEAT_S: Final = 0.1
"""Between two beats of those who have work to do."""


async def sleep_in_step(seconds: float, step_s: float = BEAT_S) -> None:
    """Sleep for so long, give or take half a step, until a beat; where that is no wait, for as long as it says."""
    now_s = trio.current_time()
    beat_s = round((now_s + seconds) / step_s) * step_s
    await trio.sleep_until(beat_s if beat_s > now_s else now_s + seconds)
