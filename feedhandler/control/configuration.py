"""The configuration in force, and another one that takes its place while the daemon runs.

    read again (in a thread) ──▶ a mistake: refused, and nothing changes
                             └─▶ adopted as far as it can be ──▶ it takes effect

One reading is under way at a time; who asks meanwhile has it read once more, however many ask. What is fixed while the
daemon runs keeps its old value, and is named (`config.difference`). Everything else is in force at once, and ``effect``
is told what was so before and what is now: who goes by it has to do something about the difference only.
"""

from collections.abc import Callable

import trio

from feedhandler.config import Config, adopt
from feedhandler.control.requests import Answer, Done, Refusal
from feedhandler.core.notes import Notify, note
from feedhandler.errors import ConfigError


class Configuration:
    """What is in force: ``now``; ``load`` reads it again, and raises `ConfigError`."""

    def __init__(
        self,
        now: Config,
        load: Callable[[], Config],
        *,
        effect: Callable[[Config, Config], None],
        is_ending: Callable[[], bool],
        notify: Notify,
    ) -> None:
        self.now = now
        self._load = load
        self._effect = effect
        self._is_ending = is_ending
        self._notify = notify
        self._reading = self._read_again = False

    async def reload(self) -> Answer:
        """Read the configuration again, and let it take effect unless it has a mistake."""
        if self._reading:
            self._read_again = True
            return Refusal("busy", "the configuration is being read already; it will be read once more")
        self._reading = True
        try:
            while True:
                self._read_again = False
                answer = await self._read()
                if not self._read_again:
                    return answer
        finally:
            self._reading = False

    async def _read(self) -> Answer:
        try:
            config = await trio.to_thread.run_sync(self._load, abandon_on_cancel=True)
        except ConfigError as error:
            for mistake in error.mistakes:
                self._notify(note("config_refused", mistake=mistake))
            return Refusal("bad_config", "; ".join(error.mistakes))
        if self._is_ending():
            return Refusal("draining", "the daemon is about to end")
        fixed = self._adopt(config)
        text = f"; at the next start: {', '.join(fixed)}" if fixed else ""
        return Done(f"the configuration is in force{text}")

    def _adopt(self, config: Config) -> tuple[str, ...]:
        """Let a configuration take effect; return the changed keys that cannot."""
        before, (self.now, fixed) = self.now, adopt(self.now, config)
        for key in fixed:
            self._notify(note("config_needs_restart", key=key))
        self._effect(before, self.now)
        return fixed
