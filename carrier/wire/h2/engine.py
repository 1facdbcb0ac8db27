"""An HTTP/2 connection (RFC 9113): bytes in, calls out, bytes to send. It owns no socket and reads no clock.

    engine = Engine(target, memo, limits, now=now)           # client=True for the side that asks
    more = engine.feed(data, now)                            # calls target.on_head, on_data, ...; True: call again with b"" soon
    transport.write(engine.take())                           # once at the end of each wake-up, also when only streams were written to
    if engine.failure: transport.close()                     # behind what take() gave: it has GOAWAY

Calls come in the order of frames, and never once a stream has closed. From within a call everything may be called but `feed`.
Before calls that come from elsewhere than `feed`, the owner sets `now`, if its clock has moved.

Time is the owner's: `begun_since` (a head, or the connection's first frames, have begun and not ended), `settings_since` (ours are not
acknowledged), `Stream.blocked_since`, `Stream.since` say since when something is waited for; 0.0 means it is not.
"""

from __future__ import annotations

from carrier.errors import shown
from carrier.wire.h2.connection import OURS
from carrier.wire.h2.control import Control, need_stream
from carrier.wire.h2.fields import Section
from carrier.wire.h2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_MAX,
    FRAME_SIZE_ERROR,
    HEAD,
    HEADERS,
    PADDED,
    PREFACE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    STREAM_MAX,
    WITH_PRIORITY,
    Fault,
    StreamFault,
    depends_on,
    frame_name,
    rst_frame,
    unpadded,
    window_frame,
)
from carrier.wire.h2.hpack import Table
from carrier.wire.h2.limits import (
    BAD_LATE,
    BAD_STREAM,
    CONTINUED,
    EMPTY_FRAME,
    FRAME_EARNS,
    INTERIM,
    NEVER,
    SMALL,
    STALLED,
    TINY,
    TINY_DATA,
    TOO_LARGE,
    TOO_MANY,
    UNKNOWN_FRAME,
)
from carrier.wire.h2.memo import POOR, RICH
from carrier.wire.h2.stream import Stream

_SKIPPED = 16  # ranges of stream numbers that were passed over, and are remembered
_WHOLE = END_HEADERS | PADDED | WITH_PRIORITY


class Engine(Control):
    """A connection that reads. See the head of this file."""

    __slots__ = ()

    def feed(self, data: bytes, now: float) -> bool:
        """What has come. True: more of it waits than one wake-up may handle; feed b"" in the next, and read nothing until then."""
        if self.failure is not None:
            return False
        self.now = now
        buffer = self._buffer
        if buffer:
            buffer += data
            if len(buffer) < self._need:
                return False
            data = bytes(buffer)
            buffer.clear()
            if self._greeted == 2 and self._block is None:
                self.begun_since = 0.0
        try:
            return self._read(data)
        except Fault as fault:
            fault.__traceback__ = None  # its frames hold this engine, which holds the fault
            if self.failure is None:
                self._fail(fault)
            return False

    def _read(self, data: bytes) -> bool:
        i, n, handled = 0, len(data), 0
        most, unpack, now, streams = self.limits.frames, HEAD.unpack_from, self.now or NEVER, self.streams
        strict = self._block is not None or self._greeted != 2  # only some kinds of frame may come
        if self._greeted == 0:
            if not PREFACE.startswith(data[:24]):
                raise Fault(PROTOCOL_ERROR, f"no HTTP/2 preface but {shown(data[:24])}")
            if n < 24:
                self._keep(data, 24)
                return False
            self._greeted, i, strict = 1, 24, True
        while n - i >= 9:
            high, low, kind, flags, number = unpack(data, i)
            size = high << 8 | low
            if size > FRAME_MAX:
                if self._greeted == 1 and data.startswith(b"HTTP/1.", i):
                    raise Fault(PROTOCOL_ERROR, "the peer speaks HTTP/1.1, not HTTP/2")
                raise Fault(FRAME_SIZE_ERROR, f"{frame_name(kind)} of {size} bytes, at most {FRAME_MAX}")
            start = i + 9
            end = start + size
            if end > n:
                if kind == HEADERS:
                    self.begun_since = self.begun_since or now
                self._keep(data[i:] if i else data, 9 + size)
                return False
            if handled == most:
                self._keep(data[i:] if i else data, 0)
                return True
            handled += 1
            number &= STREAM_MAX
            try:
                if kind == HEADERS and flags & _WHOLE == END_HEADERS and number and not strict:
                    self._section(number, flags, data[start:end])
                elif kind == DATA and not flags & PADDED and number in streams and not strict:
                    self._data(streams[number], data[start:end], size, flags)
                else:
                    self._other(kind, flags, number, data[start:end])
                    strict = self._block is not None or self._greeted != 2
            except StreamFault as fault:
                self._stream_fault(number, fault)
                strict = self._block is not None or self._greeted != 2
            if self.failure is not None:
                return False
            i = end
        if i < n:
            self._keep(data[i:] if i else data, 9)
        return False

    def _keep(self, data: bytes, need: int) -> None:
        self._buffer += data
        self._need = need

    def _stream_fault(self, number: int, fault: StreamFault) -> None:
        stream = self.streams.get(number)
        if stream is not None:
            self._break(stream, fault.code, fault.detail)
            return
        if number > self.last:  # RST_STREAM must not name an idle stream (RFC 9113 6.4)
            raise Fault(fault.code, fault.detail)
        self._reply(rst_frame(number, fault.code))
        self._charge(BAD_LATE)

    # -- heads --------------------------------------------------------------------------------------------------------------------------

    def _section(self, number: int, flags: int, block: bytes, wrong: str = "") -> None:
        """A whole block: what it says, and whom it is for."""
        known = self._state.known.get(block) if self._table is None else None
        if known is not None:
            section, after = known
            if after is not None:
                self._state = after
            self._misses = 0
        else:
            section = self._unknown(block)
        last = flags & END_STREAM != 0
        streams = self.streams
        if section.begins and number == self.last + 2 and len(streams) < self.welcome and not (wrong or (last and section.length > 0)):
            self.last = number  # as `_open`, which has nothing to look at here
            begun = streams[number] = self.spare.pop().again(number) if self.spare else Stream(self, number)
            begun.heard, begun.over, begun.left = True, last, section.length
            self.target.on_head(begun, section, last)
            return
        stream = streams.get(number)
        if wrong:
            if stream is None and number > self.last:
                self.last = number
                self._note(number, OURS)
            raise StreamFault(PROTOCOL_ERROR, wrong)
        if stream is None:
            if self.client or number <= self.last or not number & 1:
                self._late(number, HEADERS)
            else:
                self._open(number, section, last)
        elif stream.over:
            raise StreamFault(STREAM_CLOSED, f"HEADERS on stream {number}, whose peer has ended it")
        elif self.client and not stream.heard:
            self._answer(stream, section, last)
        else:
            self._trailers(stream, section, last)

    def _unknown(self, block: bytes) -> Section:
        """A block that was not met in this state. See memo.py."""
        table = self._table
        if table is None:
            section, self._state = self.memo.read(self._state, block, self._misses)
            self._misses += 1
            if self._misses >= POOR:
                self._table, self._state, self._misses = Table(self._state), self.memo.start, 0
        else:
            section, met = self.memo.look(table, block, max(0, self._misses))
            if not met:
                self._misses = max(0, self._misses) + 1
            elif section.shape is not None:
                self._misses = 0
            else:  # there was nothing new in it
                self._misses = min(0, self._misses) - 1
                if self._misses <= -RICH:
                    self._table, self._state, self._misses = None, table.state(), 0
        return section

    def _open(self, number: int, section: Section, last: bool) -> None:
        """A request."""
        if number != self.last + 2 and number != 1:
            self._skip(self.last + 2 if self.last else 1, number - 2)
        self.last = number
        if not self.welcome:
            self.invite()
        if number > self._final:  # RFC 9113 6.8: not looked at, and the peer knows
            self._note(number, OURS)
            return
        stream = Stream(self, number)
        if len(self.streams) >= self.limits.streams:
            self._note(number, OURS)
            stream.ended = stream.over = True
            seen = f"{len(self.streams)} streams are open, at most {self.limits.streams}"
            self.target.on_refused(stream, section, "overload", seen)
            self._reply(rst_frame(number, REFUSED_STREAM))
            self._charge(TOO_MANY)
            return
        if self.peer_window < SMALL:
            stream.stalled = True
            self._charge(STALLED)
        self.streams[number] = stream
        stream.heard, stream.over, stream.left = True, last, section.length
        if section.excess:
            stream.refused = True
            self.target.on_refused(stream, section, section.kind, section.excess)
            self._charge(TOO_LARGE)
        elif section.problem or not section.method or (last and section.length > 0):
            problem = section.problem
            if not problem:
                problem = "no :method" if not section.method else f"content-length {section.length}, and no content"
            self._forget(stream, OURS)
            self.target.on_refused(stream, section, "protocol-error", problem)
            self._reply(rst_frame(number, PROTOCOL_ERROR))
            self._charge(BAD_STREAM)
        else:
            self.target.on_head(stream, section, last)

    def _answer(self, stream: Stream, section: Section, last: bool) -> None:
        problem = section.excess or section.problem
        if not problem and not section.status:
            problem = "no :status"
        if problem:
            raise StreamFault(PROTOCOL_ERROR, problem)
        if section.status < 200:
            if last:
                raise StreamFault(PROTOCOL_ERROR, f"answer {section.status} that ends the stream")
            self._charge(INTERIM)
        else:
            stream.heard, stream.over = True, last
            if stream.head_only or section.status in (204, 304):
                stream.left = 0
            else:
                stream.left = section.length
                if last and section.length > 0:
                    stream.over = False
                    raise StreamFault(PROTOCOL_ERROR, f"content-length {section.length}, and no content")
        self.target.on_head(stream, section, last)
        if last:
            self._over(stream)

    def _trailers(self, stream: Stream, section: Section, last: bool) -> None:
        problem = section.problem or ("" if section.trailers else "a second head") or section.excess
        if not last:
            problem = problem or "trailers that do not end the stream"
        elif stream.left > 0:
            problem = problem or f"{stream.left} bytes less than content-length"
        if problem:
            raise StreamFault(PROTOCOL_ERROR, problem)
        stream.over = True
        if not stream.refused:
            self.target.on_trailers(stream, section)
        self._over(stream)

    def _over(self, stream: Stream) -> None:
        """The peer's side has ended, and who listens knows; who may have used the stream again."""
        if stream.ended and stream.over and stream.held is None:
            self.ended(stream)

    def _skip(self, first: int, last: int) -> None:
        self._skipped.append((first, last))
        if len(self._skipped) > _SKIPPED:
            del self._skipped[0]

    # -- content ------------------------------------------------------------------------------------------------------------------------

    def _data(self, stream: Stream, data: bytes, size: int, flags: int) -> None:
        """DATA on a stream that is open; `size` counts its padding too."""
        self._arrived(size)
        last = flags & END_STREAM != 0
        if stream.over:
            raise StreamFault(STREAM_CLOSED, f"DATA on stream {stream.id}, whose peer has ended it")
        room = stream.room
        if size > room:
            raise StreamFault(FLOW_CONTROL_ERROR, f"DATA of {size} bytes, the stream's window has {max(0, room)}")
        stream.room = room - size
        if not stream.heard:
            raise StreamFault(PROTOCOL_ERROR, "DATA before the final head")
        n, left = len(data), stream.left
        if left >= 0:
            if n > left or (last and n < left):
                raise StreamFault(PROTOCOL_ERROR, f"DATA of {n} bytes{' at the end' * last}, content-length has {left} left")
            stream.left = left - n
        if n >= TINY:
            self.credit += FRAME_EARNS
        elif not last:
            self._charge(TINY_DATA if n else EMPTY_FRAME)
        stream.over = last
        if not stream.refused:
            self.target.on_data(stream, data, last)
        if last:
            self._over(stream)
        else:
            stream.owed += size
            if not stream.paused and not stream.over:
                stream.give_back()

    def _arrived(self, size: int) -> None:
        """The connection's window, which is always given back: a slow stream stops nobody else."""
        room = self.room
        if size > room:
            raise Fault(FLOW_CONTROL_ERROR, f"DATA of {size} bytes, the connection's window has {max(0, room)}")
        self.room = room = room - size
        if room <= self._low:
            self._reply(window_frame(0, self._full - room))
            self.room = self._full

    # -- all other frames ---------------------------------------------------------------------------------------------------------------

    def _other(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._greeted != 2:
            if kind != SETTINGS or flags & ACK:
                raise Fault(PROTOCOL_ERROR, f"{frame_name(kind)} before SETTINGS")
            self._greeted = 2
        if self._block is not None and (kind != CONTINUATION or number != self._block_stream):
            raise Fault(PROTOCOL_ERROR, f"{frame_name(kind)} on stream {number}, where CONTINUATION on {self._block_stream} is due")
        if kind < len(_HANDLERS):
            _HANDLERS[kind](self, flags, number, payload)
        else:
            self._charge(UNKNOWN_FRAME)

    def on_data(self, flags: int, number: int, payload: bytes) -> None:
        need_stream(DATA, number)
        content = unpadded(payload, flags, DATA)
        stream = self.streams.get(number)
        if stream is not None:
            self._data(stream, content, len(payload), flags)
            return
        self._arrived(len(payload))
        self._late(number, DATA, len(content) >= TINY)

    def on_headers(self, flags: int, number: int, payload: bytes) -> None:
        need_stream(HEADERS, number)
        payload, wrong = unpadded(payload, flags, HEADERS), ""
        if flags & WITH_PRIORITY:
            if len(payload) < 5:
                raise Fault(FRAME_SIZE_ERROR, f"HEADERS with a priority of {len(payload)} bytes, it has 5")
            if depends_on(payload) == number:
                wrong = f"stream {number} depends on itself"
            payload = payload[5:]
        if flags & END_HEADERS:
            self._section(number, flags, payload, wrong)
            return
        self._charge(CONTINUED)
        self._block, self._block_stream, self._block_flags, self._block_size = [payload], number, flags, len(payload)
        self._block_wrong = wrong
        self.begun_since = self.now or NEVER

    def on_continuation(self, flags: int, number: int, payload: bytes) -> None:
        need_stream(CONTINUATION, number)
        parts = self._block
        if parts is None:
            raise Fault(PROTOCOL_ERROR, f"CONTINUATION on stream {number}, where no HEADERS came before")
        parts.append(payload)
        self._block_size += len(payload)
        if self._block_size > self.limits.block:
            raise Fault(ENHANCE_YOUR_CALM, f"a field block of {self._block_size} bytes, at most {self.limits.block}", TOO_LARGE[1])
        self._charge(CONTINUED if payload else EMPTY_FRAME)
        if flags & END_HEADERS:
            self._block, self.begun_since = None, 0.0
            self._section(number, self._block_flags, b"".join(parts), self._block_wrong)


_HANDLERS = (
    Engine.on_data,
    Engine.on_headers,
    Engine.on_priority,
    Engine.on_rst_stream,
    Engine.on_settings,
    Engine.on_push_promise,
    Engine.on_ping,
    Engine.on_goaway,
    Engine.on_window_update,
    Engine.on_continuation,
)
