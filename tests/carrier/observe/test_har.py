"""An archive's parts, without a proxy: bodies, cookies, messages in frames, what was cut. Whole entries of real traffic: test_record.py."""

from __future__ import annotations

import base64
import gzip
import zlib
from types import SimpleNamespace
from typing import Any

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage
from wsproto.extensions import PerMessageDeflate

from carrier import redact
from carrier.core.tape import Piece
from carrier.observe import har


def answer(extensions: bytes | None = None) -> Any:
    return SimpleNamespace(get=lambda name: extensions)


def pieces(*sent: bytes, kind: Any = None) -> list[Piece]:
    return [Piece(float(number), True, kind, data) for number, data in enumerate(sent)]


def test_an_archive_says_who_made_it() -> None:
    found = har.archive([{"time": 1}])["log"]
    assert found["version"] == "1.2" and found["creator"]["name"] == "carrier2" and found["entries"] == [{"time": 1}]


def bare(data: bytes) -> bytes:
    """Deflate without the frame of zlib's around it."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize("packed", [gzip.compress, zlib.compress, bare])
def test_a_compressed_body_is_shown_plain(packed: Any) -> None:
    body = packed(b"hello " * 100)
    coding = "gzip" if packed is gzip.compress else "deflate"
    assert har.decoded(body, coding, 10_000) == b"hello " * 100
    assert har.decoded(body, coding.upper(), 10_000) == b"hello " * 100


def test_a_body_that_unpacks_to_very_much_is_cut_at_what_is_kept() -> None:
    bomb = gzip.compress(b"\0" * 10_000_000)
    assert len(har.decoded(bomb, "gzip", 1000)) == max(1000, len(bomb))


@pytest.mark.parametrize(("body", "coding"), [(b"no gzip", "gzip"), (b"", "gzip"), (b"any", "br"), (b"any", "")])
def test_what_cannot_be_unpacked_stays_as_it_came(body: bytes, coding: str) -> None:
    assert har.decoded(body, coding, 1000) is body


def test_the_beginning_of_a_cut_body_is_unpacked() -> None:
    body = gzip.compress(bytes(range(256)) * 40, mtime=0)
    found = har.decoded(body[: len(body) // 2], "gzip", 1 << 20)
    assert found and (bytes(range(256)) * 40).startswith(found)


def test_text_is_text_and_everything_else_base64() -> None:
    assert har._written("grün".encode()) == ("grün", "")
    assert har._written(b"\xff\0") == (base64.b64encode(b"\xff\0").decode(), "base64")


def test_cookies_have_names_unless_their_field_is_secret() -> None:
    fields = [("Cookie", "a=1; b=2"), ("cookie", "c=3"), ("x", "d=4")]
    assert [(one["name"], one["value"]) for one in har._cookies(fields, "cookie", None)] == [("a", "1"), ("b", "2"), ("c", "3")]
    assert har._cookies([("cookie", redact.REDACTED)], "cookie", redact.ALWAYS) == []
    assert har._cookies([("cookie", 'a[]="; {"b":1}; c')], "cookie", None) == [
        {"name": "a[]", "value": '"'},
        {"name": '{"b":1}', "value": ""},
        {"name": "c", "value": ""},
    ]


def test_a_cookie_that_is_set_has_its_attributes() -> None:
    text = "sid=a=b; Path=/; domain=x.example; Expires=Wed, 21 Oct 2026 07:28:00 GMT; HttpOnly; Secure; SameSite=Lax; Max-Age=5"
    assert har._cookies([("set-cookie", text), ("set-cookie", "plain=1; expires=soon")], "set-cookie", None) == [
        {
            "name": "sid",
            "value": "a=b",
            "path": "/",
            "domain": "x.example",
            "expires": "2026-10-21T07:28:00+00:00",
            "httpOnly": True,
            "secure": True,
            "sameSite": "Lax",
        },
        {"name": "plain", "value": "1"},
    ]


def test_messages_of_grpc_are_put_together_from_pieces_of_any_size() -> None:
    stream = b"".join(b"\0" + len(text).to_bytes(4, "big") + text for text in (b"one", b"", b"three" * 50))
    for step in (1, 4, 5, 7, len(stream)):
        cut = [stream[at : at + step] for at in range(0, len(stream), step)]
        assert [data for *_, data in har._of_grpc(pieces(*cut))] == [b"one", b"", b"three" * 50]
    assert [data for *_, data in har._of_grpc(pieces(stream[:9]))] == [b"one"], "what is not whole is no message"


def test_both_directions_of_grpc_are_kept_apart() -> None:
    both = [Piece(0.0, True, None, b"\0\0\0\0\2h"), Piece(1.0, False, None, b"\0\0\0\0\1x"), Piece(2.0, True, None, b"i")]
    assert [(sent, data) for _, sent, _, data in har._of_grpc(both)] == [(False, b"x"), (True, b"hi")]


def frames(*events: Any, extensions: list[Any] | None = None) -> bytes:
    """What a client writes."""
    end = Connection(ConnectionType.CLIENT, extensions or [])
    return b"".join(end.send(event) for event in events)


def test_messages_of_a_websocket_are_read_from_frames_in_pieces() -> None:
    stream = frames(TextMessage("hel", message_finished=False), TextMessage("lo"), BytesMessage(b"\1\2"), CloseConnection(1000, "done"))
    wanted = [(har.TEXT, b"hello"), (har.BINARY, b"\1\2"), (8, (1000).to_bytes(2, "big") + b"done")]
    for step in (1, 3, len(stream)):
        cut = [stream[at : at + step] for at in range(0, len(stream), step)]
        assert [(opcode, data) for _, _, opcode, data in har._of_frames(pieces(*cut), answer())] == wanted


def test_compressed_messages_are_shown_plain() -> None:
    deflate = PerMessageDeflate()
    deflate.finalize("permessage-deflate")
    stream = frames(TextMessage("again and again " * 20), extensions=[deflate])
    assert b"again and again" not in stream
    found = list(har._of_frames(pieces(stream), answer(b"permessage-deflate")))
    assert [data for *_, data in found] == [b"again and again " * 20]


def test_what_is_no_frame_ends_the_messages_and_nothing_else() -> None:
    good = frames(TextMessage("hi"))
    assert [data for *_, data in har._of_frames(pieces(good, b"\xff" * 20, good), answer())] == [b"hi"]


def session(**more: Any) -> Any:
    return SimpleNamespace(started=10.0, connected_at=10.5, answered=True, answered_at=11.0, **more)


def test_timings_are_milliseconds_and_what_did_not_happen_is_minus_1() -> None:
    assert har._timings(session(), 12.0) == {"blocked": -1, "dns": -1, "connect": 500, "send": 0, "wait": 500, "receive": 1000, "ssl": -1}
    never = SimpleNamespace(started=10.0, connected_at=0.0, answered=False, answered_at=0.0)
    assert har._timings(never, 12.0) == {"blocked": -1, "dns": -1, "connect": -1, "send": 0, "wait": 2000, "receive": 0, "ssl": -1}


def test_a_session_of_bytes_stands_where_an_archive_has_a_request() -> None:
    found = har._no_request("TCP", "tcp://127.0.0.1:5432/", 7)
    assert (found["method"], found["url"], found["bodySize"], found["headers"]) == ("TCP", "tcp://127.0.0.1:5432/", 7, [])
