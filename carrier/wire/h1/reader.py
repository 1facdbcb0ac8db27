"""The HTTP/1.1 codec: bytes in, calls out (RFC 9112). It owns no socket and reads no clock.

`RequestReader` and `AnswerReader` follow one connection; what they read goes to a target: on_head(head), on_data(bytes), on_end(trailers).
A head is read by the cheapest of three that is sure of it: the whole-head memo, the plan parser (both in carrier/wire/h1/memo.py), and h11
with our own refusals (wire/h1/head.py). Bodies are counted or, if chunked, decoded (wire/h1/chunked.py). All that others need
is offered here.
"""

from __future__ import annotations

from typing import Protocol

from carrier.errors import Error, Side, shown
from carrier.wire.h1.chunked import LAST_CHUNK, Chunked, chunk, last_chunk
from carrier.wire.h1.head import ILL, Limits, check_sizes, parse_answer, parse_request, refuse, tokens, too_large
from carrier.wire.h1.memo import AnswerMemo, RequestMemo
from carrier.wire.h1.mend import head_end, mended
from carrier.wire.http import CHUNKED, CLOSE, LENGTH, NONE, Fields, Head

__all__ = [
    "LAST_CHUNK",
    "AnswerMemo",
    "AnswerReader",
    "Chunked",
    "Limits",
    "RequestMemo",
    "RequestReader",
    "Target",
    "chunk",
    "last_chunk",
    "parse_answer",
    "parse_request",
]


class Target(Protocol):
    """Who is told what a reader reads. A 1xx answer is an on_head without on_end; after a switch of protocols only on_data follows."""

    def on_head(self, head: Head, /) -> None: ...
    def on_data(self, data: bytes, /) -> None: ...
    def on_end(self, trailers: Fields, /) -> None: ...


class _Nobody:
    """Whom the reader of a connection that is gone has to tell."""

    def on_head(self, head: Head) -> None: ...
    def on_data(self, data: bytes) -> None: ...
    def on_end(self, trailers: Fields) -> None: ...


_NOBODY = _Nobody()
_HEAD, _LENGTH_BODY, _CHUNKED_BODY, _CLOSE_BODY, _TUNNEL, _OVER = range(6)
"""What the next bytes are: of a head, of a body of one of three kinds, of another protocol, of nothing (they are dropped)."""
_SHOWN = 1024  # bytes of a head that was refused, which are kept to be shown
_MISSES = 8  # straight misses of the whole-head memo after which a connection's heads are no longer kept


class _Reader:
    """What both readers share: bytes that wait for more, the body at hand, and a guard against being called from within a call.

    Errors leave the reader over: what comes later is dropped.
    """

    __slots__ = ("_at", "_buffer", "_busy", "_chunked", "_left", "_scanned", "_state", "limits", "misses", "target")
    side: Side

    def __init__(self, limits: Limits, target: Target) -> None:
        self.limits, self.target = limits, target
        self.misses = 0
        self._buffer = b""
        self._at = 0  # where what waits in the buffer begins: many held requests are not copied for each of them
        self._busy = False
        self._state = _HEAD
        self._scanned = 0  # bytes of the buffer in which no head ends
        self._left = 0  # bytes that a LENGTH body still lacks
        self._chunked: Chunked | None = None

    @property
    def pending(self) -> int:
        """Bytes that were fed and not yet read: of a head that is not whole, or held."""
        return len(self._buffer) - self._at

    def _join(self, data: bytes) -> bytes:
        """What waits, and `data` behind it."""
        if self._buffer:
            data = self._buffer[self._at :] + data if self._at else self._buffer + data
            self._buffer, self._at = b"", 0
        return data

    def _look_up(self, memo: RequestMemo | AnswerMemo, raw: bytes) -> Head:
        """The head that these bytes are: known, of a known shape, or read line by line. Raises Error."""
        head = memo.heads.get(raw)
        if head is not None:
            self.misses = 0
            return head
        self.misses += 1
        keep = self.misses <= _MISSES
        return memo.like(raw, keep) or memo.parse(raw, keep)

    def _find_head(self, data: bytes, i: int) -> int:
        """Where the head that starts at i ends, or -1: it is not whole yet, and kept. Raises Error once it cannot become good."""
        end = data.find(b"\r\n\r\n", i + self._scanned)
        if end >= 0:
            self._scanned = 0
            return end + 4
        rest = data[i:] if i else data
        if match := ILL.search(rest, self._scanned):
            raise refuse(self.side, f"byte {shown(match[0])} in the head")
        first = rest.find(b"\r\n", 0, self.limits.line + 2)
        check_sizes(len(rest) if first < 0 else first, len(rest), self.limits, self.side)
        self._buffer, self._at, self._scanned = rest, 0, max(0, len(rest) - 3)
        return -1

    def _start_body(self, head: Head) -> None:
        if head.body == LENGTH:
            if self.limits.body and head.length > self.limits.body:
                raise Error(
                    "body-too-large", f"Content-Length {head.length}, at most {self.limits.body}{self.limits.named('max_body')}", self.side
                )
            self._left, self._state = head.length, _LENGTH_BODY
        elif head.body == CHUNKED:
            self._chunked, self._state = Chunked(self.limits, self.side), _CHUNKED_BODY
        elif head.body == CLOSE:
            self._state = _CLOSE_BODY

    def stop(self) -> None:
        """Read nothing more: later bytes are dropped."""
        self._state, self._buffer, self._at = _OVER, b"", 0

    def detach(self) -> None:
        """The connection is gone, and so is the target: `stop`, and let go of it."""
        self.stop()
        self.target = _NOBODY


class RequestReader(_Reader):
    """Reads the requests of one downstream connection, in order.

    pause() holds the next request back (the current one's body still flows), resume() goes on; between them `pending` bytes wait, bounded
    by Limits.pipelined: stop reading from the socket while it is not 0. After a request with `Head.upgrade` and after CONNECT the reader
    holds by itself, until tunnel() or resume(); a tunnel begins behind the request's content (RFC 9110 7.8). After a request that ends the
    connection, later bytes are dropped.
    """

    __slots__ = ("_blank", "_closing", "_ended", "_refused", "_switching", "held", "memo")
    side: Side = "downstream"

    def __init__(self, memo: RequestMemo, limits: Limits, target: Target) -> None:
        super().__init__(limits, target)
        self.memo = memo
        self.held = False
        self._closing = False  # the connection ends with the request at hand
        self._refused = b""
        self._blank = False  # the one empty line before a request has come (RFC 9112 2.2)
        self._ended = False
        self._switching = False  # a tunnel begins behind the content at hand

    @property
    def idle(self) -> bool:
        """Between requests, nothing begun and nothing held: when the next read is, as a whole, in `memo.heads`, and that head is `simple`,
        it may be served without telling this reader."""
        return self._state == _HEAD and not self._buffer and not self.held

    @property
    def begun(self) -> bytes:
        """The first bytes of the head that is being read or was refused, for a log."""
        return self._refused or self._buffer[self._at : self._at + _SHOWN]

    def feed(self, data: bytes) -> None:
        """Read on; not to be called from within a call to the target.

        Raises Error (side downstream) when the bytes are no request that we serve; the connection is then to be closed.
        """
        self._run(self._join(data), 0)

    def pause(self) -> None:
        """Start no further request until resume()."""
        self.held = True

    def resume(self) -> None:
        """Go on with what waits. Raises as feed() does. May be called from within on_head, on_data and on_end: feed() goes on then."""
        self.held = False
        if not self._busy:
            data, at, self._buffer, self._at = self._buffer, self._at, b"", 0
            self._run(data, at)
            if self._ended and not self.held:
                self._check_end()

    def tunnel(self) -> None:
        """Behind the request the bytes are of another protocol: all of them, those that wait first, go to on_data."""
        if self._state in (_LENGTH_BODY, _CHUNKED_BODY):
            self._switching = True
        else:
            self._state = _TUNNEL
        self.resume()

    def finish(self) -> None:
        """The peer sends no more. Raises Error if that cuts a request; a tunnel gets on_end."""
        self._ended = True
        if not self.held or self._state != _HEAD:
            self._check_end()

    def _check_end(self) -> None:
        if self._state == _TUNNEL:
            self._state = _OVER
            self.target.on_end(())
        elif self._state in (_LENGTH_BODY, _CHUNKED_BODY) or (self._state == _HEAD and self._buffer[self._at :].strip(b"\r\n")):
            self.stop()
            raise Error("protocol-error", "the connection ended inside a request", "downstream")

    def _run(self, data: bytes, i: int) -> None:
        self._busy = True
        try:
            n = len(data)
            while i < n:
                if self._state == _HEAD:
                    i = self._hold(data, i) if self.held else self._request(data, i)
                else:
                    i = self._body(data, i)
        except BaseException:
            if self._state == _HEAD:
                self._refused = data[i : i + _SHOWN]
            self.stop()
            raise
        finally:
            self._busy = False

    def _hold(self, data: bytes, i: int) -> int:
        if len(data) - i > self.limits.pipelined:
            raise too_large("downstream", f"more than {self.limits.pipelined} bytes of pipelined requests")
        self._buffer, self._at = data, i
        return len(data)

    def _request(self, data: bytes, i: int) -> int:
        if not self._blank and data.startswith(b"\r\n", i):
            self._blank = True
            return i + 2
        if len(data) - i == 1 and data[i] == 10:  # a line end too many, as scripts send it behind a body: refused when something follows it
            self._buffer, self._at = b"\n", 0
            return len(data)
        end = self._find_head(data, i)
        if end < 0:
            return len(data)
        raw = data if i == 0 and end == len(data) else data[i:end]
        head = self._look_up(self.memo, raw)
        self._start_body(head)
        self._blank = False
        self._closing = not head.keep_alive
        if head.upgrade is not None or head.method == b"CONNECT":
            self.held = True
        self.target.on_head(head)
        if head.body == NONE and self._state != _OVER:
            self._end(())
        return end

    def _body(self, data: bytes, i: int) -> int:
        n = len(data)
        if self._state == _LENGTH_BODY:
            end = min(n, i + self._left)
            self._left -= end - i
            self.target.on_data(data if end - i == n else data[i:end])
            if not self._left and self._state == _LENGTH_BODY:
                self._end(())
            return end
        if self._state == _CHUNKED_BODY and self._chunked:
            payload, end, trailers = self._chunked.feed(data, i)
            if payload:
                self.target.on_data(payload)
            if end >= 0 and self._state == _CHUNKED_BODY:
                self._end(trailers)
            return n if end < 0 else end
        if self._state == _TUNNEL:
            self.target.on_data(data[i:])
        return n

    def _end(self, trailers: Fields) -> None:
        if self._switching:
            self._state = _TUNNEL
        elif self._state != _TUNNEL:
            self._state = _OVER if self._closing else _HEAD
        self._chunked = None
        self.target.on_end(trailers)


class AnswerReader(_Reader):
    """Reads the answers of one upstream connection. expect() comes before each of them.

    A message ends where its framing says (RFC 9112 6.3). What comes behind the end (a body after HEAD, a length that was counted in
    characters, an empty line) is dropped, and the connection is not used again: who wrote that has another idea of where the next answer
    begins. `complete`: the answer has ended (or none is awaited). `reusable`: and the connection may carry another request. `heard`: a head
    of this answer has come, also an interim one.
    """

    __slots__ = ("_begun", "_interim", "_keep", "_method", "_upgrade", "complete", "heard", "memo")
    side: Side = "upstream"

    def __init__(self, memo: AnswerMemo, limits: Limits, target: Target) -> None:
        super().__init__(limits, target)
        self.memo = memo
        self.complete = True
        self._keep = True
        self._method = b""
        self._upgrade: bytes | None = None
        self._interim = 0
        self._begun = False
        self.heard = False

    def expect(self, method: bytes, upgrade: bytes | None = None) -> None:
        """A request was sent: its method, and the protocols it asked for (`Head.upgrade`)."""
        self._method, self._upgrade = method, upgrade
        self.complete, self._begun, self.heard, self._interim = False, False, False, 0

    @property
    def method(self) -> bytes:
        return self._method

    @method.setter
    def method(self, method: bytes) -> None:
        self.expect(method)

    @property
    def reusable(self) -> bool:
        return self.complete and self._keep and self._state == _HEAD and not self._buffer

    @property
    def tunnel(self) -> bool:
        """Has the connection switched to another protocol (101, or 2xx to CONNECT)?"""
        return self._state == _TUNNEL

    def feed(self, data: bytes) -> None:
        """Read on. Raises Error("bad-answer", side upstream); the connection is then to be closed."""
        if self.complete:
            self._keep = False
            self.stop()
            return
        data = self._join(data)
        self._begun = True
        try:
            i, n = 0, len(data)
            while i < n:
                i = self._head(data, i) if self._state == _HEAD else self._body(data, i)
        except BaseException:
            self._keep = False
            self.stop()
            raise

    def finish(self) -> None:
        """The peer sends no more: the end of a CLOSE body or of a tunnel. Raises Error("closed") if that cuts the answer; retry is
        "if_reused" when nothing of it had come."""
        self._keep = False
        if self._state in (_CLOSE_BODY, _TUNNEL):
            self._end(())
            self._state = _OVER
        elif not self.complete and self._state != _OVER:
            inside_head = self._state == _HEAD and self._begun and bool(self._buffer)
            self.stop()
            if inside_head:
                raise refuse("upstream", "the connection ended inside the head of its answer")
            where = "inside its answer" if self._begun else "before it answered"
            raise Error("closed", f"the connection ended {where}", "upstream", "no" if self._begun else "if_reused")

    def _head(self, data: bytes, i: int) -> int:
        if self.complete:  # what is behind the end
            self.stop()
            return len(data)
        try:
            end = self._find_head(data, i)
            if end < 0:
                if not b"HTTP/1.".startswith(self._buffer[:7]):  # another protocol: its head may never end
                    raise refuse("upstream", f"an answer that begins with {shown(self._buffer[:40])}")
                return len(data)
            raw = data if i == 0 and end == len(data) else data[i:end]
            head = self._look_up(self.memo, raw)
        except Error as error:
            self._mend(data[i:], error)
            return len(data)
        self.heard = True
        self._keep = self._keep and head.keep_alive
        if head.status < 200:
            return self._informational(head, end)
        return self._final(head, data, end)

    def _mend(self, data: bytes, error: Error) -> None:
        """What is no head, for this reason, may be one that is written otherwise (carrier/wire/h1/mend.py). Raises the error if not."""
        end = head_end(data)
        if end < 0 and data.startswith(b"HTTP/1."):
            first = data.find(b"\n")
            check_sizes(len(data) if first < 0 else first, len(data), self.limits, self.side)
            self._buffer, self._at, self._scanned = data, 0, 0
            return
        plain = mended(data[:end]) if 0 < end <= self.limits.head else b""
        if plain in (b"", data[:end]):
            raise error
        self._keep = False
        self.feed(plain + data[end:])

    def _informational(self, head: Head, end: int) -> int:
        self._interim += 1
        if self._interim > self.limits.interim:
            raise refuse("upstream", f"more than {self.limits.interim} interim answers")
        if head.status == 101:
            asked = tokens([self._upgrade or b""])
            if not self._upgrade or not head.upgrade or any(token not in asked for token in tokens([head.upgrade])):
                raise refuse("upstream", f"switched to {shown(head.upgrade)}, asked for {shown(self._upgrade)}")
            self._state, self._keep = _TUNNEL, False
            head = head.as_tunnel()
        self.target.on_head(head)
        return end

    def _final(self, head: Head, data: bytes, end: int) -> int:
        if self._method == b"HEAD" and head.body != NONE:
            head = head.without_body()
        elif self._method == b"CONNECT" and head.status < 300:
            if head.body in (LENGTH, CHUNKED):
                raise refuse("upstream", "an answer to CONNECT with content")
            self._state, self._keep = _TUNNEL, False
            self.target.on_head(head.without_body().as_tunnel())
            return end
        if head.body == CLOSE or (head.body != CHUNKED and len(data) - end > head.length):
            self._keep = False
        self._start_body(head)
        if head.body == CHUNKED:
            return self._first_chunks(head, data, end)
        self.target.on_head(head)
        if head.body == NONE and self._state != _OVER:
            self._end(())
        return end

    def _first_chunks(self, head: Head, data: bytes, i: int) -> int:
        """Decode before the head goes on, so that an answer which is wrong in its first read becomes a 502."""
        assert self._chunked is not None
        payload, end, trailers = self._chunked.feed(data, i) if i < len(data) else (b"", -1, ())
        if 0 <= end < len(data):
            self._keep = False
        self.target.on_head(head)
        self._pass(payload, end, trailers)
        return len(data)

    def _pass(self, payload: bytes, end: int, trailers: Fields) -> None:
        if payload and self._state != _OVER:
            self.target.on_data(payload)
        if end >= 0 and self._state != _OVER:
            self._end(trailers)

    def _body(self, data: bytes, i: int) -> int:
        n = len(data)
        if self._state == _LENGTH_BODY:
            end = min(n, i + self._left)
            self._keep = self._keep and end == n
            self._left -= end - i
            self.target.on_data(data if end - i == n else data[i:end])
            if not self._left and self._state == _LENGTH_BODY:
                self._end(())
        elif self._state == _CHUNKED_BODY and self._chunked:
            payload, end, trailers = self._chunked.feed(data, i)
            self._keep = self._keep and not 0 <= end < n
            self._pass(payload, end, trailers)
        elif self._state != _OVER:
            self.target.on_data(data[i:] if i else data)
        return n

    def _end(self, trailers: Fields) -> None:
        self._state, self._chunked = _HEAD, None
        self.complete = True
        self.target.on_end(trailers)
