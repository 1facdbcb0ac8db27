"""Options that are numbers: limits in bytes, seconds, sessions. A protocol file has a table of names and defaults; these two read it.

A number of seconds may also be written as a duration (`1h`, `1m30s`, `300ms`), one of bytes as a size (`64Ki`, `10M`). l7mp's own calls
accept what they always accepted, so a value that is no number counts as not given; the strict standard (files, PUT, POST /config) names it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from carrier.errors import Problem, Problems, did_you_mean

Defaults = Mapping[str, float]
Unit = Literal["seconds", "bytes", "number"]
MOST: Mapping[str, float] = {"strict_target": 1, "strict_path": 1, "track": 86_400}
"""Options that have an upper limit too: what is tracked stays in memory so many seconds; what is 0 or 1."""
TIMES: Mapping[str, float] = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}
SIZES: Mapping[str, int] = {
    "": 1,
    "k": 1000,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 1 << 10,
    "Mi": 1 << 20,
    "Gi": 1 << 30,
    "Ti": 1 << 40,
}
_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[smhd])")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)((?:[KMGT]i?|k)?)B?")
_OF_TIME = re.compile(r"(^|_)(timeout|interval|grace|delay|ttl|track|down|expires|duration)$")
_OF_SIZE = re.compile(r"^max_(head|line|body|message|frame|heads|header|bytes|size)$|_(bytes|size|rate)$|^memory$")
EXAMPLES: Mapping[Unit, str] = {"seconds": 'or a duration such as "90s", "1h30m"', "bytes": 'or a size such as "64Ki", "10M"', "number": ""}


def unit_of(name: str) -> Unit:
    """What an option of this name counts: one name means one thing everywhere."""
    return "seconds" if _OF_TIME.search(name) else "bytes" if _OF_SIZE.search(name) else "number"


def duration(text: str) -> float | None:
    """The seconds of `1h`, `1m30s`, `300ms`; None: it is no duration."""
    found = _TIME.findall(text)
    if not found or "".join(number + unit for number, unit in found) != text:
        return None
    return sum(float(number) * TIMES[unit] for number, unit in found)


def size(text: str) -> int | None:
    """The bytes of `512Mi`, `64k`, `1GiB`, `100B`; None: it is no size."""
    found = _SIZE.fullmatch(text)
    return int(float(found[1]) * SIZES[found[2]]) if found is not None and found[2] in SIZES else None


def amount(name: str, value: Any) -> float | None:
    """What the option `name` is set to: a number from 0 on, in its unit; None: that is no such thing."""
    if isinstance(value, str):
        unit = unit_of(name)
        if unit == "seconds":
            return duration(value)
        return size(value) if unit == "bytes" and not value.isdigit() else None
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")
    return value if good else None


def numbers(options: Mapping[str, Any], defaults: Defaults) -> dict[str, float]:
    """Every option of `defaults`, as given or else its default."""
    found = {}
    for name, default in defaults.items():
        given = amount(name, options[name]) if name in options else None
        found[name] = default if given is None else given
    return found


def check_numbers(options: Mapping[str, Any], defaults: Defaults, path: str, others: Iterable[str] = ()) -> list[Problem]:
    """Everything wrong with options that may only be those of `defaults`. others: options that are no numbers and are checked elsewhere:
    they are named among what is allowed."""
    names = (*defaults, *others)
    found = Problems()
    found += (
        Problem(
            f"unknown option {name!r}",
            f"{path}.{name}",
            seen=repr(options[name]),
            allowed=", ".join(names),
            hint=did_you_mean(str(name), names),
        )
        for name in options
        if name not in names
    )
    for name, value in options.items():
        if name in defaults:
            given = amount(name, value)
            if given is None or given > MOST.get(name, given):
                unit = EXAMPLES[unit_of(name)] if isinstance(value, str) else ""
                allowed = ", ".join(filter(None, (_range(name), unit)))
                found.append(Problem(f"expected a number, got {value!r}", f"{path}.{name}", seen=repr(value), allowed=allowed))
    return found


def _range(name: str) -> str:
    return f"0..{MOST[name]:g}" if name in MOST else "0 or more"


def port_of(spec: Mapping[str, Any]) -> int:
    """`spec.port`, or -1 when that is no port: then binding fails, and says so."""
    port = spec.get("port")
    return port if isinstance(port, int) and 0 <= port <= 65_535 else -1
