"""WebSocket cluster: a WebSocket of its own per session (RFC 6455 section 4.1), whatever the source speaks.

The handshake is made of what the session is known by: the request that came in, rewritten as its rule wants (path, headers; host and port
of `/HTTP/url` select another target than the endpoint); from a source without HTTP metadata (UDP, TCP, UNIX) it is `GET /` with the
endpoint as Host. When the source has asked for an upgrade itself and nothing stands between, its own request is sent, key, extensions and
subprotocols included, and the answer goes back to it: from then on bytes are relayed raw, and a refusal is passed on too. Otherwise
messages are exchanged, and no extension is offered. TLS (wss) is a hop of its own behind (`carrier.hops.tls.decrypted`).
"""

from __future__ import annotations

import base64
import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carrier.core.endpoint import Endpoint
from carrier.core.metadata import get_at, text_bytes
from carrier.errors import Error, Problem, from_os
from carrier.hops.tls import decrypted, upstream
from carrier.hops.websocket import OPTIONS, WebSocketEnd
from carrier.options import check_numbers, numbers
from carrier.wire.forwarding import CLAIMS, HOPS, passed
from carrier.wire.frames import Closing, accept_key, valid_key
from carrier.wire.h1.reader import AnswerMemo, AnswerReader, Limits
from carrier.wire.http import HOP, Fields, Head
from carrier.wire.making import answer_head, request_head, rewrite, target_of
from clusters.tcp import TcpCluster

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env
    from carrier.core.session import Session

OWN = HOP | CLAIMS | {HOPS, b"host", b"content-length", b"content-type", b"expect", b"trailer"}
"""Fields of a request that a handshake made from it does not take over; those of WebSocket itself neither, but for the subprotocols."""
SUBPROTOCOL = b"sec-websocket-protocol"
EXTENSIONS = b"sec-websocket-extensions"
READ = 16 * 1024
REFUSAL = 64 * 1024
"""Bytes of a refusal's body that are passed on."""


class WebSocketCluster(TcpCluster):
    """`spec: {protocol: WebSocket, port, bind: {address, port}, tls}`. `options`: see carrier.hops.websocket.OPTIONS."""

    protocol = "WebSocket"
    kind = "message"

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        self.limits = numbers(conf.options, OPTIONS)
        self.memo = AnswerMemo()
        self.ends: set[WebSocketEnd] = set()
        super().__init__(conf, env)

    @classmethod
    def check_options(cls, options: Mapping[str, Any], path: str = "") -> list[Problem]:
        """Everything wrong with the options, by the strict standard."""
        return check_numbers(options, OPTIONS, path)

    messages_only = True

    def tunnels(self, session: Session) -> bool:
        """Will the source's own handshake be answered by the upstream, and its bytes be relayed as they are? What stands between a
        WebSocket listener and us wants messages; through an HTTP listener an upgrade is a tunnel, also to its transforms."""
        if self.wrapped:
            return False
        return upgrade_of(session) is not None and (session.decision.plain or not isinstance(session.source, WebSocketEnd))

    async def open(self, session: Session, endpoint: Endpoint) -> WebSocketUpstream:
        raw = self.tunnels(session)
        endpoint = target(session, endpoint, ("ws", "http", "") if self.tls is None else ("wss", "https", "ws", "http", ""))
        request, wire = handshake(session, endpoint, raw)
        sock = await self.connect(session, endpoint)
        answer = Answer()
        try:
            await self._exchange(sock, wire, request, answer, raw)
            head = answer.head
            assert head is not None
            if head.status == 101:
                check_answer(head, request, raw)
            elif not raw:
                raise Error("bad-answer", f"{head.status} to the WebSocket handshake", "upstream")
            return WebSocketUpstream(self, session, sock, head, answer.body, raw)
        except Error as error:
            sock.close()
            error.detail = f"{endpoint.address}: {error.detail}"
            raise
        except BaseException:
            sock.close()
            raise

    async def _exchange(self, sock: socket.socket, wire: bytes, request: Head, answer: Answer, raw: bool) -> None:
        """Send the handshake and read the answer; of a refusal the body too, if it is passed on. Raises Error: nothing of the session's own
        was sent yet, so another destination may do as long as this one has said nothing."""
        loop = self.env.loop
        reader = AnswerReader(self.memo, Limits(), answer)
        reader.expect(b"GET", request.upgrade)
        try:
            await loop.sock_sendall(sock, wire)
            while not answer.done(raw):
                data = await loop.sock_recv(sock, READ)
                if data:
                    reader.feed(data)
                    continue
                if answer.head is None:
                    raise Error("closed", "the connection ended in the WebSocket handshake", "upstream", "yes")
                reader.finish()
                return
        except OSError as exc:
            raise from_os(exc, "upstream", retry="yes" if answer.head is None else "no") from None

    async def connect(self, session: Session, endpoint: Endpoint) -> socket.socket:
        sock = await super().connect(session, endpoint)
        if self.tls is None:
            return sock
        opened = await upstream(self.env.loop, sock, self.tls, endpoint.host, endpoint.address)
        try:
            return decrypted(opened)
        except OSError as exc:
            raise from_os(exc, "upstream", endpoint.address, "yes") from None

    def tick(self, now: float) -> None:
        super().tick(now)
        for end in list(self.ends):
            end.tick(now)


class Answer:
    """What the codec reads of the answer to a handshake. body: of a refusal; after a 101 what came at once."""

    def __init__(self) -> None:
        self.head: Head | None = None
        self.body = b""
        self.ended = False

    def on_head(self, head: Head) -> None:
        if head.status == 101 or head.status >= 200:
            self.head = head

    def on_data(self, data: bytes) -> None:
        self.body += data

    def on_end(self, trailers: Fields) -> None:
        self.ended = True

    def done(self, whole: bool) -> bool:
        """Is there enough? whole: of a refusal the body is wanted, up to REFUSAL bytes."""
        head = self.head
        return head is not None and (head.status == 101 or not whole or self.ended or len(self.body) >= REFUSAL)


# --- the handshake ----------------------------------------------------------------------------------------------------------------


def upgrade_of(session: Session) -> Head | None:
    """The source's own opening handshake, if it sent one."""
    head = session.request
    if isinstance(head, Head) and head.upgrade and b"websocket" in [name.strip() for name in head.upgrade.split(b",")]:
        return head
    return None


def target(session: Session, endpoint: Endpoint, protocols: tuple[str, ...]) -> Endpoint:
    """The endpoint, or what the rule has put in its place in `/HTTP/url` (contract, section 4); what a client wrote there does not."""
    if not session.decision.rewrite:
        return endpoint
    url, before = (_mapping(get_at(meta, "HTTP/url")) for meta in (session.metadata, session.listener.metadata(session)))
    changed = {name: url[name] for name in ("protocol", "host", "port") if name in url and url[name] != before.get(name)}
    if str(changed.get("protocol", "ws")).rstrip(":") not in protocols:
        raise Error("not-implemented", f"protocol {changed['protocol']!r} to a WebSocket upstream: only {protocols[0]}")
    host, port = str(changed.get("host") or ""), str(changed.get("port") or "")
    name, colon, digits = host.rpartition(":")
    if colon and digits.isdecimal() and "]" not in digits and (":" not in name or name.endswith("]")):
        host, port = name, port or digits
    if not host and not port:
        return endpoint
    number = int(port) if port.isdecimal() else endpoint.port
    return Endpoint(endpoint.name, host.strip("[]") or endpoint.host, number, 1)


def handshake(session: Session, endpoint: Endpoint, raw: bool) -> tuple[Head, bytes]:
    """The request, and its bytes. Raises Error("protocol-error") when what the session is known by cannot be written."""
    head = upgrade_of(session)
    if head is None:
        head = _made(session, endpoint)
        return head, head.stem + session.fields
    if not valid_key(head.get(b"sec-websocket-key")):
        raise Error("protocol-error", "Sec-WebSocket-Key is not 16 bytes in base64", "downstream")
    if not raw and head.get(EXTENSIONS) is not None:
        head = rewrite(head, fields={EXTENSIONS: None})
    return head, head.stem + session.fields


def _made(session: Session, endpoint: Endpoint) -> Head:
    """A handshake for a source that sent none, from the session's metadata."""
    http = _mapping(get_at(session.metadata, "HTTP"))
    headers = {text_bytes(n).lower(): text_bytes(v) for n, v in _mapping(http.get("headers")).items() if v is not None}
    path = target_of(text_bytes(_mapping(http.get("url")).get("path") or "/"))
    fields = [(b"host", headers.get(b"host") or endpoint.address.encode("latin-1", "replace"))]
    fields += [(n, v) for n, v in headers.items() if n not in OWN and (n == SUBPROTOCOL or not n.startswith(b"sec-websocket-"))]
    fields.append((HOPS, b"%d" % (passed([headers.get(HOPS, b"")]) + 1)))
    fields += [(b"sec-websocket-key", base64.b64encode(os.urandom(16))), (b"sec-websocket-version", b"13")]
    return request_head(b"GET", path, fields, upgrade=b"websocket")


def check_answer(head: Head, request: Head, raw: bool) -> None:
    """Is a 101 the answer to this handshake (section 4.1)? Raises Error("bad-answer")."""
    wrong = ""
    if head.get(b"sec-websocket-accept") != accept_key(request.get(b"sec-websocket-key") or b""):
        wrong = "Sec-WebSocket-Accept is not the answer to our key"
    elif not _names(head, EXTENSIONS) <= (_names(request, EXTENSIONS) if raw else set()):
        wrong = "an extension that was not offered"
    elif not _names(head, SUBPROTOCOL) <= _names(request, SUBPROTOCOL) or len(_names(head, SUBPROTOCOL)) > 1:
        wrong = "a subprotocol that was not offered"
    if wrong:
        raise Error("bad-answer", f"the WebSocket handshake was answered with {wrong}", "upstream")


def _names(head: Head, field: bytes) -> set[bytes]:
    """What a field lists, without parameters."""
    return {name for part in (head.get(field) or b"").split(b",") if (name := part.partition(b";")[0].strip())}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


class WebSocketUpstream(WebSocketEnd):
    """The connected end of a WebSocket session, after the handshake. answer: the upstream's; subprotocol: what it chose, or empty."""

    __slots__ = ("answer", "subprotocol")

    def __init__(self, cluster: WebSocketCluster, session: Session, sock: socket.socket, answer: Head, rest: bytes, raw: bool) -> None:
        super().__init__(cluster.env.loop, sock, "upstream", cluster.limits, cluster.ends)
        self.session = session
        self.answer: Head | None = answer
        self.subprotocol = answer.get(SUBPROTOCOL) or b""
        self.early = rest
        if raw:
            self.begin_raw(answer, session.source)
        else:
            self.answer = None

    def head(self, head: Any, last: bool = False) -> None:
        """The source's handshake: its answer is there already."""
        answer = self.answer
        if answer is None:
            super().head(head, last)
            return
        self.answer = None
        to = self.to
        if answer.status == 101:
            to.head(answer)  # before anything is read: the session links, resumes and calls this in one go
            return
        body, self.early = self.early, b""
        self._depart(Closing(0, ""))
        to.head(answer_head(answer.status, answer.fields, body, reason=answer.reason, side="upstream"), not body)
        if body:
            to.data(body, None, True)

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if not self.gone:
            super().data(data, kind, last)
