"""A session for people: its history, why it went where it went, and all of it as l7mp lists it (contract, section 4)."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Any

from carrier.core.rare import Rare
from carrier.core.stream import DESTROYED, INIT, Stream
from carrier.redact import Hidden, refused

if TYPE_CHECKING:
    from carrier.core.decision import Decision
    from carrier.core.parts import Listener

Event = tuple[str, float, str, Any]
"""What happened, monotonic seconds, a message, more of it."""
CONNECTED_TEXT = "Session successfully connected"
MAX_EVENTS = 64


class Shown(Stream):
    """What a session says of itself (core/session.py), all of it made when somebody asks."""

    __slots__ = ("connected_at", "on_lane")
    listener: Listener
    decision: Decision
    connected_at: float
    on_lane: bool
    rare: dict[str, Any] | None
    _name = Rare[str | None](None)
    _metadata = Rare[dict[str, Any] | None](None)
    _events = Rare[list[Event] | None](None)

    @property
    def name(self) -> str:
        """l7mp's session name (contract, section 4), made when somebody asks."""
        if self._name is None:
            self._name = self.listener.session_name(self)
        return self._name

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata tree, with the rule's rewrites once routed; made when somebody asks."""
        if self._metadata is None:
            self._metadata = self._tree(self.name)
        return self._metadata

    def _tree(self, name: str) -> dict[str, Any]:
        meta = {"name": name, **self.listener.metadata(self)}
        return self.decision.rewritten(meta) if self.decision is not None else meta

    def described(self) -> tuple[str, dict[str, Any]]:
        """Name and metadata for who lists many: where names are made of what a session is, neither is kept, and it stays on the lane."""
        name = self._name
        if name is None:
            name = self.name if self.listener.gives_names else self.listener.session_name(self)
        return name, self._metadata or self._tree(name)

    @property
    def why(self) -> str:
        """The one reason for where it went."""
        return why(self, self.listener.env.hidden)

    def event(self, event: str, message: str = "", content: Any = "") -> None:
        """Add to the session's history, as l7mp lists it; bounded."""
        self.on_lane = False
        if self._events is None:
            self._events = []
        if len(self._events) >= MAX_EVENTS:
            del self._events[MAX_EVENTS // 2]  # how it began and how it ended say most
        self._events.append((event, monotonic(), message, content))

    @property
    def events(self) -> list[Event]:
        """Its history, oldest first."""
        return self.history(self.name)

    def history(self, name: str) -> list[Event]:
        """The same, of one whose name is known."""
        return events(self, name, self._events or [])

    def note_connect(self) -> None:
        """Keep the CONNECT of a destination that is gone; the next one gets its own."""
        self.event("CONNECT", CONNECTED_TEXT)
        assert self._events is not None
        self._events[-1] = ("CONNECT", self.connected_at, CONNECTED_TEXT, "")
        self.connected_at = 0.0

    def dump(self) -> dict[str, Any]:
        """The session as l7mp lists it."""
        return dump(self)


def why(session: Any, hidden: Hidden) -> str:
    """The one reason for where it went: rule and conditions, fallback and why, retries, failure. Made when somebody asks."""
    decision, error = session.decision, session.error
    if decision is None:
        return "it was not routed"
    said = [decision.words(hidden)]
    if session.fallback is not None and decision.fallback is not None:
        detail = next((content for event, _, _, content in session.events if event == "FALLBACK"), "")
        detail = refused(session.fallback, detail)
        said.append(f"fallback {decision.fallback.name}, because {session.fallback}" + (f" ({detail})" if detail else ""))
    if session.retries:
        said.append("1 retry" if session.retries == 1 else f"{session.retries} retries")
    if error is not None and decision.error is None:
        said.append(f"failed, {error.kind}: {refused(error.kind, error.detail)}")
    return "; ".join(said)


def events(session: Any, name: str, kept: list[Event]) -> list[Event]:
    """Its history, oldest first. kept: what is no matter of course; the rest is derived, so that it costs nothing."""
    found: list[Event] = [("INIT", session.started, f"Session {name} initialized", "")]
    decision = session.decision
    if decision is not None and (decision.error is None or decision.missing):
        text = f"Successfull lookup on rulelist:{decision.rulelist}/rule:{decision.rule}"
        found.append(("LOOKUP SUCCESS", session.started, text, decision.reason))
    found += kept
    if session.connected_at:
        found.append(("CONNECT", session.connected_at, CONNECTED_TEXT, ""))
    found.sort(key=lambda e: e[1])
    if session.status == DESTROYED:
        if session.error is None and not any(event[0] == "END" for event in found):
            found.append(("END", session.ended_at, "Normal end", ""))
        found.append(("DESTROY", session.ended_at, "Session destroyed", session.error.detail if session.error else ""))
    return found


def dump(session: Any) -> dict[str, Any]:
    """Everything that is shown of a session: a tree of plain values."""
    offset = time.time() - time.monotonic()

    def stamp(at: float) -> str:
        return datetime.fromtimestamp(at + offset, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    source, endpoint = session.source, session.endpoint or session.last_endpoint
    decision, over = session.decision, session.status == DESTROYED
    destination: dict[str, Any] = {"status": "PENDING"}
    cluster = session.cluster or (decision.cluster if decision is not None and session.retries else None)
    if cluster is not None and (session.status != INIT or session.retries):
        shown: Any = "<INVALID>"
        if endpoint is not None:
            shown = {"name": endpoint.name, "spec": {"address": endpoint.host}}
        elif cluster.virtual:
            shown = {"name": cluster.name, "spec": {"address": "<VIRTUAL>"}}
        status = "END" if session.status == DESTROYED else "RETRYING" if session.status == INIT else "READY"
        destination = {"origin": cluster.name, "endpoint": shown, "status": status}
    name, metadata = session.described()
    metadata = {k: v for k, v in metadata.items() if k != "name"}
    found: dict[str, Any] = {
        "name": name,
        "metadata": metadata,
        "source": {"origin": session.listener.name, "listener": session.listener.spec, "status": source.status()},
        "destination": destination,
        "ingress": [{"origin": c.name, "status": "READY"} for c in (decision.ingress if decision else ())],
        "egress": [{"origin": c.name, "status": "READY"} for c in (decision.egress if decision else ())],
        "status": session.status,
        "events": [{"event": e, "timestamp": stamp(t), "message": m, "content": c} for e, t, m, c in session.history(name)],
        "counters": {
            "bytes_in": session.bytes_in if over else source.bytes_in,
            "bytes_out": session.bytes_out if over else source.bytes_out,
            "messages_in": source.messages_in if session.request is None or source.messages_in else 1,
            "messages_out": source.messages_out or int(session.answer is not None),
            "retries": session.retries,
            "dropped": session.dropped,
        },
    }
    if decision is not None and decision.rule:
        found["rule"] = decision.rule
    found["why"] = session.why
    if session.fallback:
        found["fallback"] = session.fallback
    return found
