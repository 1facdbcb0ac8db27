"""JSONSocket's headers: bytes in, a header or the words of a refusal out."""

from __future__ import annotations

import pytest

from carrier.wire.jsonheader import Refused, answer, check_answer, end_of, inspect, refusal, request


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (b"{}", 2),
        (b'{"a": {"b": "}"}}rest', 17),
        (b'{"a": "\\"}"} tail', 12),
        (b'{"a": "\\\\"}x', 11),
        (b'{"a": {"b": 1}', None),
        (b'{"a": "}', None),
        (b'{"a\\', None),
        (b"  {} ", 4),
        (b"", None),
        (b"hello", 5),
        (b"[1]", 3),
    ],
)
def test_the_end_of_a_header_is_found(data: bytes, end: int | None) -> None:
    assert end_of(data) == end


@pytest.mark.parametrize("version", [0, 1, 1.0])
def test_a_header_with_a_version_is_taken(version: float) -> None:
    assert request(b'{"JSONSocketVersion":%s,"a":1}' % str(version).encode()) == {"JSONSocketVersion": version, "a": 1}


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"hello", 400, "Bad Request: Invalid JSON header"),
        (b"\xff\xfe\x00", 400, "Bad Request: Invalid JSON header"),
        (b"[" * 100_000, 400, "Bad Request: Invalid JSON header"),
        (b"{}", 400, "Bad Request: err"),
        (b"5", 400, "Bad Request: err"),
        (
            b'{"JSONSocketVersion":"1","x":[1,{"a":null}],"y-z":true}',
            400,
            "Bad Request: JSONSocket version info is not numeric/integer in header: "
            "{ JSONSocketVersion: '1', x: [ 1, { a: null } ], 'y-z': true }",
        ),
        (
            b'{"JSONSocketVersion":1.5}',
            400,
            "Bad Request: JSONSocket version info is not numeric/integer in header: { JSONSocketVersion: 1.5 }",
        ),
        (
            b'{"JSONSocketVersion":NaN}',
            400,
            "Bad Request: JSONSocket version info is not numeric/integer in header: { JSONSocketVersion: NaN }",
        ),
        (b'{"JSONSocketVersion":2}', 505, "Bad Request: Unsupported JSONSocket version in header: { JSONSocketVersion: 2 }"),
        (b'{"JSONSocketVersion":-1}', 505, "Bad Request: Unsupported JSONSocket version in header: { JSONSocketVersion: -1 }"),
    ],
)
def test_what_is_no_header_is_refused_in_the_words_of_l7mp(data: bytes, status: int, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        request(data)
    assert (refused.value.status, refused.value.reason) == (status, reason)


def test_values_are_written_as_node_inspects_them() -> None:
    deep = {"a": {"b": {"c": {}}}}
    assert inspect({"a": "it's", "b": "x\"'y", "c": [], "d": {}, "e": 2.0, "1f": False}, 5) == (
        """{ a: "it's", b: 'x"\\'y', c: [], d: {}, e: 2, '1f': false }"""
    )
    assert inspect(deep, 1) == "{ a: { b: [Object] } }"


def test_answers_are_compact_and_in_order() -> None:
    assert answer(200, "OK") == b'{"JSONSocketVersion":1,"JSONSocketStatus":200,"JSONSocketMessage":"OK"}'
    assert refusal(404, "no") == b'{"JSONSocketVersion":1,"JSONSocketStatus":404,"JSONSocketMessage":"Not Found: no"}'


@pytest.mark.parametrize("status", [200, 204, 299])
def test_an_answer_of_success_lets_the_stream_begin(status: int) -> None:
    check_answer(answer(status, ""))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"x", "Invalid JSON response header"),
        (b"{}", "No JSONSocket version info"),
        (b'{"JSONSocketVersion":"1","JSONSocketStatus":200}', "not numeric"),
        (b'{"JSONSocketVersion":7,"JSONSocketStatus":200}', 'Unsupported JSONSocket version "7"'),
        (answer(404, "gone"), 'Server sent invalid status "404" in response header, dropping connection (gone)'),
        (b'{"JSONSocketVersion":1}', 'invalid status "None"'),
    ],
)
def test_any_other_answer_does_not(data: bytes, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        check_answer(data)
    assert reason in refused.value.reason
