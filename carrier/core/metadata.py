"""A session's metadata: a tree of dicts, read and rewritten by path.

What came as bytes (header fields) stands in it as Latin-1 text, a character for each byte, as l7mp has it. People write UTF-8: `received`
makes of what a person wrote what its bytes look like here, `readable` goes the other way.

Paths are l7mp's: `/HTTP/headers/x-user`, with or without a leading or trailing slash. No tree is ever changed, however odd none makes
these functions raise.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any


class _Missing:
    def __repr__(self) -> str:
        return "undefined"


MISSING = _Missing()
"""What is at a path where nothing is; None is a value."""


def received(text: str, errors: str = "surrogatepass") -> str:
    """How a text looks in the metadata when a request has brought its UTF-8 bytes. errors: of `str.encode`. Raises UnicodeEncodeError."""
    return text if text.isascii() else text.encode("utf-8", errors).decode("latin-1")


def readable(text: str) -> str:
    """The text that a request meant: its bytes read as UTF-8, or what there is when they are none."""
    if text.isascii():
        return text
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def text_bytes(value: object) -> bytes:
    """What stands in the metadata, as the bytes of a field or a path; what is no text as JSON."""
    return (value if isinstance(value, str) else json.dumps(value)).encode("latin-1", "replace")


def pieces_of(path: str) -> tuple[str, ...]:
    """The keys that a path names: `/HTTP/headers/` gives ("HTTP", "headers")."""
    return tuple(piece for piece in path.split("/") if piece)


def _child(tree: object, piece: str) -> object:
    if isinstance(tree, dict):
        return tree.get(piece, MISSING)
    if isinstance(tree, list) and piece.isascii() and piece.isdigit() and len(piece) < 10 and int(piece) < len(tree):
        return tree[int(piece)]
    return MISSING


def walk(tree: object, pieces: Iterable[str]) -> object:
    """What is found by going down these keys, else MISSING."""
    for piece in pieces:
        tree = _child(tree, piece)
        if tree is MISSING:
            return MISSING
    return tree


def get_at(tree: object, path: str, default: object = None) -> Any:
    """The value at a metadata path (`/HTTP/headers/x-user`), else `default`.

    As l7mp's Rule.getAtPath: with or without a leading or trailing slash; "/" is the whole tree.
    """
    value = walk(tree, pieces_of(path))
    return default if value is MISSING else value


def set_at(tree: object, path: str, value: object) -> Any:
    """A tree like `tree` with `value` at `path`; the given tree is not changed, untouched branches are shared.

    As l7mp's Rule.setAtPath: objects are made on the way, what is not an object and stands in the way is replaced by one, a numeric
    piece is an ordinary key (an index in an array that has it), and "/" replaces the whole tree.
    """
    return _set(tree, pieces_of(path), value)


def rewrite_at(tree: object, path: str, value: object) -> Any:
    """`set_at` for what a rule's author wrote: what a request brings as bytes looks as if it had brought them in UTF-8."""
    pieces = pieces_of(path)
    if pieces:
        return _set(tree, pieces, _as_received(value) if pieces[0] == "HTTP" else value)
    return {name: _as_received(below) if name == "HTTP" else below for name, below in value.items()} if isinstance(value, dict) else value


def _as_received(value: object) -> object:
    if isinstance(value, str):
        return received(value)
    if isinstance(value, dict):
        return {name: _as_received(below) for name, below in value.items()}
    return [_as_received(below) for below in value] if isinstance(value, list) else value


def _set(tree: object, pieces: tuple[str, ...], value: object) -> object:
    if not pieces:
        return value
    piece, rest = pieces[0], pieces[1:]
    below = _child(tree, piece)
    new = _set(below, rest, value)
    if isinstance(tree, list) and below is not MISSING:
        return [*tree[: int(piece)], new, *tree[int(piece) + 1 :]]
    return {**tree, piece: new} if isinstance(tree, dict) else {piece: new}
