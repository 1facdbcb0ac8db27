"""One upstream connection of HTTP/2, and what those of one cluster share. Its streams are exchanges (clusters/http/h2_exchange.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Sized
from typing import TYPE_CHECKING, Any, Protocol, cast

from carrier.core.address import UNACKNOWLEDGED, keep_alive, quiet_since
from carrier.core.stream import HIGH
from carrier.hops.h2 import Connection
from carrier.wire.h2 import Engine, Memo, Section
from carrier.wire.h2 import Stream as Wire
from carrier.wire.h2.encoder import Encoder
from carrier.wire.h2.frames import NO_ERROR
from carrier.wire.h2.heads import answer_of, trailers_of
from carrier.wire.h2.limits import DEFAULT, Limits
from clusters.http.exchange import PATIENCE, Shared

if TYPE_CHECKING:
    from carrier.core.endpoint import Endpoint
    from clusters.http.exchange import Exchange

SILENCE = 15
"""Seconds without a byte from a peer that has streams open, after which its host is asked for a sign of life, by TCP: a program that is
stopped at a breakpoint says nothing, and its user wants to go on. And servers of gRPC end connections whose client sends more than two
PINGs within five minutes while they have nothing to say."""


class Way2:
    """What the HTTP/2 connections of one cluster share. scheme: https or http. streams: on one connection, if the peer allows as many."""

    __slots__ = ("encoder", "limits", "memo", "scheme", "shared", "streams")

    def __init__(self, shared: Shared, scheme: bytes, streams: int) -> None:
        self.shared, self.scheme, self.streams = shared, scheme, streams
        of = shared.limits
        self.limits = Limits(
            connect=False,
            connection_window=4 * 1024 * 1024,
            window=256 * 1024,
            budget=20_000,
            refill=4000,
            head=of.head,
            block=max(DEFAULT.block, of.head),
            fields=of.fields,
            line=of.line,
            options=True,
        )
        self.memo = Memo(self.limits, client=True)
        self.encoder = Encoder()


class Places(Protocol):
    """The connections of an endpoint (clusters/http/h2_pool.py), as one of them knows them."""

    way: Way2
    connections: list[Upstream2]
    closed: bool

    @property
    def waiting(self) -> Sized: ...
    def place(self) -> None: ...
    def left(self, connection: Upstream2) -> None: ...


class Upstream2(Connection):
    """One connection, the target of its engine. served: streams ever. since: when it had its last stream, or byte. gone: it is lost.
    told: its settings have come; before that it gets one stream, because it may not take more, and none for a tunnel. most: streams that
    are to be open at once, whatever the peer allows. quiet: since when its host acknowledges nothing. spare: exchanges that have ended as
    the usual ones do, for its next streams."""

    def __init__(self, pool: Places, endpoint: Endpoint) -> None:
        super().__init__(asyncio.get_running_loop())
        self.pool, self.endpoint = pool, endpoint
        self.gone = self.told = self.probed = False
        self.served = 0
        self.most = 1
        self.spare: list[Any] = []
        self.quiet = 0.0
        self.since = self.heard = pool.way.shared.now

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(HIGH)
        way = self.pool.way
        self.engine = Engine(self, way.memo, way.limits, client=True, now=self.loop.time())
        self.pool.connections.append(self)
        way.shared.busy.add(self)
        self.soon()

    @property
    def busy(self) -> int:
        """Streams that are open."""
        return len(self.engine.streams)

    def takes(self, exchange: Exchange) -> bool:
        """Has it a place, and is enough known of it for this exchange?"""
        engine, request = self.engine, exchange.request
        busy = len(engine.streams)
        return busy < self.most and busy < engine.most and (self.told or request is None or not request.upgrade)

    # ------------------------------------------------------------------ what the upstream sends

    def data_received(self, data: bytes) -> None:
        self.heard = self.pool.way.shared.now
        self.fed = True
        more = self.engine.feed(data, self.loop.time())
        self.fed = False
        if self.touched:
            touched, self.touched = self.touched, []
            for exchange in touched:
                if exchange.session is not None or exchange.held_head is not None:  # else it has ended meanwhile
                    exchange.show()
                    exchange.to.flush()
        self.write()
        if more:
            self.rest()

    def on_head(self, stream: Wire, section: Section, last: bool) -> None:
        if stream.owner is not None:
            stream.owner.came(answer_of(section, last), last)

    def on_data(self, stream: Wire, data: bytes, last: bool) -> None:
        if stream.owner is not None:
            stream.owner.content(data, last)

    def on_trailers(self, stream: Wire, section: Section) -> None:
        if stream.owner is not None:
            stream.owner.ended(trailers_of(section))

    def on_drained(self, stream: Wire) -> None:
        if stream.owner is not None:
            stream.owner.back.resume()

    def on_reset(self, stream: Wire, code: int, detail: str) -> None:
        if stream.owner is not None:
            owner, stream.owner = stream.owner, None
            owner.lost(code, detail)

    def on_refused(self, stream: Wire, section: Section, kind: str, detail: str) -> None: ...

    def on_goaway(self, last: int, code: int, detail: str) -> None:
        self.pool.left(self)  # it takes nothing new
        self.pool.place()

    def on_settings(self) -> None:
        self.told = True
        self.most = self.pool.way.streams
        self.pool.place()

    # ------------------------------------------------------------------ its life

    def write(self) -> None:
        self.due = False
        engine = self.engine
        if engine.out and not self.transport.is_closing():
            self.transport.write(engine.take())
        if engine.failure is not None or (engine.finished and not self.gone):
            self._close()

    def freed(self) -> None:
        """A stream has ended; its place is free as soon as the engine knows it too."""
        self.since = self.pool.way.shared.now
        if self.pool.waiting or self.pool.closed:
            self.loop.call_soon(self.pool.place)
        if not self.fed:
            self.soon()

    def close(self) -> None:
        """It is not needed after all."""
        self.drain()

    def drain(self) -> None:
        """Take no new streams, and close when the last has ended."""
        self.pool.left(self)
        self.engine.drain()
        self.soon()

    def _close(self) -> None:
        self.gone = True
        self.most = 0
        self.pool.left(self)
        if not self.transport.is_closing():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self.most = 0
        self.pool.left(self)
        self.pool.way.shared.busy.discard(self)
        self.fed = True
        self.spare.clear()
        self.engine.lost(str(exc) if exc else "the connection was closed")
        self.pool.place()

    def tick(self, now: float) -> None:
        """Deadlines of its exchanges, once a second."""
        for stream in list(self.engine.streams.values()):
            if stream.owner is not None:
                stream.owner.tick(now)

    def look(self, now: float, idle_timeout: float) -> None:
        """Its own, once a second."""
        engine = self.engine
        self.spare.clear()
        engine.now = self.loop.time()
        if engine.streams:
            silent = now - self.heard
            self.quiet = quiet_since(self.transport.get_extra_info("socket"), self.quiet, now) if silent >= PATIENCE else 0.0
            if self.quiet and now - self.quiet >= UNACKNOWLEDGED:
                engine.close(NO_ERROR, f"its host has acknowledged nothing for {UNACKNOWLEDGED:g} s")
                self.write()
                self.transport.abort()
            elif silent >= SILENCE and not self.probed:
                self.probed = True
                keep_alive(self.transport.get_extra_info("socket"), SILENCE)
        elif 0 < idle_timeout <= now - self.since:
            self.drain()
