"""One request sent to an endpoint, and what comes back: every framing, and every way of not answering."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from carrier.cli.resend import Endpoint
from carrier.wire.h2 import encode
from carrier.wire.h2.frames import goaway_frame, header_frames, settings_frame
from tests.h2peer import Peer2, Server2, echo


@contextlib.contextmanager
def one(answer: bytes, context: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[bytes]]]:
    """Somebody who answers one connection so, whatever he is asked; what he was asked."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                plain, _ = server.accept()
                with context.wrap_socket(plain, server_side=True) if context is not None else plain as peer:
                    peer.settimeout(5)
                    data = b""
                    while b"\r\n\r\n" not in data:
                        data += peer.recv(65_536)
                    head, _, body = data.partition(b"\r\n\r\n")
                    lengths = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                    while len(body) < sum(lengths):
                        body += peer.recv(65_536)
                    heard.append(head + b"\r\n\r\n" + body)
                    peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], heard
        finally:
            thread.join(10)


def test_a_request_goes_out_as_it_was_without_what_is_of_one_connection() -> None:
    fields = [("X-A", "1"), ("Connection", "close"), ("transfer-encoding", "chunked"), ("x-a", "grün"), (":path", "/"), ("Host", "other")]
    with one(b"HTTP/1.1 201 Made\r\nX-B: 2\r\nContent-Length: 2\r\n\r\nhi") as (port, heard):
        answer = Endpoint(f"127.0.0.1:{port}").ask("POST", "/cart?a=1", "shop.example", fields, b"hello", "1.1")
    assert (answer.status, answer.body) == (201, b"hi") and ("X-B", "2") in answer.fields
    head, _, body = heard[0].partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /cart?a=1 HTTP/1.1",
        b"host: shop.example",
        b"X-A: 1",
        "x-a: grün".encode("latin-1"),
        b"content-length: 5",
    ]
    assert body == b"hello"


@pytest.mark.parametrize(("method", "length"), [("GET", False), ("DELETE", False), ("POST", True), ("PUT", True), ("PATCH", True)])
def test_an_empty_body_is_announced_where_one_is_expected(method: str, length: bool) -> None:
    with one(b"HTTP/1.1 204 No Content\r\n\r\n") as (port, heard):
        assert Endpoint(f"127.0.0.1:{port}").ask(method, "/", "x", [], b"", "1.1").status == 204
    assert (b"content-length: 0" in heard[0]) is length


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
    ],
)
def test_every_framing_of_an_answer_is_read_to_its_end(answer: bytes) -> None:
    with one(answer) as (port, _):
        assert Endpoint(f"127.0.0.1:{port}").ask("GET", "/", "x", [], b"", "1.1").body == b"hello"


def test_fields_of_a_trailer_stand_behind_those_of_the_head() -> None:
    with one(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n0\r\nx-sum: 7\r\n\r\n") as (port, _):
        found = Endpoint(f"127.0.0.1:{port}").ask("GET", "/", "x", [], b"", "1.1")
    assert found.fields == [("transfer-encoding", "chunked"), ("x-sum", "7")] and found.body == b"he"


def test_the_path_of_the_url_stands_before_each_target() -> None:
    with one(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") as (port, heard):
        Endpoint(f"http://127.0.0.1:{port}/base/").ask("GET", "/a", "x", [], b"", "1.1")
    assert heard[0].startswith(b"GET /base/a HTTP/1.1\r\n")


@pytest.mark.parametrize("answer", [b"nonsense\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi"])
def test_what_is_no_whole_answer_is_said(answer: bytes) -> None:
    with one(answer) as (port, _), pytest.raises((ValueError, OSError)):
        Endpoint(f"127.0.0.1:{port}").ask("GET", "/", "x", [], b"", "1.1")


def test_nobody_there_and_nobody_who_answers_are_errors_of_the_system() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(TimeoutError):
            Endpoint(f"127.0.0.1:{port}", timeout=0.1).ask("GET", "/", "x", [], b"", "1.1")
    with pytest.raises(ConnectionRefusedError):
        Endpoint(f"127.0.0.1:{port}").ask("GET", "/", "x", [], b"", "1.1")


@pytest.mark.parametrize("to", ["ftp://x", "http://", "http://x?a=1", "http://x#a", "x:port", ""])
def test_where_to_is_checked(to: str) -> None:
    with pytest.raises(ValueError):
        Endpoint(to)


def test_a_url_without_a_port_has_that_of_its_scheme() -> None:
    assert (Endpoint("http://x").port, Endpoint("https://x").port, Endpoint("x:1").port) == (80, 443, 1)


def test_certificates_are_looked_at_unless_they_are_not_to_be(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    with one(answer, context) as (port, _), pytest.raises(ssl.SSLError):
        Endpoint(f"https://localhost:{port}").ask("GET", "/", "x", [], b"", "1.1")
    with one(answer, context) as (port, _):
        assert Endpoint(f"https://localhost:{port}", insecure=True).ask("GET", "/", "x", [], b"", "1.1").status == 200


def test_http_2_that_is_none_is_said() -> None:
    with one(b"HTTP/1.1 400 Bad Request\r\n\r\n") as (port, _), pytest.raises(ValueError, match="HTTP/2"):
        Endpoint(f"127.0.0.1:{port}").ask("GET", "/", "x", [], b"", "2")


def test_http_1_that_is_http_2_is_said() -> None:
    with one(settings_frame({3: 100})) as (port, _), pytest.raises(ValueError, match=r"it speaks HTTP/2 \(--http 2\)"):
        Endpoint(f"127.0.0.1:{port}").ask("GET", "/", "a", [], b"", "1.1")


async def test_an_answer_behind_goaway_is_whole_and_a_value_may_end_with_a_blank() -> None:
    """As gRPC's servers say them: when a connection has its age, and when a reason ends so."""

    async def serve(peer: Peer2) -> None:
        number = await peer.request()
        peer.writer.write(goaway_frame(number, 0) + header_frames(number, encode([(b":status", b"103")]), False, 16384))
        peer.writer.write(header_frames(number, encode([(b":status", b"200"), (b"grpc-message", b"no ")]), True, 16384))
        await asyncio.sleep(5)

    async with Server2(serve) as server:
        found = await asyncio.to_thread(Endpoint(f"127.0.0.1:{server.port}").ask, "GET", "/", "a", [], b"", "2")
    assert (found.status, found.fields) == (200, [("grpc-message", "no")])


@pytest.mark.parametrize(("code", "said"), [(8, "CANCEL"), (2, "INTERNAL_ERROR")])
async def test_an_answer_that_is_broken_off_is_said_with_the_code(code: int, said: str) -> None:
    async def serve(peer: Peer2) -> None:
        peer.reset(await peer.request(), code)
        await asyncio.sleep(5)

    async with Server2(serve) as server:
        with pytest.raises(ValueError, match=f"broken off: .*{said}"):
            await asyncio.to_thread(Endpoint(f"127.0.0.1:{server.port}").ask, "GET", "/", "a", [], b"", "2")


async def test_a_large_body_goes_out_over_http_2_as_its_reader_takes_it() -> None:
    async with Server2(echo) as server:
        body = bytes(range(256)) * 1024
        answer = await asyncio.to_thread(Endpoint(f"127.0.0.1:{server.port}").ask, "POST", "/", "x", [("X-A", "b")], body, "2")
    assert answer.status == 200 and answer.body == b"POST / " + body
