"""Configuration text: YAML or JSON in, plain values and their places out; and files, which become a `Config`.

`decode` reads one document. YAML is read event by event, so that depth, size and aliases are bounded before anything is built; JSON is read
by the standard library. Where each value stands is found by a second reading, when there is something to point at (JSON is YAML too):
the places of 1,000 rules take 8 MiB, which the process would keep. Plain YAML words follow the core schema of YAML 1.2: `yes`, `on` and
`12:30` are text.

`load` turns a file into a `Config` or raises ConfigError with every problem in it; `render` shows problems with the line they are
in. The top-level keys of a document tell its format: ours and l7mp's has `listeners`, `clusters`, ...; another format is one more
entry point in the group `carrier.formats`: a top-level key that gives it away, and a function from its document to ours.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import msgspec

from carrier import files
from carrier.config.bounds import BOUNDS, FILE_OBJECTS, MAX_DEPTH, Bounds, Place, finite, too_deep, too_many
from carrier.config.document import from_document
from carrier.core import registry
from carrier.core.slices import Steps, whole
from carrier.errors import ConfigError, Problem
from carrier.rules.match import Conditions

if TYPE_CHECKING:
    from carrier.config.composer import Composer
    from carrier.config.draft import Protocols
    from carrier.model import Config

Syntax = Literal["yaml", "json"]
MAX_FILE = 64 * 1024 * 1024
OPEN = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
"""Names of descriptors that are open already."""


def of_a_file(objects: int = FILE_OBJECTS, depth: int = MAX_DEPTH) -> Bounds:
    """Bounds of what is only bounded by its bytes otherwise. objects: 0 for any number."""
    return Bounds(depth, objects, MAX_FILE)


class Decoded(msgspec.Struct):
    """A decoded document. problems: what is wrong with its text but leaves it readable (keys set twice)."""

    value: Any
    problems: list[Problem]
    text: str
    syntax: Syntax
    _places: dict[str, Place] | None = None

    def locating(self, problems: Iterable[Problem]) -> Steps[None]:
        """Find out where these stand, for `placed`: as much work as reading the document. What was not asked for is not kept."""
        self._places = yield from _places_of(self.text, {place for problem in problems for place in _around(problem.path)})

    def placed(self, problem: Problem) -> Problem:
        """The problem with the line and column of its path, or of the nearest value around it."""
        if self._places is None:
            self._places = whole(_places_of(self.text))
        key, *around = _around(problem.path)  # the key, and not its value, where nobody knows it
        known = (path for path in ([key] if problem.message.startswith("unknown field") else []) + around if path in self._places)
        line, column = self._places.get(next(known, ""), (0, 0))
        return msgspec.structs.replace(problem, line=line, column=column)


class Loaded(msgspec.Struct):
    """A configuration that was read, and warnings about it, with their places. conditions: its matches as they were compiled, for whoever
    is to run it."""

    config: Config
    warnings: tuple[Problem, ...]
    text: str
    conditions: Conditions


def load(
    path: str | Path,
    *,
    base: Config | None = None,
    allow_dangling: bool = False,
    protocols: Protocols = registry,
    files: bool = False,
    objects: int = FILE_OBJECTS,
) -> Loaded:
    """Read a configuration file. Raises ConfigError with every problem, each with line and column where they are known.

    files: look at the certificates and keys that it names, too. objects: that it may hold, 0 for any number.
    """
    text, syntax = _read(Path(path)), _syntax(Path(path))
    return loads(text, syntax, base=base, allow_dangling=allow_dangling, protocols=protocols, files=files, objects=objects)


def loads(
    data: bytes | str,
    syntax: Syntax | None = None,
    *,
    base: Config | None = None,
    allow_dangling: bool = False,
    protocols: Protocols = registry,
    files: bool = False,
    objects: int = FILE_OBJECTS,
) -> Loaded:
    """Read a configuration from text. syntax None: JSON if it begins with a brace, else YAML."""
    conditions = Conditions()
    decoded = decode(data, syntax, MAX_FILE, of_a_file(objects))
    if decoded.value is None:
        raise ConfigError(Problem("the configuration is empty", "$", 1, 1))
    try:
        document = native(decoded.value)
        config, found = from_document(
            document, base=base, allow_dangling=allow_dangling, protocols=protocols, files=files, conditions=conditions
        )
    except ConfigError as error:
        raise ConfigError(*sorted([*decoded.problems, *map(decoded.placed, error.problems)], key=_order)) from None
    if decoded.problems:
        raise ConfigError(*decoded.problems)
    return Loaded(config, tuple(sorted(map(decoded.placed, found), key=_order)), decoded.text, conditions)


def _order(problem: Problem) -> Place:
    return problem.line, problem.column


def native(document: Any) -> Any:
    """The document in our own format, whichever it was written in."""
    if isinstance(document, dict):
        for key in registry.format_keys():
            if key in document:
                return registry.format_reader(key)(document)
    return document


def _read(path: Path) -> bytes:
    """A descriptor that we were started with, a shell's `<(...)`, is read to its end, as whoever made it wants; anything else must be a
    regular file."""
    try:
        if str(path).startswith(OPEN):
            with path.open("rb") as file:
                return file.read(MAX_FILE + 1)
        return files.read_now(str(path), MAX_FILE)[0]
    except (OSError, files.Unreadable) as exc:
        raise ConfigError(Problem(f"cannot read {path}: {getattr(exc, 'strerror', None) or exc}")) from None


def _syntax(path: Path) -> Syntax | None:
    return {".yaml": "yaml", ".yml": "yaml", ".json": "json"}.get(path.suffix.lower())  # type: ignore[return-value]


# -- decoding ----------------------------------------------------------------------------------------------------------------------------


def decode(data: bytes | str, syntax: Syntax | None, max_bytes: int, bounds: Bounds = BOUNDS) -> Decoded:
    """Read one document of YAML or JSON.

    Raises ConfigError: more than max_bytes (kind "body-too-large"), not UTF-8, malformed, more than `bounds` allow.
    """
    size = len(data)
    if size > max_bytes:
        raise ConfigError(Problem(f"{size} bytes or more are too much: at most {max_bytes} are taken"), kind="body-too-large")
    text = data if isinstance(data, str) else _utf8(data)
    if syntax is None:
        syntax = "json" if text.lstrip()[:1] == "{" else "yaml"
    if syntax == "yaml":
        composer = _composer(text, bounds)
        composer.run()
        _bounded(composer.value, bounds, text)
        return Decoded(composer.value, composer.problems, text, syntax)
    return _decode_json(text, bounds)


def _composer(
    text: str, bounds: Bounds = BOUNDS, places: dict[str, Place] | None = None, wanted: Collection[str] | None = None
) -> Composer:
    """A reader of YAML, and with it the library, now that there is some."""
    from carrier.config.composer import Composer

    return Composer(text, bounds, places, wanted)


def _utf8(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise ConfigError(Problem(f"byte {exc.start} is not UTF-8", "$", line, 1, seen=data[exc.start : exc.start + 1].hex())) from None


def _decode_json(text: str, bounds: Bounds) -> Decoded:
    twice = False

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal twice
        value = dict(found)
        twice = twice or len(value) < len(found)
        return value

    try:
        value = json.loads(text, object_pairs_hook=pairs, parse_constant=_no_constant, parse_float=finite)
    except json.JSONDecodeError as exc:
        raise ConfigError(Problem(f"not JSON: {exc.msg}", "$", exc.lineno, exc.colno)) from None
    except RecursionError:
        raise too_deep(bounds) from None
    except ValueError as exc:  # a number that Python refuses
        raise ConfigError(Problem(f"not JSON: {exc}", "$")) from None
    _bounded(value, bounds, text)
    return Decoded(value, _set_twice(text) if twice else [], text, "json")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _around(path: str) -> list[str]:
    """The key of a path, the path, and those of the values around it, outwards."""
    found = [path + "\0"]
    while path:
        found.append(path)
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return found


def _places_of(text: str, wanted: Collection[str] | None = None) -> Steps[dict[str, Place]]:
    """Where the values of a text are, all or those wanted; nothing where JSON is no YAML (a key of more than 1,024 characters)."""
    composer = _composer(text, places={}, wanted=wanted)
    try:
        yield from composer.steps()
    except ConfigError:
        return {}
    return composer.places or {}


def _set_twice(text: str) -> list[Problem]:
    composer = _composer(text)
    try:
        composer.run()
    except ConfigError:
        pass
    return composer.problems or [Problem("a key is set twice in one object", "$")]


def _bounded(value: Any, bounds: Bounds, text: str) -> None:
    """Raise ConfigError when a value is too deep, too large, or holds text that is not Unicode (half a surrogate pair). text: what it was
    read from."""
    odd = "\\" in text or not text.isascii()  # else each text in it is ASCII, too
    level: list[Any] = [[value]]  # all that are equally deep
    depth = objects = 0
    values = 1
    while level:
        if depth > bounds.depth:
            raise too_deep(bounds)
        depth += 1
        mappings = [one for one in level if type(one) is dict]
        objects += len(mappings)
        values += sum(map(len, level))
        if objects > bounds.objects > 0 or values > bounds.values:
            raise too_many(bounds)
        inner = [one for here in level for one in (here.values() if type(here) is dict else here)]
        if odd:
            _text_in(chain(*mappings, inner))
        level = [one for one in inner if type(one) is dict or type(one) is list]


def _text_in(values: Iterable[Any]) -> None:
    """Raise ConfigError when one of them is a text that is not Unicode."""
    for value in values:
        if type(value) is str and not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise ConfigError(Problem("half a surrogate pair is not text", "$", seen=ascii(value[:40])))


# -- showing -----------------------------------------------------------------------------------------------------------------------------


def render(problems: Iterable[Problem], text: str = "", filename: str = "", kind: str = "error") -> str:
    """Problems for a person: file, line and column, the sentence, the line itself with a caret, what is allowed, a hint."""
    lines = text.splitlines()
    return "\n".join(_shown(problem, lines, filename, kind) for problem in problems)


def _shown(problem: Problem, lines: list[str], filename: str, kind: str) -> str:
    place = f":{problem.line}:{problem.column}" if problem.line else ""
    head = f"{filename}{place}: " if filename else f"{place[1:]}: " if place else ""
    where = f"{problem.path}: " if problem.path not in ("", "$") else ""
    shown = [f"{head}{kind}: {where}{problem.message}"]
    if 0 < problem.line <= len(lines):
        start = max(0, problem.column - 100)
        line = "".join(c if c.isprintable() else " " for c in lines[problem.line - 1][start : start + 120])
        shown += [f"  {problem.line:4d} | {line}", f"       | {' ' * (problem.column - 1 - start)}^"]
    if problem.allowed:
        shown.append(f"       = allowed: {problem.allowed}")
    if problem.hint:
        shown.append(f"       = {problem.hint}")
    return "\n".join(shown)
