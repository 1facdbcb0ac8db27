"""Protocol name -> class, from the entry-point groups `carrier.listeners`, `carrier.clusters` and `carrier.transforms`; and the readers
of other configuration formats, from `carrier.formats`.

The core knows no protocol by name: a protocol is one file on each side and its entry points, also a third party's. Classes are
imported when first asked for, so that a protocol nobody uses (QUIC) costs neither time nor memory. A transform is a cluster
whose stream sits in a chain; both groups form one name space.

The lines of `entry_points.txt` are read here rather than by importlib.metadata: that library brings zip files, e-mail and temporary
files with it, 1.7 MiB and 10 ms for three groups of lines. It is asked only where ours are not in a folder, as in a zipped application.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from carrier.errors import Error

if TYPE_CHECKING:
    from carrier.core.cluster import Cluster
    from carrier.core.listener import Listener


class Point(NamedTuple):
    """One entry point: a name and `module:attribute`, as in the entry points specification of PyPA."""

    name: str
    value: str

    def load(self) -> Any:
        """The object. Raises whatever its import raises."""
        module, _, attribute = self.value.partition("[")[0].partition(":")
        return getattr(import_module(module.strip()), attribute.strip())


@cache
def _group(name: str) -> dict[str, Point]:
    section = f"carrier.{name}"
    return {point.name: point for text in _texts() for point in points(text, section)} or _zipped(section)


def _texts() -> Iterator[str]:
    """The entry points of each distribution that is installed in a folder. Of two with one name the first of the path counts.

    The working directory, which `python -m` and `python -c` put first, is none of these, unless we were imported from it: whoever may
    write there could name a protocol of ours otherwise.
    """
    seen = set()
    for place, folder in enumerate(sys.path):
        if place == 0 and _is_working_directory(folder):
            continue
        try:
            names = os.listdir(folder or ".")
        except OSError:  # a folder that is not there, or an archive
            continue
        for name in names:
            stem, ending = os.path.splitext(name)
            project = stem.partition("-")[0].lower()
            if ending not in (".dist-info", ".egg-info") or project in seen:
                continue
            seen.add(project)
            try:
                with open(os.path.join(folder, name, "entry_points.txt"), encoding="utf-8") as file:
                    yield file.read()
            except OSError:  # it has none
                pass


def _is_working_directory(folder: str) -> bool:
    """Is it that, and are we from somewhere else?"""
    try:
        here = os.getcwd()
    except OSError:  # it is gone
        return folder == ""
    ours = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return (folder == "" or os.path.abspath(folder) == here) and here != ours


def points(text: str, section: str) -> Iterator[Point]:
    """The entry points under `[section]` of an `entry_points.txt`."""
    current = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            current = line[1:-1].strip()
        elif current == section and line and line[0] not in "#;":
            name, _, value = line.partition("=")
            yield Point(name.strip(), value.strip())


def _zipped(section: str) -> dict[str, Point]:
    from importlib.metadata import entry_points

    return {point.name: Point(point.name, point.value) for point in entry_points(group=section)}


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


def format_keys() -> list[str]:
    """Top-level keys that give a configuration of another format away."""
    return list(_group("formats"))


def format_reader(key: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """What reads such a document: it gives one in our format, and raises ConfigError. Raises Error("config") when it cannot be imported."""
    reader: Callable[[Mapping[str, Any]], dict[str, Any]] = _load("formats", key)
    return reader


def _load(group: str, protocol: str) -> Any:
    point = _group(group).get(protocol)
    return _loaded(point) if point is not None else None


@cache
def _loaded(point: Point) -> Any:
    try:
        return point.load()
    except Exception as exc:  # somebody else's code: what it lacks is their text to write and ours to pass on
        raise Error("config", f"protocol {point.name} cannot be loaded from {point.value}: {type(exc).__name__}: {exc}") from exc
