"""How connections are accepted from listening sockets."""

from __future__ import annotations

ACCEPTS = 64
"""Connections taken in one wake-up, so that a flood of them does not starve those that are there."""
ACCEPT_PAUSE = 0.05
"""Seconds without accepting when file descriptors run short."""
