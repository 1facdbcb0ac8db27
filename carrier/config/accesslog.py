"""`admin.access_log`: what it may say, and what it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from carrier.errors import ConfigError, Problem, Problems, did_you_mean, shown
from carrier.rules.checks import is_number

if TYPE_CHECKING:
    from carrier.model import Config


FIELDS: Mapping[str, str] = {
    "path": "a file, stdout or stderr",
    "format": "json (default) or envoy",
    "status": "only answers of this status or above (default 0: all)",
    "duration": "only sessions of at least so many seconds (default 0)",
    "users": "only sessions of the bridges of these users (default: everybody's)",
    "sample": "the part of the lines that is written, 0 to 1 (default 1); failures are always written, refused requests are not",
    "headers": "names of request header fields to write (default: none)",
    "redact": "names of further fields whose value is not to be seen",
    "query": "false: paths are written without their query (default true)",
}
"""Fields of `admin.access_log`."""


class Settings(msgspec.Struct, frozen=True):
    """See FIELDS."""

    path: str
    format: str = "json"
    status: int = 0
    duration: float = 0.0
    users: tuple[str, ...] = ()
    sample: float = 1.0
    headers: tuple[str, ...] = ()
    redact: tuple[str, ...] = ()
    query: bool = True


def read(value: object, path: str = "$.admin.access_log") -> Settings:
    """The settings of a configuration: an object with FIELDS, or the path alone. Raises ConfigError with what is wrong."""
    if isinstance(value, str):
        value = {"path": value}
    if not isinstance(value, Mapping):
        raise ConfigError(Problem(f"expected a path or an object, got {shown(value)}", path, seen=shown(value), allowed=", ".join(FIELDS)))
    problems = Problems()
    problems += (
        Problem(
            f"unknown field {name!r}", f"{path}.{name}", seen=shown(name), allowed=", ".join(FIELDS), hint=did_you_mean(str(name), FIELDS)
        )
        for name in value
        if name not in FIELDS
    )
    problems += [
        Problem(f"cannot be {shown(item)}", f"{path}.{name}", seen=shown(item), allowed=_GOOD[name][0])
        for name, item in value.items()
        if name in FIELDS and not _GOOD[name][1](item)
    ]
    if "path" not in value:
        problems.append(Problem("the access log needs 'path'", path, seen=", ".join(map(shown, value)) or "{}", allowed=FIELDS["path"]))
    if problems:
        raise ConfigError(*problems)
    found: dict[str, Any] = {name: tuple(item) if isinstance(item, list | tuple) else item for name, item in value.items()}
    return Settings(**found)


def _are_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


_GOOD: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "path": ("a file, stdout or stderr", lambda v: isinstance(v, str) and v != ""),
    "format": ("json, envoy", lambda v: v in ("json", "envoy")),
    "status": ("a whole number 0..999", lambda v: isinstance(v, int) and is_number(v) and 0 <= v <= 999),
    "duration": ("a number, 0 or more", lambda v: is_number(v) and v >= 0),
    "users": ("a list of texts", _are_texts),
    "sample": ("a number 0..1", lambda v: is_number(v) and 0 <= v <= 1),
    "headers": ("a list of texts", _are_texts),
    "redact": ("a list of texts", _are_texts),
    "query": ("true or false", lambda v: isinstance(v, bool)),
}
"""What is allowed in each field, in words and as a check."""


def settings_of(config: Config) -> Settings | None:
    """What a configuration says of the access log; None: there is none. Raises ConfigError."""
    value = config.admin.options.get("access_log", config.admin.access_log_path)
    return None if value is None else read(value)
