"""Protocol name -> class, from the entry-point groups `carrier.listeners`, `carrier.clusters` and `carrier.transforms`.

The core knows no protocol by name: a protocol is one file on each side and its entry points, also a third party's. Classes are
imported when first asked for, so that a protocol nobody uses (QUIC) costs neither time nor memory. A transform is a cluster
whose stream sits in a chain; both groups form one name space.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from carrier.cluster import Cluster
    from carrier.listener import Listener


@cache
def _group(name: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"carrier.{name}")}


def listener_names() -> list[str]:
    """Protocols that a listener may speak, sorted."""
    return sorted(_group("listeners"))


def cluster_names() -> list[str]:
    """Protocols that a cluster may speak, pseudo protocols and transforms included, sorted."""
    return sorted({**_group("transforms"), **_group("clusters")})


@cache
def listener(protocol: str) -> type[Listener] | None:
    """The class that listens for `protocol`, or None."""
    point = _group("listeners").get(protocol)
    return point.load() if point else None


@cache
def cluster(protocol: str) -> type[Cluster] | None:
    """The class that connects to, or plays, `protocol`, or None."""
    point = _group("clusters").get(protocol) or _group("transforms").get(protocol)
    return point.load() if point else None
