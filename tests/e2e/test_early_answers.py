"""A final answer while the upload still runs, and then the end of the connection: the answer counts, in every version on both sides, with
and without TLS (RFC 9110 section 10.1.1, RFC 9112 section 9.6, RFC 9113 section 8.1)."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from listeners.http import h2
from tests.conversation import Stage
from tests.h2peer import Peer2, Server2, client2
from tests.pki import Pki, pki
from tests.support import config, port_of, running

__all__ = ["pki"]

REFUSAL = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 9\r\nconnection: close\r\n\r\ntoo large"
MUCH = 3 << 20


@contextlib.asynccontextmanager
async def refusing(tls: ssl.SSLContext | None) -> AsyncIterator[int]:
    """A server of HTTP/1.1, blocking as many are: it reads the head and a little more, says 413, and closes with most of it unread, which
    becomes a reset."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock: socket.socket = server.accept()[0]
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else the reset overtakes the answer, which never leaves
                    with contextlib.suppress(OSError), tls.wrap_socket(sock, server_side=True) if tls is not None else sock as sock:
                        data = b""
                        while b"\r\n\r\n" not in data or len(data) < 30_000:
                            data += sock.recv(8192)
                        sock.sendall(REFUSAL)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


async def refuse2(peer: Peer2, how: str) -> None:
    while True:
        number = await peer.request()
        asked = peer.streams[number]
        await peer.until(lambda asked=asked: len(asked.body) > 30_000)  # type: ignore[misc]
        peer.head(number, [(":status", "413"), ("content-length", "9")])
        peer.send(number, b"too large", True)
        if how == "reset":
            peer.reset(number, 0)  # NO_ERROR: it wants no more (RFC 9113 8.1)
        elif how == "goaway":
            peer.h2.close_connection()
            peer.flush()
            peer.writer.close()
        elif how == "broken":
            await asyncio.sleep(0)
            peer.writer.transport.abort()


async def upload1(port: int, framing: str) -> tuple[int, bytes]:
    """One that goes on sending until it is told not to; the answer's status and content."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    chunked = framing == "chunked"
    length = "transfer-encoding: chunked" if chunked else f"content-length: {MUCH}"
    writer.write(f"POST / HTTP/1.1\r\nhost: a\r\n{length}\r\n\r\n".encode())
    piece = b"x" * 65536

    async def send() -> None:
        with contextlib.suppress(ConnectionError):
            for _ in range(MUCH // len(piece)):
                writer.write(b"10000\r\n" + piece + b"\r\n" if chunked else piece)
                await writer.drain()
            if chunked:
                writer.write(b"0\r\n\r\n")

    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(9) if b"content-length: 9\r\n" in head else await reader.read(400)
        return int(head.split()[1]), body
    finally:
        sending.cancel()
        writer.transport.abort()


async def upload2(port: int, framing: str) -> tuple[int, bytes]:
    async with client2(port) as client:
        number = client.ask("/", "POST", [("content-length", str(MUCH))] if framing == "length" else [], end=False)
        sending = asyncio.create_task(client.send_all(number, b"x" * MUCH))
        try:
            answer = await client.answer(number)
            assert answer.reset in (None, 0)
            return answer.status, answer.body
        finally:
            sending.cancel()
            with contextlib.suppress(BaseException):
                await sending


def to(port: int, **spec: Any) -> Any:
    up = {"name": "up", "spec": {"protocol": "HTTP", "port": port, **spec}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}
    front = {
        "name": "in",
        "spec": {"protocol": "HTTP", "port": 0, "address": "127.0.0.1"},
        "rules": [{"action": {"route": {"destination": "up"}}}],
    }
    return running(config(clusters=[up], listeners=[front]))


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("upload", [upload1, upload2])
@pytest.mark.parametrize("secured", [False, True])
async def test_of_a_server_of_http_1(pki: Pki, secured: bool, upload: Any, framing: str) -> None:
    context = None
    if secured:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        files = pki("up", "localhost")
        context.load_cert_chain(files["certificate"], files["key"])
    tls = {"tls": {"verify": False}} if secured else {}
    async with refusing(context) as port, to(port, **tls) as proxy:
        for _ in range(4):
            assert await upload(port_of(proxy, "in"), framing) == (413, b"too large")


@pytest.mark.parametrize("how", ["silent", "reset", "goaway", "broken"])
@pytest.mark.parametrize("upload", [upload1, upload2])
async def test_of_a_server_of_http_2(upload: Any, how: str) -> None:
    async with Server2(partial(refuse2, how=how)) as server, to(server.port, http=2) as proxy:
        for _ in range(3):
            assert await upload(port_of(proxy, "in"), "length") == (413, b"too large")
        if how in ("silent", "reset"):
            assert len(server.peers) == 1, "the connection is as good as before"


# ------------------------------------------------------------------ to a client of HTTP/2


async def test_an_early_answer_over_http_2_is_whole_before_its_client_is_told_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """RST_STREAM came at once: it threw away what the client's window had not let out yet."""
    monkeypatch.setattr(h2, "LINGER", 0.2)
    body = b"x" * 200_000
    async with Stage() as stage, client2(stage.port) as client:
        number = client.ask("/", "POST", [("content-length", "500000")], end=False)
        client.send(number, b"y" * 1000)
        server = await stage.server()
        await server.head()
        await server.says(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 200000\r\n\r\n" + body)
        answer = await client.answer(number)
        assert (answer.status, answer.body, answer.reset) == (413, body, None)
        await client.until(lambda: answer.reset is not None, "that no more is wanted")
        assert answer.reset == 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("status", ["401 Unauthorized", "413 Content Too Large"])
async def test_curl_sees_an_early_answer_over_http_2(status: str) -> None:
    """It reported "Stream error in the HTTP/2 framing layer" and no answer, as with nginx; with haproxy it saw 413."""
    async with Stage() as stage:
        curl = await asyncio.create_subprocess_exec(
            *(
                "curl",
                "-s",
                "-m",
                "5",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code} %{exitcode}",
                "--http2-prior-knowledge",
                "--data-binary",
                "@-",
            ),
            f"http://127.0.0.1:{stage.port}/",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        asked = asyncio.ensure_future(curl.communicate(b"x" * MUCH))
        server = await stage.server()
        await server.head()
        await server.says(f"HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nno".encode())
        said, _ = await asyncio.wait_for(asked, 10)
    assert said == f"{status[:3]} 0".encode()


@pytest.mark.parametrize("status", [200, 413])
async def test_who_sends_all_before_it_looks_at_an_answer_over_http_2_gets_it(status: int) -> None:
    """As httpx does, which waited for ever (with nginx, haproxy and Envoy it fails): the window was used up, and nobody gave it back."""
    async with Stage() as stage, client2(stage.port) as client:
        number = client.ask("/", "POST", end=False)
        server = await stage.server()
        await server.head()
        await server.says(b"HTTP/1.1 %d x\r\ncontent-length: 2\r\n\r\nok" % status)
        answer = client.streams[number]
        for _ in range(MUCH // 16384):
            await client.until(lambda: client.h2.local_flow_control_window(number) >= 16384)
            client.send(number, b"y" * 16384)
        client.send(number, b"", True)
        await client.until(lambda: answer.ended, "the answer")
        assert (answer.status, answer.body, answer.reset) == (status, b"ok", None)


async def test_the_rest_of_a_request_that_is_answered_is_read_for_as_long_as_some_comes_and_its_time_lasts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(h2, "LINGER", 0.05)
    for drained, well in ((30.0, True), (0.1, False)):
        monkeypatch.setattr(h2, "DRAINED", drained)
        async with Stage() as stage, client2(stage.port) as client:
            number = client.ask("/", "POST", end=False)
            server = await stage.server()
            await server.head()
            await server.says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            answer = await client.answer(number)
            for _ in range(20):
                if answer.reset is None:
                    client.send(number, b"y" * 1000)
                    await asyncio.sleep(0.02)
            assert (answer.status, answer.body, answer.reset is None) == (200, b"ok", well)
            if well:  # and who sends nothing more is told
                await client.until(lambda answer=answer: answer.reset is not None, "that no more is wanted")  # type: ignore[misc]
            assert answer.reset == 0


@pytest.mark.parametrize(
    ("framing", "status", "told"),
    [
        (b"content-length: 3000000", b"413", True),
        (b"transfer-encoding: chunked", b"401", True),
        (b"content-length: 3000000", b"200", True),
        (b"content-length: 200000", b"413", False),
        (b"transfer-encoding: chunked", b"200", True),
    ],
)
async def test_a_client_whose_upload_will_not_all_be_read_is_told_that_its_connection_ends(
    framing: bytes, status: bytes, told: bool
) -> None:
    """Else its next request goes to a connection that has ended, and is lost."""
    async with Stage() as stage:
        client, server, _ = await stage.both(b"POST / HTTP/1.1\r\nhost: a\r\n" + framing + b"\r\n\r\n")
        await server.says(b"HTTP/1.1 " + status + b" Early\r\ncontent-length: 2\r\n\r\nno")
        assert (b"connection: close" in await client.head()) is told
        assert await client.hears(2) == b"no"
        client.goes()
