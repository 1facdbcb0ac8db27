"""Shapes of HTTP/1.1 heads: what heads have in common that differ in their start lines, and in the values of fields whose values always
change (a trace id, a length). Found by what is left of a head without those values.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from carrier.wire.h1.head import Limits, Plan
from carrier.wire.http import FIELD_BYTES, Head, Kin

HEAD_MAX = 4096
"""Bytes of a head that is kept."""
NAME_MAX = 64
"""Bytes of a field name that is kept."""
_NEEDLES = 4  # names whose values always change, that shapes know of: each costs a search
_SHAPES = 256
_SIZES = 64  # of heads, whose shapes are tried first
_POOR = 512  # how often shapes may fail before they rest, and are then learnt anew
_REST = 16 * _POOR

_OTHER = bytes(byte if byte in FIELD_BYTES else byte == 0 for byte in range(256))
"""Changes every byte that no field value holds, and no other: `translate` with it is three times cheaper than to search or to delete."""
_LENGTH = re.compile(rb" ?(0|[1-9][0-9]{0,17})")  # as LENGTH_LINE has it


class Shape:
    """What all heads have in common that differ only in their start line and in the values of volatile names.

    head: one of them. start: the start line of an answer; those of requests differ. parts: their text. The start line goes to
    parts[0], the value of the n-th needle found to parts[places[n]]; a value whose line is not sent on has place 0 as well. one: it is one,
    which is sent on. counted: which of the values is the length, -1 if they have all the same.
    """

    __slots__ = ("counted", "head", "one", "parts", "places", "plan", "start")

    def __init__(self, block: bytes, begins: list[bytes], plan: Plan, head: Head) -> None:
        self.plan, self.head = plan, head
        self.start, *lines = block.split(b"\r\n")[:-2]
        self.places = [0] * len(begins)
        self.counted = -1
        if plan.length_id:
            self.counted = next((n for n, begin in enumerate(begins) if begin.lower() == b"content-length:"), -1)
        self.parts = [b""]
        text = b""
        for line in lines:
            name = line.partition(b":")[0]
            if name.lower() in plan.cut:
                continue
            text += b"\r\n" + line
            if line in begins:
                self.places[begins.index(line)] = len(self.parts) + 1
                self.parts += [text, b""]
                text = b""
        self.parts.append(text + b"\r\n" + plan.tail)
        self.one = len(begins) == 1 and len(self.parts) == 4

    def text(self, start: bytes, values: list[bytes]) -> bytes:
        """The text of one of the heads."""
        parts = self.parts
        if self.one:  # the most frequent case, and twice as fast
            return b"".join((start, parts[1], values[0], parts[3]))
        parts = parts.copy()
        for place, value in zip(self.places, values):  # noqa: B905  (of one length: see Shapes._left; `strict` costs)
            parts[place] = value
        parts[0] = start
        return b"".join(parts)

    def length(self, values: list[bytes]) -> int:
        """That which is one of these values, -1 if that is not such as we are sure of."""
        digits = _LENGTH.fullmatch(values[self.counted])
        return int(digits[1]) if digits else -1


_Near = tuple[Shape, tuple[tuple[int, bytes], ...], tuple[slice, ...]]
"""A shape; texts of a head, with the places where they begin; places of its values. Places count from the head's end."""


class Shapes:
    """Those that one memo knows. poor: how much more often they failed than they helped; below 0 they rest. given_up: called when they
    begin to."""

    def __init__(self, limits: Limits, given_up: Callable[[], object]) -> None:
        self.given_up = given_up
        self._value_max, self._head_max = limits.line - NAME_MAX - 1, limits.head
        self.poor = 0
        self.forget()

    def forget(self) -> None:
        """All, and what is taken out."""
        self.needles: tuple[tuple[bytes, int], ...] = ()
        self._empty()

    def _empty(self) -> None:
        self.known: dict[bytes, Shape] = {}
        self.near: dict[int, _Near] = {}

    def seek(self, begin: bytes) -> None:
        """Take out what lines that begin so hold behind that, from now on."""
        if len(self.needles) < _NEEDLES:
            needle = b"\r\n" + begin
            self.needles = (*self.needles, (needle, len(needle)))
            self._empty()

    def learn(self, head: Head, begin: int, plan: Plan) -> None:
        """Keep the shape of a head that the plan parser has read. begin: where its start line ends, or 0 if that is part of its shape."""
        if self.poor < 0 or len(head.raw) > HEAD_MAX:
            return
        left = self._left(head.raw, begin, [])
        if left in self.known:
            return
        needles = [needle for needle, _ in self.needles if needle in left]
        if any(left.count(needle) > 1 for needle in needles):
            return
        if len(self.known) >= _SHAPES:
            self._empty()
        self.known[left] = Shape(left, [needle[2:] for needle in needles], plan, head)
        head.kin = Kin(head, [needle[2:].partition(b":")[0] for needle in needles])

    def _left(self, block: bytes, begin: int, values: list[bytes]) -> bytes:
        """A head (from `begin`, where a start line ends) without the values of volatile names; those values are added to `values`.

        Whatever stands in a value, a shape found by what is left has the very lines of `block`: a value ends at the first CRLF, and
        begins after a name at the start of a line. So the head ends where the shape ends, too. The bytes of the values are still to be
        checked. A shape has as many places as its block has needles: when there are other needles, all shapes are forgotten.
        """
        for needle, size in self.needles:
            at = block.rfind(needle)  # ids are mostly added last; a shape has none of these names twice
            if at >= 0:
                at += size
                end = block.find(b"\r\n", at)
                values.append(block[at:end])
                block = block[begin:at] + block[end:]
                begin = 0
        return block[begin:] if begin else block

    def find(self, raw: bytes, begin: int, values: list[bytes]) -> Shape | None:
        """The shape of a head (from `begin`, as for `_left`); its values are added to `values`. None: it has none, or is not such as we are
        sure of.

        Ids are mostly as long as the last ones: so a head as long as one before is first held against its shape, with values where they
        were then, which costs half of a search. A byte that no value holds is found here in both cases, an end of line with it.
        """
        near = self.near.get(len(raw) - begin)
        if near is None:
            shape = self._searched(raw, begin, values)
        else:
            shape, texts, places = near
            for at, text in texts:
                if not raw.startswith(text, at):
                    shape = self.known.get(self._left(raw, begin, values))
                    break
            else:
                for place in places:
                    values.append(raw[place])  # noqa: PERF401  (there are few)
        if shape is None:
            self._miss(raw)
            return None
        if self.poor:
            self.poor -= 1
        if values:
            text = values[0] if len(values) == 1 else b"".join(values)
            if text.translate(_OTHER) != text or len(text) > self._value_max:
                return None
        return shape if len(raw) <= self._head_max else None

    def _searched(self, raw: bytes, begin: int, values: list[bytes]) -> Shape | None:
        """The same of a head whose length is new: it will be known by that."""
        shape = self.known.get(self._left(raw, begin, values))
        if shape is not None:
            if len(self.near) >= _SIZES:
                self.near.clear()
            self.near[len(raw) - begin] = shape, *self._places(raw, begin)
        return shape

    def _places(self, raw: bytes, begin: int) -> tuple[tuple[tuple[int, bytes], ...], tuple[slice, ...]]:
        """Texts of a head (from `begin`, as for `_left`) between its values, and where those are; places count from its end."""
        size = len(raw)
        places = []
        for needle, length in self.needles:
            at = raw.rfind(needle)
            if at >= 0:
                at += length
                places.append(slice(at - size, raw.find(b"\r\n", at) - size))
        texts = []
        at = begin - size
        for place in sorted(places, key=lambda place: place.start):
            texts.append((at, raw[at : place.start]))
            at = place.stop
        return (*texts, (at, raw[at:])), tuple(places)

    def _miss(self, raw: bytes) -> None:
        """Heads of which too few are like another are not worth asking for; others may come one day, with other volatile names."""
        if raw.find(b"\r\n\r\n") + 4 != len(raw):
            return
        self.poor += 2
        if self.poor > _POOR:
            self.poor = -_REST
            self.forget()
            self.given_up()
