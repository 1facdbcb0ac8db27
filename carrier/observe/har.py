"""A recorded session as an entry of an HTTP archive (HAR 1.2, as browsers write it and their tools read it).

A request is an entry as it is. WebSocket messages stand in `_webSocketMessages`, as in Chrome; messages of gRPC, datagrams and pieces of
streams of bytes in `_messages`, in the same form. `_carrier` says what only we know. Values of secret fields are "(redacted)", so are
those of parameters with such names.
"""

from __future__ import annotations

import base64
import contextlib
import time
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from carrier import redact
from carrier.config.dump import version
from carrier.core.shown import why
from carrier.log import rfc3339
from carrier.wire.grpc import call_of

if TYPE_CHECKING:
    from carrier.core.session import Session
    from carrier.core.tape import Piece, Tape

SECRET = frozenset(
    ("access_token", "api_key", "apikey", "auth", "client_secret", "code", "key", "password", "secret", "sig", "signature", "token")
)
"""Parameters of queries whose values are not shown."""
TEXT, BINARY = 1, 2
Entry = dict[str, Any]
Fields = list[tuple[str, str]]


def archive(entries: list[Entry]) -> dict[str, Any]:
    """A whole archive."""
    return {"log": {"version": "1.2", "creator": {"name": "carrier2", "version": version()}, "entries": entries}}


def entry(session: Session, tape: Tape, user: str, hidden: redact.Hidden | None) -> Entry:
    """The entry of a session that has ended, or is open. hidden: what is not shown; None: everything is."""
    now = time.monotonic()
    offset = time.time() - now
    ended = session.ended_at or now
    request = tape.request if tape.request is not None else session.request
    answer = tape.answer if tape.answer is not None else session.answer
    messages = list(_messages(session, tape, request, answer, offset))
    found: Entry = {
        "startedDateTime": rfc3339(session.started + offset),
        "time": _ms(ended - session.started),
        "request": _request(session, tape, request, hidden, bool(messages)),
        "response": _response(tape, answer, hidden, bool(messages)),
        "cache": {},
        "timings": _timings(session, ended),
    }
    endpoint = session.endpoint or session.last_endpoint
    if endpoint is not None and endpoint.host:
        found["serverIPAddress"] = endpoint.host
    if messages:
        found["_webSocketMessages" if _is_websocket(session, answer) else "_messages"] = messages
    if _is_websocket(session, answer):
        found["_resourceType"] = "websocket"
        if answer is None and session.connected_at:  # the listener has made it, not an endpoint
            found["response"] |= {"status": 101, "statusText": "Switching Protocols", "httpVersion": "HTTP/1.1"}
    found["_carrier"] = _ours(session, tape, user, hidden, endpoint)
    return found


def _ours(session: Session, tape: Tape, user: str, hidden: redact.Hidden | None, endpoint: Any) -> Entry:
    error, trace, request = session.error, session.trace, session.request
    said: Entry = {
        "session": session.name,
        "listener": session.listener.name,
        "protocol": session.listener.spec.get("protocol"),
        "rule": session.decision.rule,
        "why": why(session, hidden or redact.Hidden(frozenset(), True)),
        "user": user,
        "cluster": session.cluster.name if session.cluster is not None else "",
        "endpoint": endpoint.address if endpoint is not None else "",
        "fallback": session.fallback,
        "retries": session.retries,
        "error": error.kind if error is not None else None,
        "trace_id": trace.trace.decode() if trace is not None else None,
        "bytes_sent": tape.sizes[0],
        "bytes_received": tape.sizes[1],
        "truncated": tape.cut,
        "open": not session.ended_at,
    }
    if request is not None and request.grpc:
        service, method = call_of(request.target)
        said["grpc"] = {"service": service, "method": method, "status": session.outcome}
    return {name: value for name, value in said.items() if value not in ("", None, False)}


def _ms(seconds: float) -> float:
    return round(max(0.0, seconds) * 1000, 3)


def _timings(session: Session, ended: float) -> Entry:
    """Milliseconds; -1: it did not happen (HAR 1.2, timings)."""
    connected = session.connected_at or session.started
    first = session.answered_at if session.answered else ended
    connect = _ms(connected - session.started)
    return {
        "blocked": -1,
        "dns": -1,
        "connect": connect or -1,
        "send": 0,
        "wait": _ms(first - connected),
        "receive": _ms(ended - first),
        "ssl": -1,
    }


# --- HTTP ---------------------------------------------------------------------------------------------------------------------------------


def _request(session: Session, tape: Tape, head: Any, hidden: redact.Hidden | None, streams: bool) -> Entry:
    if head is None:
        local = session.source.local
        at = f"{local[0]}:{local[1]}" if isinstance(local, tuple) and local[0] else session.listener.name
        protocol = str(session.listener.spec.get("protocol"))
        return _no_request(protocol, f"{protocol.lower()}://{at}/", tape.sizes[0])
    target = _text(head.location if head.location else head.target)
    path, mark, query = target.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    if hidden is not None and any(name.lower() in SECRET for name, _ in pairs):
        pairs = [(name, redact.REDACTED if name.lower() in SECRET else value) for name, value in pairs]
        query = urlencode(pairs, safe="()")
    if hidden is not None and not hidden.query:
        mark, query, pairs = "", "", []
    scheme = "https" if getattr(session.listener, "tls", None) is not None else "http"
    if head.upgrade == b"websocket":
        scheme = scheme.replace("http", "ws")
    fields = _fields(head, hidden)
    found: Entry = {
        "method": _text(head.method),
        "url": f"{scheme}://{_text(head.authority) or 'unknown'}{path}{mark}{query}",
        "httpVersion": _version(head),
        "cookies": _cookies(fields, "cookie", hidden),
        "headers": [{"name": name, "value": value} for name, value in fields],
        "queryString": [{"name": name, "value": value} for name, value in pairs],
        "headersSize": len(head.raw) or -1,
        "bodySize": tape.sizes[0] if not streams else 0,
    }
    body = tape.body(True) if not streams else b""
    if body or found["bodySize"]:
        kind = _value(fields, "content-type")
        text, encoding = _written(body)
        found["postData"] = {"mimeType": kind, "text": text, **({"_encoding": encoding} if encoding else {})}
    return found


def _no_request(protocol: str, url: str, size: int) -> Entry:
    """A session of bytes in the place where an archive has a request."""
    empty: list[Entry] = []
    return {
        "method": protocol,
        "url": url,
        "httpVersion": "",
        "cookies": empty,
        "headers": empty,
        "queryString": empty,
        "headersSize": -1,
        "bodySize": size,
    }


def _response(tape: Tape, head: Any, hidden: redact.Hidden | None, streams: bool) -> Entry:
    fields = _fields(head, hidden) if head is not None else []
    kind, coding = _value(fields, "content-type"), _value(fields, "content-encoding")
    size = tape.sizes[1] if not streams else 0
    body = tape.body(False) if not streams else b""
    plain = decoded(body, coding, tape.most)
    content: Entry = {"size": size if plain is body else len(plain), "mimeType": kind or "x-unknown"}
    if plain is not body:
        content["compression"] = len(plain) - size
    if plain:
        text, encoding = _written(plain)
        content |= {"text": text, **({"encoding": encoding} if encoding else {})}
    found: Entry = {
        "status": head.status if head is not None else 0,
        "statusText": _text(head.reason) if head is not None else "",
        "httpVersion": _version(head) if head is not None else "",
        "cookies": _cookies(fields, "set-cookie", hidden),
        "headers": [{"name": name, "value": value} for name, value in fields],
        "content": content,
        "redirectURL": _value(fields, "location"),
        "headersSize": len(head.raw) or -1 if head is not None else -1,
        "bodySize": size,
    }
    trailer = tape.trailer
    if isinstance(trailer, tuple) and trailer and isinstance(trailer[0], tuple):
        found["_trailers"] = [{"name": _text(name), "value": _text(value)} for name, value in trailer]
    return found


def decoded(body: bytes, coding: str, most: int) -> bytes:
    """A body without its content coding, as far as that is gzip or deflate, and is whole enough; at most `most` bytes, at least as many as
    came. Else the body itself."""
    if coding.lower() not in ("gzip", "x-gzip", "deflate") or not body:
        return body
    for wbits in (47, -15):  # deflate has a frame of zlib's (RFC 9110 8.4.1.2), which some leave out
        with contextlib.suppress(zlib.error):
            return zlib.decompressobj(wbits).decompress(body, max(most, len(body)))
    return body


def _fields(head: Any, hidden: redact.Hidden | None) -> Fields:
    pairs = [(_text(name), redact.visible(_text(value))) for name, value in head.fields]
    if hidden is None:
        return pairs
    return [(name, redact.REDACTED if name.lower() in hidden.fields else value) for name, value in pairs]


def _cookies(fields: Fields, name: str, hidden: redact.Hidden | None) -> list[Entry]:
    """Names and values, of set-cookie with its attributes, read as browsers do (RFC 6265 section 5.2). What is redacted is not there."""
    found = []
    for key, text in fields:
        if key.lower() != name or text == redact.REDACTED:
            continue
        pairs = [tuple(map(str.strip, part.partition("=")[::2])) for part in text.split(";") if part.strip()]
        if name == "cookie":
            found += [{"name": one, "value": value} for one, value in pairs]
        elif pairs:
            found.append({"name": pairs[0][0], "value": pairs[0][1], **_attributes(pairs[1:])})
    return found


def _attributes(pairs: list[tuple[str, ...]]) -> Entry:
    """What set-cookie says of a cookie, by the names that archives have for it."""
    said = {name.lower(): value for name, value in pairs}
    found: Entry = {name: said[name] for name in ("path", "domain") if said.get(name)}
    if "expires" in said:
        from email.utils import parsedate_to_datetime  # only who takes a recording away needs it

        with contextlib.suppress(ValueError):
            found["expires"] = parsedate_to_datetime(said["expires"]).isoformat()
    found |= {name: True for name in ("httpOnly", "secure") if name.lower() in said}
    if said.get("samesite"):
        found["sameSite"] = said["samesite"]
    return found


def _version(head: Any) -> str:
    return f"HTTP/{head.version}" if head.version else "HTTP/1.1"


def _value(fields: Fields, name: str) -> str:
    return next((value for key, value in fields if key.lower() == name), "")


def _text(value: bytes) -> str:
    return value.decode("latin-1")


def _written(data: bytes) -> tuple[str, str]:
    """Bytes as text, or as base64, and which."""
    try:
        return data.decode(), ""
    except UnicodeDecodeError:
        return base64.b64encode(data).decode(), "base64"


# --- messages -----------------------------------------------------------------------------------------------------------------------------


def _is_websocket(session: Session, answer: Any) -> bool:
    return bool(session.listener.spec.get("protocol") == "WebSocket" or (answer is not None and answer.tunnel))


def _messages(session: Session, tape: Tape, request: Any, answer: Any, offset: float) -> Iterator[Entry]:
    """The messages of a session that is no mere request."""
    pieces: Iterator[tuple[float, bool, int, bytes]]
    if request is not None and answer is not None and answer.tunnel:
        pieces = _of_frames(tape.pieces, answer)
    elif request is not None and request.grpc:
        pieces = _of_grpc(tape.pieces)
    elif request is not None and session.listener.spec.get("protocol") != "WebSocket":
        return
    else:
        pieces = ((at, sent, kind or BINARY, data) for at, sent, kind, data in tape.pieces)
    for at, sent, opcode, data in pieces:
        try:
            text = data.decode() if opcode == TEXT else base64.b64encode(data).decode()
        except UnicodeDecodeError:
            opcode, text = BINARY, base64.b64encode(data).decode()
        yield {"type": "send" if sent else "receive", "time": round(at + offset, 6), "opcode": opcode, "data": text}


def _of_grpc(pieces: list[Piece]) -> Iterator[tuple[float, bool, int, bytes]]:
    """Messages of gRPC: each has a byte that says whether it is compressed, and its length in four (PROTOCOL-HTTP2.md)."""
    rest = {True: b"", False: b""}
    for at, sent, _, data in pieces:
        held = rest[sent] + data
        while len(held) >= 5 and len(held) >= (end := 5 + int.from_bytes(held[1:5], "big")):
            yield at, sent, BINARY, held[5:end]
            held = held[end:]
        rest[sent] = held


def _of_frames(pieces: list[Piece], answer: Any) -> Iterator[tuple[float, bool, int, bytes]]:
    """Messages in the frames of a WebSocket, decompressed where the two ends have agreed to compress (RFC 7692)."""
    from wsproto.connection import Connection, ConnectionState, ConnectionType
    from wsproto.events import BytesMessage, CloseConnection, TextMessage
    from wsproto.extensions import PerMessageDeflate
    from wsproto.utilities import ProtocolError

    agreed = (answer.get(b"sec-websocket-extensions") or b"").decode("latin-1")
    ends = {}
    for sent, side in ((True, ConnectionType.SERVER), (False, ConnectionType.CLIENT)):
        deflate = PerMessageDeflate()
        if agreed.startswith(PerMessageDeflate.name):
            deflate.finalize(agreed)
        ends[sent] = Connection(side, [deflate] if agreed else [])
    parts: dict[bool, list[bytes]] = {True: [], False: []}
    for at, sent, _, data in pieces:
        end = ends[sent]
        try:
            end.receive_data(data)
            for event in end.events():
                if isinstance(event, TextMessage | BytesMessage):
                    text = isinstance(event, TextMessage)
                    parts[sent].append(event.data.encode() if isinstance(event, TextMessage) else bytes(event.data))
                    if event.message_finished:
                        yield at, sent, TEXT if text else BINARY, b"".join(parts[sent])
                        parts[sent] = []
                elif isinstance(event, CloseConnection):
                    if end.state is ConnectionState.OPEN:  # nobody has said that: wsproto tells so of what is no frame
                        return
                    yield at, sent, 8, (event.code or 0).to_bytes(2, "big") + (event.reason or "").encode()
        except ProtocolError:  # what was cut, or is no WebSocket's
            return
