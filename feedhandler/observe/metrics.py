"""The metrics: every family with its name, what it says, and its labels.

Names begin with `PREFIX`, units are base units. Label values come from the configuration, from the exchange's list of
markets, from closed sets in the code, or, for ``consumer``, from a list of bounded length. What counts notes
(`feedhandler.observe.catalogue`) stands below; what is read off the running parts at each scrape is in
`feedhandler.observe.collecting`, each beside the way to read it.
"""

from typing import Final, Literal, NamedTuple

PREFIX: Final = "feedhandler_"

Kind = Literal["counter", "gauge", "histogram"]


class Family(NamedTuple):
    """One metric with all its series: its name without the prefix, its type, its help text, its labels."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


def counter(name: str, text: str, *labels: str) -> Family:
    """Make the family of a counter; its name ends in ``_total``."""
    return Family(f"{name}_total", "counter", text, labels)


def gauge(name: str, text: str, *labels: str) -> Family:
    """Make the family of a gauge."""
    return Family(name, "gauge", text, labels)


NOTES: Final = counter("notes", "Notes of names that have no metric of their own.", "note")

LINE_RECONNECTS: Final = counter(
    "line_reconnects", "Connections of a line that have ended, by reason.", "feed", "line", "reason"
)
HANDSHAKE_FAILURES: Final = counter(
    "handshake_failures",
    "Attempts to connect that have failed, by the HTTP status of the answer; 0: there was none.",
    "status",
)
LINE_RESTARTS: Final = counter(
    "line_restarts", "Connections of a line that were ended on purpose, by reason.", "feed", "line", "reason"
)
LINE_QUARANTINES: Final = counter(
    "line_quarantines", "How often a line was kept away for disagreeing.", "feed", "line"
)
LINE_STATE_CHANGES: Final = counter(
    "line_state_changes", "Changes of a line's health, by the new state.", "feed", "line", "state"
)
EVENTS_MISSED: Final = counter(
    "events_missed", "Events that a line has not brought although others did.", "feed", "line"
)
GARBAGE: Final = counter(
    "garbage", "Messages of a line that are no event, by what is wrong.", "feed", "line", "reason"
)
HOLD_OVERFLOWS: Final = counter(
    "hold_overflows", "How often a witness brought more than is held.", "feed", "line"
)
FAILOVERS: Final = counter(
    "failovers", "How often the leading line was gone or stalled and another took over.", "feed"
)
DIVERGENCES: Final = counter(
    "divergences", "Verdicts that a line missed an event or brought one that nobody else has.", "feed"
)
CHECKS_OFF: Final = counter(
    "divergence_checks_switched_off", "How often all lines disagreed and the check was given up.", "feed"
)
FOREIGN_EVENTS: Final = counter(
    "foreign_events", "Events that were left out: their channel belongs to another feed.", "feed"
)
CHANNELS_LEFT_OUT: Final = counter(
    "channels_left_out_events", "Events that were left out: their feed has too many channels.", "feed"
)
FEED_STATE_CHANGES: Final = counter(
    "feed_state_changes", "Changes of a feed's state, by the new state.", "feed", "state"
)
EVENT_CLASSES: Final = counter(
    "event_class", "Published events that are late, backfilled or unknown.", "channel", "class"
)
GAPS: Final = counter("gaps", "Gaps published, by reason.", "channel", "reason")
RESYNCS: Final = counter(
    "resyncs", "Books replaced by a snapshot of the exchange, by reason.", "channel", "reason"
)
AUDITS: Final = counter(
    "audits", "Comparisons of a book with a fresh snapshot, by result.", "channel", "result"
)
BOOKS_FAILED: Final = counter("books_failed", "Books that two snapshots have shown to be wrong.", "channel")
TRADES_REPAIRED: Final = counter("trades_repaired", "Repairs of a trade channel from a snapshot.", "channel")
SNAPSHOTS_MISSED: Final = counter(
    "snapshots_missed", "Requests for snapshots without a usable answer, by reason.", "channel", "reason"
)
RESYNCS_STUCK: Final = counter(
    "resyncs_stuck", "How often asking for one more snapshot in the same way was given up.", "channel"
)
REPAIR_OVERFLOWS: Final = counter(
    "repair_overflows", "How often more came during a repair than is held.", "channel"
)
DELTAS_REFUSED: Final = counter(
    "deltas_refused", "Deltas that cannot be read as levels, by reason.", "channel", "reason"
)
TOKEN_REQUESTS: Final = counter("token_requests", "Requests for a token, by result.", "result")
CONFIG_RELOADS: Final = counter(
    "config_reloads", "How often the configuration was read again, by result.", "result"
)
CONSUMERS_CONNECTED: Final = counter("consumers_connected", "Consumers that have connected.")
CONSUMERS_LEFT: Final = counter("consumers_left", "Consumers that have gone, by reason.", "reason")
CONSUMERS_DROPPED: Final = counter(
    "consumers_dropped", "Consumers that were disconnected, by reason.", "reason"
)
CONSUMERS_CONFLATED: Final = counter(
    "consumers_conflated", "How often a slow consumer was taken to the head."
)
RESUMES_REFUSED: Final = counter(
    "resumes_refused", "Consumers that could not go on where they wanted to, by reason.", "reason"
)
REQUESTS_REFUSED: Final = counter(
    "requests_refused", "Requests of consumers that were refused, by code.", "code"
)
TAKEOVERS: Final = counter(
    "takeovers",
    "How often this daemon took over from another, by whether the session went on whole.",
    "whole",
)
BRIDGE_GAPS: Final = counter(
    "bridge_gaps", "Gaps that a bridge has put into the stream of NATS, by reason.", "channel", "reason"
)
BRIDGE_REFUSALS: Final = counter(
    "bridge_refusals", "Messages that NATS has refused to store, by its error code.", "code"
)
BRIDGE_LINKS_LOST: Final = counter(
    "bridge_links_lost", "Connections to NATS that have ended, and attempts that have failed."
)
INCIDENTS: Final = counter("incidents", "Incident files, by what became of them.", "result")

COUNTERS: Final = tuple(
    value for value in tuple(globals().values()) if isinstance(value, Family) and value.kind == "counter"
)
"""Every family that counts notes."""

LOG_LINES_LOST: Final = counter(
    "log_lines_lost", "Log lines that were left out, for their reader did not keep up."
)
"""Counted by the log itself: where its reader does not keep up, a note could not tell."""

KNOWN_VALUES: Final[dict[str, tuple[str, ...]]] = {
    FAILOVERS.name: (),
    DIVERGENCES.name: (),
    CHECKS_OFF.name: (),
    GAPS.name: ("outage", "unproven", "divergence", "audit"),
    RESYNCS.name: ("start", "gap", "audit"),
    AUDITS.name: ("passed", "failed", "distrusted"),
}
"""Series that are there from the beginning, at 0, so that the first one counts as an increase: the last label's values.

They have the label ``feed`` alone, or ``channel`` and one more.
"""
