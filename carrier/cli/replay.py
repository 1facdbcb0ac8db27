"""`carrier replay`: requests of an HTTP archive sent again, and what differs: status, fields, content, JSON place by place.

What differs every time is not looked at (`USUAL`, `--ignore`); what was redacted is not sent, unless `-H` says it. Exit status 0: all the
same, 1: something differs or does not answer, 2: the archive is none.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from carrier.cli.client import FAILED, OK, USAGE, Dict, reason
from carrier.cli.page import Page
from carrier.cli.resend import Answer, Endpoint, Fields
from carrier.redact import REDACTED

USUAL = frozenset(
    (
        "age",
        "alt-svc",
        "cf-ray",
        "connection",
        "content-length",
        "date",
        "etag",
        "expires",
        "keep-alive",
        "last-modified",
        "server-timing",
        "set-cookie",
        "traceparent",
        "transfer-encoding",
        "via",
        "x-request-id",
        "x-runtime",
    )
)
"""Fields of answers that differ every time, or with the connection."""
MOST = 20
"""Differences of one answer that are shown."""
SIZE = 512 * 1024 * 1024
"""Bytes of an archive."""
LONG = 120
"""Characters of a value that are shown."""


class Difference(NamedTuple):
    """where: status, a field, a place in JSON, or the content."""

    where: str
    recorded: str
    now: str


def replay(options: argparse.Namespace) -> int:
    """All requests, in order; the exit status."""
    page = Page()
    try:
        endpoint = Endpoint(options.to, options.timeout, options.insecure)
        ignored = [_Place(text) for text in options.ignore or ()]
        entries = list(entries_of(options.file))
    except (OSError, ValueError) as exc:
        where = f"{options.file}: " if isinstance(exc, OSError) else ""
        print(f"carrier replay: {where}{reason(exc)}", file=sys.stderr)
        return USAGE
    same = differ = skipped = 0
    for entry in entries:
        request = entry["request"]
        what = f"{request['method']} {request['url']}"
        if why := not_replayed(entry):
            skipped += 1
            _say(options, page, what, [], f"skipped: {why}")
            continue
        try:
            answer = _ask(entry, endpoint, options)
        except (OSError, ValueError) as exc:
            differ += 1
            _say(options, page, what, [Difference("answer", str(entry["response"]["status"]), reason(exc))], "")
            continue
        found = list(differences(entry, answer, ignored))
        differ += bool(found)
        same += not found
        _say(options, page, what, found, "")
    if not options.json:
        print(f"{same} the same, {differ} different, {skipped} skipped", file=sys.stderr)
    return FAILED if differ else OK


def entries_of(file: str) -> Iterator[Dict]:
    """The entries of an archive, `-` for standard input. Raises OSError, ValueError."""
    if file == "-":
        text = sys.stdin.buffer.read(SIZE + 1)
    else:
        with open(file, "rb") as opened:
            text = opened.read(SIZE + 1)
    if len(text) > SIZE:
        raise ValueError(f"{file}: more than {SIZE} bytes")
    try:
        entries = json.loads(text)["log"]["entries"]
        for entry in entries:
            request, response = entry["request"], entry["response"]
            if not all(isinstance(value, str) for value in (request["method"], request["url"])) or not isinstance(response["status"], int):
                raise TypeError("an entry without method, url or status")
            for part in (request, response):
                if not all(isinstance(one["name"], str) and isinstance(one["value"], str) for one in part["headers"]):
                    raise TypeError("a header without name and value")
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise ValueError(f"{file}: no HTTP archive (HAR 1.2): {type(exc).__name__}: {exc}") from None
    yield from entries


def not_replayed(entry: Mapping[str, Any]) -> str:
    """Why an entry is not sent again; "": it is."""
    ours, url = entry.get("_carrier") or {}, entry["request"]["url"]
    if urlsplit(url).scheme not in ("http", "https"):
        return "a WebSocket" if url.startswith("ws") else "no request of HTTP"
    if entry.get("_webSocketMessages") is not None or entry["response"]["status"] == 101:
        return "a WebSocket"
    if entry["response"]["status"] == 0 and not ours.get("error"):
        return "it has no answer"
    sent = ours.get("bytes_sent", 0)
    if ours.get("truncated") and sent > len(_content(entry)):
        return f"its content was kept in part ({len(_content(entry))} of {sent} bytes): record with more --bodies"
    return ""


def _content(entry: Mapping[str, Any]) -> bytes:
    """What was sent."""
    sent = [message for message in entry.get("_messages") or () if message.get("type") == "send"]
    if sent and (entry.get("_carrier") or {}).get("grpc"):
        return b"".join(b"\0" + len(data).to_bytes(4, "big") + data for data in (_data(message["data"]) for message in sent))
    data = entry["request"].get("postData") or {}
    text = data.get("text") or ""
    return _data(text) if data.get("_encoding") == "base64" else text.encode("utf-8", "surrogateescape")


def _data(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as exc:
        raise ValueError(f"no base64: {exc}") from None


def _ask(entry: Dict, endpoint: Endpoint, options: argparse.Namespace) -> Answer:
    """Raises OSError, ValueError."""
    request = entry["request"]
    parts = urlsplit(request["url"])
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    instead = {name.lower(): value for name, value in options.header or ()}
    fields = [(one["name"], one["value"]) for one in request["headers"]]
    fields = [(name, value) for name, value in fields if value != REDACTED and name.lower() not in instead]
    fields += [(name, value) for name, value in instead.items() if name != "host"]
    grpc = any(name.lower() == "content-type" and value.startswith("application/grpc") for name, value in fields)
    http = options.http or ("2" if grpc else "1")
    return endpoint.ask(request["method"], target, instead.get("host", parts.netloc), fields, _content(entry), http)


def _say(options: argparse.Namespace, page: Page, what: str, found: list[Difference], note: str) -> None:
    if options.json:
        said = {"request": what, "same": not found and not note, "differences": [d._asdict() for d in found]}
        print(json.dumps(said | ({"skipped": note.partition(": ")[2]} if note else {}), ensure_ascii=False), flush=True)
        return
    mark = page.paint("33", "-") if note else page.paint("31", "≠") if found else page.paint("32", "=")
    print(f"{mark} {what}{f'  {note}' if note else ''}", flush=True)
    for one in found[:MOST]:
        print(f"    {one.where}: {_short(one.recorded)} → {_short(one.now)}")
    if len(found) > MOST:
        print(f"    and {len(found) - MOST} more")


def _short(text: str) -> str:
    return text if len(text) <= LONG else f"{text[:LONG]}... ({len(text)} characters)"


# --- what differs -------------------------------------------------------------------------------------------------------------------------


class _Place:
    """What --ignore names: a field, or a place in JSON, where `*` stands for any name or number and what is below is meant too."""

    def __init__(self, text: str) -> None:
        self.json = text.startswith("$")
        if self.json:
            parts = re.split(r"(\*\*|\*)", text)
            inner = {"*": r"[^.\[\]]*", "**": ".*"}
            self.pattern = re.compile("".join(inner.get(part, re.escape(part)) for part in parts) + r"(?:[.\[].*)?")
        else:
            self.pattern = re.compile(re.escape(text), re.IGNORECASE)

    def takes(self, where: str) -> bool:
        return self.pattern.fullmatch(where) is not None


def differences(entry: Dict, answer: Answer, ignored: list[_Place]) -> Iterator[Difference]:
    """What is not as it was recorded."""
    response = entry["response"]
    if response["status"] != answer.status:
        yield Difference("status", str(response["status"]), str(answer.status))
    recorded = [(one["name"], one["value"]) for one in (*response["headers"], *(response.get("_trailers") or ()))]
    yield from _of_fields(recorded, answer.fields, ignored)
    yield from _of_content(entry, answer, ignored)


def _of_fields(recorded: Fields, now: Fields, ignored: list[_Place]) -> Iterator[Difference]:
    before, after = _together(recorded), _together(now)
    for name in sorted(before.keys() | after.keys()):
        hidden = before.get(name) == REDACTED
        if name in USUAL or name.startswith("x-carrier-") or hidden or any(not p.json and p.takes(name) for p in ignored):
            continue
        if before.get(name) != after.get(name):
            yield Difference(name, before.get(name, "(none)"), after.get(name, "(none)"))


def _together(fields: Fields) -> dict[str, str]:
    """Values by name, those of several lines joined (RFC 9110 section 5.3)."""
    found: dict[str, str] = {}
    for name, value in fields:
        key = name.lower()
        found[key] = f"{found[key]}, {value}" if key in found else value
    return found


def _of_content(entry: Dict, answer: Answer, ignored: list[_Place]) -> Iterator[Difference]:
    from carrier.observe.har import decoded

    content, ours = entry["response"].get("content") or {}, entry.get("_carrier") or {}
    coding = _together(answer.fields).get("content-encoding", "")
    now = decoded(answer.body, coding, SIZE) if coding else answer.body
    got = [message for message in entry.get("_messages") or () if message.get("type") == "receive"]
    if ours.get("grpc"):
        before = b"".join(b"\0" + len(data).to_bytes(4, "big") + data for data in (_data(message["data"]) for message in got))
    else:
        text = content.get("text") or ""
        before = _data(text) if content.get("encoding") == "base64" else text.encode("utf-8", "surrogateescape")
    if not before and (content.get("size") or 0) > 0 and not ours.get("grpc"):
        return  # it was not kept
    if ours.get("truncated"):
        now = now[: len(before)]
    elif _is_json(before) and _is_json(now):
        for one in _of_json(json.loads(before), json.loads(now), "$"):
            if not any(place.json and place.takes(one.where) for place in ignored):
                yield one
        return
    if before != now and not any(place.json and place.takes("$") for place in ignored):
        at = next((i for i, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), min(len(before), len(now)))
        yield Difference(f"content, from byte {at}", _shown(before, at), _shown(now, at))


def _shown(data: bytes, at: int) -> str:
    return f"{data[at : at + 40]!r} ({len(data)} bytes)"


def _is_json(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict | list)
    except (ValueError, RecursionError):
        return False


def _of_json(before: Any, now: Any, place: str) -> Iterator[Difference]:
    """Place by place."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in [*before, *(name for name in now if name not in before)]:
            yield from _of_json(before.get(name, _GONE), now.get(name, _GONE), f"{place}.{name}")
    elif isinstance(before, list) and isinstance(now, list):
        for i in range(max(len(before), len(now))):
            yield from _of_json(before[i] if i < len(before) else _GONE, now[i] if i < len(now) else _GONE, f"{place}[{i}]")
    elif before is not now and (before != now or isinstance(before, bool) is not isinstance(now, bool)):
        yield Difference(place, _value(before), _value(now))


_GONE = object()


def _value(value: Any) -> str:
    return "(none)" if value is _GONE else json.dumps(value, ensure_ascii=False)
