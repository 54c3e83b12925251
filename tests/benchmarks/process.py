"""What the system knows of a process: its CPU time and its memory."""

import os
import time
from pathlib import Path

_CPU_CLOCK_OF_PROCESS = 2
MIB = 1024 * 1024


def cpu_s(pid: int) -> float:
    """Return the CPU time of all threads of a process, user and system, to the nanosecond."""
    return time.clock_gettime((~pid << 3) | _CPU_CLOCK_OF_PROCESS)


def rss_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    return _status_mib(pid, "VmRSS")


def peak_mib(pid: int) -> float:
    """Return the most resident memory that a process has had."""
    return _status_mib(pid, "VmHWM")


def _status_mib(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def machine() -> dict[str, object]:
    """Describe where the benchmark runs, as far as it helps to read figures."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {"cores": os.cpu_count(), "cpu": model, "load": os.getloadavg()}
