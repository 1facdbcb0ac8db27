"""The request on one stream of HTTP/2, as the source of a session: what it answers becomes frames.

A stream whose downstream does not read pauses its upstream and nobody else's: `pause` of a request gives no window back.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from carrier.core.ledger import refused
from carrier.core.stream import NOWHERE
from carrier.errors import Error
from carrier.wire import grpc
from carrier.wire.frames import accept_key
from carrier.wire.h2 import Stream, code_name
from carrier.wire.h2.frames import CANCEL, ENHANCE_YOUR_CALM, INADEQUATE_SECURITY, INTERNAL_ERROR
from carrier.wire.h2.heads import CONTINUE_BLOCK, answer_block, framed_answer, lines_block, trailers_block
from carrier.wire.h2.hpack import encode
from carrier.wire.http import Head
from listeners.http.request import Request

if TYPE_CHECKING:
    from carrier.core.reuse import ReusedSession
    from carrier.wire.h2.encoder import Encoder
    from carrier.wire.h2.fields import Section
    from listeners.http.request import Origin
    from listeners.http.routing import Port

FINE = grpc.NAMES[grpc.OK]
FOREVER = 86_400.0
"""Seconds that a caller is waited for at most."""
CODES = {"timeout": CANCEL, "request-timeout": CANCEL, "killed": CANCEL, "drain": CANCEL, "overload": ENHANCE_YOUR_CALM}
"""What an answer that breaks off is reset with: by kind of error; INTERNAL_ERROR for the others."""
PASSED = frozenset((CANCEL, ENHANCE_YOUR_CALM, INADEQUATE_SECURITY))
"""What an upstream resets with that says something to who asked; the others are about its own connection."""


class Shared(Protocol):
    """What connections have in common, as far as a request asks for it."""

    encoder: Encoder


class Carries(Protocol):
    """The connection of a request (listeners/http/h2.py)."""

    loop: asyncio.AbstractEventLoop
    listener: Port
    origin: Origin

    @property
    def shared(self) -> Shared: ...
    def soon(self) -> None: ...
    def say(self, stream: Stream, error: Error, asked: Head | Section | None) -> Head: ...
    def free(self, request: Any) -> None: ...
    def free_at_once(self, request: Any) -> None: ...
    def forget(self, request: Any) -> None: ...


class Request2(Request):
    """The request on one stream. early: what came before the tunnel that was asked for began, whose bytes the window bounds. timer: when a
    caller of gRPC waits no longer; expired: it does not. used: it has a stream, or had, and is not among the spare ones. weight: bytes of
    its head that are counted at the listener."""

    __slots__ = ("connection", "early", "expired", "paused", "stream", "timer", "used", "weight")
    stream: Stream

    def __init__(self, connection: Carries) -> None:
        super().__init__(connection.listener)
        self.connection = connection
        self.used = False
        self.weight = 0
        self.asked_by(connection.origin)
        self.as_new()

    def as_new(self) -> None:
        """What may have been set by all but a `message` that went in one piece is set back."""
        self.sent = self.tunnel = self.departing = self.paused = False
        self.frames = None
        self.early: tuple[bytes, ...] = ()
        self.timer: asyncio.TimerHandle | None = None
        self.expired: Error | None = None

    def waits_for(self, seconds: float) -> None:
        """A caller of gRPC waits so long."""
        self.timer = self.connection.loop.call_later(min(seconds, FOREVER), self._expired, self.session, seconds)

    def _expired(self, session: object, seconds: float) -> None:
        self.timer = None
        if self.session is None or self.session is not session:
            return
        self.expired = error = Error("timeout", f"the caller's grpc-timeout of {seconds:g} s is over", "downstream")
        self.session.error = self.session.error or error.bare()
        to = self.to
        self.reset(error)
        to.reset(error)

    # ------------------------------------------------------------------ what is answered

    def send_continue(self) -> None:
        self.stream.send_head(CONTINUE_BLOCK)
        self.connection.soon()

    def send_interim(self, head: Head) -> None:
        self.stream.send_head(answer_block(head, self.connection.shared.encoder))
        self.connection.soon()

    def send_head(self, head: Head, more: bytes, last: bool) -> None:
        block = answer_block(head, self.connection.shared.encoder)
        if more:
            block += lines_block(more)
        self.bytes_out += len(block)
        self.stream.send_head(block, last)
        if last:
            self._finish()
        else:
            self.connection.soon()

    def send_switch(self, head: Head) -> None:
        asked = self.asked
        assert asked is not None
        fields = [pair for pair in head.sent_on() if pair[0] != b"sec-websocket-accept"]
        if head.upgrade == b"websocket" and head.version != "2":
            key = next((value for name, value in asked.sent_on() if name == b"sec-websocket-key"), b"")
            if head.get(b"sec-websocket-accept") != accept_key(key):
                error = Error("bad-answer", "the upstream switched to WebSocket without the accept key that was due", "upstream")
                self.sent = self.tunnel = False
                to = self.to
                self.reset(error)
                to.reset(error)
                return
        self.stream.send_head(encode([(b":status", b"200"), *fields]))
        self.connection.soon()
        self.body_done = self.stream.over
        for data in self.early:
            self.to.data(data)
        self.early = ()
        if self.stream.over:
            self.to.end()

    def message(self, head: Head, body: bytes) -> None:
        session, asked = self.session, self.asked
        if session is None or asked is None:
            return
        if not (head.whole and session.on_lane and (asked.simple or self._is_read(asked))) or self.paused:
            super().message(head, body)
            return
        self.session = None
        self.to = self.back = NOWHERE
        connection = self.connection
        encoder = connection.shared.encoder
        told = self._told_block(session, head)
        framed = framed_answer(head, encoder, told) if told or head.framed is None else head.framed
        if framed is not None and self.stream.send_framed(framed, body):
            self.bytes_out += framed[2]
            session.served(head)
            if not self.weight:
                connection.free_at_once(self)
                return
        else:
            block = answer_block(head, encoder) + told
            self.bytes_out += len(block) + len(body)
            self.stream.send_message(block, body)
            session.served(head)
        connection.free(self)

    def complete(self, head: Head, body: bytes, trailer: Any) -> None:
        session, asked = self.session, self.asked
        if session is None or asked is None:
            return
        fine = self.body_done and asked.grpc and session.on_lane and not (asked.explain or self.paused)
        if fine and not self.sent and grpc.said(trailer) == FINE:
            connection = self.connection
            block = answer_block(head, connection.shared.encoder) + self._told_block(session, head)
            if self.stream.send_call(block, body, trailers_block(trailer)):
                self.session = None
                self.to = self.back = NOWHERE
                self.bytes_out += len(block) + len(body)
                self.listener.calls.count(asked.target, FINE, monotonic() - session.started)
                session.served(head)
                connection.free(self)
                return
        super().complete(head, body, trailer)

    def _told_block(self, session: ReusedSession, head: Head) -> bytes:
        """What the listener adds to each answer."""
        return lines_block(self.listener.told(session, head) + b"\r\n") if self.listener.tells else b""

    def _is_read(self, asked: Head) -> bool:
        """Has a request with a body been read, and may any whole answer follow it as it is?"""
        return self.body_done and not (asked.explain or asked.method == b"HEAD" or asked.expect or asked.upgrade or asked.grpc)

    def send(self, data: bytes, last: bool) -> None:
        self.bytes_out += len(data)
        went = self.stream.send_data(data, last)
        if last:
            self._finish()
        else:
            if not went:
                self.back.pause()
            self.connection.soon()

    def send_end(self, trailer: Any) -> None:
        block = trailers_block(trailer)
        if block:
            self.stream.send_trailers(block)
        else:
            self.stream.end()
        self._finish()

    def _finish(self) -> None:
        """The answer is complete: the session ends."""
        session, to = self.session, self.to
        self.session = None
        self.to = self.back = NOWHERE
        if session is not None:
            session.close(session.error)
        if not self.body_done:
            to.reset(Error("closed", "answered before the request was read", "upstream"))
        self.connection.free(self)

    def end_tunnel(self) -> None:
        self.stream.end()
        if self.body_done:
            self._finish()
        else:
            self.connection.soon()

    # ------------------------------------------------------------------ ends

    def cut(self, error: Error) -> None:
        if error is self.expired and self.stream.held is None:  # whose clock is behind ours would take a reset for CANCELLED
            self.stream.send_trailers(trailers_block(grpc.said_of(error)))
            self.connection.free(self)
            return
        code = error.reset_code
        self.stream.reset(code if code is not None and code in PASSED else CODES.get(error.kind, INTERNAL_ERROR))
        self.connection.free(self)

    def refuse(self, error: Error, begun: bytes = b"") -> None:
        self.listener.hit(error.kind)
        session, to = self.session, self.to
        if session is None:
            asked = self.asked
            if asked is not None:
                begun = begun or asked.method + b" " + asked.target + b" HTTP/2"
            self.connection.say(self.stream, error, asked)
            refused(self.listener, self, begun, error, self.since)
            self.connection.free(self)
        elif self.sent:
            self.reset(error)
            to.reset(error)
        else:
            self.broke_off(error)
            self.session = None
            self.to = self.back = NOWHERE
            session.answer = self.connection.say(self.stream, error, self.asked)
            session.close(error)
            to.reset(error)
            self.connection.free(self)

    def over(self) -> None:
        self.stream.end()
        self.connection.free(self)

    def lost(self, code: int, detail: str) -> None:
        """The stream is over before its end."""
        self.give_up(Error("reset", f"the downstream broke the stream off: {detail or code_name(code)}", "downstream"))
        self.connection.forget(self)

    @property
    def number(self) -> int:
        return self.stream.id

    # ------------------------------------------------------------------ flow

    @property
    def held(self) -> bool:
        return self.paused

    def pause(self) -> None:
        self.paused = True
        self.stream.pause()

    def resume(self) -> None:
        self.waits = False
        if self.paused:
            self.paused = False
            self.stream.resume()
            self.connection.soon()

    def flush(self) -> None: ...

    def untaken(self) -> int:
        return sum(map(len, self.stream.held or ()))

    def status(self) -> str:
        return "END" if self.stream.ended and self.stream.over else "READY"
