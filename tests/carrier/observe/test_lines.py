"""Lines of requests whose heads differ a little: each tells its own, whatever is remembered of their like."""

from __future__ import annotations

import json
from typing import Any

import pytest

from carrier.config.accesslog import Settings
from carrier.observe.lines import Lines
from carrier.wire.h1.memo import RequestMemo
from carrier.wire.http import Head

FIELDS = ("agent", "trace")
AGENT = b"GET /%d HTTP/1.1\r\nHost: a\r\nUser-Agent: agent-%d\r\nX-Unique: 1\r\n\r\n"
OTHER = b"GET /%d HTTP/1.1\r\nHost: a\r\nUser-Agent: agent\r\nX-Unique: %d\r\n\r\n"
TRACE = b"GET /%d HTTP/1.1\r\nHost: a\r\nUser-Agent: agent\r\ntraceparent: 00-%032x-00f067aa0ba902b7-01\r\n\r\n"


def heads(raw: bytes) -> list[Head]:
    """A hundred of a kind, the later ones by their shape."""
    memo = RequestMemo()
    found = [memo.like(raw % (n, n)) or memo.parse(raw % (n, n), False) for n in range(1, 100)]
    assert sum(head.kin is not None for head in found) > 50
    return found


def said(lines: Lines, head: Head) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(b'{"id":"' + lines._asked(head)[:-1] + b"}")
    return told


@pytest.mark.parametrize("raw", [AGENT, OTHER, TRACE])
def test_each_line_tells_its_own_request(raw: bytes) -> None:
    lines = Lines(Settings("", fields=FIELDS, headers=("x-unique",)), lambda rule: "")
    for n, head in enumerate(heads(raw), 1):
        for _ in range(2):
            told = said(lines, head)
            assert told["path"] == f"/{n}" and told["agent"] == ("agent" if raw is not AGENT else f"agent-{n}")
            assert told.get("trace_id") == (f"{n:032x}" if raw is TRACE else None)
            assert told["headers"] == ({} if raw is TRACE else {"x-unique": "1" if raw is AGENT else str(n)})


def test_two_logs_remember_each_their_own_and_a_change_forgets_it() -> None:
    one, two = (
        Lines(Settings("", fields=("agent",)), lambda rule: ""),
        Lines(Settings("", fields=("agent",), redact=("user-agent",)), lambda rule: ""),
    )
    for head in heads(OTHER):
        assert said(one, head)["agent"] == "agent" and said(two, head)["agent"] == "(redacted)"
    before = one.era
    one.forget()
    assert one.era is not before and said(one, head)["agent"] == "agent"


def test_how_long_requests_took_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carrier.observe.lines.KEPT", 10)
    lines = Lines(Settings("", fields=("upstream",)), lambda rule: "")
    for micro in range(100):
        assert lines._took(micro) == b'","duration_us":%d,"upstream_us":%d' % (micro, micro)
        assert len(lines.tooks) <= 10
