"""YAML text into plain values and their places, event by event: depth, size and aliases are bounded before anything is built.

Plain words follow the core schema of YAML 1.2: `yes`, `on` and `12:30` are text.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

import yaml

from carrier.config.bounds import BOUNDS, Bounds, Place, finite, too_deep, too_many
from carrier.core.slices import Steps, whole
from carrier.errors import MOST_PROBLEMS, ConfigError, Problem

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
        return finite(text)
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


class Composer:
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
            raise too_many(self.bounds, place)
        self.add(value, size, None, place)

    def open(self, event: Any, place: Place) -> None:
        if self.expects_key():
            self.refuse("a key must be text", place)
        if event.tag is not None and event.tag not in (_TAG + "map", _TAG + "seq", "!"):
            self.refuse(f"unknown tag {event.tag!r}", place)
        if len(self.stack) >= self.bounds.depth:
            raise too_deep(self.bounds, place)
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
            raise too_many(self.bounds, place)
        self.mark(place)
        if isinstance(frame.container, list):
            frame.container.append(value)
        elif frame.key == "<<":
            frame.merged.append(value)
            frame.key = None
        else:
            frame.container[frame.key] = value
            frame.key = None
