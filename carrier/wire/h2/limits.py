"""What one HTTP/2 connection may cost: sizes, counts, and one budget for everything that costs us more than the peer.

The budget is a number of points. Useful work earns them: frames of content, streams that end in order. Time gives some too. What floods
are made of is paid for: resets of young streams, PING, SETTINGS, WINDOW_UPDATE, PRIORITY, CONTINUATION, empty frames, streams that we
must refuse. Whoever has none left gets GOAWAY with ENHANCE_YOUR_CALM, and its reason is the word beside the price. An honest peer that
cancels, pings and updates as much as it likes earns more than it pays; one that does nothing else is out within some hundred frames.
"""

from __future__ import annotations

from carrier.wire.http import Bounds


class Limits(Bounds, frozen=True):
    """Bounds of one connection.

    streams: that the peer may have open at once. window: bytes of content of one stream on their way to us, and in our hands while it is
    paused; connection_window: of all streams. table: bytes of the HPACK table that the peer fills. head: bytes of a field section, counted
    as SETTINGS_MAX_HEADER_LIST_SIZE counts (32 more a field); fields: its fields, of which all crumbs of its cookie are one, and CRUMBS
    times as many crumbs; line: bytes of one of them. block: bytes of a field block as it comes. frames: handled in one wake-up. replies:
    bytes of our replies that the peer has not read. budget, refill: points at most, and those that a second gives. young: seconds within
    which a reset is dear. connect: extended CONNECT (RFC 8441) is offered. strict_target: see Limits of HTTP/1.1.
    """

    streams: int = 100
    window: int = 65535
    connection_window: int = 1024 * 1024
    table: int = 4096
    head: int = 32 * 1024
    fields: int = 100
    line: int = 8 * 1024
    block: int = 64 * 1024
    frames: int = 512
    replies: int = 64 * 1024
    budget: int = 4000
    refill: int = 400
    young: float = 0.5
    connect: bool = True
    strict_target: bool = True


DEFAULT = Limits()

CRUMBS = 2
"""Crumbs of a cookie for each field that is allowed: Chrome keeps 180 cookies of a site, Firefox 150, and both send each as one."""

NEVER = 1e-9
"""A time that is not 0.0, for owners whose clock begins there."""

FRAME_EARNS = 3
"""A frame of content, either way, that was as large as what there was to say."""
STREAM_EARNS = 20
"""A stream that ended in order."""
SMALL = 256  # bytes: a frame of ours below that because of the peer's window earns nothing

# Prices: points, and the reason of GOAWAY, which is also what metrics count by.
RAPID_RESET = (20, "rapid-reset")  # as much as an orderly stream earns: who resets more than half of them young pays
RESET_LATE = (40, "rapid-reset")  # of one that had ended in order, and earned for that: the upstream was faster, and it is the same
RESET = (2, "reset-flood")
STALLED = (28, "stalled-streams")  # opened with no window for an answer; given back when there is one
BAD_STREAM = (20, "bad-streams")
BAD_LATE = (40, "bad-streams")  # that had ended, and may have earned for that
TOO_MANY = (20, "streams-over-limit")
TOO_LARGE = (60, "heads-too-large")
PINGED = (2, "ping-flood")
SETTING = (5, "settings-flood")
WINDOW_UPDATED = (1, "window-update-flood")
WINDOW_DRIBBLE = (4, "window-update-flood")
PRIORITISED = (1, "priority-flood")
CONTINUED = (4, "continuation-flood")
EMPTY_FRAME = (10, "empty-frame-flood")
TINY_DATA = (1, "tiny-data-flood")
UNKNOWN_FRAME = (2, "unknown-frame-flood")
LATE_FRAME = (2, "frames-on-closed-streams")
INTERIM = (2, "interim-answers")
UNREAD = "unread-replies"
REASONS = tuple(
    dict.fromkeys(
        [price[1] for price in (RAPID_RESET, RESET, STALLED, BAD_STREAM, TOO_MANY, TOO_LARGE, PINGED, SETTING, WINDOW_UPDATED, PRIORITISED)]
        + [price[1] for price in (CONTINUED, EMPTY_FRAME, TINY_DATA, UNKNOWN_FRAME, LATE_FRAME, INTERIM)]
        + [UNREAD]
    )
)
"""Every reason of ENHANCE_YOUR_CALM; other failures have the name of their error code in lower case ("protocol-error", ...)."""
TINY = 5  # bytes: smaller than any gRPC message
