"""One HTTP request as the source of one session, whatever version carried it: here is the policy; bytes are its connection's matter.

A request is kept and used again by what it came on: a connection of HTTP/1.1 is itself its one request (listeners/http/h1.py), one of
HTTP/2 makes one for each stream. Those give the few methods at the end of the class `Request`, which write; and they call `begin`, and set
`body_done` and `body_bytes` as they read. `Origin` is who asks: the same for all requests of one connection.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any

from carrier.core.address import described, plain
from carrier.core.reuse import ReusedSession, blank
from carrier.core.stream import Socket
from carrier.errors import Error
from carrier.hops.certificates import describe
from carrier.rules.explain import missed
from carrier.wire import grpc
from carrier.wire.forwarding import claims, make_id, trusts
from carrier.wire.frames import ANY_RSV, Scanner
from carrier.wire.http import CHUNKED, EXPLAIN, Head
from carrier.wire.making import date_field
from carrier.wire.trace import handed_on
from listeners.http.answers import answer_fields, fine, misdirected, missed_fields, refusal_for, token_fields

if TYPE_CHECKING:
    from carrier.core.decision import Decision
    from listeners.http.routing import Port, Routing

IDS = 4096
TAILS = [b"%03x\r\n\r\n" % number for number in range(IDS)]
"""The ends of request ids, and of the heads that they end."""
GOING_AWAY = b"\x88\x02\x03\xe9"
"""A WebSocket close frame with code 1001."""


class Origin:
    """Who asks on one connection, and what is added to its requests.

    peer, local: host and port. trusted: what it says of others is believed. special: what is added depends on more than the connection.
    tls: how it is secured, or None; in_front: how it was as far as a proxy that introduced it. gone: it is closed. fields: lines for each
    request; fields_and_id: the same and all but the end of a request id; number: how many ids have been used. place: what the rules can
    tell of it, as placed_by found.
    """

    # fmt: off
    __slots__ = (
        "fields", "fields_and_id", "gone", "in_front", "keeps", "local", "number", "peer", "place", "placed_by", "special", "tls",
        "trusted",
    )
    # fmt: on

    def __init__(self, port: Port, peer: tuple[str, int], local: tuple[str, int], tls: Any, in_front: Any = None) -> None:
        self.peer, self.local, self.tls, self.in_front = peer, local, tls, in_front
        self.gone = False
        self.place: object = None
        self.placed_by: Routing | None = None
        self.believed_by(port)
        self.fields = b"x-forwarded-for: " + peer[0].encode() + b"\r\n" if peer[0] else b""
        self.number = self.new_ids()

    def believed_by(self, port: Port) -> None:
        """How far the options of a port trust who asks."""
        self.trusted = bool(port.networks) and trusts(port.networks, self.peer[0])
        self.keeps = port.keeps_claims
        self.special = self.trusted or port.forwarded or (port.certificates is not None and port.certificates.guarded)

    def fields_of(self, head: Head) -> bytes:
        """The lines for a request that has an id, or says itself whom it comes for; and the end of its head."""
        fields = b"" if self.keeps and claims(head) else self.fields
        return fields + b"\r\n" if head.has_id else fields + b"x-request-id: " + make_id() + b"\r\n\r\n"

    def new_ids(self) -> int:
        """The first part of the ids of the next IDS requests; returns the first number."""
        self.fields_and_id = self.fields + b"x-request-id: " + make_id()[:29]
        return 0


def origin_of(port: Port, transport: asyncio.BaseTransport, arrival: Any) -> Origin:
    """Who asks over a transport. arrival: what the connection was before; its socket may know whom a proxy in front has introduced."""
    tls = transport.get_extra_info("ssl_object")
    told = getattr(arrival.sock, "told", None) if arrival is not None else None
    if told is not None:
        return Origin(port, told.peer, told.local, tls, told.secured())
    peer, local = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    return Origin(
        port,
        (plain(peer[0]), peer[1]) if isinstance(peer, tuple) else ("", 0),
        (plain(local[0]), local[1]) if isinstance(local, tuple) else (str(local), 0),
        tls,
    )


class Request(Socket):
    """See the module. Between requests `session` is None.

    awaits: the client has asked for leave to send its content, and has not been given it.
    asked: the head. sent: the answer's final head has gone out, or waits to. body_done: the request was read to its end; body_bytes: of its
    content so far. since: monotonic seconds (coarse) at which the present state began; seen: bytes that had moved when it was looked at.
    spare: the last session, for `begin_again`. tunnel: another protocol has begun. frames: where the frames of a WebSocket in a
    tunnel begin that the downstream gets; departing: it is to be told that the process ends. peer: host and port of who asks; client: the
    same as the access log writes it, which keeps that here.
    """

    __slots__ = (
        "asked",
        "awaits",
        "body_bytes",
        "body_done",
        "client",
        "departing",
        "frames",
        "listener",
        "local",
        "origin",
        "peer",
        "seen",
        "sent",
        "since",
        "spare",
        "tunnel",
    )
    origin: Origin
    peer: tuple[str, int]
    session: ReusedSession | None

    def __init__(self, listener: Port) -> None:
        super().__init__()
        self.listener = listener
        self.asked: Head | None = None
        self.sent = self.tunnel = self.departing = self.awaits = False
        self.body_done = True
        self.body_bytes = self.seen = 0
        self.since = listener.env.loop.time()
        self.spare: ReusedSession | None = None
        self.frames: Scanner | None = None
        self.client = b""

    def asked_by(self, origin: Origin) -> None:
        """Who asks."""
        self.origin = origin
        self.peer, self.local = origin.peer, origin.local

    # ------------------------------------------------------------------ what is asked

    def begin(self, head: Head, last: bool) -> None:
        """Start the session of a request; last: there is no more of it."""
        listener = self.listener
        self.asked = head
        decision, onward = head.decision or listener.routing.route(self, head)
        onward = onward or head
        origin = self.origin
        if origin.special:
            if self._misdirected(head):
                return
            fields = listener.routing.forwarding(origin.trusted).extra(head, origin.peer[0].encode(), make_id()) + b"\r\n"
        elif head.has_id or (origin.keeps and claims(head)):
            fields = origin.fields_of(head)
        else:
            number = origin.number
            if number == IDS:
                number = origin.new_ids()
                self.renewed()
            origin.number = number + 1
            fields = origin.fields_and_id + TAILS[number]
        watched = listener.env.watched
        if (  # most that are traced or not say nothing of a trace
            watched
            and (watched is True or head.trace is not False or watched.is_next())
            and self._begin_apart(head, decision, onward, last, fields)
        ):
            return
        spare = self.spare
        if spare is None or not spare.on_lane:
            self.spare = spare = blank(listener, self)
        if self.bound_to is not None or not spare.begin_again(decision, onward, last, fields):
            session = ReusedSession(listener, self)
            session.fields = fields
            session.begin(decision, onward, last)

    def _begin_apart(self, head: Head, decision: Decision, onward: Head, last: bool, fields: bytes) -> bool:
        """Begin a request that is traced or recorded; not on the lane. False: neither."""
        listener, env = self.listener, self.listener.env
        trace = env.tracer.sample(head) if env.tracer is not None and listener.listed else None
        recorded = env.recorder is not None and listener.listed and env.recorder.wants(decision)
        if trace is None and not recorded:
            return False
        session = ReusedSession(listener, self)
        session.fields = fields
        if trace is not None:
            onward = session.traced(trace, onward)
        if recorded:
            session.tape = env.recorder.tape(session, decision)
        session.on_lane = False
        session.begin(decision, onward, last)
        return True

    def _misdirected(self, head: Head) -> bool:
        """Refuse a request for a name that demands a client certificate which this connection's handshake did not ask for."""
        tls = self.listener.certificates
        if tls is None or not tls.misdirected(self.origin.tls, head.authority.decode("latin-1")):
            return False
        self.body_done = True
        self.refuse(misdirected(head.authority), head.raw)
        return True

    def may_go_ahead(self, head: Head) -> None:
        """A client that waits for 100 (Continue) is told so here where nobody behind the cluster would say so."""
        session = self.session
        self.awaits = True
        if head.expect and session is not None and session.fallback is None and session.decision.cluster is not None:
            self._go_ahead(session.decision.cluster.kind == "message")

    def falls_back(self, reads_heads: bool) -> None:
        """The fallback serves: a client that waits for leave to send its body has not been given it by a server that was not there."""
        session = self.session
        if session is not None and session.request is not None and session.decision.made_of is not None and session.decision.made_of.bridge:
            asked = self.asked  # what a bridge changes is for its own endpoint
            session.request = handed_on(asked) if asked is not None and session.trace is not None else asked
        if self.asked is not None and self.asked.expect and not self.body_done and not self.body_bytes:
            self._go_ahead(reads_heads)

    def _go_ahead(self, reads_heads: bool) -> None:
        """Say 100 Continue (RFC 9110 section 10.1.1)."""
        if not reads_heads and not self.sent:
            self.awaits, self.since = False, self.listener.now
            self.send_continue()

    # ------------------------------------------------------------------ what is answered

    def head(self, head: Head, last: bool = False) -> None:
        asked, session = self.asked, self.session
        if session is None or asked is None or self.sent:
            return
        if not head.status:  # our own request's: a transform is the destination, and gives back what it got
            if last:
                self.end()
            return
        if head.tunnel:
            self._switch(head)
            return
        if head.status < 200:
            if head.status == 100:  # the content's time begins
                self.awaits, self.since = False, self.listener.now
            self.send_interim(head)
            return
        self.sent = True
        session.answer = head
        more = b""
        if not session.on_lane:
            if session.hops and session.resizes(session.decision.egress):  # a transform may change the length
                head = head.as_chunked()
            if session.fallback is not None:
                more = b"x-carrier-fallback: %b\r\n" % session.fallback.encode()
        if asked.explain:
            more += self._told(asked, session)
        if self.listener.tells:
            more += self.listener.told(session, head)
        last = last or (head.body >= CHUNKED and asked.method == b"HEAD")
        if last and asked.grpc:
            self._outcome(head.fields)
        self.send_head(head, more, last)

    def _told(self, asked: Head, session: ReusedSession) -> bytes:
        """Why it went where it went, as far as who asks may know: all of it, or what concerns the bridge whose token was sent."""
        if self._may_ask(asked):
            return answer_fields(session)
        listener, tokens = self.listener, self.listener.env.tokens
        bridge = tokens.bridge(listener.name, asked.get(EXPLAIN) or b"") if tokens is not None else None
        if bridge is None or tokens is None:
            return b""
        if (fields := token_fields(session, bridge, tokens)) is not None:
            return fields
        return missed_fields(bridge, missed(listener.routing.table, bridge.rules[0], self.metadata(asked), listener.env.hidden))

    def _may_ask(self, asked: Head) -> bool:
        """Is this peer to be told why? Who is in `options.explain`; else who calls from 127.0.0.1 or over a unix socket, unless as a proxy
        for somebody else, and nobody where that address is others' as well (`trust_loopback`): containers of one pod."""
        host, env = self.origin.peer[0], self.listener.env
        if self.listener.explained and trusts(self.listener.explained, host):
            return True
        passed_on = any(asked.get(name) is not None for name in (b"x-forwarded-for", b"forwarded", b"via"))
        here = host in ("", "127.0.0.1", "::1") and (env.gate is None or env.gate.trust_loopback != "none")
        return here and not passed_on

    def _switch(self, head: Head) -> None:
        """Both sides speak another protocol from now on."""
        session = self.session
        assert session is not None
        self.sent = self.tunnel = True
        if head.upgrade == b"websocket":
            self.frames = Scanner(False, 1 << 62, ANY_RSV)
        session.answer = head
        session.event("UPGRADE", (head.upgrade or b"").decode("latin-1"))
        self.send_switch(head)

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if self.session is None or self.asked is None:
            return
        if not self.sent:
            self.head(fine(date_field()))
        if self.tunnel:
            self.send(data, False)
            if self.frames is not None:
                self.frames.feed(data)
                if self.departing:
                    self._say_goodbye()
            if last:
                self.end()
        elif self.asked.method == b"HEAD":
            if last:
                self.end()
        elif data:
            self.send(data, last)
        elif last:
            self.end()

    def end(self, trailer: Any = None) -> None:
        if self.session is None:
            return
        if self.tunnel:
            self.end_tunnel()
            return
        if not self.sent:
            self.head(fine(date_field()), False)
        if self.asked is not None and self.asked.grpc:
            self._outcome(trailer)
        self.send_end(trailer)

    def _outcome(self, fields: object) -> None:
        """How a call of gRPC went, as far as it was said."""
        self._called(grpc.said(fields))

    def broke_off(self, error: Error) -> None:
        """If it is a call of gRPC, this is how it went: nobody has said its status, or will hear it."""
        if self.asked is not None and self.asked.grpc and self.session is not None:
            gone = error.side == "downstream" and error.kind in ("reset", "closed")
            self._called(grpc.NAMES[grpc.CANCELLED if gone else grpc.status_of(error)])

    def _called(self, status: str) -> None:
        session, asked = self.session, self.asked
        if session is not None and asked is not None:
            session.outcome = status or grpc.NAMES[grpc.UNKNOWN]
            self.listener.calls.count(asked.target, status, monotonic() - session.started)

    def reset(self, error: Error) -> None:
        """The session failed: say so in HTTP if nothing was said yet, else cut, so that no half of an answer passes as a whole."""
        if self.session is None:
            return
        if self.sent:
            self.broke_off(error)
            session, self.session = self.session, None
            session.close(error)
            self.cut(error)
            return
        head, body = refusal_for(self.asked, error)
        self.head(head, not body)
        if body:
            self.data(body, None, True)

    def stop(self, error: Error | None = None) -> None:
        """The destination takes no more of the request; what it has answered, or will, still counts."""
        if error is not None and not self.sent:
            self.reset(error)

    # ------------------------------------------------------------------ ends, deadlines

    def depart(self) -> None:
        """The process ends: a WebSocket in a tunnel is told so, code 1001, as soon as no frame is half sent (RFC 6455 section 7.4.1)."""
        if self.frames is not None:
            self.departing = True
            self._say_goodbye()

    def _say_goodbye(self) -> None:
        frames, session = self.frames, self.session
        if session is None or frames is None or frames.at or frames.part or frames.over:
            return
        self.send(GOING_AWAY, False)
        self.give_up(Error("drain", "the proxy ends"))
        self.over()

    def give_up(self, error: Error) -> None:
        """End the session without a word to the downstream."""
        self.broke_off(error)
        session, to = self.session, self.to
        self.detach()
        if session is not None:
            session.close(error)
            to.reset(error)

    def late(self, now: float) -> None:
        """Deadlines of what is being served, once a second."""
        if self.tunnel:
            return
        if self.body_done:
            self._late_answer(now)
        else:
            self._late_body(now)

    def _late_body(self, now: float) -> None:
        listener, asked = self.listener, self.asked
        waits = self.awaits and asked is not None and asked.expect and not self.body_bytes
        if self.awaits and not waits:  # it did not wait, or not any longer: now its content's time begins
            self.awaits, self.since = False, now
        calls = asked is not None and asked.grpc  # messages come when there is something to say
        if waits or calls or self.sent or not listener.body_min_rate:
            self._late_answer(now)
            return
        if self.held:  # it may not send: that is not its fault
            self.since = max(self.since, now - listener.body_grace)
            return
        late = now - self.since - listener.body_grace
        if late > 0 and self.body_bytes < late * listener.body_min_rate:
            listener.hit("body_min_rate")
            self.refuse(
                Error("request-timeout", f"the body comes slower than {listener.body_min_rate:g} B/s (options.body_min_rate)", "downstream")
            )

    def _late_answer(self, now: float) -> None:
        listener = self.listener
        moved = self.bytes_in + self.bytes_out
        if moved != self.seen:
            self.seen = moved
            self.since = now
        elif now - self.since >= listener.idle_timeout > 0:
            listener.hit("idle_timeout")
            error = Error("timeout", f"nothing moved for {listener.idle_timeout:g} s (options.idle_timeout)")
            to = self.to
            self.reset(error)
            to.reset(error)

    # ------------------------------------------------------------------ what it is

    def metadata(self, head: Head | None) -> dict[str, Any]:
        """The session's metadata as l7mp lays it out, without its name."""
        origin = self.origin
        found = described(origin.peer, origin.local)
        found["HTTP"] = head.metadata() if head is not None else {}
        if origin.tls is not None:
            found["TLS"] = describe(origin.tls)
        elif origin.in_front is not None:
            found["TLS"] = origin.in_front
        return found

    # ------------------------------------------------------------------ given by the version

    @property
    def number(self) -> int:
        """Of the stream that it came on; 0 where a connection has no streams."""
        return 0

    @property
    def held(self) -> bool:
        """May the downstream not send?"""
        raise NotImplementedError

    def renewed(self) -> None:
        """The connection has new ids."""

    def send_continue(self) -> None:
        """Write 100 (Continue) of our own."""
        raise NotImplementedError

    def send_interim(self, head: Head) -> None:
        """Write a 1xx head, if the client knows such."""
        raise NotImplementedError

    def send_head(self, head: Head, more: bytes, last: bool) -> None:
        """Write the final head, with `more` field lines; last: all of the answer."""
        raise NotImplementedError

    def send_switch(self, head: Head) -> None:
        """Write the head behind which the tunnel begins, and read on as one."""
        raise NotImplementedError

    def send(self, data: bytes, last: bool) -> None:
        """Write content, or bytes of a tunnel; last: all of the answer is there."""
        raise NotImplementedError

    def send_end(self, trailer: Any) -> None:
        """The answer is complete."""
        raise NotImplementedError

    def end_tunnel(self) -> None:
        """The destination of a tunnel sends no more."""
        raise NotImplementedError

    def cut(self, error: Error) -> None:
        """End an answer that has begun so that the client sees that something is missing."""
        raise NotImplementedError

    def refuse(self, error: Error, begun: bytes = b"") -> None:
        """The request itself is at fault: say so, and end it. begun: its first bytes, for the log."""
        raise NotImplementedError

    def over(self) -> None:
        """What carried the tunnel ends, in order."""
        raise NotImplementedError
