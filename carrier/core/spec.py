"""What specs have in common: kinds of stream, framing, checks of fields, ports and texts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar, Literal

from carrier.errors import Problem, Problems, did_you_mean, shown

Kind = Literal["byte", "datagram", "message"]
TLS_FILES: Mapping[str, str] = dict.fromkeys(("tls.certificate", "tls.key", "tls.ca"), "reads a file")
"""What is privileged of every protocol: fields that name files."""
FRAMINGS = ("none", "lines", "length32")
"""How a stream of bytes may keep the limits of messages (carrier/hops/framing.py)."""


def framed(spec: Mapping[str, Any]) -> bool:
    """Does this stream of bytes keep the limits of messages?"""
    return bool(spec.get("framing", "none") != "none")


class Specified:
    """What a protocol's class of listeners or clusters says about its specs."""

    __slots__ = ()
    protocol: ClassVar[str] = ""
    kind: Kind = "byte"
    """Of its streams: a datagram cannot wait, so what finds no room is dropped; the others are paused."""
    fields: ClassVar[Mapping[str, str]] = {}
    """Fields of the spec -> what is allowed, in words; anything else is an unknown field in a strict check."""
    privileged: ClassVar[Mapping[str, str]] = TLS_FILES
    """Field of the spec, with dots for one inside another ("protocol": the whole of it) -> what it does that takes a caller who has
    shown who it is (carrier/config/privileges.py)."""

    @classmethod
    def check_tls(cls, spec: Mapping[str, Any], path: str) -> list[Problem]:
        """What is wrong with `tls`; a protocol that has it looks (carrier/hops/certificates.py)."""
        return []

    @classmethod
    def check_options(cls, options: Mapping[str, Any], path: str = "") -> list[Problem] | None:
        """Everything wrong with the options, by the strict standard; None: it has only those that all have."""
        return None

    @classmethod
    def check_inside(cls, spec: Mapping[str, Any], options: Mapping[str, Any], path: str = "") -> list[Problem]:
        """What is wrong with options because of what the spec has inside."""
        return []

    @classmethod
    def kind_of(cls, spec: Mapping[str, Any]) -> Kind:
        """The kind of stream that a spec makes: "datagram" for every one that keeps the limits of messages."""
        return "datagram" if framed(spec) else cls.kind

    @classmethod
    def keeps_borders(cls, spec: Mapping[str, Any]) -> bool:
        """Is each piece that comes a message, which may not be cut?"""
        return cls.kind_of(spec) != "byte"


def files_of(spec: object) -> Iterator[str]:
    """The files that a spec names, also inside another one (TLS_FILES)."""
    if isinstance(spec, Mapping):
        tls = spec.get("tls")
        for one in tls if isinstance(tls, list) else [tls]:
            if isinstance(one, Mapping):
                yield from (str(one[field.partition(".")[2]]) for field in TLS_FILES if field.partition(".")[2] in one)
        for value in spec.values():
            yield from files_of(value)


def check_fields(spec: Mapping[str, Any], path: str, fields: Collection[str], framing: bool) -> list[Problem]:
    """Does the protocol know every field of the spec? framing: it takes one, being a stream of bytes."""
    words = ", ".join(["protocol", *fields])
    unknown = (name for name in spec if name not in ("protocol", "framing") and name not in fields)
    found = Problems()
    found += (Problem(f"unknown field {name!r}", f"{path}.{name}", seen=repr(spec[name]), allowed=words) for name in unknown)
    return found + _check_framing(spec, path, framing)


def _check_framing(spec: Mapping[str, Any], path: str, allowed: bool) -> list[Problem]:
    """Is `spec.framing` a framing, and does the protocol take one?"""
    framing = spec.get("framing")
    if "framing" not in spec or (allowed and framing in FRAMINGS):
        return []
    if not allowed:
        return [Problem("unknown field 'framing'", f"{path}.framing", seen=repr(framing), allowed="on streams of bytes only")]
    return [Problem(f"unknown framing {framing!r}", f"{path}.framing", seen=repr(framing), allowed=", ".join(FRAMINGS))]


def check_members(body: Mapping[str, Any], path: str, known: Collection[str]) -> list[Problem]:
    """Members of an object inside a spec that nobody reads."""
    allowed = ", ".join(known)
    found = Problems()
    found += (
        Problem(f"unknown field {name!r}", f"{path}.{name}", seen=shown(body[name]), allowed=allowed, hint=did_you_mean(str(name), known))
        for name in body
        if name not in known
    )
    return found


def check_text(spec: Mapping[str, Any], path: str, *names: str) -> list[Problem]:
    """Those of these fields that are there and no text."""
    return [
        Problem(f"expected text, got {spec[name]!r}", f"{path}.{name}", seen=repr(spec[name]), allowed="text")
        for name in names
        if name in spec and not isinstance(spec[name], str)
    ]


NEEDS_PORT = "needs 'port'"


def check_port(spec: Mapping[str, Any], path: str, required: bool, least: int = 1) -> list[Problem]:
    """Is `spec.port` a port?"""
    port = spec.get("port")
    if port is None:
        return [Problem(NEEDS_PORT, path, seen="nothing", allowed=f"a number {least}..65535")] if required else []
    if not isinstance(port, int) or isinstance(port, bool) or not least <= port <= 65535:
        return [Problem(f"expected a port {least}..65535, got {port!r}", f"{path}.port", seen=repr(port), allowed=f"{least}..65535")]
    return []
