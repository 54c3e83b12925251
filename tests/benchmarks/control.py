"""How the benchmark talks to its own children: a JSON object a line, each command with one answer.

The child's side (`Commands`) fits into a selector loop; the parent's side (`Child`) waits for an answer, but never for
ever, and ends the child by its own process id.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]
ANSWER_S = 180.0
"""The longest that an answer may take: every command is bounded by less."""
END_S = 10.0
READ_BYTES = 64 * 1024


class ChildFailed(Exception):
    """A child ended, or did not answer in time."""


class Commands:
    """The commands that come in on standard input, for a child with a selector loop."""

    def __init__(self) -> None:
        self._rest = b""

    def fileno(self) -> int:
        """Return what a selector waits for."""
        return sys.stdin.fileno()

    def read(self) -> list[dict[str, Any]] | None:
        """Return the commands that have come; None at the end of the input."""
        data = os.read(sys.stdin.fileno(), READ_BYTES)
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]

    @staticmethod
    def answer(**fields: object) -> None:
        """Answer the oldest unanswered command."""
        print(json.dumps(fields), flush=True)


class Child:
    """A child process, ended when the block is left; its standard error goes into ``log``, or to ``stderr``."""

    def __init__(self, *command: str, log: Path, stderr: int | None = None, **environ: str) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors if stderr is None else stderr,
                cwd=ROOT,
                env={**os.environ, **environ},
                start_new_session=True,
            )
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self, **command: object) -> dict[str, Any]:
        """Send a command and return its answer."""
        assert self._process.stdin is not None
        try:
            os.write(self._process.stdin.fileno(), json.dumps(command).encode() + b"\n")
        except BrokenPipeError as error:
            raise ChildFailed(f"ended before {command}; {self.errors()}") from error
        answer = json.loads(self._line(time.monotonic() + ANSWER_S, str(command)))
        assert isinstance(answer, dict)
        return answer

    def _line(self, deadline: float, wanted: str) -> bytes:
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        while b"\n" not in self._rest:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([output], [], [], left_s)[0]:
                raise ChildFailed(f"no answer in time to {wanted}; {self.errors()}")
            data = os.read(output, READ_BYTES)
            if not data:
                raise ChildFailed(f"ended at {wanted}; {self.errors()}")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def alive(self) -> bool:
        """Tell whether it has not ended."""
        return self._process.poll() is None

    def errors(self) -> str:
        """Return the end of what it has logged."""
        return self._log.read_text(errors="replace")[-2000:]

    def end(self) -> None:
        """Ask it to end; kill it where it does not."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


def python(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of the benchmark."""
    return [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments]
