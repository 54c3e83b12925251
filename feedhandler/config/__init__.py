"""The configuration: read once, checked as a whole, frozen.

    reading      files, folders and ``--set`` become one tree of plain values
    checking     the tree becomes the model; every key is known and holds what it may hold
    model        every key, its meaning, its default, and in its annotation its reader
    readers      one small checker for each kind of value
    rules        what holds between keys
    loading      all of that, to a `Config` or to the whole list of mistakes
    credentials  key and secret, read anew at each call
    rendering    the effective configuration as TOML
    difference   what a changed configuration means for a daemon that runs
    planning     connections needed against the limits, and the time they take; what is legal and doubtful

A mistake is one line, its path first (``feed[0].lines: expected 1..8, got 0``), and all mistakes are
reported at once in one `ConfigError`. Key and secret never become part of a `Config`.
"""

from feedhandler.config.credentials import Credentials, have_files, read_credentials
from feedhandler.config.difference import Wanted, adopt, changes, clashes, wanted
from feedhandler.config.loading import load
from feedhandler.config.model import (
    ACCOUNT_STREAMS,
    ALL,
    LISTED,
    STREAMS,
    Bounds,
    Config,
    Exchange,
    Feed,
    Health,
    Limits,
    Log,
    Observe,
    Publish,
    Recovery,
    Standby,
)
from feedhandler.config.planning import Plan, describe, describe_pair, pair_mistakes, plan
from feedhandler.config.readers import is_market
from feedhandler.config.rendering import render
from feedhandler.config.rules import CONTROL, is_tight

__all__ = [
    "ACCOUNT_STREAMS",
    "ALL",
    "CONTROL",
    "LISTED",
    "STREAMS",
    "Bounds",
    "Config",
    "Credentials",
    "Exchange",
    "Feed",
    "Health",
    "Limits",
    "Log",
    "Observe",
    "Plan",
    "Publish",
    "Recovery",
    "Standby",
    "Wanted",
    "adopt",
    "changes",
    "clashes",
    "describe",
    "describe_pair",
    "have_files",
    "is_market",
    "is_tight",
    "load",
    "pair_mistakes",
    "plan",
    "read_credentials",
    "render",
    "wanted",
]
