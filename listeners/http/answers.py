"""Answers that a listener makes itself: errors, and the fields that explain a decision."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from carrier.errors import Error
from carrier.wire import grpc
from carrier.wire.forwarding import id_of
from carrier.wire.http import CLOSE, REASONS, Head
from carrier.wire.making import answer_head, date_field

if TYPE_CHECKING:
    from carrier.core.env import Tokens
    from carrier.core.session import Session
    from carrier.model import Bridge


class Asked(Protocol):
    """Who asked: a head, or a section of HTTP/2 that became none."""

    @property
    def method(self) -> bytes: ...
    @property
    def version(self) -> str: ...
    def get(self, name: bytes) -> bytes | None: ...


def answer_fields(session: Session) -> bytes:
    """The header lines of an answer that say why it came from where it came (x-carrier-rule, -cluster, -endpoint, -why)."""
    decision, endpoint = session.decision, session.endpoint or session.last_endpoint
    values = {
        "rule": decision.rule,
        "cluster": session.cluster.name if session.cluster is not None else "",
        "endpoint": endpoint.address if endpoint is not None else "",
        "why": session.why,
    }
    return _lines(values)


def token_fields(session: Session, bridge: Bridge, tokens: Tokens) -> bytes | None:
    """The same for who has shown a bridge's token, of a request that this bridge or another of its user has decided; None: of others.
    What stands behind other bridges, and the shadow's address, are not said."""
    decision = session.decision
    decided = decision.made_of.bridge if decision.made_of is not None else None
    if decided is not None and (decided == bridge.name or tokens.user(decided) == bridge.user):
        endpoint = session.endpoint or session.last_endpoint
        mine = session.cluster is not None and session.cluster.name == decision.rule  # a bridge's cluster has its rule's name
        address = endpoint.address if endpoint is not None and mine else ""
        return _lines({"rule": decision.rule, "cluster": decision.rule if mine else "", "endpoint": address, "why": session.why})
    return None


def missed_fields(bridge: Bridge, why: str) -> bytes:
    """Why a bridge has not taken the request, for who has its token."""
    return _lines({"why": f"not {bridge.rules[0]}: {why}"})


def _lines(values: Mapping[str, str]) -> bytes:
    return b"".join(b"x-carrier-%b: %b\r\n" % (name.encode(), _safe(value)) for name, value in values.items() if value)


OUR_ID = slice(-50, -2)
"""Where the line of an id that we made is, in the fields that are added to a request."""


def told_id(session: Session, head: Head) -> bytes:
    """The request's id, for its caller, unless the upstream has said one."""
    if head.get(b"x-request-id") is not None:
        return b""
    line = session.fields[OUR_ID]
    if line[:14] == b"x-request-id: ":
        return line
    found = id_of(session.request, session.fields) if session.request is not None else b""
    return b"x-request-id: %b\r\n" % found if found else b""


def told_timing(session: Session) -> bytes:
    """Server-Timing (W3C): milliseconds until this head, of them until the destination was connected and from there on."""
    now, started, connected = monotonic(), session.started, session.connected_at
    found = b"server-timing: carrier;dur=%.3f" % ((now - started) * 1e3)
    if connected:
        found += b", connect;dur=%.3f, upstream;dur=%.3f" % ((connected - started) * 1e3, (now - connected) * 1e3)
    return found + b"\r\n"


def _safe(value: str) -> bytes:
    """A header value of printable ASCII (RFC 9110 section 5.5); what is not becomes "?"."""
    return "".join(c if " " <= c <= "~" else "?" for c in value)[:1024].encode()


@lru_cache(maxsize=1)
def fine(date: tuple[bytes, bytes]) -> Head:
    """What a destination that knows no HTTP answers with (contract, section 4)."""
    return answer_head(200, [date], framing=CLOSE)


def misdirected(host: bytes) -> Error:
    """A request for a name whose clients must show a certificate, on a connection where it was not asked for (RFC 9110 15.5.20)."""
    detail = f"{host.decode('latin-1')} demands a client certificate, which was not asked for on this connection: connect by that name"
    return Error("misdirected", detail, "downstream")


def refusal_for(asked: Asked | None, error: Error) -> tuple[Head, bytes]:
    """An error as who asked understands it: callers of gRPC and gRPC-Web make little of HTTP's statuses."""
    kind = asked.get(b"content-type") if asked is not None and asked.method == b"POST" else None
    if asked is None or kind is None:
        return error_answer(error)
    if grpc.is_type(kind) and asked.version == "2":
        return grpc.refusal(error, kind, date_field()), b""
    if grpc.is_web_type(kind):
        return grpc.web_refusal(error, kind, date_field()), b""
    return error_answer(error)


def error_answer(error: Error) -> tuple[Head, bytes]:
    """An error as HTTP says it: l7mp's JSON (contract, section 3), and when to come back if that may help."""
    return _error_answer(error.status, error.kind, error.detail, date_field())


@lru_cache(maxsize=64)
def _error_answer(status: int, kind: str, detail: str, date: tuple[bytes, bytes]) -> tuple[Head, bytes]:
    """Remembered: when thousands are refused in a second, they are refused for the same reason."""
    message = REASONS.get(status, b"").decode()
    body = json.dumps({"status": status, "message": message, "content": detail}, indent=4).encode()
    fields = [date, (b"content-type", b"application/json"), (b"x-carrier-error", kind.encode())]
    if status == 503:
        fields.append((b"retry-after", b"1"))
    return answer_head(status, fields, body), body
