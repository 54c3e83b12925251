"""The catalogue of notes: every name that the program reports, how important it is, and what it means.

A note that is not in here is a bug, and a test finds it; at run time it is a warning, since a line in the log must not
cost a line of a feed. Names are in past tense. ``key`` names the fields that tell one story apart from another:
repetitions with the same key are written once a second at most, with their count.
"""

from typing import Final, NamedTuple

LEVELS: Final = {"": 0, "debug": 10, "info": 20, "warning": 30, "error": 40}
"""How important a note is; one without a level is counted and never logged."""


class Kind(NamedTuple):
    """How one kind of note is treated: its log level ("" for none), its meaning, and the fields that tell apart."""

    level: str
    meaning: str
    key: tuple[str, ...] = ("feed", "line")


CATALOGUE: Final[dict[str, Kind]] = {
    # the daemon
    "daemon_started": Kind("info", "the socket listens and the lines begin to connect"),
    "daemon_draining": Kind("info", "a signal asked for the end; consumers get what is pending"),
    "daemon_stopped": Kind("info", "the end"),
    "markets_listed": Kind("info", "the exchange has told its markets"),
    "markets_failed": Kind(
        "warning", "the exchange did not tell its markets; it is asked again", ("reason",)
    ),
    "markets_left_out": Kind(
        "error", "the exchange lists more markets than the limits allow lines for; the last ones have no feed"
    ),
    "config_reloaded": Kind("info", "the configuration was read again and has not changed"),
    "config_refused": Kind(
        "error", "the configuration was read again and has a mistake; the old one stays", ("mistake",)
    ),
    "config_needs_restart": Kind("warning", "a changed section takes effect at the next start", ("section",)),
    "progress_stopped": Kind(
        "error",
        "a part of the data path stands still with work before it; systemd gets no keep-alive",
        ("part",),
    ),
    "progress_resumed": Kind("warning", "a part of the data path that stood still has gone on", ("part",)),
    # lines
    "line_connected": Kind("info", "a line is connected"),
    "line_lost": Kind("warning", "a line's connection has ended", ("feed", "line", "reason")),
    "connect_failed": Kind("warning", "an attempt to connect has failed", ("feed", "line", "reason")),
    "line_restarted": Kind(
        "warning",
        "a line is replaced: it does not keep up with its peers, or is dead",
        ("feed", "line", "reason"),
    ),
    "line_quarantined": Kind(
        "error", "a line disagreed with its peers too often and is kept away for a while"
    ),
    "line_state_changed": Kind("debug", "a line's health has changed", ("feed", "line", "state")),
    "line_joined": Kind("debug", "a witness has proven its place in the merged sequence"),
    "line_anchored": Kind(
        "info", "a witness was aligned by decree: the sequence starts with it, or goes on behind a gap"
    ),
    "line_anchored_blindly": Kind(
        "warning", "a line was aligned after a gap although nothing tells how old its events are"
    ),
    "line_diverged": Kind("warning", "a line missed an event, or brought one that nobody else has"),
    "divergence_check_switched_off": Kind(
        "error", "all lines of a feed disagree: the check says nothing any more"
    ),
    "event_missed": Kind("info", "a line has not brought an event that others brought"),
    "order_contradicted": Kind("warning", "a line has brought an event that it had left out before"),
    "values_compared": Kind(
        "info", "a line brings the same values in other bytes; they are compared by value now"
    ),
    "failed_over": Kind("info", "the leading line is gone or stalled, and another has taken over"),
    "garbage_received": Kind(
        "warning", "a line brought something that is no event", ("feed", "line", "reason")
    ),
    "hold_overflowed": Kind("warning", "a witness brought more than is held; the oldest went"),
    "hold_outdated": Kind(
        "info", "events of a witness were left to the gap: they may have been released before it"
    ),
    "ghost_forgotten": Kind(
        "info", "what a dead line had held was forgotten, since others had died after it"
    ),
    "foreign_event": Kind(
        "warning", "a feed brought an event of a channel that belongs to another feed", ("feed", "channel")
    ),
    # feeds and channels
    "event_marked": Kind(
        "info", "an event that is late, backfilled or of unknown type was published", ("channel", "kind")
    ),
    "channel_left_out": Kind("error", "a feed brought an event of one channel too many"),
    "feed_state_changed": Kind("info", "a feed is live, quiet, syncing or down now", ("feed", "state")),
    "gap_declared": Kind("debug", "nothing proves that a feed is complete here", ("feed", "reason")),
    "gap_published": Kind("error", "a channel has a gap", ("channel", "reason")),
    # books and repairs
    "book_synchronised": Kind("info", "a book is there: a snapshot fits the held events", ("channel",)),
    "book_audited": Kind("debug", "a book was compared with a fresh snapshot", ("channel", "result")),
    "book_failed": Kind("error", "a book was wrong in these levels, and two snapshots say so", ("channel",)),
    "audit_distrusted": Kind(
        "error",
        "audits of a book fail again and again; they cost no more gaps until one passes",
        ("channel",),
    ),
    "trades_repaired": Kind("info", "trades behind a gap were recovered from a snapshot", ("channel",)),
    "snapshot_missed": Kind(
        "warning", "a request for a snapshot had no usable answer", ("channel", "reason")
    ),
    "resync_stuck": Kind("error", "a book cannot be synchronised; it is tried on every line", ("channel",)),
    "repair_overflowed": Kind(
        "warning", "more came during a repair than is held; a book's oldest went, trades go on", ("channel",)
    ),
    "delta_refused": Kind(
        "warning",
        "a delta cannot be read as levels; its book is wrong until the next snapshot",
        ("channel", "reason"),
    ),
    # tokens
    "token_renewed": Kind("info", "a token was fetched", ()),
    "token_refused": Kind("warning", "the token endpoint gave no token", ("status",)),
    # consumers
    "consumer_limit_tight": Kind(
        "warning", "consumers may fall behind by no more than a snapshot and a second of peak output", ()
    ),
    "consumer_connected": Kind("debug", "a consumer has connected", ("consumer", "pid")),
    "consumer_subscribed": Kind("info", "a consumer has subscribed", ("consumer", "pid")),
    "consumer_left": Kind("info", "a consumer's connection has ended", ("consumer", "pid", "reason")),
    "consumer_conflated": Kind(
        "warning", "a consumer did not keep up and was taken to the head", ("consumer", "pid")
    ),
    "consumer_dropped": Kind(
        "warning", "a consumer did not keep up and was disconnected", ("consumer", "pid")
    ),
    "resume_refused": Kind(
        "info", "a consumer wanted to go on where the backlog cannot", ("consumer", "reason")
    ),
    "request_refused": Kind("warning", "a consumer's request was refused", ("consumer", "code")),
    "accept_failed": Kind("error", "a consumer could not be let in", ("error",)),
    # files
    "incident_written": Kind("warning", "an incident file was written", ("file",)),
    "incident_lost": Kind("error", "an incident file could not be written", ("reason",)),
    "log_lines_lost": Kind("error", "whoever reads the log did not keep up, and lines were left out", ()),
}

_UNHEARD_OF: Final = Kind("warning", "not in this catalogue: a bug")


def kind_of(name: str) -> Kind:
    """Return how a note of this name is treated."""
    return CATALOGUE.get(name, _UNHEARD_OF)
