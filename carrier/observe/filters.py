"""Which events a viewer wants: the filters of `GET /api/v1/events`, read and asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from carrier.errors import ConfigError, Problem, did_you_mean, shown
from carrier.wire.grpc import FAILURES

FILTERS: Mapping[str, str] = {
    "user": "only sessions of this user's bridges",
    "rule": "only sessions that this rule decided",
    "listener": "only of this listener",
    "status": "only answers of this status, or class of them: 404, 5xx",
    "path": "only requests whose path begins so",
    "protocol": "only of listeners of this protocol",
    "errors": "true: only what failed, answers from 500 on, and calls of gRPC whose status is the like",
    "since": "the id of the last event that was seen",
}

OF_SESSIONS = ("request", "session", "opened", "refused")
"""Kinds of events that filters of sessions are for."""


class Wanted:
    """The filters of a viewer. Raises ConfigError when there is an unknown one, or one that cannot hold."""

    def __init__(self, query: Mapping[str, str]) -> None:
        problems = [
            Problem(f"unknown filter {name!r}", f"?{name}", allowed=", ".join(FILTERS), hint=did_you_mean(name, FILTERS))
            for name in query
            if name not in FILTERS
        ]
        status = query.get("status", "")
        self.status = status.lower().removesuffix("xx")
        if status and not (self.status.isdecimal() and len(self.status) in (1, 3)):
            problems.append(Problem("expected a status or a class", "?status", seen=shown(status), allowed="404, 5xx"))
        for name, allowed in (("errors", ("", "true", "false")), ("since", ())):
            value = query.get(name, "")
            if (allowed and value not in allowed) or (not allowed and value and not value.isdecimal()):
                problems.append(
                    Problem(f"cannot be {value!r}", f"?{name}", seen=shown(value), allowed=", ".join(filter(None, allowed)) or "a number")
                )
        if problems:
            raise ConfigError(*problems)
        self.key = tuple(sorted((name, value) for name, value in query.items() if name != "since" and value))
        self.user, self.rule, self.listener, self.path, self.protocol = (
            query.get(name) or None for name in ("user", "rule", "listener", "path", "protocol")
        )
        self.protocol = self.protocol and self.protocol.casefold()
        self.errors = query.get("errors") == "true"
        self.of_requests = any(name != "errors" for name, _ in self.key)
        """It asks for something that only sessions have."""
        self.asks = self.errors or bool(self.status) or self.path is not None
        """It asks for more than a rule and its listener say."""

    def concerns(self, listener: str, protocol: str, rule: str, user: str) -> bool:
        """Is it for the viewer, as far as its rule and its listener say?"""
        pairs = ((self.listener, listener), (self.protocol, protocol.casefold()), (self.rule, rule), (self.user, user))
        return all(want is None or want == has for want, has in pairs)

    def passes(self, status: int, failed: bool, path: str) -> bool:
        """Is it, as far as the request and its answer say?"""
        if self.errors and not failed and status < 500:
            return False
        if self.status and self.status != (str(status)[:1] if len(self.status) == 1 else str(status)):
            return False
        return self.path is None or path.startswith(self.path)

    def takes(self, event: Mapping[str, Any]) -> bool:
        """Is this event for the viewer?"""
        if event["event"] not in OF_SESSIONS:
            return not self.of_requests and (not self.errors or event.get("level") != "notice")
        said = (str(event.get(name) or "") for name in ("listener", "protocol", "rule", "user"))
        failed = bool(event.get("error") or event.get("reason") or (event.get("grpc") or {}).get("status") in FAILURES)
        return self.concerns(*said) and self.passes(int(event.get("status") or 0), failed, str(event.get("path") or ""))
