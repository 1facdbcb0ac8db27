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
import threading
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


class _Pair(threading.local):
    """The memory BIOs of all channels of one thread."""

    def __init__(self) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()


_PAIR = _Pair()


class Channel:
    """A TLS endpoint without a socket: `open` takes records and gives what they say, `seal` does the opposite. `tls` is the SSLObject.

    OpenSSL gets and gives records in a pair of memory BIOs, and all channels share one pair: every call here empties both before it ends,
    and hands on what was in them. A memory BIO never shrinks: with a pair of its own, an idle connection would keep 3 kB there, and one
    that has sent a large answer 87 kB.

    held: records that OpenSSL has not seen; owed: records to be sent that nobody asked for (an alert, the answer to a key update). over:
    the peer has said goodbye; ended: no more records come; failure: why they can not be read, or because the connection broke.
    """

    __slots__ = ("ended", "failure", "held", "incoming", "outgoing", "over", "owed", "tls")

    def __init__(self, context: ssl.SSLContext, server_side: bool, name: str | None = None) -> None:
        self.incoming, self.outgoing = _PAIR.incoming, _PAIR.outgoing
        self.held = self.owed = b""
        self.over = self.ended = False
        self.failure: OSError | None = None
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side, name)

    @property
    def waits(self) -> bool:
        """Is there something to be told: records, or why no more come?"""
        return bool(self.held) or self.over or self.ended or self.failure is not None

    def greet(self, records: bytes) -> bool:
        """Shake hands: True, they are shaken. What is owed then is to be sent in any case. Raises SSLError."""
        self.incoming.write(self.held + records)
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self.held = self.incoming.read()
            self._owe()
        return True

    def open(self, records: bytes) -> bytes:
        """What all records say that are there by now; what comes behind it, `over` and `failure` tell."""
        incoming, tls = self.incoming, self.tls
        if self.held:
            records, self.held = self.held + records, b""
        incoming.write(records)
        said: list[bytes] = []
        left = -1
        fine = True
        while fine:
            try:
                plain = tls.read(READ)
            except ssl.SSLWantReadError:
                if incoming.pending in (0, left):  # the rest of a record is still to come
                    break
                left = incoming.pending  # it was one that says nothing, as a ticket is
            except ssl.SSLZeroReturnError:
                self.over, fine = True, False
            except ssl.SSLError as exc:
                self.failure, fine = self.failure or exc, False
            else:
                if plain:
                    said.append(plain)
                    if not incoming.pending and not tls.pending():  # to be told so by an exception takes longer
                        break
                else:  # close_notify
                    self.over, fine = True, False
        if incoming.pending:
            rest = incoming.read()
            if fine:
                self.held = rest
        if self.outgoing.pending:
            self._owe()
        return said[0] if len(said) == 1 else b"".join(said)

    def seal(self, data: bytes) -> bytes:
        """Records that say `data`, behind what is owed. Raises SSLError."""
        try:
            self.tls.write(data)
        finally:
            records = self.outgoing.read()
            if self.owed:
                records, self.owed = self.owed + records, b""
        return records

    def goodbye(self) -> None:
        """Say close_notify; what the peer still sends can be read on."""
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass  # it waits for the peer's own, which `open` will see
        self._owe()

    def _owe(self) -> None:
        self.owed += self.outgoing.read()


async def handshake(loop: asyncio.AbstractEventLoop, sock: socket.socket, channel: Channel, side: Side, where: str = "") -> None:
    """Shake hands over a connected non-blocking socket. Raises Error (retry "yes": no payload was sent)."""
    data = b""
    try:
        async with asyncio.timeout(HANDSHAKE):
            while True:
                try:
                    done = channel.greet(data)
                finally:  # also an alert that says why not
                    if channel.owed:
                        owed, channel.owed = channel.owed, b""
                        await loop.sock_sendall(sock, owed)
                if done:
                    return
                data = await loop.sock_recv(sock, READ)
                if not data:
                    raise Error("closed", f"{where}: closed during the TLS handshake", side, "yes")
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
            if self.channel.waits:
                self.loop.call_soon(self._decrypt)

    def _readable(self) -> None:
        data = self._received()
        if data is None:
            return
        if not data:
            self.channel.ended = True  # OpenSSL is not told: it would not write any more
        self._decrypt(data)

    def unread(self, exc: OSError) -> None:
        if not isinstance(exc, (BlockingIOError, InterruptedError)):
            self.channel.ended, self.channel.failure = True, self.channel.failure or exc
            self._decrypt()  # what came before is read first

    def heard(self, data: bytes) -> None:
        self._decrypt(data)

    def _decrypt(self, records: bytes = b"") -> None:
        """Pass on what these records say, and then the end, if there is one; a pause stops before and in between, `resume` goes on."""
        channel = self.channel
        if self.closed or self.paused:
            channel.held += records
            return
        to: Stream = self.to
        self._say(channel.open(records))
        if not self.closed:
            self._send()
        if channel.waits and not self.closed and not self.paused:
            self._end_of_records()
        to.flush()

    def _say(self, plain: bytes) -> None:
        if plain:
            self.got.bytes += len(plain)
            self.got.messages += 1
            self.to.data(plain)

    def _end_of_records(self) -> None:
        channel = self.channel
        if isinstance(channel.failure, ssl.SSLError):
            self.broken(Error("reset", f"TLS: {channel.failure.reason or channel.failure}", self.side))
        elif channel.failure is not None and not channel.over:
            self.broken(from_os(channel.failure, self.side))
        else:
            if not channel.over and self.session is not None:  # RFC 8446 section 6.1; whoever reads may know whether that was all
                self.session.event("END", "TLS", "the peer ended without close_notify: what it sent may be cut short")
            self._eof()

    def _send(self) -> None:
        """Write what is owed; counters count payload, not records."""
        owed = self.channel.owed
        if owed:
            self.channel.owed = b""
            self._write_records(owed)

    def _write_records(self, records: bytes) -> None:
        gave = self.gave
        counted = gave.bytes, gave.messages
        ByteSocket.data(self, records)
        gave.bytes, gave.messages = counted

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if self.closed or self.ended_out:
            return
        if data:
            try:
                records = self.channel.seal(data)
            except ssl.SSLError as exc:  # the peer has said that it failed, and that was read already
                self.broken(Error("reset", f"TLS: {exc.reason or exc}", self.side))
                return
            self.gave.bytes += len(data)
            self.gave.messages += 1
            self._write_records(records)
        if last:
            self.end()

    def end(self, trailer: Any = None) -> None:
        if self.closed or self.ended_out:
            return
        self.channel.goodbye()
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
