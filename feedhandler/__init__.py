"""Exact A/B line arbitration for a WebSocket market-data feed without sequence numbers.

A line reads bytes; its feed's arbiter admits every event exactly once; what it releases gets its channel's next seq,
goes into the backlog as the very bytes that consumers will get, and is on its way to every one of them before the
next is looked at.

- **The core performs no I/O and reads no clock.** [test_contract.py: test_the_core_is_pure]
- **No await between an event's arrival and its place in the backlog.** [test_contract.py: test_the_way_in_never_waits]
- **Per channel seqs are contiguous, and what could not be proven continuous is marked.**
  [test_daemon.py: test_an_outage_of_all_lines_is_one_gap_per_channel]
- **Nothing is published between a gap and its repair, and a book is the true one at every seq.**
  [test_repairs.py: test_books_survive_a_thousand_reconnects]
- **Data never raises.** [test_daemon.py: test_what_is_no_event_is_noted_and_left_out]
- **Everything has a bound, and a policy for reaching it.** [test_contract.py: test_every_bound_says_what_happens_at_it]
- **A slow consumer costs only itself.** [test_daemon.py: test_blocked_consumers_disk_and_log_cost_no_line]
- **A dead line costs nothing.** [test_daemon.py: test_any_line_may_die_at_any_event]
- **A dead feed costs no other feed.** [test_daemon.py: test_a_dead_feed_costs_no_other_feed]
- **One note is one metric and at most one log line.**
  [observe/test_catalogue.py: test_the_catalogue_is_what_the_program_notes]

The rooms, as data flows through them; what a room calls upward are callables that were handed down to it:

    core        pure: arbitration, window, line health, books and recovery, channels and their seqs, connection budget
    exchange    what is special to this exchange: requests, messages; token and markets
    ingest      the bytes of a line, the life of a line, a feed: its crew of lines, its channels, streams and pace; the
                ticker that tells all feeds the time
    control     what changes a daemon that runs: the configuration, the listed markets, `ctl` and its socket
    publish     the backlog, the Unix socket, its consumers
    standby     the second daemon on a host: it follows the active one, and takes over; what becomes of its feeds then
    client      reads the socket; knows nothing of the daemon
    bridge      the socket's stream in NATS JetStream, from one host or several; a program of its own
    observe     what operators see: metrics, health and state over HTTP, the page, `status` and `top`; the catalogue
                of notes, logs, incident files
    simulator   the exchange that everything is tried against
    demo        all of it on one machine, in front of people
    config, errors; daemon, the nursery tree and the wiring; cycles, when memory is searched for them; cli, the commands
"""

__version__ = "0.1.0"
