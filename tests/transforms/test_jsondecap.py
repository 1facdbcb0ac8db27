"""JSONDecap: what it takes for an encapsulation. In chains: test_jsonencap.py."""

from __future__ import annotations

import pytest

from transforms.jsondecap import lenient, payload


@pytest.mark.parametrize("message", [b"", b"x", b"5", b"{}", b'{"payload":5}', b"[" * 50_000, b"\xff"])
def test_what_is_no_encapsulation_becomes_an_empty_message(message: bytes) -> None:
    assert payload(message) == b""


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("aGk=", b"hi"),
        ("aGk", b"hi"),
        ("a G\nk", b"hi"),
        ("-_-_", b"\xfb\xff\xbf"),
        ("aGk=aGk=", b"hi"),
        ("a", b""),
        ("", b""),
        ("ü!", b""),
    ],
)
def test_base64_is_read_as_node_reads_it(text: str, data: bytes) -> None:
    assert lenient(text) == data
