"""Lines of requests whose heads differ a little: each tells its own, whatever is remembered of their like."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace
from typing import Any

import pytest

from carrier.config.accesslog import Settings
from carrier.core.decision import Decision, Hits
from carrier.observe.lines import Lines
from carrier.wire.h1.memo import RequestMemo
from carrier.wire.http import Head
from carrier.wire.making import answer_head

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


class Named(SimpleNamespace):
    __hash__ = object.__hash__


@pytest.mark.parametrize("raw", [AGENT, OTHER, TRACE])
def test_lines_of_heads_of_one_shape_are_those_that_each_would_have_alone(raw: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carrier.observe.lines.ALIKE", 20)
    listener, source = SimpleNamespace(name="web", spec={"protocol": "HTTP"}), SimpleNamespace(client=b"127.0.0.1:1", peer=None)
    decisions = [Decision(rule, "rules", Hits()) for rule in ("one", "two")]
    for decision in decisions:
        decision.cluster = Named(name=f"for-{decision.rule}")  # type: ignore[assignment]
    answers = [answer_head(200), answer_head(404)]
    endpoints = [Named(name=name, address=name) for name in ("e1", "e2")]
    chance, memo, records = random.Random(7), RequestMemo(), []
    for n in range(1, 400):
        text = raw.replace(b"GET", chance.choice((b"GET", b"PUT"))) % (n % 3, n)
        head = memo.like(text.replace(b"Host: a", b"Host: " + chance.choice((b"a", b"b")))) or memo.parse(text, False)
        parts = head, chance.choice(decisions), chance.choice(endpoints), chance.choice(answers), chance.choice((7, 8)), 70
        records.append((listener, source, 1.0, 2.0, *parts, b"x-request-id: " + b"0" * 32 + b"\r\n\r\n", n))
    settings = Settings("", fields=FIELDS)
    together = Lines(settings, lambda rule: f"user-{rule}")
    made = []
    for part in (records[:200], records[200:]):
        together.forget()
        together.offset = 0.0
        made += together.json(part).splitlines()
    assert together.alike if raw is OTHER else not together.alike
    assert len(together.alike) <= 20
    for line, record in zip(made, records, strict=True):
        alone = Lines(settings, lambda rule: f"user-{rule}")
        alone.offset = 0.0
        record[4].log_line = None
        assert line == alone.json([record]).rstrip(b"\n")


def test_how_long_requests_took_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carrier.observe.lines.KEPT", 10)
    lines = Lines(Settings("", fields=("upstream",)), lambda rule: "")
    for micro in range(100):
        assert lines._took(micro) == b'","duration_us":%d,"upstream_us":%d' % (micro, micro)
        assert len(lines.tooks) <= 10
