"""`carrier replay`: what was recorded is sent again, over every version, and what differs is told."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from carrier.cli.replay import _Place, differences
from carrier.cli.resend import Answer
from tests import forked
from tests.e2e.test_grpc import grpc_server

SHOP = {"items": [{"id": 1, "price": 3}, {"id": 2, "price": 5}], "at": "now"}


def entry(status: int = 200, body: str = "", fields: dict[str, str] | None = None, **request: Any) -> dict[str, Any]:
    asked = {"method": "GET", "url": "http://shop/cart?a=1", "headers": [{"name": "x-a", "value": "b"}], **request}
    headers = [{"name": name, "value": value} for name, value in (fields or {}).items()]
    return {"request": asked, "response": {"status": status, "headers": headers, "content": {"size": len(body), "text": body}}}


def found(entry: dict[str, Any], answer: Answer, *ignored: str) -> list[tuple[str, str, str]]:
    return [tuple(one) for one in differences(entry, answer, [_Place(text) for text in ignored])]  # type: ignore[misc]


def test_the_same_is_no_difference_and_what_always_differs_is_not_looked_at() -> None:
    before = entry(200, "hi", {"Content-Type": "text/plain", "date": "then", "x-carrier-rule": "r", "set-cookie": "(redacted)"})
    assert found(before, Answer(200, [("content-type", "text/plain"), ("date", "now"), ("set-cookie", "s=1")], b"hi")) == []


def test_status_fields_and_content_differ() -> None:
    before = entry(200, "hello", {"x-a": "1", "x-gone": "1"})
    assert found(before, Answer(500, [("x-a", "2"), ("x-new", "3")], b"help")) == [
        ("status", "200", "500"),
        ("x-a", "1", "2"),
        ("x-gone", "1", "(none)"),
        ("x-new", "(none)", "3"),
        ("content, from byte 3", "b'lo' (5 bytes)", "b'p' (4 bytes)"),
    ]


def test_json_differs_place_by_place_whatever_the_order_of_its_names() -> None:
    now = {"at": "later", "items": [{"price": 4, "id": 1}], "more": True}
    before = entry(200, json.dumps(SHOP))
    assert found(before, Answer(200, [], json.dumps(now).encode())) == [
        ("$.items[0].price", "3", "4"),
        ("$.items[1]", '{"id": 2, "price": 5}', "(none)"),
        ("$.at", '"now"', '"later"'),
        ("$.more", "(none)", "true"),
    ]
    assert found(before, Answer(200, [], json.dumps(now).encode()), "$.at", "$.items[*].price", "$.items[1]", "$.more") == []
    assert found(before, Answer(200, [], json.dumps(now).encode()), "$.**") == []


def test_a_field_that_is_ignored_is_not_compared() -> None:
    assert found(entry(200, "", {"X-Version": "1"}), Answer(200, [("x-version", "2")], b""), "x-version") == []


def test_true_is_not_1() -> None:
    assert found(entry(200, '{"a": 1}'), Answer(200, [], b'{"a": true}')) == [("$.a", "1", "true")]


def test_content_that_was_not_kept_is_not_compared_and_of_what_was_cut_the_beginning_is() -> None:
    before = entry(200)
    before["response"]["content"]["size"] = 5
    assert found(before, Answer(200, [], b"other")) == []
    cut = entry(200, "hel") | {"_carrier": {"truncated": True}}
    assert found(cut, Answer(200, [], b"hello")) == [] and len(found(cut, Answer(200, [], b"halo"))) == 1


@contextlib.contextmanager
def shop(price: int = 3) -> Iterator[tuple[int, list[Any]]]:
    """A server of HTTP/1.1, and what it was asked."""
    asked: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            asked.append((self.command, self.path, dict(self.headers.items()), body))
            text = json.dumps({"price": price}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(text)))
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_GET

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def replay(tmp_path: Path, entries: list[Any], *arguments: str) -> tuple[int, str, str]:
    file = tmp_path / "x.har"
    file.write_text(json.dumps({"log": {"version": "1.2", "creator": {}, "entries": entries}}))
    command = [sys.executable, "-m", "carrier", "replay", str(file), *arguments]
    done = forked.run(command, capture_output=True, text=True, timeout=50)
    return done.returncode, done.stdout, done.stderr


def test_requests_are_sent_as_they_were_and_the_exit_status_says_whether_anything_differs(tmp_path: Path) -> None:
    fields = {"content-type": "application/json", "server": "x"}
    post = {"method": "POST", "url": "http://shop/buy", "postData": {"mimeType": "x", "text": "/wA=", "_encoding": "base64"}}
    hidden = {"headers": [{"name": "authorization", "value": "(redacted)"}, {"name": "x-user", "value": "john"}]}
    entries = [entry(200, '{"price": 3}', fields), entry(200, '{"price": 3}', fields, **post, **hidden)]
    socket = entry(101, "", url="ws://shop/chat") | {"_webSocketMessages": []}
    with shop() as (port, asked):
        code, out, err = replay(
            tmp_path, [*entries, socket], "--to", f"127.0.0.1:{port}", "--ignore", "server", "-H", "authorization: mine"
        )
        assert (code, err) == (0, "2 the same, 0 different, 1 skipped\n") and out.splitlines()[0] == "= GET http://shop/cart?a=1"
    (method, path, headers, _), (_, _, others, body) = asked
    assert (method, path, headers["host"], headers["x-a"]) == ("GET", "/cart?a=1", "shop", "b") and body == b"\xff\x00"
    assert others["authorization"] == "mine" and others["x-user"] == "john"
    with shop(4) as (port, _):
        arguments = ("--to", f"http://127.0.0.1:{port}", "--ignore", "server")
        code, out, err = replay(tmp_path, entries, *arguments)
        assert code == 1 and out.count("    $.price: 3 → 4\n") == 2 and "0 the same, 2 different" in err
        assert replay(tmp_path, entries, *arguments, "--ignore", "$.price")[0] == 0
        code, out, _ = replay(tmp_path, entries, *arguments, "--json")
        assert json.loads(out.splitlines()[0])["differences"] == [{"where": "$.price", "recorded": "3", "now": "4"}]


def test_who_does_not_answer_differs_and_what_is_no_archive_is_said(tmp_path: Path) -> None:
    code, out, _ = replay(tmp_path, [entry()], "--to", "127.0.0.1:9", "--timeout", "1")
    assert code == 1 and "answer: 200 → Connection refused" in out
    code, _, err = replay(tmp_path, [{"request": {}}], "--to", "127.0.0.1:9")
    assert code == 2 and "no HTTP archive" in err
    code, _, err = replay(tmp_path, [], "--to", "ftp://a")
    assert code == 2 and "--to takes" in err


async def test_a_call_of_grpc_is_made_again_with_its_messages_and_its_status_compared(tmp_path: Path) -> None:
    asked = base64.b64encode(b"x").decode()
    call: dict[str, Any] = entry(200, "", {"content-type": "application/grpc", "x-initial": "1"}, method="POST", url="http://a/a.S/Unary")
    call["request"]["headers"] = [{"name": "content-type", "value": "application/grpc"}]
    call["response"]["_trailers"] = [{"name": "grpc-status", "value": "0"}, {"name": "x-last", "value": "2"}]
    call["_carrier"] = {"grpc": {"service": "a.S", "method": "Unary"}}
    call["_messages"] = [{"type": "send", "time": 0, "opcode": 2, "data": asked}]
    call["_messages"] += [{"type": "receive", "time": 0, "opcode": 2, "data": base64.b64encode(b"echo x").decode()}]
    usual = ("--ignore", "accept-encoding", "--ignore", "grpc-accept-encoding", "--ignore", "grpc-message")
    async with grpc_server() as port:
        code, out, err = await asyncio.to_thread(replay, tmp_path, [call], "--to", f"127.0.0.1:{port}", *usual)
        assert code == 0, (out, err)
        call["response"]["_trailers"][0]["value"] = "5"
        code, out, _ = await asyncio.to_thread(replay, tmp_path, [call], "--to", f"127.0.0.1:{port}", *usual)
        assert code == 1 and "grpc-status: 5 → 0" in out
