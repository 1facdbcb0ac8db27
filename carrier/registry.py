"""Protocol name -> class, from the entry-point groups `carrier.listeners`, `carrier.clusters` and `carrier.transforms`.

The core knows no protocol by name: a protocol is one file on each side and its entry points, also a third party's. Classes are
imported when first asked for, so that a protocol nobody uses (QUIC) costs neither time nor memory. A transform is a cluster
whose stream sits in a chain; both groups form one name space.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from carrier.errors import Error

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


def listener(protocol: object) -> type[Listener] | None:
    """The class that listens for `protocol`, or None. Raises Error("config") when it cannot be imported."""
    return _load("listeners", protocol) if isinstance(protocol, str) else None


def cluster(protocol: object) -> type[Cluster] | None:
    """The class that connects to, or plays, `protocol`, or None. Raises Error("config") when it cannot be imported."""
    return (_load("clusters", protocol) or _load("transforms", protocol)) if isinstance(protocol, str) else None


def _load(group: str, protocol: str) -> Any:
    point = _group(group).get(protocol)
    return _loaded(point) if point is not None else None


@cache
def _loaded(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as exc:  # somebody else's code: what it lacks is their text to write and ours to pass on
        raise Error("config", f"protocol {point.name} cannot be loaded from {point.value}: {type(exc).__name__}: {exc}") from exc
