"""`admin.access_log`: what it may say, and what it means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from carrier.config.settings import Check, are_texts, is_part, read_fields
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
    "fields": "more to write: trace, upstream, first_byte, retries, agent (default: none)",
    "redact": "names of further fields whose value is not to be seen",
    "query": "false: paths are written without their query (default true)",
}
"""Fields of `admin.access_log`."""
MORE: Mapping[str, str] = {
    "trace": "trace_id",
    "upstream": "upstream_us",
    "first_byte": "first_byte_us",
    "retries": "retries",
    "agent": "agent",
}
"""What `fields` may name -> what it is called in a line."""


class Settings(msgspec.Struct, frozen=True):
    """See FIELDS."""

    path: str
    format: str = "json"
    status: int = 0
    duration: float = 0.0
    users: tuple[str, ...] = ()
    sample: float = 1.0
    headers: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    redact: tuple[str, ...] = ()
    query: bool = True


def read(value: object, path: str = "$.admin.access_log") -> Settings:
    """The settings of a configuration: an object with FIELDS, or the path alone. Raises ConfigError with what is wrong."""
    if isinstance(value, str):
        value = {"path": value}
    return Settings(**read_fields(value, path, _GOOD, "path", "the access log", "a path or an object"))


def _are_more(value: object) -> bool:
    return isinstance(value, list | tuple) and all(item in MORE for item in value)


_GOOD: Mapping[str, Check] = {
    "path": ("a file, stdout or stderr", lambda v: isinstance(v, str) and v != ""),
    "format": ("json, envoy", lambda v: v in ("json", "envoy")),
    "status": ("a whole number 0..999", lambda v: isinstance(v, int) and is_number(v) and 0 <= v <= 999),
    "duration": ("a number, 0 or more", lambda v: is_number(v) and v >= 0),
    "users": ("a list of texts", are_texts),
    "sample": ("a number 0..1", is_part),
    "headers": ("a list of texts", are_texts),
    "fields": (f"a list of {', '.join(MORE)}", _are_more),
    "redact": ("a list of texts", are_texts),
    "query": ("true or false", lambda v: isinstance(v, bool)),
}
"""What is allowed in each field, in words and as a check."""


def settings_of(config: Config) -> Settings | None:
    """What a configuration says of the access log; None: there is none. Raises ConfigError."""
    value = config.admin.options.get("access_log", config.admin.access_log_path)
    return None if value is None else read(value)
