"""What the daemon runs for operators: the memory of the last minutes, and the HTTP server if it is switched on."""

import trio

from feedhandler.core.notes import Notify
from feedhandler.observe.http import HttpServer
from feedhandler.observe.pages import Pages
from feedhandler.observe.sight import Sight


class Observation:
    """Lets operators look at one daemon, at ``address`` (host and port) or nowhere."""

    def __init__(self, sight: Sight, address: tuple[str, int] | None, notify: Notify) -> None:
        self.sight = sight
        self._scope = trio.CancelScope()
        self.server = (
            None if address is None else HttpServer(*address, Pages(sight, self._connections), notify)
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `end`; started when the address listens, if there is one."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                if self.server is not None:
                    await nursery.start(self.server.serve)
                nursery.start_soon(self.sight.history.run)
                task_status.started()
                await trio.sleep_forever()

    def _connections(self) -> int:
        return 0 if self.server is None else self.server.connections

    def end(self) -> None:
        """End the service."""
        self._scope.cancel()
