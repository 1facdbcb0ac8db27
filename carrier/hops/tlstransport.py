"""TLS for protocols of the event loop (asyncio.Protocol): a transport over one of our TLS sockets (carrier/hops/tls.py).

The loop's own TLS takes a peer that ends without close_notify for a broken connection, and forgets what it has decrypted, or would have:
of a long answer the end is missing. Here it is an end, behind everything that came before it: whoever reads knows by its framing whether
that was all (RFC 9112 section 8; RFC 8446 section 6.1). Half-closing works as without TLS.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from typing import TYPE_CHECKING, Any, TypeVar, cast

from carrier.core.stream import HIGH, Stream
from carrier.hops.tls import Channel, TlsUpstream, connected_channel

if TYPE_CHECKING:
    from carrier.errors import Error, Side
    from carrier.hops.certificates import ClientTls

P = TypeVar("P", bound=asyncio.Protocol)


class _Inside(Stream):
    """What the socket has in front and behind: its calls become those of the protocol."""

    __slots__ = ("transport",)

    def __init__(self, transport: TlsTransport) -> None:
        super().__init__()
        self.transport = transport

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        self.transport.came(data)

    def end(self, trailer: Any = None) -> None:
        self.transport.ended()

    def reset(self, error: Error) -> None: ...
    def flush(self) -> None: ...

    def pause(self) -> None:
        self.transport.protocol.pause_writing()

    def resume(self) -> None:
        self.transport.protocol.resume_writing()

    def stop(self, error: Error | None = None) -> None: ...


class _Outside(TlsUpstream):
    """The socket: when it closes, for whatever reason, the transport is gone."""

    __slots__ = ("transport",)
    transport: TlsTransport

    def _readable(self) -> None:
        """Most often one read is one record, and what it says is for the protocol: that, written flat, costs half as much."""
        channel, transport = self.channel, self.transport
        if channel.ended or transport.buffered is not None or transport.closing:
            super()._readable()
            return
        data = self._received()
        if data is None:
            return
        if not data:
            channel.ended = True
            self._decrypt()
            return
        plain = channel.open(data)
        if plain:
            got = self.got
            got.bytes += len(plain)
            got.messages += 1
            transport.protocol.data_received(plain)
        if channel.owed and not self.closed:
            self._send()
        if channel.over or channel.ended or channel.failure is not None:
            self._decrypt()

    def write(self, data: bytes) -> None:
        """`data`, written flat for what goes at once."""
        if self.closed or self.ended_out:
            return
        if self.pending:
            self.data(data)
            return
        try:
            records = self.channel.seal(data)
        except ssl.SSLError:
            self.data(data)
            return
        gave = self.gave
        gave.bytes += len(data)
        gave.messages += 1
        try:
            sent = self.sock.send(records)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as exc:
            self._write_failed(exc)
            return
        if sent < len(records):
            self.queue(memoryview(records)[sent:])

    def _orphaned(self) -> bool:
        return self.transport.closing

    def close(self, error: Error | None = None) -> None:
        if not self.closed:
            super().close(error)
            self.transport.lost(ConnectionResetError(errno.ECONNRESET, error.detail) if error is not None else None)


class TlsTransport(asyncio.Transport):
    """See the module. `channel`: hands shaken over `sock`. It reads at once."""

    __slots__ = ("buffered", "closing", "gone", "loop", "protocol", "sock", "socket", "tls")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, channel: Channel, protocol: asyncio.BaseProtocol, side: Side
    ) -> None:
        super().__init__()
        self.loop = loop
        self.sock, self.tls = sock, channel.tls
        self.socket = _Outside(loop, sock, side, channel)
        self.socket.transport = self
        inside = _Inside(self)
        self.socket.to = self.socket.back = inside
        self.closing = self.gone = False
        self.set_protocol(protocol)
        self.protocol.connection_made(self)
        if not self.closing:
            self.socket.resume()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = cast(asyncio.Protocol, protocol)
        self.buffered = protocol if isinstance(protocol, asyncio.BufferedProtocol) else None

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "socket":
            return self.sock
        if name in ("peername", "sockname"):
            try:
                return self.sock.getpeername() if name == "peername" else self.sock.getsockname()
            except OSError:
                return default
        tls = self.tls
        match name:
            case "ssl_object":
                return tls
            case "sslcontext":
                return tls.context
            case "peercert":
                return tls.getpeercert()
            case "cipher":
                return tls.cipher()
        return default

    # ------------------------------------------------------------------ reading

    def came(self, data: bytes) -> None:
        """Decrypted bytes."""
        if self.closing:
            return
        if self.buffered is None:
            self.protocol.data_received(data)
            return
        rest = memoryview(data)
        while rest and self.buffered is not None:
            buffer = memoryview(self.buffered.get_buffer(len(rest)))
            size = min(len(buffer), len(rest))
            buffer[:size] = rest[:size]
            self.buffered.buffer_updated(size)
            rest = rest[size:]
        if rest:
            self.protocol.data_received(bytes(rest))

    def ended(self) -> None:
        """The peer sends no more."""
        if not self.closing and not self.protocol.eof_received():
            self.close()

    def pause_reading(self) -> None:
        self.socket.pause()

    def resume_reading(self) -> None:
        if not self.closing:
            self.socket.resume()

    def is_reading(self) -> bool:
        return not self.socket.paused

    # ------------------------------------------------------------------ writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.closing:
            self.socket.write(bytes(data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.socket.end()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """They are those of every socket of ours (HIGH)."""

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return HIGH // 2, HIGH

    def get_write_buffer_size(self) -> int:
        return self.socket.size

    # ------------------------------------------------------------------ ends

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        """Say goodbye behind what waits to be written, and close; the peer's own is not waited for. What comes meanwhile is read and
        dropped: closed with something unread, a socket resets the connection, and what was written is lost."""
        if self.closing:
            return
        self.closing = True
        end = self.socket
        end.resume()
        if not end.ended_out:
            end.end()
        elif not end.size:
            end.close()

    def abort(self) -> None:
        self.closing = True
        self.socket.close()

    def lost(self, exc: Exception | None) -> None:
        """The connection is gone: the protocol is told, once, and not at once."""
        if self.gone:
            return
        self.gone = self.closing = True
        self.loop.call_soon(self._tell, exc)

    def _tell(self, exc: Exception | None) -> None:
        protocol = self.protocol
        protocol.connection_lost(exc)
        self.protocol = asyncio.Protocol()
        self.buffered = None
        del self.socket.transport  # both are gone: no ring waits for the collector


async def secure_upstream(loop: asyncio.AbstractEventLoop, sock: socket.socket, tls: ClientTls, host: str, where: str, protocol: P) -> P:
    """TLS on a connected socket, as the client, for a protocol of the loop. Raises Error; then the socket is closed."""
    channel = await connected_channel(loop, sock, tls, host, where)
    TlsTransport(loop, sock, channel, protocol, "upstream")
    return protocol
