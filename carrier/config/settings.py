"""Objects of `admin` that are no more than named values: each field has its check, and all that is wrong is said at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from carrier.errors import ConfigError, Problem, Problems, did_you_mean, shown
from carrier.rules.checks import is_number

Check = tuple[str, Callable[[Any], bool]]
"""What is allowed, in words and as a check."""


def read_fields(
    value: object,
    path: str,
    good: Mapping[str, Check],
    needs: str,
    what: str,
    kind: str = "an object",
    secret: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """The fields of an object, lists as tuples. needs: the field that must be there; secret: fields whose value no problem shows.

    Raises ConfigError with everything that is wrong.
    """
    if not isinstance(value, Mapping):
        raise ConfigError(Problem(f"expected {kind}, got {shown(value)}", path, seen=shown(value), allowed=", ".join(good)))
    problems = Problems()
    problems += (
        Problem(f"unknown field {name!r}", f"{path}.{name}", seen=shown(name), allowed=", ".join(good), hint=did_you_mean(str(name), good))
        for name in value
        if name not in good
    )
    for name, item in value.items():
        if name in good and not good[name][1](item):
            seen = "a value that is not shown" if name in secret else shown(item)
            problems.append(Problem(f"cannot be {seen}", f"{path}.{name}", seen=seen, allowed=good[name][0]))
    if needs not in value:
        problems.append(Problem(f"{what} needs {needs!r}", path, seen=", ".join(map(str, value)) or "{}", allowed=good[needs][0]))
    if problems:
        raise ConfigError(*problems)
    return {name: tuple(item) if isinstance(item, list) else item for name, item in value.items()}


def are_texts(value: object) -> bool:
    """Is it a list of texts?"""
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def is_part(value: object) -> bool:
    """Is it a number from 0 to 1?"""
    return is_number(value) and 0 <= value <= 1  # type: ignore[operator]
