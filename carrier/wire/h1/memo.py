"""Heads that were seen before, or whose lines were, or nearly: the three fast readers of an HTTP/1.1 head.

1. The whole-head memo, `heads`: a dict from the raw bytes of a head to a finished `Head`. 0.2 µs.
2. The shapes, `like`: a head is known but for its start line and for the values of fields whose values always change (a trace id, a
   length). Those values are taken out; what is left is the key of everything else, the text to be sent on included. 2 µs for 700 bytes.
3. The plan parser, `parse`: each line is known by a small number (0: valid and without consequence); the tuple of the other numbers leads
   to a ready plan: framing, what to cut, what to add. Only lines never seen are looked at, and only their canonical form is known here.
   5 µs. Only what went through it gets a shape.
Whatever (3) is not sure of goes to carrier/wire/h1/head.py and so to h11; these three refuse nothing. tests/fuzz holds that all agree.

Numbers of lines are never used twice, in any memo: a listener may key its decisions by them. All tables are bounded; full ones are emptied.
"""

from __future__ import annotations

import re
from itertools import count

from carrier.errors import Error
from carrier.wire.forwarding import HOPS, PROPER, Forwarding
from carrier.wire.h1.head import (
    LENGTH_LINE,
    REQUEST_LINE,
    STATUS_LINE,
    Limits,
    Pairs,
    Plan,
    parse_answer,
    parse_request,
    plan_answer,
    plan_request,
    tokens,
)
from carrier.wire.http import EXPLAIN, FIELD_BYTES, HOP, LENGTH, NONE, OURS, SAYS, TOKEN, Head, Kin, authenticates_connections

_TABLE = 4096  # entries of a table: lines or heads
_PLANS = 1024
_MEMO_BYTES = 1024 * 1024  # of heads in one memo: as they came, as they are sent on, that without its end, and as a block of HTTP/2
_HEAD_MAX = 4096  # bytes of a head that is kept
_LINE_MAX = 256  # bytes of a line that is kept
_NAME_MAX = 64  # bytes of a field name that is kept
_VOLATILE = 32  # different values after which a name is taken for one whose values always change
_NEEDLES = 4  # such names that shapes know of: each costs a search
_SHAPES = 256
_POOR = 512  # how often shapes may fail before they rest, and are then learnt anew
_REST = 16 * _POOR
_SLOW, _BY_LINE, _CREDENTIALS = -1, -2, -3  # only h11 may judge; each line has its own number; 0, if they are not a connection's

_OTHER = bytes(byte if byte in FIELD_BYTES else byte == 0 for byte in range(256))
"""Changes every byte that no field value holds, and no other: `translate` with it is three times cheaper than to search or to delete."""
_LENGTH = re.compile(rb" ?(0|[1-9][0-9]{0,17})")  # as LENGTH_LINE has it

_SCHEME = re.compile(rb"[ \t]*[!-~]+ ")  # of credentials, with the blank behind it

_OPTIONS = HOP | {b"close"}
"""Connection options that name no field beyond those which are cut anyway."""

_numbers = count(1)


class _Shape:
    """What all heads have in common that differ only in their start line and in the values of volatile names.

    head: one of them. start: the start line of an answer; those of requests differ. parts: their text. The start line goes to
    parts[0], the value of the n-th needle found to parts[places[n]]; a value whose line is not sent on has place 0 as well. counted: which
    of the values is the length, -1 if they have all the same.
    """

    __slots__ = ("counted", "head", "parts", "places", "plan", "start")

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

    def text(self, start: bytes, values: list[bytes]) -> bytes:
        """The text of one of the heads."""
        parts = self.parts
        if len(parts) == 4 and len(values) == 1:  # the most frequent case, and twice as fast
            return b"".join((start, parts[1], values[0], parts[3]))
        parts = parts.copy()
        for place, value in zip(self.places, values):  # noqa: B905  (of one length: see _Memo._left; `strict` costs)
            parts[place] = value
        parts[0] = start
        return b"".join(parts)


class _Memo:
    """Tables from bytes seen to what they mean, for one side and one Forwarding; see the top of the file.

    A field name is plain (0), or _BY_LINE (its value decides something), or known by its presence (a number: its value decides nothing or
    is read each time, so that values which always differ do not fill the tables), or _SLOW.
    """

    def __init__(self, limits: Limits | None, profile: Forwarding | None, by_line: frozenset[bytes], by_presence: frozenset[bytes]) -> None:
        self.limits, self.profile = limits or Limits(), profile or Forwarding()
        self._value_max = self.limits.line - _NAME_MAX - 1
        self.heads: dict[bytes, Head] = {}
        self._bytes = 0
        self._poor = 0  # how much more often shapes failed than they helped
        self._by_line = by_line
        self._present = {name: next(_numbers) for name in by_presence - by_line}
        self._length_id = self._present[b"content-length"]
        self._forget()

    def _forget(self) -> None:
        self._ids: dict[bytes, int] = {b"": 0}
        self._pairs: dict[int, tuple[bytes, bytes]] = {number: (name, b"0") for name, number in self._present.items()}
        self._names: dict[bytes, int] = {}
        self._values: dict[bytes, int] = {}
        self._plans: dict[tuple[int, ...], Plan | None] = {}
        self._needles: tuple[tuple[bytes, int], ...] = ()
        self._shapes: dict[bytes, _Shape] = {}

    def _left(self, block: bytes, begin: int, values: list[bytes]) -> bytes:
        """A head (from `begin`, where a start line ends) without the values of volatile names; those values are added to `values`.

        Whatever stands in a value, a shape found by what is left has the very lines of `block`: a value ends at the first CRLF, and
        begins after a name at the start of a line. So the head ends where the shape ends, too. The bytes of the values are still to be
        checked. A shape has as many places as its block has needles: when there are other needles, all shapes are forgotten.
        """
        for needle, size in self._needles:
            at = block.rfind(needle)  # ids are mostly added last; a shape has none of these names twice
            if at >= 0:
                at += size
                end = block.find(b"\r\n", at)
                values.append(block[at:end])
                block = block[begin:at] + block[end:]
                begin = 0
        return block[begin:] if begin else block

    def _length(self, shape: _Shape, raw: bytes, values: list[bytes]) -> int:
        """The length of a body with these values, -1 if they are not such as we are sure of."""
        if self._poor:
            self._poor -= 1
        if values:
            text = values[0] if len(values) == 1 else b"".join(values)
            if text.translate(_OTHER) != text or len(text) > self._value_max:
                return -1
        if len(raw) > self.limits.head:
            return -1
        if shape.counted >= 0:
            digits = _LENGTH.fullmatch(values[shape.counted])
            return int(digits[1]) if digits else -1
        return shape.head.length

    def _miss(self, raw: bytes) -> None:
        """Heads of which too few are like another are not worth asking for; others may come one day, with other volatile names."""
        if raw.find(b"\r\n\r\n") + 4 != len(raw):
            return
        self._poor += 2
        if self._poor > _POOR:
            self._poor = -_REST
            self._needles = ()
            self._shapes.clear()
            self._values.clear()

    def _learn_all(self, lines: list[bytes], ids: list[int | None]) -> None:
        """Fill in the numbers of lines never seen. Tables are emptied only here, before any of them is learnt."""
        if len(self._ids) >= _TABLE or len(self._names) >= _TABLE:
            self._forget()
            ids[:] = map(self._ids.get, lines)
        at = -1
        for _ in range(ids.count(None)):
            at = ids.index(None, at + 1)
            ids[at] = self._learn(lines[at])

    def _learn(self, line: bytes) -> int:
        name, colon, value = line.partition(b":")
        kind = self._names.get(name)
        if kind is None:
            kind = self._name(name)
        if kind == _SLOW or not colon or len(line) > self.limits.line or value.translate(None, FIELD_BYTES):
            return _SLOW
        if kind == _CREDENTIALS:
            if authenticates_connections((value,)):
                return _SLOW
            kind = 0
        if kind == self._length_id and not LENGTH_LINE.fullmatch(line):
            return _SLOW
        if kind != _BY_LINE:
            seen = self._values.get(name, 0)
            if seen < _VOLATILE and len(line) <= _LINE_MAX:
                self._values[name] = seen + 1
                self._ids[line] = kind
            elif seen == _VOLATILE:
                self._values[name] = seen + 1
                self._seek(name, value)
            return kind
        if len(line) > _LINE_MAX:
            return _SLOW
        number = self._ids[line] = next(_numbers)
        self._pairs[number] = (name.lower(), value.strip(b" \t"))
        return number

    def _name(self, name: bytes) -> int:
        lower = name.lower()
        if len(name) > _NAME_MAX or not TOKEN.fullmatch(name) or self.profile.confusable(lower):
            return _SLOW
        kind = self._names[name] = _BY_LINE if lower in self._by_line else self._present.get(lower, self._unknown(lower))
        return kind

    def _seek(self, name: bytes, value: bytes) -> None:
        """The name is volatile: shapes take its values out from now on; of credentials, which have this value, not their scheme."""
        begin = name + b":"
        if self._names.get(name) == _CREDENTIALS:
            scheme = _SCHEME.match(value)
            if scheme is None:
                return
            begin += scheme[0]
        if len(self._needles) < _NEEDLES:
            needle = b"\r\n" + begin
            self._needles = (*self._needles, (needle, len(needle)))
            self._shapes.clear()

    def _shape(self, head: Head, begin: int, plan: Plan) -> None:
        """Keep the shape of a head that the plan parser has read; `begin` as for _left."""
        if self._poor < 0 or len(head.raw) > _HEAD_MAX:
            return
        left = self._left(head.raw, begin, [])
        if left in self._shapes:
            return
        needles = [needle for needle, _ in self._needles if needle in left]
        if any(left.count(needle) > 1 for needle in needles):
            return
        if len(self._shapes) >= _SHAPES:
            self._shapes.clear()
        self._shapes[left] = _Shape(left, [needle[2:] for needle in needles], plan, head)
        head.kin = Kin(head, [needle[2:].partition(b":")[0] for needle in needles])

    def _unknown(self, name: bytes) -> int:
        """The kind of a name that nobody has named."""
        return 0

    def _find(self, key: tuple[int, ...], numbers: tuple[int, ...], status: int) -> Plan | None:
        """Make and keep the plan for a key. None where only h11 may judge: an unsure line, a name twice, fields that the plan refuses."""
        plan = None
        if _SLOW not in numbers:
            pairs = [self._pairs[number] for number in numbers]
            if self._sure(pairs):
                try:
                    plan = self._make(pairs, status)
                except Error:
                    plan = None
                else:
                    plan.cut_ids = tuple(n for n, pair in zip(numbers, pairs, strict=True) if pair[0] in plan.cut)
                    plan.length_id = self._length_id if self._length_id in numbers and plan.body == LENGTH else 0
        if len(self._plans) >= _PLANS:
            self._plans.clear()
        self._plans[key] = plan
        return plan

    def _sure(self, pairs: Pairs) -> bool:
        """No name twice; Connection names no field that might be plain; nothing depends on a length that is not known here."""
        values = dict(pairs)
        if len(values) != len(pairs) or not _OPTIONS.issuperset(tokens([values.get(b"connection", b"close")])):
            return False
        return b"content-length" not in values or not (b"expect" in values or b"upgrade" in values)

    def _make(self, pairs: Pairs, status: int) -> Plan:
        raise NotImplementedError

    def _cut(self, raw: bytes, lines: list[bytes], ids: list[int | None], plan: Plan) -> bytes:
        """The text to be sent on: whole lines cut out of the bytes that came, the plan's lines added."""
        for number in plan.cut_ids:
            raw = raw.replace(b"\r\n" + lines[ids.index(number)] + b"\r\n", b"\r\n", 1)
        return raw[:-2] + plan.tail

    def _keep(self, raw: bytes, head: Head) -> Head:
        if len(raw) <= _HEAD_MAX:
            size = len(raw) + 3 * len(head.text)
            self._bytes += size
            if len(self.heads) >= _TABLE or self._bytes > _MEMO_BYTES:
                self.heads.clear()
                self._bytes = size
            self.heads[raw] = head
        return head


def _request(text: bytes, raw: bytes, start: tuple[bytes, bytes], plan: Plan, length: int, key: object) -> Head:
    return Head(
        text,
        raw,
        start[0],
        start[1],
        plan.host,
        0,
        b"",
        "1.1",
        plan.body if length or not plan.length_id else NONE,
        length,
        plan.keep_alive,
        plan.expect,
        plan.upgrade,
        plan.has_id,
        key,
        None,
        plan.explain,
        hops=plan.hops,
        binds=plan.binds,
    )


def _answer(text: bytes, raw: bytes, start: tuple[int, bytes], plan: Plan, length: int) -> Head:
    body = plan.body if length or not plan.length_id else NONE
    return Head(text, raw, b"", b"", b"", start[0], start[1], "1.1", body, length, plan.keep_alive, False, plan.upgrade)


class RequestMemo(_Memo):
    """Known request heads for one Limits and one Forwarding. `heads.get(data)` is the whole hot path, when a read is one known head.

    `Head.key` of its heads: equal keys mean equal values of all interesting fields; keys of other heads and other memos never equal them.
    """

    def __init__(self, limits: Limits | None = None, profile: Forwarding | None = None) -> None:
        forwarding = profile or Forwarding()
        by_line = frozenset((b"host", b"connection", b"transfer-encoding", b"upgrade", b"expect", b"te")) | (
            forwarding.interesting or frozenset()
        )
        if forwarding.counts:
            by_line |= {HOPS}
        present = HOP | forwarding.cut() | {b"content-length"} | ({forwarding.request_id} if forwarding.request_id else frozenset())
        # Lengths are read each time; rules that look at them send the head to h11.
        self._slow_length = b"content-length" in by_line
        if forwarding.keeps:
            present |= PROPER
        super().__init__(limits, forwarding, by_line - {b"content-length"}, present | {EXPLAIN, b"x-forwarded-proto", b"x-forwarded-host"})
        self._starts: dict[bytes, tuple[bytes, bytes] | None] = {}
        self._keyed = forwarding.interesting is not None

    def _unknown(self, name: bytes) -> int:
        return _CREDENTIALS if name == b"authorization" else 0

    def like(self, raw: bytes, keep: bool = False) -> Head | None:
        """The Head of a read that is exactly one whole request head of a known shape; None for all others, and for whatever is not that.

        The same Head as that of `parse`. `keep`: for `heads`.
        """
        if self._poor < 0:
            self._poor += 1
            return None
        at = raw.find(b"\r\n")
        first = raw[:at]
        start = self._starts.get(first) or self._start(first)
        if start is None:
            return None
        values: list[bytes] = []
        shape = self._shapes.get(self._left(raw, at, values))
        if shape is None:
            self._miss(raw)
            return None
        length = self._length(shape, raw, values)
        if length < 0:
            return None
        known = shape.head
        text = shape.text(first, values)
        if start[0] == known.method and (length > 0) == (known.length > 0):
            head = known.again(text, raw, start[1], length)
        else:
            head = _request(text, raw, start, shape.plan, length, known.key)
        return self._keep(raw, head) if keep else head

    def parse(self, raw: bytes, keep: bool = True) -> Head:
        """The Head of a whole request head that ends with its first CRLFCRLF; kept for `heads` if wished. Raises as parse_request."""
        lines = raw.split(b"\r\n")
        first = lines[0]
        start = self._starts.get(first) or self._start(first)
        lines[0] = b""
        ids: list[int | None] = [*map(self._ids.get, lines)]
        if None in ids:
            self._learn_all(lines, ids)
        numbers: tuple[int, ...] = tuple(filter(None, ids))
        plan = self._plans[numbers] if numbers in self._plans else self._find(numbers, numbers, 0)
        if start is None or plan is None or len(ids) - 3 > self.limits.fields or len(raw) > self.limits.head:
            head = parse_request(raw, self.limits, self.profile)
            return self._keep(raw, head) if keep else head
        length = int(lines[ids.index(plan.length_id)][15:]) if plan.length_id else 0
        head = _request(self._cut(raw, lines, ids, plan), raw, start, plan, length, numbers if self._keyed else None)
        self._shape(head, len(first), plan)
        return self._keep(raw, head) if keep else head

    def _start(self, line: bytes) -> tuple[bytes, bytes] | None:
        match = REQUEST_LINE[self.limits.strict_target].fullmatch(line)
        if match is None or match[1] == b"CONNECT" or len(line) > self.limits.line:
            return None
        start = match[1], match[2]
        if len(line) <= _LINE_MAX:
            if len(self._starts) >= _TABLE:
                self._starts.clear()
            self._starts[line] = start
        return start

    def _make(self, pairs: Pairs, status: int) -> Plan:
        if self._slow_length and b"content-length" in dict(pairs):
            raise Error("protocol-error", "a length that rules look at", "downstream")
        return plan_request(pairs, 1, None, self.profile)


class AnswerMemo(_Memo):
    """Known answer heads. They are those of an answer to GET: whoever asked with HEAD uses `Head.without_body` (AnswerReader does)."""

    def __init__(self, limits: Limits | None = None, profile: Forwarding | None = None) -> None:
        by_line = frozenset((b"connection", b"transfer-encoding", b"upgrade"))
        super().__init__(limits, profile, by_line, HOP | SAYS | {b"content-length"})
        self._starts: dict[bytes, tuple[int, bytes] | None] = {}

    def _unknown(self, name: bytes) -> int:
        return _SLOW if name.startswith(OURS) else 0  # never sent on

    def like(self, raw: bytes, keep: bool = False) -> Head | None:
        """The Head of a whole answer head of a known shape; None for all others, and for whatever is not one whole head.

        The same Head as that of `parse`. `keep`: for `heads`.
        """
        if self._poor < 0:
            self._poor += 1
            return None
        values: list[bytes] = []
        shape = self._shapes.get(self._left(raw, 0, values))
        if shape is None:
            self._miss(raw)
            return None
        length = self._length(shape, raw, values)
        if length < 0:
            return None
        known = shape.head
        text = shape.text(shape.start, values)
        if (length > 0) == (known.length > 0):
            head = known.again(text, raw, b"", length)
        else:
            head = _answer(text, raw, (known.status, known.reason), shape.plan, length)
        return self._keep(raw, head) if keep else head

    def parse(self, raw: bytes, keep: bool = True) -> Head:
        """The Head of a whole answer head that ends with its first CRLFCRLF; kept for `heads` if wished. Raises as parse_answer."""
        lines = raw.split(b"\r\n")
        first = lines[0]
        start = self._starts.get(first) or self._start(first)
        if start is None or len(lines) - 3 > self.limits.fields or len(raw) > self.limits.head:
            head = parse_answer(raw, b"GET", self.limits, self.profile)
            return self._keep(raw, head) if keep else head
        lines[0] = b""
        ids: list[int | None] = [*map(self._ids.get, lines)]
        if None in ids:
            self._learn_all(lines, ids)
        numbers: tuple[int, ...] = tuple(filter(None, ids))
        key = (-start[0], *numbers)  # status and numbers never meet: one is negative
        plan = self._plans[key] if key in self._plans else self._find(key, numbers, start[0])
        if plan is None:
            head = parse_answer(raw, b"GET", self.limits, self.profile)
            return self._keep(raw, head) if keep else head
        length = int(lines[ids.index(plan.length_id)][15:]) if plan.length_id else 0
        head = _answer(self._cut(raw, lines, ids, plan), raw, start, plan, length)
        self._shape(head, 0, plan)
        return self._keep(raw, head) if keep else head

    def _start(self, line: bytes) -> tuple[int, bytes] | None:
        match = STATUS_LINE.fullmatch(line)
        if match is None or match[1] == b"0" or match[3] is None or len(line) > _LINE_MAX:
            return None
        if len(self._starts) >= _TABLE:
            self._starts.clear()
        start = self._starts[line] = int(match[2]), match[3]
        return start

    def _make(self, pairs: Pairs, status: int) -> Plan:
        bare = status < 200 or status == 204
        framing = [(name, value) for name, value in pairs if name in (b"content-length", b"transfer-encoding")]
        if len(framing) > 1 or any(bare or (status == 304 and name == b"transfer-encoding") or b"," in value for name, value in framing):
            raise Error("bad-answer", "framing where none belongs", "upstream")  # rare enough to be read line by line each time
        return plan_answer(pairs, status, 1, self.profile)
