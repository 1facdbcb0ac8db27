"""Why a condition held or not, for a person: what was asked, what was there, and how near it came.

`reports` puts a match beside one session's metadata. It asks the same conditions that route sessions, so it cannot say anything else.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from carrier.core.metadata import MISSING, readable, walk
from carrier.errors import shown
from carrier.rules.checks import checker, is_number
from carrier.rules.condition import Condition, Group, Leaf, Node
from carrier.rules.inputs import HEADERS, LABELS, OF_BYTES, RAW_PATH, headers_of, members
from carrier.rules.target import normal_path


class ConditionReport(msgspec.Struct, frozen=True):
    """One condition against one session: what was asked, what was there, and how near it came.

    seen is None when there was nothing. parts: the conditions inside a group ("any of", "none of").
    """

    text: str
    held: bool
    seen: str | None = None
    wanted: str = ""
    near: str = ""
    parts: tuple[ConditionReport, ...] = ()


def reports(condition: Condition, meta: object) -> tuple[ConditionReport, ...]:
    """A report for each condition of the AND that a match is; it holds when all of them do."""
    node = condition.node
    top = node.parts if isinstance(node, Group) and node.op == "all" else (node,)
    return tuple(_report(part, meta) for part in top)


def _report(node: Node, meta: object) -> ConditionReport:
    if isinstance(node, Group):
        return ConditionReport(node.text, node.held(meta), parts=tuple(_report(part, meta) for part in node.parts))
    held = node.held(meta)
    values = node.read(meta)
    return ConditionReport(node.text, held, _seen(node, values, meta), node.shown, _near(node, values, held, meta))


def _seen(leaf: Leaf, values: Sequence[object], meta: object) -> str | None:
    if leaf.source.kind == "source":
        address = walk(meta, ("IP", "src_addr"))
        return None if address is MISSING else shown(address, 200)
    if not values:
        return None
    if leaf.source.kind in OF_BYTES:
        values = [readable(value) if isinstance(value, str) else value for value in values]
    if leaf.source.kind in ("value", "address", "header", "path"):
        return shown(values[0], 200)  # the others are other readings of it
    return ", ".join(shown(value, 200) for value in values)


def _near(leaf: Leaf, values: Sequence[object], held: bool, meta: object) -> str:
    """In plain words, why a condition did not hold, or that it held by one member of a list; "" when there is nothing to say."""
    if held:
        by_member = leaf.source.kind == "header" and len(values) > 1 and not leaf.check(values[0])
        return "the header has several values, one of them is this" if by_member else ""
    if leaf.absent:
        return "it is there"
    if not values:
        return _near_absence(leaf, meta)
    is_header = leaf.source.kind == "header" or leaf.source.reads[:1] == ((*HEADERS, leaf.source.name.rpartition("/")[2]),)
    for value in values:
        if isinstance(value, str) and isinstance(leaf.want, str) and (said := _near_text(leaf, value, is_header)):
            return said
    if isinstance(values[0], str) and is_number(leaf.want):
        return "the value is text, a number is wanted"
    if leaf.source.kind == "source":
        return "the address is outside"
    return "the header is there with another value" if is_header else "another value is there"


def _near_absence(leaf: Leaf, meta: object) -> str:
    kind, name = leaf.source.kind, leaf.source.name
    if kind == "path":
        return "the path has no normal form" if isinstance(walk(meta, RAW_PATH), str) else "there is no path"
    if kind == "header" or leaf.source.reads == ((*HEADERS, name.rpartition("/")[2]),):
        return _near_header(name.rpartition("/")[2], meta)
    if kind in ("query", "cookie", "baggage", "tracestate"):
        return f"there is no such {LABELS[kind].removesuffix(' {}')}"
    return f"there is no {leaf.source}" if kind != "headers" else "there is no such header"


def _near_header(name: str, meta: object) -> str:
    plain = name.lower().replace("_", "-")
    for other in headers_of(meta):
        if isinstance(other, str) and other.lower().replace("_", "-") == plain:
            return f"there is no such header, but there is {other}"
    return "there is no such header"


def _near_text(leaf: Leaf, value: str, is_header: bool) -> str:
    """How near one text came to the text wanted."""
    want = leaf.want
    assert isinstance(want, str)
    if leaf.check(value.lower()) or (leaf.op != "matches" and checker(leaf.op, want, True)(value)):
        return "differs only in case"
    if leaf.check(value.strip()) or value.strip() == want.strip():
        return "differs only in spaces around it"
    if leaf.source.reads == (RAW_PATH,) and leaf.source.kind in ("path", "value") and (said := _near_path(leaf, value, want)):
        return said
    if is_header and "," in value and any(map(leaf.check, members(value))):
        return "the header came twice, or holds a list"
    return ""


def _near_path(leaf: Leaf, value: str, want: str) -> str:
    path = value.partition("?")[0]
    if path != value and leaf.check(path):
        return "path matches without the query"
    if leaf.op == "test" and path == want + "/":
        return "path matches without the trailing slash"
    if leaf.op in ("test", "starts") and path + "/" == want:
        return "path matches with a trailing slash"
    normal = normal_path(value)
    return "the normal form of the path matches" if normal is not None and normal != value and leaf.check(normal) else ""
