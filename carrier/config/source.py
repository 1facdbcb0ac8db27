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
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

import msgspec
import yaml

from carrier import files
from carrier.config.document import from_document
from carrier.core import registry
from carrier.core.slices import Steps, whole
from carrier.errors import MOST_PROBLEMS, ConfigError, Problem

if TYPE_CHECKING:
    from carrier.config.draft import Protocols
    from carrier.model import Config

Syntax = Literal["yaml", "json"]
Place = tuple[int, int]
"""Line and column, from 1."""

MAX_FILE = 64 * 1024 * 1024
OPEN = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
"""Names of descriptors that are open already."""
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
    """A configuration that was read, and warnings about it, with their places."""

    config: Config
    warnings: tuple[Problem, ...]
    text: str


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
    decoded = decode(data, syntax, MAX_FILE, of_a_file(objects))
    if decoded.value is None:
        raise ConfigError(Problem("the configuration is empty", "$", 1, 1))
    try:
        document = native(decoded.value)
        config, found = from_document(document, base=base, allow_dangling=allow_dangling, protocols=protocols, files=files)
    except ConfigError as error:
        raise ConfigError(*sorted([*decoded.problems, *map(decoded.placed, error.problems)], key=_order)) from None
    if decoded.problems:
        raise ConfigError(*decoded.problems)
    return Loaded(config, tuple(sorted(map(decoded.placed, found), key=_order)), decoded.text)


def _order(problem: Problem) -> Place:
    return problem.line, problem.column


def native(document: Any) -> Any:
    """The document in our own format, whichever it was written in."""
    if isinstance(document, Mapping):
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
        composer = _Composer(text, bounds)
        composer.run()
        _bounded(composer.value, bounds)
        return Decoded(composer.value, composer.problems, text, syntax)
    return _decode_json(text, bounds)


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
        value = json.loads(text, object_pairs_hook=pairs, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as exc:
        raise ConfigError(Problem(f"not JSON: {exc.msg}", "$", exc.lineno, exc.colno)) from None
    except RecursionError:
        raise _too_deep(bounds) from None
    except ValueError as exc:  # a number that Python refuses
        raise ConfigError(Problem(f"not JSON: {exc}", "$")) from None
    _bounded(value, bounds)
    return Decoded(value, _set_twice(text) if twice else [], text, "json")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text if len(text) <= 20 else text[:20] + '...'} is too large")
    return number


def _around(path: str) -> list[str]:
    """The key of a path, the path, and those of the values around it, outwards."""
    found = [path + "\0"]
    while path:
        found.append(path)
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return found


def _places_of(text: str, wanted: Collection[str] | None = None) -> Steps[dict[str, Place]]:
    """Where the values of a text are, all or those wanted; nothing where JSON is no YAML (a key of more than 1,024 characters)."""
    composer = _Composer(text, places={}, wanted=wanted)
    try:
        yield from composer.steps()
    except ConfigError:
        return {}
    return composer.places or {}


def _set_twice(text: str) -> list[Problem]:
    composer = _Composer(text)
    try:
        composer.run()
    except ConfigError:
        pass
    return composer.problems or [Problem("a key is set twice in one object", "$")]


def _bounded(value: Any, bounds: Bounds) -> None:
    """Raise ConfigError when a value is too deep, too large, or holds text that is not Unicode (half a surrogate pair)."""
    objects = values = 0
    stack = [(value, 1)]
    while stack:
        here, depth = stack.pop()
        values += 1
        if isinstance(here, str):
            if not here.isascii() and any("\ud800" <= c <= "\udfff" for c in here):
                raise ConfigError(Problem("half a surrogate pair is not text", "$", seen=ascii(here[:40])))
        elif isinstance(here, dict | list):
            objects += isinstance(here, dict)
            if depth > bounds.depth:
                raise _too_deep(bounds)
            if isinstance(here, dict):
                stack += [(key, depth) for key in here if not key.isascii()]
            stack += [(inner, depth + 1) for inner in (here.values() if isinstance(here, dict) else here)]
        if objects > bounds.objects > 0 or values + len(stack) > bounds.values:
            raise _too_many(bounds)


def _too_deep(bounds: Bounds, place: Place = (0, 0)) -> ConfigError:
    return ConfigError(Problem(f"nested more than {bounds.depth} levels deep", "$", *place, allowed=f"{bounds.depth} levels"))


def _too_many(bounds: Bounds, place: Place = (0, 0)) -> ConfigError:
    allowed = f"{bounds.objects} objects, {bounds.values} values, {bounds.aliased} of them by aliases"
    return ConfigError(Problem("too many objects or values", "$", *place, allowed=allowed))


# -- YAML --------------------------------------------------------------------------------------------------------------------------------

EVENTS = 64
"""Of YAML, that are read before the event loop may go on."""
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "true": True, "false": False}


def _plain(text: str) -> Any:
    """What an unquoted YAML word means: core schema of YAML 1.2, section 10.3.2."""
    lower = text.lower()
    if lower in _WORDS and text in (lower, lower.capitalize(), lower.upper()):
        return _WORDS[lower]
    if re.fullmatch(r"[-+]?[0-9]{1,300}", text):
        return int(text)
    if re.fullmatch(r"0x[0-9a-fA-F]{1,64}|0o[0-7]{1,64}", text):
        return int(text, 0)
    if _NUMBER.fullmatch(text):
        return _finite(text)
    return text


def _tagged(tag: str, text: str) -> Any:
    kind = tag.removeprefix(_TAG)
    if kind == "str":
        return text
    value = _plain(text)
    if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wanted = {"int": int, "float": float, "bool": bool, "null": type(None)}.get(kind)
    if wanted is None or type(value) is not wanted:
        raise ValueError(f"the tag {tag!r} does not fit {text!r}" if wanted else f"unknown tag {tag!r}")
    return value


def _place(mark: Any) -> Place:
    return (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)


class _Frame:
    """A mapping or list that is being read. key: the key whose value comes next; merged: values of `<<`."""

    __slots__ = ("anchor", "container", "key", "keys", "merged", "size", "start")

    def __init__(self, container: Any, anchor: str | None, start: Place) -> None:
        self.container = container
        self.anchor = anchor
        self.start = start
        self.key: str | None = None
        self.keys: dict[str, int] = {}
        self.merged: list[Any] = []
        self.size = 1


class _Composer:
    """Builds values from YAML events, without recursion: a body of 100,000 brackets costs a refusal, not the stack.

    places: to be filled with where each value stands, or each that is wanted, by its path; that of a key has "\\0" behind it.
    """

    def __init__(
        self, text: str, bounds: Bounds = BOUNDS, places: dict[str, Place] | None = None, wanted: Collection[str] | None = None
    ) -> None:
        self.text = text
        self.bounds = bounds
        self.value: Any = None
        self.problems: list[Problem] = []
        self.places = places
        self.wanted = wanted
        self.stack: list[_Frame] = []
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.total = self.expanded = 0
        """Values that stand where an alias does."""
        self.documents = 0

    def run(self) -> None:
        """Read the whole text. Raises ConfigError."""
        whole(self.steps())

    def steps(self) -> Steps[None]:
        """The same, piece by piece."""
        try:
            for number, event in enumerate(yaml.parse(self.text, Loader=_LOADER)):
                self.take(event, _place(event.start_mark))
                if not number % EVENTS:
                    yield
        except yaml.MarkedYAMLError as exc:
            at = _place(exc.problem_mark or exc.context_mark)
            raise ConfigError(Problem(f"not YAML: {exc.problem or exc.context}", "$", *at, hint=self.tabbed(at[0]))) from None
        except yaml.YAMLError as exc:  # a character that YAML does not allow
            before = self.text[: getattr(exc, "position", 0)]
            at = before.count("\n") + 1, len(before) - before.rfind("\n")
            raise ConfigError(Problem(f"not YAML: {str(exc).splitlines()[0]}", "$", *at)) from None

    def tabbed(self, line: int) -> str:
        """What is to be said of a line that begins with a tab."""
        found = self.text.splitlines()[line - 1 : line]
        return "indent with spaces: YAML takes no tabs there" if found and re.match(r" *\t", found[0]) else ""

    def take(self, event: Any, place: Place) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self.scalar(event, place)
        elif isinstance(event, yaml.AliasEvent):
            self.alias(event.anchor or "", place)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self.open(event, place)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self.close()
        elif isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self.refuse("a second document begins here; one is allowed", place)

    def refuse(self, message: str, place: Place) -> NoReturn:
        raise ConfigError(Problem(message, self.path(self.stack[:-1]), *place))

    def path(self, stack: Sequence[_Frame] | None = None) -> str:
        """Of the value that comes next; where `stack` is given, of the value that comes next there."""
        frames = self.stack if stack is None else stack
        return "$" + "".join([f".{frame.key}" if frame.key is not None else f"[{len(frame.container)}]" for frame in frames])

    def mark(self, place: Place, behind: str = "", again: bool = False) -> None:
        """The value that comes next stands here. again: also if it is known to stand elsewhere."""
        if self.places is not None:
            path = self.path() + behind
            if (self.wanted is None or path in self.wanted) and (again or path not in self.places):
                self.places[path] = place

    def expects_key(self) -> bool:
        return bool(self.stack) and isinstance(self.stack[-1].container, dict) and self.stack[-1].key is None

    def scalar(self, event: Any, place: Place) -> None:
        if self.expects_key():
            self.key(event.value, place)
            return
        try:
            if event.tag is not None and event.tag != "!":
                value = _tagged(event.tag, event.value)
            else:
                value = _plain(event.value) if event.implicit[0] else event.value
        except ValueError as exc:
            raise ConfigError(Problem(str(exc), self.path(), *place)) from None
        self.add(value, 1, event.anchor, place)

    def key(self, name: str, place: Place) -> None:
        frame = self.stack[-1]
        frame.key = name = sys.intern(name)  # the same few names in every object
        self.mark(place, "\0", again=True)
        if name in frame.keys:
            text = f"{name!r} is set twice (first on line {frame.keys[name]})"
            if len(self.problems) < MOST_PROBLEMS:
                self.problems.append(Problem(text, self.path(), *place, seen=repr(name)))
        frame.keys.setdefault(name, place[0])

    def alias(self, anchor: str, place: Place) -> None:
        if self.expects_key():
            self.refuse("a key must be text", place)
        if anchor not in self.anchors:
            inside = any(frame.anchor == anchor for frame in self.stack)
            self.refuse(f"the alias *{anchor} " + ("stands inside what it refers to" if inside else "refers to no anchor before it"), place)
        value, size = self.anchors[anchor]
        self.expanded += size
        if self.expanded > self.bounds.aliased:
            raise _too_many(self.bounds, place)
        self.add(value, size, None, place)

    def open(self, event: Any, place: Place) -> None:
        if self.expects_key():
            self.refuse("a key must be text", place)
        if event.tag is not None and event.tag not in (_TAG + "map", _TAG + "seq", "!"):
            self.refuse(f"unknown tag {event.tag!r}", place)
        if len(self.stack) >= self.bounds.depth:
            raise _too_deep(self.bounds, place)
        is_map = isinstance(event, yaml.MappingStartEvent)
        self.mark(place, again=True)
        self.stack.append(_Frame({} if is_map else [], event.anchor, place))

    def close(self) -> None:
        frame = self.stack.pop()
        for merged in frame.merged:
            for source in merged if isinstance(merged, list) else [merged]:
                if not isinstance(source, dict):
                    self.refuse("'<<' takes an object, or a list of objects", frame.start)
                frame.container = {**source, **frame.container}
        self.add(frame.container, frame.size, frame.anchor, frame.start)

    def add(self, value: Any, size: int, anchor: str | None, place: Place) -> None:
        """A value is complete: put it where it belongs."""
        self.total += 1
        if anchor is not None:
            self.anchors[anchor] = (value, size)
        if not self.stack:
            self.value = value
            self.mark(place)
            return
        frame = self.stack[-1]
        frame.size += size
        if max(frame.size, self.total) > self.bounds.values:
            raise _too_many(self.bounds, place)
        self.mark(place)
        if isinstance(frame.container, list):
            frame.container.append(value)
        elif frame.key == "<<":
            frame.merged.append(value)
            frame.key = None
        else:
            frame.container[frame.key] = value
            frame.key = None


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
