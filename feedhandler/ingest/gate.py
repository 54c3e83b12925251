"""The budget of connection attempts as lines see it: wait for a slot, use it, give it back.

There is no task behind the gate. Whoever waits sleeps until a slot can be free and then serves all who
wait, the most urgent first; so a cancelled waiter takes nothing with it.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from feedhandler.core.budget import Budget, Request

SETTLE_S: Final = 0.02
"""How long everyone waits at least, so that who asks at about the same time is weighed together."""


class Gate:
    """One for the process: every attempt to connect passes through it."""

    def __init__(self, connections_per_minute: int) -> None:
        self._budget = Budget(connections_per_minute)
        self._granted: dict[Request, trio.Event] = {}

    def __repr__(self) -> str:
        return f"<Gate {self._budget!r}>"

    def available(self) -> int:
        """Return how many attempts may begin at once."""
        return self._budget.available(trio.current_time())

    @property
    def waiting(self) -> int:
        """How many attempts wait for a slot."""
        return self._budget.waiting

    @property
    def limit(self) -> int:
        """How many attempts may begin in any minute."""
        return self._budget.connections_per_minute

    def set_limit(self, connections_per_minute: int) -> None:
        """Change the limit, for the attempts that are yet to begin."""
        self._budget.connections_per_minute = connections_per_minute

    @asynccontextmanager
    async def attempt(
        self, priority: Callable[[], int], on_grant: Callable[[], None] = lambda: None
    ) -> AsyncIterator[None]:
        """Wait for a slot; the body is the attempt.

        ``on_grant`` is called at the moment of the choice, before any other request's priority is asked for.
        """
        await self._wait(Request(priority, on_grant))
        try:
            yield
        finally:
            self._budget.finish(trio.current_time())

    async def _wait(self, request: Request) -> None:
        event = self._granted[request] = trio.Event()
        self._budget.ask(request)
        try:
            await trio.sleep(SETTLE_S)
            while not request.granted:
                now_s = trio.current_time()
                self._serve(now_s)
                with trio.move_on_at(self._budget.next_s(now_s)):
                    await event.wait()
        except trio.Cancelled:
            self._forget(request)
            raise
        finally:
            del self._granted[request]

    def _serve(self, now_s: float) -> None:
        for request in self._budget.grant(now_s):
            self._granted[request].set()

    def _forget(self, request: Request) -> None:
        """Undo a request whose waiter was cancelled; a slot that it held already stays counted."""
        if request.granted:
            self._budget.finish(trio.current_time())
        else:
            self._budget.withdraw(request)
