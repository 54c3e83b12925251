"""The catalogue of notes: every name that the program reports, how important it is, and what it means.

A note that is not in here is a bug, and a test finds it; at run time it is a warning, since a line in the log must not
cost a line of a feed. Names are in past tense. ``key`` names the fields that tell one story apart from another:
repetitions with the same key are written once a second at most, with their count. ``metric`` is the one that
counts the note, logged or not.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from feedhandler.core.notes import Note
from feedhandler.observe import metrics

LEVELS: Final = {"": 0, "debug": 10, "info": 20, "warning": 30, "error": 40}
"""How important a note is; one without a level is counted and never logged."""


class Kind(NamedTuple):
    """How one kind of note is treated: its log level ("" for none), its meaning, the fields that tell apart.

    Its ``metric`` has fields of the note for labels, or what is ``fixed``; `metrics.NOTES` counts by the note's name.
    """

    level: str
    meaning: str
    key: tuple[str, ...] = ("feed", "line")
    metric: metrics.Family = metrics.NOTES
    fixed: Mapping[str, str] = MappingProxyType({})

    def story(self, one: Note) -> tuple[str, ...]:
        """Return what a note has in common with those that it repeats."""
        return (one.name, *(str(one.fields.get(field, "")) for field in self.key))


CATALOGUE: Final[dict[str, Kind]] = {
    # the daemon
    "daemon_started": Kind("info", "the socket listens and the lines begin to connect"),
    "following_began": Kind("info", "this daemon follows the active one, to take over one day"),
    "following_level": Kind(
        "info", "the active daemon tells this one everything before it tells any consumer"
    ),
    "following_behind": Kind(
        "warning", "this daemon reads too slowly: the active one goes on before it, until it has caught up"
    ),
    "following_ended": Kind("warning", "the active daemon is gone, or was not followed fast enough"),
    "standby_ready": Kind("info", "this daemon could take over at once, without a gap"),
    "standby_unready": Kind("warning", "this daemon could not take over without a gap any more"),
    "took_over": Kind("warning", "this daemon is the active one from now on", metric=metrics.TAKEOVERS),
    "http_unavailable": Kind(
        "warning", "another process has the address of observe.http; it is tried again and again"
    ),
    "daemon_draining": Kind("info", "a signal asked for the end; consumers get what is pending"),
    "daemon_stopped": Kind("info", "the end"),
    "markets_listed": Kind("info", "the exchange has told its markets, and they are others than before"),
    "markets_failed": Kind(
        "warning", "the exchange did not tell its markets; it is asked again", ("reason",)
    ),
    "markets_doubted": Kind(
        "warning", "the exchange told so few of its markets that it is not believed; none is given up"
    ),
    "markets_left_out": Kind(
        "error", "the exchange lists more markets than can be taken or have lines; the last ones have no feed"
    ),
    "config_reloaded": Kind(
        "info",
        "the configuration was read again and is in force",
        metric=metrics.CONFIG_RELOADS,
        fixed={"result": "applied"},
    ),
    "config_refused": Kind(
        "error",
        "the configuration was read again and has a mistake; the old one stays",
        ("mistake",),
        metric=metrics.CONFIG_RELOADS,
        fixed={"result": "refused"},
    ),
    "config_needs_restart": Kind("warning", "a changed key takes effect at the next start", ("key",)),
    "control_unavailable": Kind("warning", "there is no control socket; all else goes on without"),
    "command_received": Kind("info", "an operator has asked for something", ("op", "on", "outcome")),
    "progress_stopped": Kind(
        "error",
        "a part of the data path stands still with work before it; systemd gets no keep-alive",
        ("part",),
    ),
    "progress_resumed": Kind("warning", "a part of the data path that stood still has gone on", ("part",)),
    # lines
    "line_connected": Kind("info", "a line is connected"),
    "line_lost": Kind(
        "warning", "a line's connection has ended", ("feed", "line", "reason"), metric=metrics.LINE_RECONNECTS
    ),
    "connect_failed": Kind(
        "warning",
        "an attempt to connect has failed",
        ("feed", "line", "reason"),
        metric=metrics.HANDSHAKE_FAILURES,
    ),
    "line_restarted": Kind(
        "warning",
        "a line is replaced: it does not keep up with its peers, or is dead",
        ("feed", "line", "reason"),
        metric=metrics.LINE_RESTARTS,
    ),
    "replacement_begun": Kind(
        "info", "a line is to be replaced: a new one connects beside it, or it begins anew", ("feed", "line")
    ),
    "line_replaced": Kind("info", "a line has gone, and its successor has its place", ("feed", "line")),
    "replacement_given_up": Kind(
        "warning",
        "a successor was refused or lost, or has found no place; the old line stays",
        ("feed", "line"),
    ),
    "line_paused": Kind("info", "somebody has told a line to rest", ("feed", "line")),
    "line_resumed": Kind("info", "somebody has told a line to go on", ("feed", "line")),
    "cap_learnt": Kind(
        "warning",
        "the exchange allows fewer connections of a market than is configured; the others wait",
        ("market",),
    ),
    "cap_raised": Kind("info", "the exchange allows more connections of a market than it did", ("market",)),
    "place_given_up": Kind(
        "warning",
        "a feed has let a line go that it can do without, since another one had none for want of a place",
        ("feed", "line"),
    ),
    "attempts_paused": Kind(
        "warning", "the exchange has asked to be left alone for a while; nobody connects", ("status",)
    ),
    "attempts_unshared": Kind(
        "error", "there is no file beside the socket in which daemons count their attempts together"
    ),
    "line_quarantined": Kind(
        "error",
        "a line disagreed with its peers too often and is kept away for a while",
        metric=metrics.LINE_QUARANTINES,
    ),
    "line_state_changed": Kind(
        "debug", "a line's health has changed", ("feed", "line", "state"), metric=metrics.LINE_STATE_CHANGES
    ),
    "line_joined": Kind("debug", "a witness has proven its place in the merged sequence"),
    "line_anchored": Kind(
        "info", "a witness was aligned by decree: the sequence starts with it, or goes on behind a gap"
    ),
    "line_anchored_blindly": Kind(
        "warning", "a line was aligned after a gap although nothing tells how old its events are"
    ),
    "line_diverged": Kind(
        "warning", "a line missed an event, or brought one that nobody else has", metric=metrics.DIVERGENCES
    ),
    "divergence_check_switched_off": Kind(
        "error", "all lines of a feed disagree: the check says nothing any more", metric=metrics.CHECKS_OFF
    ),
    "event_missed": Kind(
        "info", "a line has not brought an event that others brought", metric=metrics.EVENTS_MISSED
    ),
    "order_contradicted": Kind("warning", "a line has brought an event that it had left out before"),
    "values_compared": Kind(
        "info", "a line brings the same values in other bytes; they are compared by value now"
    ),
    "failed_over": Kind(
        "info", "the leading line is gone or stalled, and another has taken over", metric=metrics.FAILOVERS
    ),
    "garbage_received": Kind(
        "warning",
        "a line brought something that is no event",
        ("feed", "line", "reason"),
        metric=metrics.GARBAGE,
    ),
    "hold_overflowed": Kind(
        "warning", "a witness brought more than is held; the oldest went", metric=metrics.HOLD_OVERFLOWS
    ),
    "event_misshapen": Kind(
        "warning",
        "a line brought an event that lacks what tells its channel; it went to the messages of unknown type",
        ("feed", "line", "reason"),
    ),
    "hold_outdated": Kind(
        "info", "events of a witness were left to the gap: they may have been released before it"
    ),
    "ghost_forgotten": Kind(
        "info", "what a dead line had held was forgotten, since others had died after it"
    ),
    "foreign_event": Kind(
        "warning",
        "a feed brought an event of a channel that belongs to another feed",
        ("feed", "channel"),
        metric=metrics.FOREIGN_EVENTS,
    ),
    "unknown_withheld": Kind(
        "warning",
        "a message of unknown type may be about the account, and its channel is for everybody: it was left out",
        ("feed", "channel"),
    ),
    # feeds and channels
    "event_marked": Kind(
        "info",
        "an event that is late, backfilled or of unknown type was published",
        ("channel", "kind"),
        metric=metrics.EVENT_CLASSES,
    ),
    "channel_left_out": Kind(
        "error", "a feed brought an event of one channel too many", metric=metrics.CHANNELS_LEFT_OUT
    ),
    "feed_state_changed": Kind(
        "info",
        "a feed is live, quiet, syncing or down now",
        ("feed", "state"),
        metric=metrics.FEED_STATE_CHANGES,
    ),
    "feed_opened": Kind("info", "a feed has come"),
    "feed_changed": Kind("info", "a feed gets other lines or other streams"),
    "feed_retired": Kind("info", "a feed was given up; its lines say goodbye"),
    "stream_joined": Kind("info", "an added stream has begun on all lines of a feed", ("feed", "stream")),
    "output_lacked": Kind(
        "warning", "a line of the standby brought events that the active daemon has not published"
    ),
    "straggler_left_out": Kind(
        "debug", "an event of a stream that is not the feed's any more, or not yet", ("feed", "channel")
    ),
    "subscribe_failed": Kind(
        "warning",
        "a line could not be brought to change its subscriptions; it is replaced",
        ("feed", "line", "reason"),
    ),
    "gap_declared": Kind("debug", "nothing proves that a feed is complete here", ("feed", "reason")),
    "gap_published": Kind("error", "a channel has a gap", ("channel", "reason"), metric=metrics.GAPS),
    # books and repairs
    "book_synchronised": Kind(
        "info", "a book is there: a snapshot fits the held events", ("channel",), metric=metrics.RESYNCS
    ),
    "book_audited": Kind(
        "debug", "a book was compared with a fresh snapshot", ("channel", "result"), metric=metrics.AUDITS
    ),
    "book_failed": Kind(
        "error",
        "a book was wrong in these levels, and two snapshots say so",
        ("channel",),
        metric=metrics.BOOKS_FAILED,
    ),
    "audit_distrusted": Kind(
        "error",
        "audits of a book fail again and again; they cost no more gaps until one passes",
        ("channel",),
    ),
    "trades_repaired": Kind(
        "info",
        "trades behind a gap were recovered from a snapshot",
        ("channel",),
        metric=metrics.TRADES_REPAIRED,
    ),
    "snapshot_missed": Kind(
        "warning",
        "a request for a snapshot had no usable answer",
        ("channel", "reason"),
        metric=metrics.SNAPSHOTS_MISSED,
    ),
    "resync_stuck": Kind(
        "error",
        "a book cannot be synchronised; it is tried on every line",
        ("channel",),
        metric=metrics.RESYNCS_STUCK,
    ),
    "repair_overflowed": Kind(
        "warning",
        "more came during a repair than is held; a book's oldest went, trades go on",
        ("channel",),
        metric=metrics.REPAIR_OVERFLOWS,
    ),
    "delta_refused": Kind(
        "warning",
        "a delta cannot be read as levels; its book is wrong until the next snapshot",
        ("channel", "reason"),
        metric=metrics.DELTAS_REFUSED,
    ),
    # tokens
    "token_renewed": Kind(
        "info", "a token was fetched", (), metric=metrics.TOKEN_REQUESTS, fixed={"result": "renewed"}
    ),
    "token_refused": Kind(
        "warning",
        "the token endpoint gave no token",
        ("state", "status"),
        metric=metrics.TOKEN_REQUESTS,
        fixed={"result": "refused"},
    ),
    "key_refused": Kind(
        "error",
        "the API key and secret are not accepted, or can't be read; they must be seen to",
        ("status",),
        metric=metrics.TOKEN_REQUESTS,
        fixed={"result": "bad_key"},
    ),
    # consumers
    "consumer_limit_tight": Kind(
        "warning", "consumers may fall behind by no more than a snapshot and a second of peak output", ()
    ),
    "consumer_connected": Kind(
        "debug", "a consumer has connected", ("consumer", "pid"), metric=metrics.CONSUMERS_CONNECTED
    ),
    "consumer_subscribed": Kind("info", "a consumer has subscribed", ("consumer", "pid")),
    "consumer_left": Kind(
        "info",
        "a consumer's connection has ended",
        ("consumer", "pid", "reason"),
        metric=metrics.CONSUMERS_LEFT,
    ),
    "consumer_conflated": Kind(
        "warning",
        "a consumer did not keep up and was taken to the head",
        ("consumer", "pid"),
        metric=metrics.CONSUMERS_CONFLATED,
    ),
    "follower_came": Kind("info", "another daemon follows this one, to take over one day", ("pid",)),
    "follower_behind": Kind(
        "warning",
        "a daemon that follows did not take what there was in time: consumers go on before it, it could not take over",
        ("pid",),
    ),
    "follower_caught_up": Kind(
        "info", "a daemon that follows is told everything before any consumer is again", ("pid",)
    ),
    "follower_lost": Kind(
        "warning",
        "a daemon that follows fell behind the backlog, or could not be told of a channel, and has to begin anew",
        ("pid",),
    ),
    "consumer_dropped": Kind(
        "warning",
        "a consumer did not keep up and was disconnected",
        ("consumer", "pid"),
        metric=metrics.CONSUMERS_DROPPED,
    ),
    "resume_refused": Kind(
        "info",
        "a consumer wanted to go on where the backlog cannot",
        ("consumer", "reason"),
        metric=metrics.RESUMES_REFUSED,
    ),
    "request_refused": Kind(
        "warning", "a consumer's request was refused", ("consumer", "code"), metric=metrics.REQUESTS_REFUSED
    ),
    "accept_failed": Kind("error", "a consumer could not be let in", ("error",)),
    # the bridge into another system, a program of its own
    "bridge_started": Kind("info", "the bridge has begun", ()),
    "bridge_stopped": Kind("info", "the bridge has ended; what was on its way is in the stream", ()),
    "bridge_linked": Kind("info", "the bridge is connected to NATS and has read what the stream holds", ()),
    "bridge_link_lost": Kind(
        "warning",
        "the bridge is not connected to NATS; it tries again and keeps what comes",
        ("reason",),
        metric=metrics.BRIDGE_LINKS_LOST,
    ),
    "bridge_access_refused": Kind(
        "error",
        "NATS refuses the bridge's credentials, or has no certificate that it trusts; it tries on with the files as "
        "they are then",
        ("reason",),
    ),
    "bridge_refused": Kind(
        "error",
        "NATS refuses to store, because the stream is full for example; nothing goes on before it does",
        ("code",),
        metric=metrics.BRIDGE_REFUSALS,
    ),
    "bridge_led": Kind("info", "this host writes from now on: nobody else had written what it has", ()),
    "bridge_followed": Kind("info", "this host writes no more for now", ("reason",)),
    "bridge_gap_declared": Kind(
        "error",
        "nothing proves that a channel's stream is complete; a gap record says so in it",
        ("channel", "reason"),
        metric=metrics.BRIDGE_GAPS,
    ),
    "bridge_hold_overflowed": Kind(
        "warning", "a channel whose place in the stream is not known brought more than is held", ("channel",)
    ),
    "bridge_misnumbered": Kind(
        "error",
        "in the stream a seq does not follow the one before it; a gap record says so behind it",
        ("channel",),
    ),
    "bridge_record_too_large": Kind(
        "error",
        "a record is larger than NATS takes (max_payload); a gap record stands for an event",
        ("channel",),
    ),
    "bridge_channel_left_out": Kind("error", "there are more channels than a bridge forwards", ("channel",)),
    "bridge_socket_reported": Kind(
        "warning", "the connection to the daemon's socket has come or gone", ("detail",)
    ),
    "bridge_progressed": Kind("info", "what the bridge has done since the last such line", ()),
    # those who look
    "answer_failed": Kind("error", "a bug: a request over HTTP could not be answered", ("error",)),
    # files
    "incident_written": Kind(
        "warning",
        "an incident file was written",
        ("file",),
        metric=metrics.INCIDENTS,
        fixed={"result": "written"},
    ),
    "incident_lost": Kind(
        "error",
        "an incident file could not be written",
        ("reason",),
        metric=metrics.INCIDENTS,
        fixed={"result": "lost"},
    ),
    "log_lines_lost": Kind(
        "error",
        "whoever reads the log did not keep up, and lines were left out",
        (),
        metric=metrics.LOG_LINES_LOST,
    ),
}

FIELDS: Final[Mapping[str, str]] = {
    # of every line in the log
    "event": "the note's name",
    "level": "how important it is",
    "timestamp": "when it came (UTC)",
    "repeated": "how many notes of this name and key the line stands for; the newest is shown",
    # of some notes
    "appeared": "how many markets the exchange did not list before",
    "attempts": "requests in a row without a usable answer",
    "by": "the line that replaces another",
    "cause": "what has changed a line's health",
    "channel": "the channel",
    "channels": "how many channels",
    "code": "the code of the error that a consumer was told",
    "connections": "how many connections the exchange allows",
    "consumer": "the name that a consumer has given itself",
    "count": "how many levels of a book differ",
    "detail": "more about the reason, for people",
    "error": "what failed, by the system's name for it, or where in the program",
    "events": "how many events",
    "feed": "the feed, by its label",
    "feeds": "how many feeds run",
    "file": "the name of an incident file",
    "held": "how many events were held until then",
    "invented": "whether the line brought what nobody else has; otherwise it missed what others brought",
    "key": "the changed key of a configuration",
    "kind": "the class of an event",
    "leads": "whether this host writes to the stream of NATS",
    "levels": "the first levels that differ: side, price, the book's quantity and the snapshot's",
    "life_s": "how long a token lives",
    "limit": "the limit that is reached, by its key",
    "limit_bytes": "how far consumers may fall behind",
    "line": "the line, by its letter",
    "lines": "how many log lines",
    "listed": "how many markets the exchange listed before",
    "market": "the market",
    "markets": "how many markets",
    "mistake": "what is wrong with a configuration, its path first",
    "on": "what an operator's request names: feed, line, stream, market",
    "op": "what an operator has asked for",
    "outcome": "what came of a request: done, or the code of its refusal",
    "part": "a part of the data path: a feed's ticks, a line's reading, the sending to a consumer",
    "pause_s": "how long nobody connects",
    "peak_bytes": "the most output that is expected in a second",
    "pending_bytes": "what waits to be sent",
    "pid": "the process of a consumer",
    "position": "the place in the merged sequence of a feed",
    "read": "how many messages of the stream were read or confirmed",
    "reason": "why, a word of a closed set",
    "records": "how many records of the stream",
    "result": "what came of it, a word of a closed set",
    "retry_s": "how long until the next attempt",
    "rows": "how many trades",
    "sent": "how many messages were stored",
    "sequence": "the number of the newest message of the stream that is known",
    "server": "the other daemon's version",
    "session": "the life of the numbering",
    "size_bytes": "how large a record is",
    "snapshot_bytes": "the largest snapshot of a book",
    "state": "the new state",
    "stream": "the stream",
    "took_s": "how long it took from having the lock to listening",
    "vanished": "how many markets the exchange does not list any more",
    "status": "the HTTP status of an answer, 0 where there was none",
    "to": "the feed for which another one gave up a place",
    "uid": "the user of a consumer",
    "version": "the version of the program",
    "whole": "whether all was known that any consumer knew, so that the session goes on",
    "was": "the state before, or the line that led before",
}
"""Every field of a log line and what it says."""

_UNHEARD_OF: Final = Kind("warning", "not in this catalogue: a bug")


def kind_of(name: str) -> Kind:
    """Return how a note of this name is treated."""
    return CATALOGUE.get(name, _UNHEARD_OF)
