"""`tls:` blocks: what they may say, their files, read again when they change, and the contexts made of them."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from typing import Any, cast

from carrier.errors import ConfigError, Problem

SERVER_FIELDS = ("certificate", "key", "ca", "client_auth", "sni", "self_signed", "passthrough")
CLIENT_FIELDS = ("sni", "verify", "ca", "certificate", "key")
Stamp = tuple[tuple[str, int, int, int], ...]
"""What a set of files looked like: name, inode, time of change in nanoseconds, size."""


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
