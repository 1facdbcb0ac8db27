"""Framing: a stream of bytes that keeps the limits of messages, `framing: lines` or `length32` in the spec of any of them.

    lines       each message is followed by a line feed; a message that holds one becomes two
    length32    each message is preceded by its length, four bytes, most significant first

Both ends of the wire must agree. With framing a TCP connection, a UNIX socket or a pipe takes part in a session as a datagram stream
does, but loses nothing: it is paused. A frame longer than `MOST` bytes breaks the stream, before it is held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from carrier.core.spec import FRAMINGS, framed
from carrier.errors import ConfigError, Error, Problem
from carrier.hops.joint import Joint, Over, OverCluster

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.cluster import Cluster
    from carrier.core.env import Env
    from carrier.core.listener import Listener
    from carrier.core.session import Session

MOST = 1 << 20
"""Bytes of a message at most."""


class Lines(Joint):
    """Messages are lines. What follows the last line feed when the stream ends is a message too."""

    def __init__(self) -> None:
        super().__init__()
        self.held = bytearray()

    def encode(self, data: bytes) -> bytes:
        return b"%b\n" % data

    def decode(self, data: bytes) -> Iterable[bytes]:
        held = self.held
        held += data
        lines: list[bytes] = []
        if b"\n" in data:  # what is held is looked at once, when a line ends
            *lines, rest = bytes(held).split(b"\n")
            self.held = held = bytearray(rest)
        if len(held) > MOST:
            raise too_long(len(held))
        return lines

    def ended(self, trailer: Any = None) -> None:
        rest, self.held = bytes(self.held), bytearray()
        if rest:
            self.deliver(rest)
        super().ended(trailer)


class Length32(Joint):
    """Messages are preceded by their length."""

    def __init__(self) -> None:
        super().__init__()
        self.held = bytearray()

    def encode(self, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + data

    def decode(self, data: bytes) -> Iterator[bytes]:
        held = self.held
        held += data
        start = 0
        while len(held) - start >= 4:
            size = int.from_bytes(held[start : start + 4], "big")
            if size > MOST:
                raise too_long(size)
            if len(held) - start - 4 < size:
                break
            yield bytes(held[start + 4 : start + 4 + size])
            start += 4 + size
        del held[:start]

    def ended(self, trailer: Any = None) -> None:
        if self.held and not self.over:
            self.fail(Error("protocol-error", f"the stream ended within a frame, {len(self.held)} bytes after its start"))
        else:
            super().ended(trailer)


def too_long(size: int) -> Error:
    """What breaks a stream whose frames are too long. size: bytes."""
    return Error("protocol-error", f"a frame of {size} bytes; at most {MOST} are taken")


JOINTS: Mapping[str, type[Joint]] = {"lines": Lines, "length32": Length32}


class FramedListener(Over):
    """A listener for streams of bytes, with framing."""

    def make(self, session: Session) -> Joint:
        return JOINTS[self.conf.spec["framing"]]()


class FramedCluster(OverCluster):
    """A cluster of streams of bytes, with framing."""

    def make(self, session: Session) -> Joint:
        return JOINTS[self.conf.spec["framing"]]()


def make_listener(kind: type[Listener], conf: config.Listener, env: Env) -> Listener:
    """A listener of class `kind`, with the framing that its spec wants. Raises ConfigError, and what the class raises."""
    if not framed(conf.spec):
        return kind(conf, env)
    _check(kind, conf.spec, f"listeners[{conf.name}].spec.framing")
    return FramedListener(conf, env, partial(make_listener, kind), _without(conf.spec))


def make_cluster(kind: type[Cluster], conf: config.Cluster, env: Env) -> Cluster:
    """A cluster of class `kind`, with the framing that its spec wants. Raises ConfigError, and what the class raises."""
    if not framed(conf.spec):
        return kind(conf, env)
    _check(kind, conf.spec, f"clusters[{conf.name}].spec.framing")
    return FramedCluster(conf, env, partial(make_cluster, kind), _without(conf.spec))


def _check(kind: type[Listener] | type[Cluster], spec: Mapping[str, Any], path: str) -> None:
    framing = spec["framing"]
    if kind.kind_of(_without(spec)) != "byte":
        raise ConfigError(Problem(f"protocol {kind.protocol} is no stream of bytes and has no framing", path, seen=repr(framing)))
    if framing not in FRAMINGS:
        raise ConfigError(Problem(f"unknown framing {framing!r}", path, seen=repr(framing), allowed=", ".join(FRAMINGS)))


def _without(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in spec.items() if name != "framing"}
