"""What the daemon runs for operators: the memory of the last minutes, and the HTTP server if it is switched on."""

from typing import Final

import trio

from feedhandler.core.notes import Notify, note
from feedhandler.errors import OperationalError
from feedhandler.observe.http import HttpServer
from feedhandler.observe.pages import Pages
from feedhandler.observe.sight import Sight

RETRY_S: Final = 0.5
"""Between two attempts to have an address that another daemon may still have."""


class Observation:
    """Lets operators look at one daemon, at ``address`` (host and port) or nowhere."""

    def __init__(self, sight: Sight, address: tuple[str, int] | None, notify: Notify) -> None:
        self.sight = sight
        self._notify = notify
        self._nursery: trio.Nursery | None = None
        self._scope = trio.CancelScope()
        self.server = (
            None if address is None else HttpServer(*address, Pages(sight, self._connections), notify)
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `end`; started when the address listens, if there is one."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if self.server is not None:
                    await nursery.start(self.server.serve)
                nursery.start_soon(self.sight.history.run)
                task_status.started()
                await trio.sleep_forever()

    def open(self, address: tuple[str, int] | None) -> None:
        """Serve at one more address as soon as it is free: its last holder may be just leaving."""
        if address is not None and self._nursery is not None:
            self._nursery.start_soon(self._serve_when_free, address)

    async def _serve_when_free(self, address: tuple[str, int]) -> None:
        told = False
        while True:
            server = HttpServer(*address, Pages(self.sight, self._connections), self._notify)
            try:
                await server.serve()
            except OperationalError as error:
                if not told:
                    self._notify(note("http_unavailable", reason=str(error)))
                told = True
            await trio.sleep(RETRY_S)

    def _connections(self) -> int:
        return 0 if self.server is None else self.server.connections

    def end(self) -> None:
        """End the service."""
        self._scope.cancel()
