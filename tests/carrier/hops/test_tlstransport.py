"""A transport over a TLS socket of ours, for a protocol of the loop: both kinds of protocols, back-pressure, ends; real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl

import pytest

from carrier.hops.certificates import ClientTls
from carrier.hops.tlstransport import TlsTransport, secure_upstream
from tests.pki import Pki, pki
from tests.support import wait_until

__all__ = ["pki"]


class Recorder(asyncio.Protocol):
    def __init__(self) -> None:
        self.heard = bytearray()
        self.said: list[object] = []
        self.keep = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, TlsTransport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def eof_received(self) -> bool:
        self.said.append("eof")
        return self.keep

    def connection_lost(self, exc: Exception | None) -> None:
        self.said.append(exc)

    def pause_writing(self) -> None:
        self.said.append("pause")

    def resume_writing(self) -> None:
        self.said.append("resume")


class Server:
    """A TLS server of one connection, blocking."""

    def __init__(self, pki: Pki) -> None:
        made = pki("up", "up.test")
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(made["certificate"], made["key"])
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.tls = ClientTls({"sni": "up.test", "ca": pki.ca})

    async def connected(self) -> tuple[Recorder, ssl.SSLSocket]:
        loop = asyncio.get_running_loop()
        accepted = asyncio.create_task(asyncio.to_thread(self._accept))
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, self.listening.getsockname())
        made = await secure_upstream(loop, sock, self.tls, "up.test", "up", Recorder())
        return made, await accepted

    def _accept(self) -> ssl.SSLSocket:
        sock, _ = self.listening.accept()
        self.listening.close()
        return self.context.wrap_socket(sock, server_side=True)


async def test_bytes_pass_both_ways_and_each_end_is_told(pki: Pki) -> None:
    made, peer = await Server(pki).connected()
    made.keep = True
    made.transport.write(b"hello")
    assert await asyncio.to_thread(peer.recv, 5) == b"hello"
    peer.sendall(b"world")
    await wait_until(lambda: made.heard == b"world")
    peer.shutdown(socket.SHUT_WR)
    await wait_until(lambda: made.said == ["eof"])
    made.transport.write(b"still here")  # it has only half-closed
    made.transport.close()
    assert made.transport.is_closing()
    await wait_until(lambda: made.said == ["eof", None])
    peer.close()


async def test_what_is_written_before_the_close_arrives_and_then_the_protocol_is_told(pki: Pki) -> None:
    made, peer = await Server(pki).connected()
    data = os.urandom(12_000_000)
    made.transport.write(data)
    assert made.said == ["pause"]
    made.transport.close()
    made.transport.write(b"nobody gets this")

    def read() -> bytes:
        found = b""
        while part := peer.recv(65536):
            found += part
        return found

    assert await asyncio.to_thread(read) == data
    await wait_until(lambda: made.said[-1] is None)
    peer.close()


async def test_a_reader_that_pauses_gets_the_rest_when_it_goes_on(pki: Pki) -> None:
    made, peer = await Server(pki).connected()
    made.transport.pause_reading()
    assert not made.transport.is_reading()
    peer.sendall(b"x" * 100_000)
    peer.shutdown(socket.SHUT_WR)
    await asyncio.sleep(0.05)
    assert not made.heard
    made.transport.resume_reading()
    await wait_until(lambda: made.said == ["eof", None])
    assert len(made.heard) == 100_000
    peer.close()


async def test_a_buffered_protocol_may_take_over(pki: Pki) -> None:
    made, peer = await Server(pki).connected()

    class Buffered(asyncio.BufferedProtocol):
        buffer = bytearray(1000)
        heard = bytearray()

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.buffer

        def buffer_updated(self, n: int) -> None:
            self.heard += self.buffer[:n]

    made.transport.set_protocol(Buffered())
    peer.sendall(b"y" * 5000)
    await wait_until(lambda: len(Buffered.heard) == 5000)
    made.transport.abort()
    peer.close()


async def test_an_abort_and_a_broken_connection_are_told_once(pki: Pki) -> None:
    made, peer = await Server(pki).connected()
    made.transport.abort()
    made.transport.abort()
    made.transport.close()
    await wait_until(lambda: made.said)
    await asyncio.sleep(0.01)
    assert made.said == [None]
    peer.close()
    other, peer = await Server(pki).connected()
    socket.socket(fileno=os.dup(peer.fileno())).sendall(b"no record of TLS")
    await wait_until(lambda: other.said)
    await asyncio.sleep(0.01)
    (error,) = other.said
    assert isinstance(error, ConnectionResetError)
    peer.close()


async def test_it_says_what_the_loop_s_own_transports_say(pki: Pki) -> None:
    made, peer = await Server(pki).connected()
    transport = made.transport
    assert transport.get_extra_info("ssl_object").version() == "TLSv1.3"
    assert transport.get_extra_info("peername")[0] == "127.0.0.1"
    assert transport.get_extra_info("peercert")["subjectAltName"] == (("DNS", "up.test"),)
    assert transport.get_extra_info("nothing", 1) == 1
    transport.abort()
    assert transport.get_extra_info("sockname") is None
    peer.close()


@pytest.mark.parametrize("name", ["other.test"])
async def test_a_certificate_that_is_not_good_is_said_to_be_none(pki: Pki, name: str) -> None:
    from carrier.errors import Error

    server = Server(pki)
    server.tls = ClientTls({"sni": name, "ca": pki.ca})
    with pytest.raises((Error, ssl.SSLError)) as caught:
        await server.connected()
    assert "certificate" in str(caught.value)
