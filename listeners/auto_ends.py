"""The accepted ends of an `auto` port: bytes of which somebody still has to find out what they are (`Look`), plain and inside TLS.

`Look` goes by the first line (carrier/wire/first.py). HTTP is handed to a connection of HTTP with all that has come. Something else is a
session of bytes at once; what cannot be told becomes one after `detect_timeout` seconds, because its server may be who speaks first, or
the client waits for an answer to what it has said. That makes one upstream connection, once. Until the first line has ended the client's
stream is looked at on its way; if it is HTTP after all, the session was begun for nothing and the request is served, or refused, because
the client has heard the other server by then. When the destination could not even be reached, the client is not told before that is known.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, cast

from carrier.core.accepting import UNSPOKEN, Arrival, anew
from carrier.core.address import places
from carrier.core.ledger import refused
from carrier.core.room import PATIENCE, UNFINISHED, YOUNG
from carrier.core.stream import DESTROYED, HIGH, NOWHERE, Socket
from carrier.errors import Error
from carrier.hops.bytesource import TcpSource, is_broken
from carrier.hops.certificates import describe
from carrier.hops.lookout import unsent
from carrier.wire.first import FirstLine
from carrier.wire.making import canned
from listeners.http.ending import FLUSH, LINGER
from listeners.http.h1 import Connection1
from listeners.http.listener import HttpListener

if TYPE_CHECKING:
    from collections.abc import Callable

    from carrier.core.session import Session
    from carrier.core.stream import Stream

NOT_KEPT = ("killed", "drain", "overload", "loop")
"""Errors after which a client that has not said what it is goes, too."""
LATE = "its first line came late, and is HTTP"
HEARD = "a request of HTTP after bytes of a server that speaks something else"


class AutoPort(HttpListener):
    """The listener as its ends know it."""

    detect_timeout: float

    def begin_raw(self, source: AutoSource | SecuredSource) -> bool:
        """A session of bytes, if there is a place for it; False: it is over already, or there is none."""
        raise NotImplementedError

    def serve_http(self, connection: socket.socket, first: bytes, since: float) -> None:
        """A connection is HTTP; `first` was read of it."""
        raise NotImplementedError

    def look_at_hello(self, connection: socket.socket) -> None:
        """A connection begins as TLS does."""
        raise NotImplementedError


class Look:
    """See the module. since: monotonic seconds of the accept. passed: bytes of what came that the session has."""

    __slots__ = ("failed", "first", "listener", "passed", "since", "source", "timer")

    def __init__(self, listener: AutoPort, source: AutoSource | SecuredSource) -> None:
        self.listener, self.source = listener, source
        self.first = FirstLine("h2" in listener.protocols)
        self.passed = 0
        loop = listener.env.loop
        self.since = loop.time()
        self.failed: Error | None = None
        """Why the destination was not reached."""
        self.timer: asyncio.TimerHandle | None = loop.call_later(listener.detect_timeout, self._begin)

    def feed(self, data: bytes) -> None:
        """The client says this."""
        source, seen = self.source, self.first.feed(data)
        if seen == "http":
            self._is_http()
        elif seen == "other" or (seen == "tls" and isinstance(source, SecuredSource)):
            self._is_raw()
        elif source.session is not None:
            if seen != "likely":
                self._pass()
        elif seen == "strange":
            self._begin()
        elif seen == "likely":
            self._stop()  # `tick` has the limit

    def ended(self) -> None:
        """The client says no more: whatever it is, it is no request."""
        self._is_raw()

    def lost(self) -> None:
        """The client is gone; what it has said goes on."""
        if self.first.held:
            self._is_raw()

    def _stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _begin(self) -> None:
        """Make the session, if there is none; it gets what has come so far."""
        self._stop()
        source = self.source
        if self.failed is not None:
            source.give_up(self.failed)
        elif source.session is None:
            if self.listener.begin_raw(source):
                self._pass()
        else:
            self._pass()

    def _pass(self) -> None:
        data = bytes(self.first.held[self.passed :])
        self.passed += len(data)
        if data and self.source.session is not None:
            self.source.give(data)

    def _is_raw(self) -> None:
        self._begin()
        self.source.undecided = None

    def _is_http(self) -> None:
        self._stop()
        source, session = self.source, self.source.session
        source.undecided = None
        if session is not None and source.bytes_out:
            self._refuse()
            return
        if session is not None:
            source.session = None
            source.to = source.back = NOWHERE
            session.close(Error("drain", LATE))
        source.become_http(bytes(self.first.held), self.since)

    def _refuse(self) -> None:
        """The client has heard a server that is none of HTTP: no request can be routed behind that, and none is passed on unread."""
        source, session = self.source, self.source.session
        error = Error("protocol-error", HEARD, "downstream")
        head, body = canned(error.status, error.detail)
        self.listener.hit(error.kind)
        refused(self.listener, source, bytes(self.first.held), error, self.since)
        source.data(head.text[:-2] + b"connection: close\r\n\r\n" + body)
        source.hang_up()
        if session is not None:
            session.close(error)

    def survives(self, error: Error) -> bool:
        """The session has failed with this. May the client stay, because its first line may still be HTTP? Then it has no session now."""
        source, session = self.source, self.source.session
        if session is None or session.connected_at or source.bytes_out or self.first.strange or error.kind in NOT_KEPT:
            return False
        self.failed = error.bare()
        source.session = None
        source.to = source.back = NOWHERE
        source.resume()
        return True

    def closed(self) -> None:
        """The connection is gone."""
        self._stop()

    # ------------------------------------------------------------------ as a connection

    def tick(self, now: float) -> None:
        """Before anybody has said a word, and without a session: the limits of a head."""
        source, listener = self.source, self.listener
        if source.closed:
            return
        if listener.stopped and not self.first.held and not source.bytes_out and now - self.since >= UNSPOKEN:
            source.give_up(Error("drain", "it said nothing"))
        elif source.session is not None:
            return
        elif now - self.since >= (listener.header_timeout or float("inf")):
            listener.hit("header_timeout")
            if self.failed is None and self.first.held:
                source.undecided = None
                source.become_http(bytes(self.first.held), self.since)  # which answers 408
            else:
                source.give_up(self.failed or Error("drain", "it said nothing"))

    def standing(self, now: float) -> tuple[int, float] | None:
        """See `Occupant`: who has not said what it is, and has heard nothing."""
        if self.source.bytes_out:
            return None
        return (UNFINISHED if now - self.since >= PATIENCE else YOUNG), self.since


class AutoSource(TcpSource):
    """An accepted connection: read from the start. undecided: who finds out what it is; None: it is known, and a session of bytes."""

    __slots__ = ("undecided",)
    listener: AutoPort

    def __init__(self, listener: AutoPort, sock: socket.socket, looks: bool = True) -> None:
        super().__init__(listener, sock)
        self.undecided: Look | None = Look(listener, self) if looks else None

    def _readable(self) -> None:
        look = self.undecided
        if look is not None and not look.first.held:
            try:
                if self.sock.recv(1, socket.MSG_PEEK) == b"\x16":
                    self.undecided = None
                    look.closed()
                    self.listener.look_at_hello(self._leave())
                    return
            except OSError:
                pass  # reading says what it is
        super()._readable()

    def came(self, data: bytes) -> None:
        if self.undecided is None or not data:
            super().came(data)
        else:
            self.undecided.feed(data)

    def give(self, data: bytes) -> None:
        """Pass this on to the session."""
        super().came(data)
        self.bulk = self.bulk and self.undecided is None

    def _eof(self) -> None:
        if self.undecided is not None:
            self.undecided.ended()
        super()._eof()

    def broken(self, error: Error) -> None:
        if self.undecided is not None:
            self.undecided.lost()
        super().broken(error)

    def shortcut_to(self, to: Stream) -> Callable[[], None] | None:
        return super().shortcut_to(to) if self.undecided is None else None

    def reset(self, error: Error) -> None:
        if self.undecided is None or not self.undecided.survives(error):
            super().reset(error)

    def give_up(self, error: Error) -> None:
        """There is nothing to be done with it."""
        super().reset(error)

    def hang_up(self) -> None:
        """It has heard all that it is told."""
        self.end()
        self.loop.call_later(LINGER, self.close)

    def _leave(self) -> socket.socket:
        """This end is no more; the connection lives on."""
        sock = self.takeover()
        self.detach()
        return anew(sock)

    def become_http(self, first: bytes, since: float) -> None:
        """It is HTTP, and this has come."""
        if self.ended_out:
            super().reset(Error("protocol-error", HEARD, "downstream"))
        else:
            self.listener.serve_http(self._leave(), first, since)

    def detach(self) -> None:
        super().detach()
        if self.undecided is not None:
            self.undecided.closed()

    # ------------------------------------------------------------------ as a connection

    def moved(self, listener: Any) -> None:
        super().moved(listener)
        if self.undecided is not None:
            self.undecided.listener = listener

    def tick(self, now: float) -> float | None:
        if self.undecided is not None:
            self.undecided.tick(now)
        until = super().tick(now) if self.session is not None else None
        return until if self.undecided is None else None

    def standing(self, now: float) -> tuple[int, float] | None:
        return self.undecided.standing(now) if self.undecided is not None else super().standing(now)

    def give_way(self) -> None:
        self.listener.hit("max_connections_unfinished")
        if self.session is not None:
            self.session.error = Error("overload", "its place was needed: there are too many connections")
        self.close()

    def leave(self) -> None:
        if self.undecided is not None and not self.undecided.first.held:
            self.undecided.since = self.loop.time()


class SecuredSource(Socket, asyncio.Protocol):
    """The accepted end of a connection whose TLS is terminated here, over a transport (carrier/hops/tlstransport.py), so that it can
    become a connection of HTTP. Each direction ends on its own.

    closed, since: it is being closed, and since when (monotonic seconds).
    """

    # fmt: off
    __slots__ = (
        "arrival", "closed", "ended_in", "ended_out", "listener", "local", "paused", "peer", "since", "tls", "transport", "undecided",
        "unsent",
    )
    # fmt: on
    session: Session | None
    transport: asyncio.Transport

    def __init__(self, listener: AutoPort, arrival: Arrival) -> None:
        super().__init__()
        self.listener, self.arrival = listener, arrival
        self.undecided: Look | None = None
        self.paused = self.closed = self.ended_in = self.ended_out = False
        self.since = 0.0
        self.unsent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(HIGH)
        self.peer, self.local = places(transport.get_extra_info("socket"))
        self.tls: dict[str, Any] | None = describe(transport.get_extra_info("ssl_object"))
        self.listener = self.listener.successor()
        self.undecided = Look(self.listener, self)
        self.listener.connections.discard(self.arrival.done())
        self.listener.connections.add(self)
        del self.arrival

    def data_received(self, data: bytes) -> None:
        if self.undecided is not None:
            self.undecided.feed(data)
        else:
            self.give(data)

    def give(self, data: bytes) -> None:
        """Pass this on to the session."""
        self.bytes_in += len(data)
        self.messages_in += 1
        self.to.data(data)
        self.to.flush()

    def eof_received(self) -> bool:
        if self.undecided is not None:
            self.undecided.ended()
        self.ended_in = True
        if self.session is not None:
            self.session.source_done = True
        self.to.end()
        if self.ended_out:
            self._close()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and self.undecided is not None:
            self.undecided.lost()
        self.closed = True
        session, to = self.session, self.to
        self.detach()
        if session is not None:
            error = Error("reset", "the downstream closed the connection", "downstream") if exc is not None else None
            session.close(error)
            to.reset(error or Error("closed", "the downstream has gone", "downstream"))

    def detach(self) -> None:
        super().detach()
        if self.undecided is not None:
            self.undecided.closed()
        self.listener.idle.forget(self)
        self.listener.gone(self)

    def become_http(self, first: bytes, since: float) -> None:
        """It is HTTP, and this has come."""
        transport, listener = self.transport, self.listener
        self.detach()
        connection = Connection1(listener)
        transport.set_protocol(connection)
        connection.connection_made(transport)
        if not connection.closing or listener.leaving:
            connection.data_received(first)
        if connection.session is None and connection.reader.pending:
            connection.since = since
            connection.wait_for_head()

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if not self.transport.is_closing() and not self.ended_out:
            self.bytes_out += len(data)
            self.messages_out += 1
            self.transport.write(data)
        if last:
            self.end()

    def end(self, trailer: Any = None) -> None:
        if self.ended_out or self.transport.is_closing():
            return
        self.ended_out = True
        session = self.session
        if self.ended_in or session is None or session.status == DESTROYED:
            self._close()
        else:
            self.transport.write_eof()

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.closed, self.since = True, self.listener.env.loop.time()
            self.transport.close()

    def reset(self, error: Error) -> None:
        if self.undecided is None or not self.undecided.survives(error):
            self.give_up(error)

    def give_up(self, error: Error) -> None:
        """There is nothing to be done with it."""
        self.transport.abort()

    def hang_up(self) -> None:
        """It has heard all that it is told."""
        self._close()

    def stop(self, error: Error | None = None) -> None:
        if error is not None:
            self.reset(error)
        else:
            self.pause()

    def pause(self) -> None:
        if not self.paused and not self.transport.is_closing():
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.paused and not self.transport.is_closing():
            self.paused = False
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        self.back.pause()

    def resume_writing(self) -> None:
        self.back.resume()

    def status(self) -> str:
        return "END" if self.transport.is_closing() else "READY"

    # ------------------------------------------------------------------ as a connection

    def moved(self, listener: Any) -> None:
        self.listener = listener
        if self.undecided is not None:
            self.undecided.listener = listener

    def tick(self, now: float) -> None:
        if self.closed:
            if (left := unsent(self.transport)) != self.unsent:
                self.unsent, self.since = left, now
            elif now - self.since >= FLUSH:
                self.transport.abort()
            return
        if self.undecided is not None:
            self.undecided.tick(now)
        if self.session is not None:
            error = self.listener.idle.overdue(self, now, self.ended_in or self.ended_out or is_broken(self.session))
            if error is not None:
                self.give_up(error)

    def standing(self, now: float) -> tuple[int, float] | None:
        if self.undecided is not None and not self.closed:
            return self.undecided.standing(now)
        return None if self.session is not None and self.session.status != DESTROYED else (UNFINISHED, self.since)

    def give_way(self) -> None:
        self.listener.hit("max_connections_unfinished")
        self.transport.abort()

    def leave(self) -> None:
        if self.undecided is not None and not self.undecided.first.held:
            self.undecided.since = self.listener.env.loop.time()
