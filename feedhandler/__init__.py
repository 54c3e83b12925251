"""Exact A/B line arbitration for a WebSocket market-data feed without sequence numbers."""

__version__ = "0.1.0"
