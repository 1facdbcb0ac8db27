"""TLS of listeners and clusters: what a `tls:` block means, files that are read again when they change, and TLS over a byte socket.

A listener's block is `{certificate, key, ca, client_auth, sni: [...], alpn}` or a list of such (the first is for clients that name
none of the others), or `{passthrough: true}`: sessions are routed by the name that the client asks for, and nothing is decrypted. A
cluster's is `true` or `{sni, verify, ca, certificate, key, alpn}`; `verify` is on unless it says otherwise. `ServerTls` and `ClientTls`
(carrier/hops/certificates.py) hold the contexts and read files again that have changed: a connection that is there keeps what it began
with, a file that is bad by now leaves the old certificate in force.

Every listener's TLS begins in `entry_for`: the ClientHello is looked at, and left unread, and the entry for its name does the handshake.

`Tls` makes a TLS socket of a `ByteSocket`: it overrides reading and writing, and half-closing works as it does without TLS
(RFC 8446 section 6.1). HTTP leaves the record layer to the event loop instead. `parse_hello` reads a ClientHello and decrypts nothing.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, Any

from carrier.core.stream import Stream, link
from carrier.errors import Error, Side, from_os
from carrier.hops.bytesocket import READ, ByteSocket
from carrier.hops.peek import peek
from carrier.wire.hello import MOST, Hello, parse_hello, wanted

if TYPE_CHECKING:
    from carrier.hops.certificates import ClientTls, Made, ServerTls

HANDSHAKE = 10.0
"""Seconds that a handshake may take."""
LINGER = 2.0
"""Seconds that a peer has to close after us, where no session waits for it."""


class Channel:
    """A TLS endpoint in memory: records go in and come out, no socket. `tls` is the SSLObject. ended: no more records come;
    failure: because the connection broke."""

    __slots__ = ("ended", "failure", "incoming", "outgoing", "tls")

    def __init__(self, context: ssl.SSLContext, server_side: bool, name: str | None = None) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.ended = False
        self.failure: OSError | None = None
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side, name)


async def handshake(loop: asyncio.AbstractEventLoop, sock: socket.socket, channel: Channel, side: Side, where: str = "") -> None:
    """Shake hands over a connected non-blocking socket. Raises Error (retry "yes": no payload was sent)."""
    try:
        async with asyncio.timeout(HANDSHAKE):
            while True:
                try:
                    channel.tls.do_handshake()
                    done = True
                except ssl.SSLWantReadError:
                    done = False
                finally:  # also an alert that says why not
                    if channel.outgoing.pending:
                        await loop.sock_sendall(sock, channel.outgoing.read())
                if done:
                    return
                data = await loop.sock_recv(sock, READ)
                if not data:
                    raise Error("closed", f"{where}: closed during the TLS handshake", side, "yes")
                channel.incoming.write(data)
    except TimeoutError:
        raise Error("timeout", f"{where}: no TLS handshake within {HANDSHAKE:g} s", side, "yes") from None
    except (ssl.SSLError, OSError) as exc:
        raise tls_error(exc, side, where) from None


def tls_error(exc: OSError, side: Side, where: str) -> Error:
    """What OpenSSL, or the socket under it, said of a handshake: nothing was sent, somebody else may serve."""
    return from_os(exc, side, where, "yes")


class Tls(ByteSocket):
    """A ByteSocket that speaks TLS; to be mixed into one (`class X(Tls, ByteSocket)`). `channel`: shaken hands over this very socket."""

    __slots__ = ()
    channel: Channel

    def resume(self) -> None:
        if self.paused and not self.closed and not self.ended_in:
            super().resume()
            if self.channel.tls.pending() or self.channel.incoming.pending or self.channel.ended:
                self.loop.call_soon(self._decrypt)

    def _readable(self) -> None:
        data = self._received()
        if data is None:
            return
        if data:
            self.channel.incoming.write(data)
        else:
            self.channel.ended = True  # OpenSSL is not told: it would not write any more
        self._decrypt()

    def unread(self, exc: OSError) -> None:
        if not isinstance(exc, (BlockingIOError, InterruptedError)):
            self.channel.ended, self.channel.failure = True, self.channel.failure or exc
            self._decrypt()  # what came before is read first

    def heard(self, data: bytes) -> None:
        self.channel.incoming.write(data)
        self._decrypt()

    def _decrypt(self) -> None:
        """Pass on what the records that are here say; a pause stops in between, `resume` goes on."""
        channel = self.channel
        read, more, incoming = channel.tls.read, channel.tls.pending, channel.incoming
        to: Stream = self.to
        while not self.closed and not self.paused:
            try:
                plain = read(READ)
            except ssl.SSLWantReadError:
                if not self.channel.ended:
                    break
                if self.channel.failure is not None:
                    self.broken(from_os(self.channel.failure, self.side))
                    return
                if self.session is not None:  # RFC 8446 section 6.1; whoever reads may know whether that was all
                    self.session.event("END", "TLS", "the peer ended without close_notify: what it sent may be cut short")
                plain = b""
            except ssl.SSLZeroReturnError:
                plain = b""
            except ssl.SSLError as exc:
                self.broken(Error("reset", f"TLS: {exc.reason or exc}", self.side))
                return
            if not plain:
                self._eof()
                return
            self.got.bytes += len(plain)
            self.got.messages += 1
            to = self.to
            to.data(plain)
            if not incoming.pending and not more() and not channel.ended:  # to be told so by an exception takes longer
                break
        if not self.closed:
            self._send()  # an answer to a key update
        to.flush()

    def _send(self) -> None:
        """Write the records that are ready; counters count payload, not records."""
        if self.channel.outgoing.pending:
            gave = self.gave
            counted = gave.bytes, gave.messages
            ByteSocket.data(self, self.channel.outgoing.read())
            gave.bytes, gave.messages = counted

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if self.closed or self.ended_out:
            return
        if data:
            try:
                self.channel.tls.write(data)
            except ssl.SSLError as exc:  # the peer has said that it failed, and that was read already
                self.broken(Error("reset", f"TLS: {exc.reason or exc}", self.side))
                return
            self.gave.bytes += len(data)
            self.gave.messages += 1
            self._send()
        if last:
            self.end()

    def end(self, trailer: Any = None) -> None:
        if self.closed or self.ended_out:
            return
        try:
            self.channel.tls.unwrap()  # says close_notify; what the peer still sends is read on
        except ssl.SSLError:
            pass  # it waits for the peer's own, which `_decrypt` will see
        self._send()
        super().end()

    def pipe_for_bulk(self) -> None:
        """None: nothing goes through the kernel unencrypted."""


class TlsUpstream(Tls):
    """The connected end of a TLS session over TCP."""

    __slots__ = ("channel",)

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, side: Side, channel: Channel) -> None:
        super().__init__(loop, sock, side)
        self.channel = channel


async def connected_channel(loop: asyncio.AbstractEventLoop, sock: socket.socket, tls: ClientTls, host: str, where: str) -> Channel:
    """Hands shaken over a connected socket, as the client. Raises Error; then the socket is closed."""
    try:
        channel = Channel(tls.context, False, tls.name(host))
        await handshake(loop, sock, channel, "upstream", where)
    except ValueError as exc:  # a name that is none
        sock.close()
        raise Error("tls", f"{where}: {exc}", "upstream", "yes") from None
    except BaseException:
        sock.close()
        raise
    return channel


async def upstream(loop: asyncio.AbstractEventLoop, sock: socket.socket, tls: ClientTls, host: str, where: str) -> TlsUpstream:
    """TLS on a connected socket, as the client. Raises Error; then the socket is closed."""
    return TlsUpstream(loop, sock, "upstream", await connected_channel(loop, sock, tls, host, where))


class Inside(ByteSocket):
    """The inner side of `decrypted`: our end of the pair. Who holds the other end closes both directions at once."""

    __slots__ = ()

    def _eof(self) -> None:
        to = self.to
        super()._eof()
        if isinstance(to, Tls):
            self.loop.call_later(LINGER, to.close)  # a peer that does not close after our close_notify is not waited for


def decrypted(outer: Tls) -> socket.socket:
    """The plain side of a TLS socket as a socket of its own, for protocols that read and write theirs themselves: a pair of sockets, a
    hop at one of them that is linked to `outer`. Ends, resets and back-pressure pass. Raises OSError; then `outer` is closed."""
    try:
        ours, theirs = socket.socketpair()
    except OSError:
        outer.close()
        raise
    for sock in (ours, theirs):
        sock.setblocking(False)
    inner = Inside(outer.loop, ours, outer.side)
    link([outer, inner])
    outer.resume()
    inner.resume()
    return theirs


async def entry_for(loop: asyncio.AbstractEventLoop, sock: socket.socket, tls: ServerTls) -> Made:
    """The entry of a listener's `tls` that an accepted connection asks for; its hello is left unread. Raises Error."""
    return tls.find((await first_hello(loop, sock)).sni)


async def welcome(loop: asyncio.AbstractEventLoop, sock: socket.socket, tls: ServerTls) -> Channel:
    """Shake hands with an accepted connection, by the entry that it asks for. Raises Error."""
    channel = Channel(await entry_for(loop, sock, tls), True)
    await handshake(loop, sock, channel, "downstream")
    return channel


async def first_hello(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> Hello:
    """The ClientHello of an accepted connection, left unread for whoever it is relayed to. Raises Error: it is none, or did not come."""
    try:
        async with asyncio.timeout(HANDSHAKE):
            hello = await peek(loop, sock, parse_hello, MOST, wanted)
    except TimeoutError:
        raise Error("timeout", f"no TLS hello within {HANDSHAKE:g} s", "downstream") from None
    except OSError as exc:
        raise from_os(exc, "downstream") from None
    if hello is None:
        raise Error("closed", "closed before its TLS hello", "downstream")
    return hello
