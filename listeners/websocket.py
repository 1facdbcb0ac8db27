"""WebSocket listener: a connection is a session from its opening handshake on (RFC 6455 section 4.2).

The request is read as strictly as any HTTP/1.1 request, and routed by the same rules. Where the destination speaks WebSocket (or HTTP), the
request goes on and the upstream's answer comes back: its 101 with the extensions and the subprotocol that it chose, after which bytes are
relayed raw; or its refusal, as it is. Any other destination, or one behind transforms, gets messages, and the handshake is answered here as
soon as it is reached: no extension, the first subprotocol asked for (or the one that a WebSocket upstream chose). A session that cannot be
routed, or whose destination cannot be reached, is upgraded and then closed, as by l7mp (contract, section 3).

TLS (wss) is a hop of its own in front (`carrier.hops.tls.decrypted`): what is here reads a plain socket.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carrier.core.accepting import UNSPOKEN, Arrival, check_proxies
from carrier.core.address import described, places, secured
from carrier.core.ledger import refused
from carrier.core.room import IDLE, PATIENCE, UNFINISHED, YOUNG
from carrier.core.session import Session
from carrier.core.stream import CONNECTED, Stream
from carrier.errors import Error, Problem
from carrier.hops.bytesource import TlsSource
from carrier.hops.tls import decrypted, welcome
from carrier.hops.websocket import GOING_AWAY, WebSocketEnd
from carrier.hops.websocket import OPTIONS as END_OPTIONS
from carrier.options import check_numbers, numbers
from carrier.wire.forwarding import Forwarding, make_id
from carrier.wire.frames import CLOSE, Closing, accept_key, close_payload, valid_key
from carrier.wire.h1.head import Limits
from carrier.wire.h1.memo import RequestMemo
from carrier.wire.h1.reader import RequestReader
from carrier.wire.h1.text import text_of, without_chunked
from carrier.wire.http import CHUNKED, Fields, Head
from carrier.wire.making import canned
from listeners.http.answers import misdirected
from listeners.http.routing import MAX_HOPS, goes_round, rewritten
from listeners.tcp import TcpListener

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.address import HostPort
    from carrier.core.decision import Table
    from carrier.core.env import Env
    from carrier.core.stream import Socket

OPTIONS: Mapping[str, float] = {"track": 0, "max_connections": 4096, "header_timeout": 10, "max_hops": MAX_HOPS, **END_OPTIONS}
"""Limits (connections, seconds, bytes) and their defaults (DESIGN section 7); 0 means none."""
VERSION = (b"sec-websocket-version", b"13")
LIMITS = Limits()


class WebSocketListener(TcpListener):
    """`spec: {protocol: WebSocket, port, address, tls}`; `path` is accepted and ignored, as by l7mp. `options`: see OPTIONS."""

    protocol = "WebSocket"
    kind = "message"
    fields = {"port": "0..65535", "address": "IP address to bind to", "path": "ignored (l7mp)", "tls": "{certificate, key, ...}"}

    def __init__(self, conf: config.Listener, env: Env) -> None:
        super().__init__(conf, env)
        if self.by_name:
            raise Error("config", "a WebSocket listener must read what comes: pass TLS through a TCP listener")
        self.limits = numbers(conf.options, OPTIONS)

    @classmethod
    def check_options(cls, options: Mapping[str, Any], path: str = "") -> list[Problem]:
        """Everything wrong with the options, by the strict standard."""
        return check_numbers(options, OPTIONS, path, ("proxy_protocol",)) + check_proxies(options, path)

    def use(self, table: Table) -> None:
        super().use(table)
        names = table.needs.headers
        interesting = None if names is None else frozenset(name.encode("latin-1") for name in names)
        scheme = b"http" if self.certificates is None else b"https"
        self.profile = Forwarding(interesting=interesting, scheme=scheme, counts=self.limits["max_hops"] > 0)
        self.memo = RequestMemo(LIMITS, self.profile)
        for source in self.connections:
            if isinstance(source, WebSocketSource):
                source.reader.memo = self.memo

    # ------------------------------------------------------------------ connections

    def accepted(self, connection: socket.socket) -> Socket | None:
        """Read the handshake of a connection."""
        if self.certificates is None:
            return WebSocketSource(self, connection, *places(connection))
        self.arrive(connection, self._greet)
        return None

    async def _greet(self, arrival: Arrival) -> None:
        """Shake hands of TLS; the handshake of WebSocket is inside."""
        assert self.certificates is not None
        outer = TlsSource(arrival.listener, arrival.sock, await welcome(self.env.loop, arrival.sock, self.certificates))
        end = WebSocketSource(arrival.listener, decrypted(outer), outer.peer, outer.local)
        end.tls, end.secured = outer.tls, outer.channel.tls
        arrival.became(end)

    def enter(self, source: Socket) -> None:
        """It becomes a session when its handshake is read."""
        self.connections.add(source)
        assert isinstance(source, WebSocketSource)
        WebSocketEnd.resume(source)

    # ------------------------------------------------------------------ sessions

    def session_name(self, session: Session) -> str:
        source = session.source
        assert isinstance(source, WebSocketSource)
        return f"WS:{source.peer[0]}:{source.peer[1]}-{source.local[0]}:{source.local[1]}-{session.number}"

    def metadata(self, session: Session) -> dict[str, Any]:
        source = session.source
        assert isinstance(source, WebSocketSource)
        found = described(source.peer, source.local, source.tls)
        found["HTTP"] = source.request.metadata() if source.request is not None else {}
        return found


def check_upgrade(head: Head) -> tuple[int, str]:
    """Is this request an opening handshake (section 4.2.1)? The HTTP status to refuse it with, and why; or (0, "")."""
    if head.method != b"GET" or head.version == "1.0":
        return 426 if head.version == "1.0" else 405, "a WebSocket begins with a GET of HTTP/1.1"
    if b"websocket" not in [name.strip() for name in (head.upgrade or b"").split(b",")]:
        return 426, "this port speaks WebSocket: Upgrade: websocket and Connection: Upgrade are needed"
    if head.get(b"sec-websocket-version") != b"13":
        return 426, "Sec-WebSocket-Version 13 is needed"
    if not valid_key(head.get(b"sec-websocket-key")):
        return 400, "Sec-WebSocket-Key is not 16 bytes in base64"
    return 0, ""


class Behind(Stream):
    """Stands before a client's end to let the rest of a frame pass, of which `left` bytes are to come."""

    __slots__ = ("left",)
    to: WebSocketSource

    def __init__(self, end: WebSocketSource, left: int) -> None:
        super().__init__()
        self.left = left
        self.back, self.to = end.back, end
        self.back.to = end.back = self

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        left, self.left = self.left, max(0, self.left - len(data))
        if left:
            self.to.data(data[:left], kind)
        if not self.left:
            self.to.flush()
            self.to.take_leave()
        elif last:
            self.end()


class WebSocketSource(WebSocketEnd):
    """The accepted end of a WebSocket session. peer, local: (host, port). reader: of the handshake; asked: what it has just read; request:
    the handshake, once read. upgraded: a 101 was sent. refused: the destination's answer, which is no 101, is passed on. tls: what the
    metadata says below /TLS; secured: of what it says that."""

    __slots__ = ("asked", "listener", "local", "peer", "reader", "refused", "request", "secured", "tls", "upgraded")
    session: Session | None

    def __init__(self, listener: WebSocketListener, sock: socket.socket, peer: HostPort, local: HostPort) -> None:
        self.peer, self.local = peer, local
        self.listener = listener
        self.request: Head | None = None
        self.tls: dict[str, Any] | None = secured(sock)
        self.secured: Any = None
        self.upgraded = self.refused = False
        self.asked: Head | None = None
        self.reader = RequestReader(listener.memo, LIMITS, self)
        super().__init__(listener.env.loop, sock, "downstream", listener.limits, listener.connections)

    # ------------------------------------------------------------------ as a connection (carrier/core/accepting.py)

    def detach(self) -> None:
        super().detach()
        self.reader.detach()
        self.listener.gone(self)

    def moved(self, listener: WebSocketListener) -> None:
        self.reader.memo = listener.memo
        self.listener, self.limits, self.ends = listener, listener.limits, listener.connections

    def standing(self, now: float) -> tuple[int, float] | None:
        if self.gone:
            return IDLE, self.since
        if self.request is not None:
            return None
        return (UNFINISHED if now - self.since >= PATIENCE else YOUNG), self.since

    def give_way(self) -> None:
        self.listener.hit("max_connections_unfinished" if self.request is None else "max_connections_idle")
        self.close()

    def leave(self) -> None:
        if self.request is None and not self.reader.pending:
            self.since = self.loop.time()

    def tick(self, now: float) -> None:
        listener = self.listener
        timeout = listener.limits["header_timeout"]
        if self.upgraded:
            super().tick(now)
        elif self.request is not None or self.gone:
            return
        elif listener.stopped and not self.reader.pending and now - self.since >= UNSPOKEN:
            self.close()
        elif timeout and now - self.since >= timeout:
            listener.hit("header_timeout")
            self.refuse(Error("request-timeout", f"no whole head within {timeout:g} s", "downstream"))

    def depart(self) -> None:
        """The process ends: close with code 1001 (RFC 6455 section 7.4.1), behind the frame that is being relayed, if there is one."""
        outward = self.outward
        if self.session is None or not self.upgraded:
            return
        if self.raw and outward is not None and outward.at:
            Behind(self, outward.at)
        else:
            self.take_leave()

    def take_leave(self) -> None:
        """Frames may begin here: say why no other comes."""
        if not self.close_sent:
            self.close_sent = True
            self._frame(CLOSE, close_payload(GOING_AWAY, "the proxy ends"))
        if self.session is not None:
            self.session.kill("the proxy ends", "drain")

    # ------------------------------------------------------------------ the handshake

    def took(self, data: bytes) -> None:
        if self.upgraded:
            super().took(data)
        elif self.request is None and not self.gone:
            self._read(data)

    def _read(self, data: bytes) -> None:
        reader = self.reader
        try:
            reader.feed(data)
        except Error as error:
            self.refuse(error)
            return
        head, self.asked = self.asked, None
        if head is not None:
            reader.tunnel()  # what came behind the head
            reader.detach()
            self._handshake(head)

    def on_head(self, head: Head) -> None:
        """The request was read."""
        if self.asked is None:
            self.asked = head

    def on_data(self, data: bytes) -> None:
        """Bytes behind it."""
        self.early += data

    def on_end(self, trailers: Fields) -> None:
        """There is nothing that ends."""

    def _handshake(self, head: Head) -> None:
        status, why = check_upgrade(head)
        if status:
            self._say(*canned(status, why, [VERSION, (b"upgrade", b"websocket")] if status == 426 else []))
            refused(self.listener, self, head.raw, Error("protocol-error", why, "downstream"), self.since, status)
            return
        tls = self.listener.certificates
        if tls is not None and tls.misdirected(self.secured, head.authority.decode("latin-1")):
            self.refuse(misdirected(head.authority))
            return
        if 0 < (most := self.listener.limits["max_hops"]) <= head.hops:
            self.listener.hit("max_hops")
            self.refuse(goes_round(head.hops, most))
            return
        self._begin(head)

    def _begin(self, head: Head) -> None:
        listener = self.listener
        self.request = head
        self.pause()
        session = Session(listener, self)
        listener.live.add(session)  # not `listener.begin`: the request goes with it
        # Not session.metadata: that would be kept for as long as the session is there.
        decision = listener.table.decide({"name": session.name, **listener.metadata(session)})
        named = b"" if head.has_id else make_id()
        session.fields = listener.profile.extra(head, self.peer[0].encode(), named) + b"\r\n"
        # Where only messages will pass there is no request to be answered, and a route may reconnect.
        asks = decision.plain or decision.cluster is None or not decision.cluster.messages_only
        onward = rewritten(head, decision)
        tracer = listener.env.tracer
        if tracer is not None and (trace := tracer.sample(head)) is not None:
            onward = session.traced(trace, onward)
        session.begin(decision, onward if asks else None, False)
        if self.session is session and session.status == CONNECTED and not self.upgraded:
            self.resume()

    def _answer_comes(self) -> bool:
        """Does the destination itself answer the handshake?"""
        session = self.session
        cluster = session.cluster if session is not None else None
        if session is None or cluster is None or session.request is None:
            return False
        return cluster.tunnels(session)

    def resume(self) -> None:
        session = self.session
        if not self.upgraded and not self.refused and session is not None and not self.gone:
            if session.status != CONNECTED or self._answer_comes():
                return
            chosen = session.destination.subprotocol  # also none, where a WebSocket server has been asked
            self._upgrade(self._first_subprotocol() if chosen is None else chosen)
        super().resume()

    def _first_subprotocol(self) -> bytes:
        """Browsers give up when they ask for some and get none; l7mp takes the first."""
        assert self.request is not None
        return (self.request.get(b"sec-websocket-protocol") or b"").partition(b",")[0].strip()

    def _upgrade(self, subprotocol: bytes = b"") -> None:
        """Answer the handshake ourselves (section 4.2.2)."""
        assert self.request is not None
        lines = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: "
        lines += accept_key(self.request.get(b"sec-websocket-key") or b"") + b"\r\n"
        if subprotocol:
            lines += b"sec-websocket-protocol: " + subprotocol + b"\r\n"
        self._write(lines + b"\r\n")
        self.upgraded = True

    def head(self, head: Head, last: bool = False) -> None:
        """The destination's answer to the handshake: what it agreed to, or refused."""
        session = self.session
        if session is None or self.upgraded or self.refused or self.closed:
            if last and not self.refused:
                self.end()
            return
        if head.status == 101:
            self._write(text_of(head))
            self.upgraded = True
            self.begin_raw(head, session.destination)
            self.resume()
        elif head.status >= 200:
            self.refused = True
            wire = without_chunked(text_of(head)) if head.body == CHUNKED else text_of(head)
            self._write(wire[:-2] + b"connection: close\r\n\r\n")
            if last:
                self.end()

    # ------------------------------------------------------------------ HTTP that is not a 101

    def _write(self, data: bytes) -> None:
        """Bytes that are no frames."""
        super(WebSocketEnd, self).data(data)
        self.gave.messages -= 1

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if not self.refused:
            super().data(data, kind, last)
            return
        self._write(data)
        if last:
            self.end()

    def end(self, trailer: Any = None) -> None:
        if not self.refused:
            super().end(trailer)
            return
        session = self.session
        self._hang_up()
        if session is not None:
            session.close()

    def refuse(self, error: Error) -> None:
        """A request that is none: say so in HTTP, and close."""
        begun, self.early = self.reader.begun, b""
        self.reader.detach()
        self._say(*canned(error.status, error.detail))
        refused(self.listener, self, begun, error, self.since)

    def _say(self, head: Head, body: bytes) -> None:
        self._write(head.text[:-2] + b"connection: close\r\n\r\n" + body)
        self._hang_up()

    def _hang_up(self) -> None:
        self.close_sent = True  # no frame will be sent
        self._depart(Closing(0, ""))

    # ------------------------------------------------------------------ ends

    def reset(self, error: Error) -> None:
        """No destination: upgraded and closed, with a code that says why (contract, section 3)."""
        if self.refused:
            self.close_sent = True
        elif not self.upgraded and not self.closed and self.request is not None and not self.gone:
            self._upgrade(self._first_subprotocol())
        super().reset(error)

    def _eof(self) -> None:
        if self.upgraded or self.gone:
            super()._eof()
        else:
            self.broken(Error("closed", "the connection ended before the handshake", "downstream"))
