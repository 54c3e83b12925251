"""``feedhandler demo``: everything on this machine, with no configuration.

    this process                                    a child process
    ├── the daemon ◀─────── lines ───────────────── the simulated exchange, with faults
    ├── a consumer of its socket                       │
    └── the view                                     the truth: every broadcast, once, in order

At the end the exchange stops broadcasting and lets everything on its way arrive. Then what the consumer got is
compared with the truth, channel by channel and byte by byte.
"""

from feedhandler.demo.command import add_arguments, run

__all__ = ["add_arguments", "run"]
