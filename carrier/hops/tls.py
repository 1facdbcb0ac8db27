"""TLS of listeners and clusters: what a `tls:` block means, files that are read again when they change, and TLS over a byte socket.

A listener's block is `{certificate, key, ca, client_auth, sni: [...], alpn}` or a list of such (the first is for clients that name
none of the others), or `{passthrough: true}`: sessions are routed by the name that the client asks for, and nothing is decrypted. A
cluster's is `true` or `{sni, verify, ca, certificate, key, alpn}`; `verify` is on unless it says otherwise. `ServerTls` and `ClientTls`
(carrier/hops/certificates.py) hold the contexts and read files again that have changed: a connection that is there keeps what it began
with, a file that is bad by now leaves the old certificate in force.

Every handshake is a `Greeting`. A listener's is a `Welcome`: where there is a choice, the name in the ClientHello says which entry does it.

`Tls` makes a TLS socket of a `ByteSocket`: it overrides reading and writing, and half-closing works as it does without TLS
(RFC 8446 section 6.1). HTTP leaves the record layer to the event loop instead. `parse_hello` reads a ClientHello and decrypts nothing.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from carrier.core.stream import Stream, link
from carrier.errors import Error, Side, from_os
from carrier.hops.bytesocket import GRACE, READ, ByteSocket
from carrier.hops.peek import peek
from carrier.wire.first import classify
from carrier.wire.hello import MOST, Hello, parse_hello, wanted
from carrier.wire.making import canned

if TYPE_CHECKING:
    from carrier.hops.certificates import ClientTls, Made, ServerTls

HANDSHAKE = 10.0
"""Seconds that a handshake may take."""
FLIGHT = 16 * 1024
"""Bytes of a handshake that are read at once."""
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

    held: records that OpenSSL has not seen; owed: records to be sent that nobody asked for (an alert, the answer to a key update); later:
    such as nobody waits for (tickets), which go with what is sent next. over: the peer has said goodbye; ended: no more records come;
    failure: why they can not be read, or because the connection broke.
    """

    __slots__ = ("ended", "failure", "held", "incoming", "later", "outgoing", "over", "owed", "tls")

    def __init__(self, context: ssl.SSLContext, server_side: bool, name: str | None = None) -> None:
        self.incoming, self.outgoing = _PAIR.incoming, _PAIR.outgoing
        self.held = self.owed = self.later = b""
        self.over = self.ended = False
        self.failure: OSError | None = None
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side, name)

    @property
    def waits(self) -> bool:
        """Is there something to be told: records, or why no more come?"""
        return bool(self.held) or self.over or self.ended or self.failure is not None

    def greet(self, records: bytes) -> bool:
        """Shake hands: True, they are shaken. What is owed then is to be sent in any case. Raises SSLError."""
        tls = self.tls
        self.incoming.write(self.held + records)
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self.held = self.incoming.read()
            self._owe()
        if tls.server_side and tls.version() == "TLSv1.3":  # the client had the last word (RFC 8446 section 2)
            self.later, self.owed = self.owed, b""
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
            if self.owed or self.later:
                records = self.later + self.owed + records
                self.owed = self.later = b""
        return records

    def goodbye(self) -> None:
        """Say close_notify; what the peer still sends can be read on."""
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass  # it waits for the peer's own, which `open` will see
        self._owe()

    def _owe(self) -> None:
        records = self.outgoing.read()
        if records:
            self.owed, self.later = self.later + self.owed + records, b""


class Greeting:
    """A handshake over a connected non-blocking socket, as the client. One reader of the loop does for all of it, and is left to who reads
    on: to watch a descriptor anew takes five system calls. side, where: for errors."""

    __slots__ = ("channel", "loop", "over", "shaken", "side", "sock", "where")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, channel: Channel | None, side: Side = "upstream", where: str = ""
    ) -> None:
        self.loop, self.sock, self.channel, self.side, self.where = loop, sock, channel, side, where
        self.shaken = False
        self.over: asyncio.Future[Channel] | None = loop.create_future()
        """Ended, with a channel or an Error; None: whoever waits knows."""
        loop.add_reader(sock, self._step, self._read)

    async def ended(self) -> Channel:
        """The channel, hands shaken; the reader is there still, in this turn of the loop. Raises Error (retry "yes": no payload was sent);
        then it is not."""
        timer = self.loop.call_later(HANDSHAKE, self._step, self._late)
        self._step(self._begin)
        try:
            assert self.over is not None
            return await self.over
        except BaseException:
            unwatch(self.loop, self.sock)
            raise
        finally:
            timer.cancel()
            self.over = None  # its error has frames that know this

    def _step(self, step: Callable[[], None]) -> None:
        """Do this, unless it is over; it may be over then."""
        over = self.over
        if over is None or over.done():
            return
        try:
            step()
            if self.shaken and self.channel is not None and not self.channel.owed:
                over.set_result(self.channel)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as exc:
            over.set_exception(tls_error(exc, self.side, self.where))
        except Error as error:
            over.set_exception(error.bare())

    def _begin(self) -> None:
        self._greet(b"")

    def _late(self) -> None:
        raise TimeoutError(f"no TLS handshake within {HANDSHAKE:g} s")

    def _read(self) -> None:
        data = self.sock.recv(FLIGHT)
        if not data:
            raise Error("closed", f"{self.where}: closed during the TLS handshake", self.side, "yes")
        self._greet(data)

    def _greet(self, data: bytes) -> None:
        """Go on with what has come."""
        assert self.channel is not None
        try:
            self.shaken = self.channel.greet(data)
        finally:  # also an alert that says why not
            self._send(self.channel)

    def _send(self, channel: Channel) -> None:
        """What is owed; what the kernel does not take, later."""
        if channel.owed:
            try:
                sent = self.sock.send(channel.owed)
            except (BlockingIOError, InterruptedError):
                sent = 0
            channel.owed = channel.owed[sent:]
            if channel.owed:
                self.loop.add_writer(self.sock, self._step, partial(self._send_on, channel))

    def _send_on(self, channel: Channel) -> None:
        self.loop.remove_writer(self.sock)
        self._send(channel)


class Welcome(Greeting):
    """A handshake with an accepted connection, by the entry of a listener's `tls` that its hello asks for."""

    __slots__ = ("begun", "entries", "least")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, entries: ServerTls) -> None:
        super().__init__(loop, sock, None, "downstream")
        self.entries = entries
        self.begun = bytearray()
        """Of a hello that is not whole yet."""
        self.least = 0
        """Bytes of it that are worth a look."""

    def _begin(self) -> None: ...

    def _greet(self, data: bytes) -> None:
        try:
            if self.channel is None:
                self.begun += data
                made = self._asked()
                if made is None:
                    return
                self.channel = Channel(made, True)
                data = bytes(self.begun)
            super()._greet(data)
        except (ssl.SSLError, Error):
            if classify(self.begun) in ("http", "likely"):
                self._say_https()
            raise

    def _say_https(self) -> None:
        """Who asks without TLS is told so, in the words that are understood: a connection that only ends says nothing to anybody."""
        head, body = canned(400, "this port speaks TLS: ask for https://")
        try:
            self.sock.send(head.text[:-2] + b"connection: close\r\n\r\n" + body)
        except OSError:
            pass  # it has left

    def _asked(self) -> Made | None:
        """The entry; None: the hello does not say it yet. Raises Error: it is none."""
        entries, begun = self.entries, self.begun
        if len(entries.entries) == 1:
            return entries.entries[0]
        hello = parse_hello(begun) if len(begun) >= self.least else None
        if hello is None:
            self.least = max(self.least, wanted(begun))
            return None
        return entries.find(hello.sni)


def unwatch(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    """Nobody reads or writes it for now."""
    loop.remove_writer(sock)
    loop.remove_reader(sock)  # with it the last hold on a socket that was closed meanwhile


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
    """Hands shaken over a connected socket, as the client; its reader is left (`Greeting`). Raises Error; then the socket is closed."""
    try:
        channel = await Greeting(loop, sock, Channel(tls.context, False, tls.name(host)), where=where).ended()
    except ValueError as exc:  # a name that is none
        sock.close()
        raise Error("tls", f"{where}: {exc}", "upstream", "yes") from None
    except BaseException:
        sock.close()
        raise
    return channel


async def upstream(loop: asyncio.AbstractEventLoop, sock: socket.socket, tls: ClientTls, host: str, where: str) -> TlsUpstream:
    """TLS on a connected socket, as the client. Raises Error; then the socket is closed."""
    channel = await connected_channel(loop, sock, tls, host, where)
    unwatch(loop, sock)
    return TlsUpstream(loop, sock, "upstream", channel)


class Inside(ByteSocket):
    """The inner side of `decrypted`: our end of the pair. Who holds the other end closes both directions at once."""

    __slots__ = ()

    def _eof(self) -> None:
        to = self.to
        super()._eof()
        if isinstance(to, Tls) and not to.closed:
            self.loop.call_later(LINGER, _part, to, to.taken(), 0.0)


def _part(outer: Tls, taken: int, still: float) -> None:
    """Nothing more is said to it: a peer that does not close after our close_notify is not waited for, but who still has to be told some of
    what was said before, and takes it. still: seconds for which it has taken nothing."""
    if outer.closed:
        return
    now = outer.taken()
    still = 0.0 if now > taken else still + LINGER
    if not still or (outer.untaken() and still < GRACE):
        outer.loop.call_later(LINGER, _part, outer, now, still)
    else:
        outer.close()


class Plain(socket.socket):
    """A socket that leads to another one through TLS: what it has taken may still wait at `outer`."""

    __slots__ = ("outer",)
    outer: Tls


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
    plain = Plain(fileno=theirs.detach())
    plain.outer = outer
    return plain


async def welcome(loop: asyncio.AbstractEventLoop, sock: socket.socket, tls: ServerTls) -> Channel:
    """Shake hands with an accepted connection, by the entry that it asks for; nobody reads it then. Raises Error."""
    channel = await Welcome(loop, sock, tls).ended()
    unwatch(loop, sock)
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
