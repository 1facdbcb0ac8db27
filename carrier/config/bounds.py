"""How much a document may hold, and what is said of one that holds more; apart from its readers, of which that of YAML is loaded when there
is some to read: it takes an eighth of a start's time, and a proxy that is led over REST needs none."""

from __future__ import annotations

from typing import NamedTuple

from carrier.errors import ConfigError, Problem

Place = tuple[int, int]
"""Line and column, from 1."""

MAX_DEPTH = 32
MAX_OBJECTS = 10_000
FILE_OBJECTS = 1_000_000
"""Objects of a document whose reader says nothing else, and of a file."""
MAX_VALUES = 100_000


class Bounds(NamedTuple):
    """How much one document may hold: levels, objects, values (aliases expanded), and of those values that stand where an alias does: a
    few lines could stand for millions."""

    depth: int = MAX_DEPTH
    objects: int = MAX_OBJECTS
    values: int = MAX_VALUES
    aliased: int = MAX_VALUES


BOUNDS = Bounds()


def finite(text: str) -> float:
    """A number that fits. Raises ValueError."""
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text if len(text) <= 20 else text[:20] + '...'} is too large")
    return number


def too_deep(bounds: Bounds, place: Place = (0, 0)) -> ConfigError:
    return ConfigError(Problem(f"nested more than {bounds.depth} levels deep", "$", *place, allowed=f"{bounds.depth} levels"))


def too_many(bounds: Bounds, place: Place = (0, 0)) -> ConfigError:
    allowed = f"{bounds.objects} objects, {bounds.values} values, {bounds.aliased} of them by aliases"
    return ConfigError(Problem("too many objects or values", "$", *place, allowed=allowed))
