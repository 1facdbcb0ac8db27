"""TLS of listeners and clusters: what a `tls:` block means, files that are read again when they change, and TLS over a byte socket.

A listener's block is `{certificate, key, ca, client_auth, sni: [...]}` or a list of such (the first is for clients that name none of the
others), or `{passthrough: true}`: sessions are routed by the name that the client asks for, and nothing is decrypted. A cluster's is
`true` or `{sni, verify, ca, certificate, key}`; `verify` is on unless it says otherwise. `ServerTls` and `ClientTls` hold the contexts;
`refresh`, called once a second, reads files again that have changed: a connection that is there keeps what it began with, a file
that is bad by now leaves the old certificate in force and is counted.

`Tls` makes a TLS socket of a `ByteSocket`: it overrides reading and writing, and half-closing works as it does without TLS
(RFC 8446 section 6.1). HTTP leaves the record layer to the event loop instead. `parse_hello` reads a ClientHello and decrypts nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from carrier.core.stream import Stream, link
from carrier.errors import ConfigError, Error, Problem, Side, from_os
from carrier.hops.bytesocket import READ, ByteSocket
from carrier.hops.peek import peek

SERVER_FIELDS = ("certificate", "key", "ca", "client_auth", "sni", "self_signed", "passthrough")
CLIENT_FIELDS = ("sni", "verify", "ca", "certificate", "key")
HANDSHAKE = 10.0
"""Seconds that a handshake may take."""
LINGER = 2.0
"""Seconds that a peer has to close after us, where no session waits for it."""

Stamp = tuple[tuple[str, int, int, int], ...]
"""What a set of files looked like: name, inode, time of change in nanoseconds, size."""


# --- what a block may say ---------------------------------------------------------------------------------------------------------


def check_server(raw: object, path: str) -> list[Problem]:
    """Everything wrong with a listener's `tls` by its form; files are looked at when the listener is made."""
    if raw is None:
        return []
    if isinstance(raw, list) and raw:
        return [problem for i, one in enumerate(raw) for problem in _check_certificate(one, f"{path}[{i}]")]
    if isinstance(raw, Mapping) and raw.get("passthrough") is True:
        return [] if len(raw) == 1 else [Problem("what is passed through is not decrypted: no other field makes sense", path)]
    return _check_certificate(raw, path)


def _check_certificate(raw: object, path: str) -> list[Problem]:
    found = _members(raw, path, SERVER_FIELDS)
    if not isinstance(raw, Mapping):
        return found
    own = raw.get("self_signed") is True
    found += [Problem(f"needs {name!r}", path, seen=", ".join(raw)) for name in ("certificate", "key") if name not in raw and not own]
    names = raw.get("sni", [])
    if not isinstance(names, (list, str)) or not all(isinstance(name, str) for name in names):
        found.append(Problem("expected a list of names", f"{path}.sni", seen=repr(names), allowed='["example.org", "*.example.org"]'))
    if raw.get("client_auth") and "ca" not in raw:
        found.append(Problem("client_auth needs 'ca': whose certificates are good", path, seen=", ".join(raw)))
    if raw.get("client_auth") not in (None, False, True, "optional", "required"):
        found.append(
            Problem("unknown client_auth", f"{path}.client_auth", seen=repr(raw["client_auth"]), allowed="required, optional, false")
        )
    return found


def check_client(raw: object, path: str) -> list[Problem]:
    """Everything wrong with a cluster's `tls` by its form."""
    if raw is None or isinstance(raw, bool):
        return []
    found = _members(raw, path, CLIENT_FIELDS)
    if isinstance(raw, Mapping):
        if not isinstance(raw.get("verify", True), bool):
            found.append(Problem("expected true or false", f"{path}.verify", seen=repr(raw["verify"])))
        if ("key" in raw) != ("certificate" in raw):
            found.append(Problem("'certificate' and 'key' go together", path, seen=", ".join(raw)))
    return found


def _members(raw: object, path: str, allowed: tuple[str, ...]) -> list[Problem]:
    words = ", ".join(allowed)
    if not isinstance(raw, Mapping):
        return [Problem(f"expected an object, got {raw!r}", path, seen=repr(raw), allowed=words)]
    found = [Problem(f"unknown field {name!r}", f"{path}.{name}", seen=repr(name), allowed=words) for name in raw if name not in allowed]
    files = ("certificate", "key", "ca")
    found += [
        Problem("expected the name of a PEM file", f"{path}.{name}", seen=repr(raw[name]))
        for name in files
        if name in raw and (not isinstance(raw[name], str) or not raw[name])
    ]
    if allowed is CLIENT_FIELDS and not isinstance(raw.get("sni", ""), str):
        found.append(Problem("expected a name", f"{path}.sni", seen=repr(raw["sni"])))
    return found


# --- contexts ---------------------------------------------------------------------------------------------------------------------


class Files:
    """What both sides share: contexts made of files, made again when the files change.

    failures: how often files had changed and were no good. trouble: what was wrong the last time, empty when all is well.
    """

    def __init__(self, files: list[str]) -> None:
        self.files = files
        self.failures = 0
        self.trouble = ""
        self.stamp = self.tried = _stamp(files)

    def load(self) -> None:
        """Make the contexts. Raises ConfigError with every reason."""
        raise NotImplementedError

    def refresh(self) -> bool:
        """Read files that have changed; True when new ones are in force. A bad one leaves the old in force and is counted once."""
        now = _stamp(self.files)
        if now in (self.stamp, self.tried):
            return False
        self.tried = now
        try:
            self.load()
        except ConfigError as error:
            self.failures += 1
            self.trouble = error.detail
            return False
        self.stamp = now
        self.trouble = ""
        return True


def _stamp(files: list[str]) -> Stamp:
    found = []
    for name in files:
        try:
            status = os.stat(name)
            found.append((name, status.st_ino, status.st_mtime_ns, status.st_size))
        except OSError:
            found.append((name, 0, 0, 0))
    return tuple(found)


class ServerTls(Files):
    """The server's side of a `tls` block. `context` is for the handshake: by the name that is asked for, it changes to the right one.

    alpn: what is offered (RFC 7301). Raises ConfigError with every reason.
    """

    def __init__(self, raw: Any, path: str = "spec.tls", alpn: tuple[str, ...] = ()) -> None:
        self.entries: list[Mapping[str, Any]] = raw if isinstance(raw, list) else [raw]
        self.path = path
        self.alpn = alpn
        self.names: dict[str, ssl.SSLContext] = {}
        super().__init__([str(entry[name]) for entry in self.entries for name in ("certificate", "key", "ca") if name in entry])
        self.load()
        self.context = self._make(self.entries[0])
        self.context.sni_callback = self._choose

    def load(self) -> None:
        problems: list[Problem] = []
        names: dict[str, ssl.SSLContext] = {}
        for i, entry in enumerate(self.entries):
            try:
                context = self._make(entry)
            except ConfigError as error:
                problems += [Problem(p.message, f"{self.path}[{i}]" if len(self.entries) > 1 else self.path) for p in error.problems]
                continue
            if not i:
                names[""] = context
            asked = entry.get("sni") or []
            for name in [asked] if isinstance(asked, str) else asked:
                names.setdefault(name.lower().rstrip("."), context)
        if problems:
            raise ConfigError(*problems)
        self.names = names

    def _make(self, entry: Mapping[str, Any]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if self.alpn:
            context.set_alpn_protocols(list(self.alpn))
        if entry.get("self_signed"):
            load_self_signed(context)
        else:
            _load_chain(context, str(entry.get("certificate")), str(entry.get("key")))
        if "ca" in entry:
            _load_ca(context, str(entry["ca"]))
        auth = entry.get("client_auth", "ca" in entry)
        context.verify_mode = ssl.CERT_NONE if not auth else ssl.CERT_OPTIONAL if auth == "optional" else ssl.CERT_REQUIRED
        return context

    def _choose(self, tls: Any, name: str | None, _context: ssl.SSLContext) -> None:
        """Called in each handshake, also when the client names nobody: the certificate for the name (RFC 6066 section 3)."""
        tls.asked_for = name
        wanted = (name or "").lower().rstrip(".")
        found = self.names.get(wanted) or self.names.get("*." + wanted.partition(".")[2]) or self.names.get("")
        if found is not None:
            tls.context = found


class ClientTls(Files):
    """The client's side: `true` or `{sni, verify, ca, certificate, key}`. Raises ConfigError with every reason."""

    def __init__(self, raw: Any, path: str = "spec.tls") -> None:
        self.raw: Mapping[str, Any] = raw if isinstance(raw, Mapping) else {}
        self.path = path
        super().__init__([str(self.raw[name]) for name in ("ca", "certificate", "key") if name in self.raw])
        self.load()

    def load(self) -> None:
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            if not self.raw.get("verify", True):
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            elif "ca" in self.raw:
                _load_ca(context, str(self.raw["ca"]))
            else:
                context.load_default_certs()
            if "certificate" in self.raw:
                _load_chain(context, str(self.raw["certificate"]), str(self.raw.get("key")))
        except ConfigError as error:
            raise ConfigError(*(Problem(p.message, self.path) for p in error.problems)) from None
        self.context = context

    def name(self, host: str) -> str:
        """The name to ask for, and to check: as configured, else the endpoint's own."""
        return str(self.raw.get("sni") or host.strip("[]"))


def _load_chain(context: ssl.SSLContext, certificate: str, key: str) -> None:
    bad = _unreadable(certificate, key)
    if not bad:
        try:
            context.load_cert_chain(certificate, key, password=lambda: "")  # an encrypted key must not ask the terminal
            return
        except (ssl.SSLError, OSError, ValueError) as exc:
            reason = str(exc)
            bad = [f"{certificate} and {key} are no certificate and its key: {reason}"]
    raise ConfigError(*map(Problem, bad))


def _load_ca(context: ssl.SSLContext, file: str) -> None:
    bad = _unreadable(file)
    if not bad:
        try:
            context.load_verify_locations(file)
            return
        except (ssl.SSLError, OSError) as exc:
            bad = [f"{file} has no certificates: {exc}"]
    raise ConfigError(*map(Problem, bad))


def _unreadable(*files: str) -> list[str]:
    found = []
    for file in files:
        try:
            with open(file, "rb"):
                pass
        except (OSError, ValueError) as exc:
            found.append(f"cannot read {file}: {getattr(exc, 'strerror', None) or exc}")
    return found


def load_self_signed(context: ssl.SSLContext) -> None:
    """Give a context a certificate of its own, made now and never written to a disk: for probes, which check nothing."""
    from carrier.hops.selfsigned import pem

    # OpenSSL reads from files only; this one is in memory, so that a read-only root does not matter.
    file = os.memfd_create("carrier-certificate", os.MFD_CLOEXEC)
    try:
        os.write(file, pem())
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)


def describe(tls: Any) -> dict[str, Any]:
    """What a session's metadata says of a finished handshake, below /TLS."""
    found: dict[str, Any] = {"sni": getattr(tls, "asked_for", None) or "", "version": tls.version() or ""}
    alpn = tls.selected_alpn_protocol()
    if alpn:
        found["alpn"] = alpn
    certificate = tls.getpeercert()
    if certificate:
        found["client"] = {name: value for part in certificate.get("subject", ()) for name, value in part}
    return found


# --- ClientHello ------------------------------------------------------------------------------------------------------------------


class Hello(NamedTuple):
    """What a ClientHello asks for. sni: lower case, empty when no name is asked for."""

    sni: str
    alpn: tuple[str, ...]


def parse_hello(data: bytes) -> Hello | None:
    """The first record of a connection as a ClientHello (RFC 8446 section 4.1.2); None: it is not whole yet.

    Raises Error("protocol-error") when it is none. A hello that is spread over several records is not looked into: it asks for nothing.
    """
    if data[:1] != b"\x16"[: len(data)] or (len(data) > 1 and data[1] != 3):
        raise Error("protocol-error", "no TLS ClientHello", "downstream")
    if len(data) < 5:
        return None
    size = int.from_bytes(data[3:5], "big")
    if size > 16 * 1024:
        raise Error("protocol-error", "a TLS record of more than 16 KiB", "downstream")
    if len(data) < 5 + size:
        return None
    record = _Bytes(data[5 : 5 + size])
    try:
        if record.number(1) != 1:
            raise Error("protocol-error", "the first TLS message is no ClientHello", "downstream")
        body = _Bytes(record.take(record.number(3)))
        body.take(2 + 32)
        body.take(body.number(1))
        body.take(body.number(2))
        body.take(body.number(1))
        return _extensions(_Bytes(body.take(body.number(2)))) if body.left() else Hello("", ())
    except IndexError:
        return Hello("", ())


def _extensions(body: _Bytes) -> Hello:
    sni, alpn = "", []
    while body.left():
        kind = body.number(2)
        value = _Bytes(body.take(body.number(2)))
        if kind == 0 and value.left():  # RFC 6066 section 3
            value.take(2)
            if value.number(1) == 0:
                sni = value.take(value.number(2)).decode("latin-1").lower().rstrip(".")
        elif kind == 16 and value.left():  # RFC 7301 section 3.1
            value.take(2)
            while value.left():
                alpn.append(value.take(value.number(1)).decode("latin-1"))
    return Hello(sni, tuple(alpn))


class _Bytes:
    """Bytes read from the front; IndexError when there are too few."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, size: int) -> bytes:
        if size > self.left():
            raise IndexError
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")


# --- TLS over a byte socket -------------------------------------------------------------------------------------------------------


class Channel:
    """A TLS endpoint in memory: records go in and come out, no socket. `tls` is the SSLObject."""

    __slots__ = ("incoming", "outgoing", "tls")

    def __init__(self, context: ssl.SSLContext, server_side: bool, name: str | None = None) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
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
    """What OpenSSL, or the socket under it, said; kind "unreachable" for TLS itself: nothing was sent, somebody else may serve."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return Error("unreachable", f"{where}: its certificate is not good: {exc.verify_message}", side, "yes")
    if isinstance(exc, ssl.SSLError):
        return Error("unreachable", f"{where}: TLS failed: {exc.reason or exc}", side, "yes")
    return from_os(exc, side, where, "yes")


class Tls(ByteSocket):
    """A ByteSocket that speaks TLS; to be mixed into one (`class X(Tls, ByteSocket)`). `channel`: shaken hands over this very socket."""

    __slots__ = ()
    channel: Channel

    def resume(self) -> None:
        if self.paused and not self.closed and not self.ended_in:
            super().resume()
            if self.channel.tls.pending() or self.channel.incoming.pending:
                self.loop.call_soon(self._decrypt)

    def _readable(self) -> None:
        data = self._received()
        if data is None:
            return
        if data:
            self.channel.incoming.write(data)
        else:
            self.channel.incoming.write_eof()
        self._decrypt()

    def _decrypt(self) -> None:
        """Pass on what the records that are here say; a pause stops in between, `resume` goes on."""
        read = self.channel.tls.read
        to: Stream = self.to
        while not self.closed and not self.paused:
            try:
                plain = read(READ)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                plain = b""
            except ssl.SSLError as exc:  # an end without close_notify (RFC 8446 section 6.1): what came may be cut short
                self.broken(Error("reset", f"TLS: {exc.reason or exc}", self.side))
                return
            if not plain:
                self._eof()
                return
            self.got.bytes += len(plain)
            self.got.messages += 1
            to = self.to
            to.data(plain)
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
            self.channel.tls.write(data)
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


async def upstream(loop: asyncio.AbstractEventLoop, sock: socket.socket, tls: ClientTls, host: str, where: str) -> TlsUpstream:
    """TLS on a connected socket, as the client. Raises Error; then the socket is closed."""
    try:
        channel = Channel(tls.context, False, tls.name(host))
        await handshake(loop, sock, channel, "upstream", where)
    except ValueError as exc:  # a name that is none
        sock.close()
        raise Error("unreachable", f"{where}: {exc}", "upstream", "yes") from None
    except BaseException:
        sock.close()
        raise
    return TlsUpstream(loop, sock, "upstream", channel)


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


def server_of(spec: Mapping[str, Any], alpn: tuple[str, ...] = ()) -> ServerTls | None:
    """The TLS of a listener's spec; None without one, or when it is passed through. Raises ConfigError."""
    raw = spec.get("tls")
    if not raw or passes_through(spec):
        return None
    problems = check_server(raw, "spec.tls")
    if problems:
        raise ConfigError(*problems)
    return ServerTls(raw, alpn=alpn)


def passes_through(spec: Mapping[str, Any]) -> bool:
    """Are its sessions routed by SNI and not decrypted?"""
    raw = spec.get("tls")
    return isinstance(raw, Mapping) and cast("Mapping[str, Any]", raw).get("passthrough") is True


def client_of(spec: Mapping[str, Any]) -> ClientTls | None:
    """The TLS of a cluster's spec, or None. Raises ConfigError."""
    raw = spec.get("tls")
    if raw is None or raw is False:
        return None
    problems = check_client(raw, "spec.tls")
    if problems:
        raise ConfigError(*problems)
    return ClientTls(raw)


async def first_hello(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> Hello:
    """The ClientHello of an accepted connection, left unread for whoever it is relayed to. Raises Error: it is none, or did not come."""
    try:
        async with asyncio.timeout(HANDSHAKE):
            hello = await peek(loop, sock, parse_hello)
    except TimeoutError:
        raise Error("timeout", f"no TLS hello within {HANDSHAKE:g} s", "downstream") from None
    except OSError as exc:
        raise from_os(exc, "downstream") from None
    if hello is None:
        raise Error("closed", "closed before its TLS hello", "downstream")
    return hello
