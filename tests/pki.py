"""Certificates in files, for tests: an authority, chains and keys that it has signed, and clients that trust it.

def test(pki): pki("a", "a.test") == {"certificate": ".../a.pem", "key": ".../a.key"}
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.support import PATIENCE


class Pki:
    """Files of one folder. ca: the file of the authority's certificate."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.ca = str(folder / "ca.pem")
        self.authority.cert_pem.write_to_path(self.ca)

    def __call__(self, name: str, *hosts: str, authority: trustme.CA | None = None, until: datetime | None = None) -> dict[str, str]:
        """A certificate for these hosts in NAME.pem, NAME.key. until: when it expires."""
        made = (authority or self.authority).issue_cert(*hosts, not_after=until)
        chain, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        chain.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
        made.private_key_pem.write_to_path(str(key))
        return {"certificate": str(chain), "key": str(key)}

    def expired(self, name: str, *hosts: str) -> dict[str, str]:
        return self(name, *hosts, until=datetime.now(UTC) - timedelta(days=1))

    def trust(self, name: str, *authorities: trustme.CA) -> str:
        """A file of authorities' certificates."""
        file = self.folder / f"{name}.pem"
        file.write_bytes(b"".join(authority.cert_pem.bytes() for authority in authorities))
        return str(file)

    def client(self, certificate: dict[str, str] | None = None, *alpn: str) -> ssl.SSLContext:
        """A client's context that trusts the authority, and shows this certificate."""
        context = ssl.create_default_context(cafile=self.ca)
        if certificate:
            context.load_cert_chain(certificate["certificate"], certificate["key"])
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def server(self, *alpn: str, host: str = "localhost") -> ssl.SSLContext:
        """A server's context for this host."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        made = self("server-" + host, host)
        context.load_cert_chain(made["certificate"], made["key"])
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context


@pytest.fixture
def pki(tmp_path: Path) -> Iterator[Pki]:
    yield Pki(tmp_path)


@contextlib.asynccontextmanager
async def secure(port: int, context: ssl.SSLContext, name: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client's connection that asks for `name`."""
    opening = asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    reader, writer = await asyncio.wait_for(opening, PATIENCE)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


async def echoes(port: int, context: ssl.SSLContext, name: str) -> bool:
    """Does what is sent to this name come back? TLS 1.3 tells a client only then that its certificate was refused."""
    try:
        async with secure(port, context, name) as (reader, writer):
            writer.write(b"hello")
            return await asyncio.wait_for(reader.readexactly(5), PATIENCE) == b"hello"
    except (OSError, asyncio.IncompleteReadError):
        return False


async def status(port: int, context: ssl.SSLContext, name: str, host: str) -> int:
    """The status of a GET for `host` on a connection that asked for `name`; 0 when it was let in by nobody."""
    try:
        async with secure(port, context, name) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nhost: %b\r\n\r\n" % host.encode())
            line = await asyncio.wait_for(reader.readline(), PATIENCE)
            return int(line.split()[1]) if line else 0
    except OSError:
        return 0


def shake(port: int, context: ssl.SSLContext, name: str, session: Any = None) -> tuple[bool, Any]:
    """One handshake, a word and its echo, blocking: was the session resumed, and the session to resume."""
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
    with context.wrap_socket(sock, server_hostname=name, session=session) as tls:
        tls.sendall(b"GET / HTTP/1.1\r\nhost: %b\r\n\r\n" % name.encode())
        if not tls.recv(4096):
            raise ConnectionError("it was closed")
        return bool(tls.session_reused), tls.session
