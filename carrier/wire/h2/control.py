"""Frames of HTTP/2 with neither heads nor content: PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE (RFC 9113 section 6).

Each is checked, paid for from the connection's budget, and has its effect.
"""

from __future__ import annotations

from carrier.wire.h2.connection import DRAIN_PING, THEIRS, Connection
from carrier.wire.h2.frames import (
    ACK,
    DATA,
    ENABLE_CONNECT_PROTOCOL,
    ENABLE_PUSH,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    NO_ERROR,
    PING,
    PRIORITY,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    SETTINGS_ACK,
    STREAM_CLOSED,
    STREAM_MAX,
    WINDOW_MAX,
    WINDOW_UPDATE,
    Fault,
    StreamFault,
    code_name,
    depends_on,
    frame,
    frame_name,
    goaway_frame,
    read_goaway,
    read_settings,
)
from carrier.wire.h2.hpack import EMPTY_TABLE, TABLE_SIZE
from carrier.wire.h2.limits import (
    LATE_FRAME,
    NEVER,
    PINGED,
    PRIORITISED,
    RAPID_RESET,
    RESET,
    RESET_LATE,
    SETTING,
    SMALL,
    STALLED,
    WINDOW_DRIBBLE,
    WINDOW_UPDATED,
)
from carrier.wire.h2.stream import Stream


class Control(Connection):
    """A connection that knows what these frames mean."""

    __slots__ = ()

    def _late(self, number: int, kind: int, content: bool = False) -> None:
        """A frame on a stream that is not open. Returns if it is to be dropped (RFC 9113 5.1). content: some that may have been on its way
        when we reset the stream; a window of it is nobody's fault."""
        mine = bool(number & 1) == self.client
        if number > self.last or mine != self.client:
            raise Fault(PROTOCOL_ERROR, f"{frame_name(kind)} on stream {number}, which nobody has opened")
        by = self._resets.get(number)
        if by is None and number > self._forgotten:
            if any(first <= number <= last for first, last in self._skipped):
                raise Fault(PROTOCOL_ERROR, f"{frame_name(kind)} on stream {number}, though stream {self.last} was opened")
            if kind == RST_STREAM and not self.client:
                self._charge(RESET_LATE)
                return
            if kind in (DATA, HEADERS):
                raise Fault(STREAM_CLOSED, f"{frame_name(kind)} on stream {number}, which has ended")
        if by == THEIRS or not content:
            self._charge(LATE_FRAME)
        if by == THEIRS and kind in (DATA, HEADERS):
            raise StreamFault(STREAM_CLOSED, f"{frame_name(kind)} on stream {number}, which its peer has reset")

    def on_priority(self, flags: int, number: int, payload: bytes) -> None:
        need_stream(PRIORITY, number)
        self._charge(PRIORITISED)
        if len(payload) != 5:
            raise StreamFault(FRAME_SIZE_ERROR, f"PRIORITY of {len(payload)} bytes, it has 5")
        if depends_on(payload) == number:
            raise StreamFault(PROTOCOL_ERROR, f"stream {number} depends on itself")

    def on_rst_stream(self, flags: int, number: int, payload: bytes) -> None:
        need_stream(RST_STREAM, number)
        need_size(RST_STREAM, payload, 4)
        stream = self.streams.get(number)
        if stream is None:
            self._late(number, RST_STREAM)
            return
        code = int.from_bytes(payload, "big")
        self._lose(stream, THEIRS, code, f"RST_STREAM {code_name(code)}")
        young = self.now - stream.since < self.limits.young
        self._charge(RAPID_RESET if young and not self.client else RESET)

    def on_settings(self, flags: int, number: int, payload: bytes) -> None:
        need_connection(SETTINGS, number)
        if flags & ACK:
            need_size(SETTINGS, payload, 0)
            self._acknowledged()
            return
        self._charge(SETTING)
        self.begun_since = 0.0
        before = self.peer_window
        for name, value in read_settings(payload):
            if name == INITIAL_WINDOW_SIZE:
                self._peer_window(value)
            elif name == HEADER_TABLE_SIZE:
                if value < TABLE_SIZE and not self._shrunk:
                    self._shrunk, self.table_update = True, EMPTY_TABLE
            elif name == MAX_FRAME_SIZE:
                self.frame_max = value
            elif name == MAX_CONCURRENT_STREAMS:
                self.peer_streams = value
                self.bound()
            elif name == MAX_HEADER_LIST_SIZE:
                self.peer_head = value
            elif name == ENABLE_CONNECT_PROTOCOL:
                self.peer_connect = bool(value)
            elif name == ENABLE_PUSH and value and self.client:
                raise Fault(PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH 1 from a server")
        self._reply(SETTINGS_ACK)
        self.target.on_settings()
        if self.peer_window > before and self.waiting:
            self._share()

    def _peer_window(self, value: int) -> None:
        """Windows of all streams change by the difference, also below zero (RFC 9113 6.9.2)."""
        change = value - self.peer_window
        self.peer_window = value
        self.invite()
        for stream in self.streams.values():
            stream.window += change
            if stream.stalled and change >= SMALL:
                self._flows(stream)
            if stream.window > WINDOW_MAX:
                raise Fault(FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE {value} makes a window of {stream.window}")

    def _flows(self, stream: Stream) -> None:
        """It was opened without a window for its answer, and has one now."""
        stream.stalled = False
        self.credit += STALLED[0]

    def _acknowledged(self) -> None:
        """Our settings hold from here on."""
        if not self._pending:
            self._charge(SETTING)
            return
        values = self._pending.popleft()
        self.settings_since = (self.now or NEVER) if self._pending else 0.0
        if INITIAL_WINDOW_SIZE in values:
            change = values[INITIAL_WINDOW_SIZE] - self.our_window
            self.our_window += change
            for stream in self.streams.values():
                stream.room += change
        if HEADER_TABLE_SIZE in values:
            if self._table is not None:
                self._table.allow(values[HEADER_TABLE_SIZE])
            else:
                self._state = self._state.allowing(values[HEADER_TABLE_SIZE])

    def on_push_promise(self, flags: int, number: int, payload: bytes) -> None:
        raise Fault(PROTOCOL_ERROR, "PUSH_PROMISE, but " + ("push is switched off" if self.client else "only servers push"))

    def on_ping(self, flags: int, number: int, payload: bytes) -> None:
        need_connection(PING, number)
        need_size(PING, payload, 8)
        if not flags & ACK:
            self._charge(PINGED)
            self._reply(frame(PING, ACK, 0, payload))
        elif payload == DRAIN_PING and self.draining and self._final == STREAM_MAX:
            self._final = self.last
            self.invite()
            self._reply(goaway_frame(self.last, NO_ERROR))
        else:
            self._charge(PINGED)

    def on_goaway(self, flags: int, number: int, payload: bytes) -> None:
        need_connection(GOAWAY, number)
        self._charge(SETTING)
        last, code, words = read_goaway(payload)
        self.goaway = last, code, words
        self.most = 0
        detail = f"GOAWAY {code_name(code)}" + (f": {words}" if words else "")
        if self.client:
            for stream in [stream for stream in self.streams.values() if stream.id > last]:
                if self.streams.get(stream.id) is stream:
                    self._lose(stream, THEIRS, REFUSED_STREAM, detail)
        self.target.on_goaway(last, code, detail)

    def on_window_update(self, flags: int, number: int, payload: bytes) -> None:
        need_size(WINDOW_UPDATE, payload, 4)
        increment = int.from_bytes(payload, "big") & WINDOW_MAX
        self._charge(WINDOW_DRIBBLE if increment < SMALL and self.waiting else WINDOW_UPDATED)
        if not number:
            if not increment:
                raise Fault(PROTOCOL_ERROR, "WINDOW_UPDATE of 0 for the connection")
            self.window += increment
            if self.window > WINDOW_MAX:
                raise Fault(FLOW_CONTROL_ERROR, f"WINDOW_UPDATE makes a window of {self.window} for the connection, at most {WINDOW_MAX}")
            if self.waiting:
                self._share()
            return
        stream = self.streams.get(number)
        if stream is None:
            self._late(number, WINDOW_UPDATE)
        if not increment:
            raise StreamFault(PROTOCOL_ERROR, f"WINDOW_UPDATE of 0 for stream {number}")
        if stream is None:
            return
        stream.window += increment
        if stream.stalled and increment >= SMALL:
            self._flows(stream)
        if stream.window > WINDOW_MAX:
            raise StreamFault(FLOW_CONTROL_ERROR, f"WINDOW_UPDATE makes a window of {stream.window}, at most {WINDOW_MAX}")
        if stream.held is not None:
            while stream.send_frame():
                pass
            self._drained(stream)


def need_stream(kind: int, number: int) -> None:
    if not number:
        raise Fault(PROTOCOL_ERROR, f"{frame_name(kind)} without a stream")


def need_connection(kind: int, number: int) -> None:
    if number:
        raise Fault(PROTOCOL_ERROR, f"{frame_name(kind)} on stream {number}, it belongs to the connection")


def need_size(kind: int, payload: bytes, size: int) -> None:
    if len(payload) != size:
        raise Fault(FRAME_SIZE_ERROR, f"{frame_name(kind)} of {len(payload)} bytes, it has {size}")
