"""Pseudo clusters that are a hop and nothing else: Echo and Discard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from carrier.core.cluster import Cluster
from carrier.core.endpoint import Endpoint
from carrier.core.stream import Stream

if TYPE_CHECKING:
    from carrier.core.session import Session


class Headless(Stream):
    """Of a message only the end shows. As a transform it lets heads pass by: who is behind it may need them."""

    __slots__ = ("transforms",)

    def __init__(self) -> None:
        super().__init__()
        self.transforms = False

    def between(self, session: Any) -> None:
        self.transforms = True

    def head(self, head: Any, last: bool = False) -> None:
        if self.transforms:
            self.to.head(head, last)
        elif last:
            self.to.end()


class EchoStream(Headless):
    """What comes goes back, as a message of the source's own kind: a request's head is not an answer's, so heads are not echoed."""

    __slots__ = ()


class DiscardStream(Headless):
    """Swallows everything; the end comes back, so that a downstream that has finished is not left waiting."""

    __slots__ = ()

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if last:
            self.to.end()

    def flush(self) -> None: ...


class EchoCluster(Cluster):
    """`spec: {protocol: Echo}`."""

    protocol = "Echo"
    virtual = True

    def ready(self, session: Session, endpoint: Endpoint | None) -> Stream:
        return EchoStream()


class DiscardCluster(Cluster):
    """`spec: {protocol: Discard}`."""

    protocol = "Discard"
    virtual = True

    def ready(self, session: Session, endpoint: Endpoint | None) -> Stream:
        return DiscardStream()
