"""Answers that break the grammar and mean one thing: how they are read, and which are not."""

from __future__ import annotations

import pytest

from carrier.errors import Error
from carrier.wire.h1.mend import head_end, mended
from tests.carrier.wire.h1.test_reader import answers

OK = b"HTTP/1.1 200 OK\r\n"
L = b"Content-Length: 5\r\n"
CODED = b"HTTP/1.1 200 OK\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n"
PIECES = b"5\r\nhello\r\n0\r\n\r\n"
MEANT: dict[str, tuple[bytes, bytes]] = {
    "a folded field": (OK + b"Set-Cookie: a=b;\r\n Path=/\r\n\tx\r\n" + L, OK + b"Set-Cookie: a=b; Path=/ x\r\n" + L),
    "folded to nothing": (OK + b"X: y\r\n \r\n" + L, OK + b"X: y\r\n" + L),
    "folded before its value": (OK + b"X:\r\n y\r\n" + L, OK + b"X: y\r\n" + L),
    "a folded length": (OK + b"Content-Length:\r\n 5\r\n", OK + L),
    "a line that ends in LF": (OK + b"X: y\n" + L, OK + b"X: y\r\n" + L),
    "a last field that ends in LF": (OK + L + b"X: y\n", OK + b"X: y\r\n" + L),
    "a status line that ends in LF": (b"HTTP/1.1 200 OK\n" + L, OK + L),
    "control bytes in a value": (OK + b"X: \x1b[1my\x7f\x01\r\n" + L, OK + b"X: [1my\r\n" + L),
    "a minor version of nobody's": (b"HTTP/1.2 200 OK\r\n" + L, OK + L),
    "a length with zeros": (OK + b"Content-Length: 005\r\n", OK + L),
    "a length twice": (OK + L + L, OK + L),
    "a length twice in a line": (OK + b"Content-Length: 5, 05\r\n", OK + L),
    "identity": (OK + b"Transfer-Encoding: identity\r\n" + L, OK + L),
    "no coding": (OK + b"Transfer-Encoding:\r\n" + L, OK + L),
}
CHUNKED: dict[str, bytes] = {
    "chunked twice": OK + b"X: y\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: Chunked\r\n\r\n",
    "chunked twice in a line": OK + b"X: y\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
    "with a comma": OK + b"X: y\r\nTransfer-Encoding: chunked,\r\n\r\n",
    "behind identity": OK + b"X: y\r\nTransfer-Encoding: identity, chunked\r\n\r\n",
    "folded": OK + b"X: y\r\nTransfer-Encoding:\r\n\tchunked\r\n\r\n",
    "beside a length": OK + b"X: y\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
    "in HTTP/1.0": b"HTTP/1.0 200 OK\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n",
}
AS_IT_CAME = [
    OK + b" X: y\r\n" + L + b"\r\n",
    OK + b"X: y\r\n\nX",
    OK + b"X: y\n\n" + OK + L + b"\r\n",
    OK + b"X: a\x00b\r\n" + L + b"\r\n",
    OK + b"X: a\rb\r\n" + L + b"\r\n",
    OK + b"X : y\r\n" + L + b"\r\n",
    OK + b"X y\r\n" + L + b"\r\n",
    OK + b"Transfer-Encoding: \x0bchunked\r\n\r\n",
    OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    b"HTTP/1.1  200 OK\r\n\r\n",
    b"HTTP/2.0 200 OK\r\n\r\n",
    b"HTTP/1.1 200 O\x01K\r\n\r\n",
    *(OK + b"Content-Length: " + value + b"\r\n\r\n" for value in (b"5, 6", b"+5", b"5 5", b",", b"5,", b"", b"-1", b"5.0", b"5\x01")),
    *(OK + L + b"Content-Length: " + value + b"\r\n\r\n" for value in (b"6", b"", b"x")),
]


@pytest.mark.parametrize("cut", [0, 1])
@pytest.mark.parametrize("name", MEANT)
def test_an_answer_that_means_one_thing_is_sent_on_in_its_plain_form_and_its_connection_given_up(name: str, cut: int) -> None:
    """502 before. haproxy and Envoy deliver what is folded, nginx says 502; of the others at least two of the three deliver each."""
    raw, plain = MEANT[name]
    raw += b"\r\nhello"
    reader, heard = answers()
    for i in range(0, len(raw), cut or len(raw)):
        reader.feed(raw[i : i + (cut or len(raw))])
    assert heard.heads[0].text == plain + b"\r\n"
    assert b"".join(said for said in heard.says if isinstance(said, bytes)) == b"hello"
    assert reader.complete and not reader.reusable


@pytest.mark.parametrize("name", CHUNKED)
def test_content_in_chunks_is_so_however_often_it_is_said(name: str) -> None:
    """Transfer-Encoding twice, from an app that says it behind a framework that does: browsers and nginx 1.22 take it."""
    reader, heard = answers()
    reader.feed(CHUNKED[name] + PIECES)
    assert heard.heads[0].text.lower() == CODED.lower() and b"hello" in heard.says
    assert reader.complete and not reader.reusable


def test_a_hint_that_is_folded_does_not_keep_the_answer_from_coming() -> None:
    reader, heard = answers()
    reader.feed(b"HTTP/1.1 103 Early Hints\r\nLink: </a>;\r\n rel=preload\r\n\r\n" + OK + L + b"\r\nhello")
    assert [head.status for head in heard.heads] == [103, 200] and b"</a>; rel=preload\r\n" in heard.heads[0].text


@pytest.mark.parametrize("raw", AS_IT_CAME)
def test_what_means_nothing_or_two_things_is_refused(raw: bytes) -> None:
    """An empty line that ends in LF among lines that do not is what a split answer looks like; framing is never guessed."""
    reader, heard = answers()
    with pytest.raises(Error) as caught:
        reader.feed(raw + b"hello")
    assert caught.value.kind == "bad-answer" and not heard.heads


def test_what_is_mended_needs_no_mending() -> None:
    for raw in [raw + b"\r\n" for raw, _ in MEANT.values()] + list(CHUNKED.values()):
        assert head_end(raw) == len(raw)
        plain = mended(raw)
        assert plain != raw and mended(plain) == plain
