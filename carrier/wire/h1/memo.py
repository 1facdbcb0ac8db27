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
from carrier.wire.h1.shapes import HEAD_MAX, NAME_MAX, Shapes
from carrier.wire.http import EXPLAIN, FIELD_BYTES, HOP, LENGTH, NONE, OURS, SAYS, TOKEN, Head, authenticates_connections

_TABLE = 4096  # entries of a table: lines or heads
_PLANS = 1024
_MEMO_BYTES = 1024 * 1024  # of heads in one memo: as they came, as they are sent on, that without its end, and as a block of HTTP/2
_LINE_MAX = 256  # bytes of a line that is kept
_VOLATILE = 32  # different values after which a name is taken for one whose values always change
_SLOW, _BY_LINE, _CREDENTIALS = -1, -2, -3  # only h11 may judge; each line has its own number; 0, if they are not a connection's

_SCHEME = re.compile(rb"[ \t]*[!-~]+ ")  # of credentials, with the blank behind it

_OPTIONS = HOP | {b"close"}
"""Connection options that name no field beyond those which are cut anyway."""

_numbers = count(1)


class _Memo:
    """Tables from bytes seen to what they mean, for one side and one Forwarding; see the top of the file.

    A field name is plain (0), or _BY_LINE (its value decides something), or known by its presence (a number: its value decides nothing or
    is read each time, so that values which always differ do not fill the tables), or _SLOW.
    """

    def __init__(self, limits: Limits | None, profile: Forwarding | None, by_line: frozenset[bytes], by_presence: frozenset[bytes]) -> None:
        self.limits, self.profile = limits or Limits(), profile or Forwarding()
        self.heads: dict[bytes, Head] = {}
        self._bytes = 0
        self._shapes = Shapes(self.limits, self._learn_names_anew)
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
        self._shapes.forget()

    def _learn_names_anew(self) -> None:
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
        if len(name) > NAME_MAX or not TOKEN.fullmatch(name) or self.profile.confusable(lower):
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
        self._shapes.seek(begin)

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
        if len(raw) <= HEAD_MAX:
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
        shapes = self._shapes
        if shapes.poor < 0:
            shapes.poor += 1
            return None
        at = raw.find(b"\r\n")
        first = raw[:at]
        start = self._starts.get(first) or self._start(first)
        if start is None:
            return None
        values: list[bytes] = []
        shape = shapes.find(raw, at, values)
        if shape is None:
            return None
        known = shape.head
        length = known.length if shape.counted < 0 else shape.length(values)
        if length < 0:
            return None
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
        self._shapes.learn(head, len(first), plan)
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
        shapes = self._shapes
        if shapes.poor < 0:
            shapes.poor += 1
            return None
        values: list[bytes] = []
        shape = shapes.find(raw, 0, values)
        if shape is None:
            return None
        known = shape.head
        length = known.length if shape.counted < 0 else shape.length(values)
        if length < 0:
            return None
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
        self._shapes.learn(head, 0, plan)
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
