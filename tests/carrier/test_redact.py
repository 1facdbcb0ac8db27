"""What is not shown: secrets, queries, userinfo, the content of what was refused; control bytes."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carrier import redact
from carrier.redact import ALWAYS, hidden, quoted, refused, target, visible
from carrier.rules.match import compile_match


@pytest.mark.parametrize(
    ("given_", "query", "shown"),
    [
        (b"/a?token=s3cret", True, b"/a?token=s3cret"),
        (b"/a?token=s3cret", False, b"/a"),
        (b"http://user:s3cret@host/a?b", True, b"http://(redacted)@host/a?b"),
        (b"http://user:s3cret@host/a?b=s3cret", False, b"http://(redacted)@host/a"),
        (b"http://us@er:s3cret@host/", True, b"http://(redacted)@host/"),
        (b"user:s3cret@host:443", True, b"(redacted)@host:443"),
        (b"//user:s3cret@host/", True, b"//user:s3cret@host/"),  # a path, as it came
        (b"/a@b", True, b"/a@b"),
        (b"http://host/a@b", True, b"http://host/a@b"),
        (b"http://host?user@b", True, b"http://host?user@b"),
        (b"*", False, b"*"),
    ],
)
def test_a_target_shows_no_user_and_no_query_that_is_not_wanted(given_: bytes, query: bool, shown: bytes) -> None:
    assert target(given_, query) == shown


@pytest.mark.parametrize(
    ("detail", "shown"),
    [
        (
            'field line "Authorization Basic czNjcmV0" does not start with a name and a colon',
            "field line (28 bytes at offset 25) does not start with a name and a colon",
        ),
        ('Host "user:s3cret@h" is no host', "Host (13 bytes) is no host"),
        ('field line "Authorization Basic czNjcm... does not start', "field line (many bytes at offset 25) does not start"),
        ('two "a" and "b\\"s3cret\\"" here', "two (1 bytes at offset 26) and (10 bytes) here"),
        ("byte b's3cret' in the head", "byte (not shown) in the head"),
        ('cut "Authoriza', "cut (not shown)"),
        ("nothing quoted at offset 5", "nothing quoted at offset 5"),
    ],
)
def test_a_refusal_says_where_and_how_much_and_not_what(detail: str, shown: str) -> None:
    begun = b"GET / HTTP/1.1\r\nHost: h\r\n" + b"Authorization Basic czNjcmV0\r\n\r\n"
    found = refused("protocol-error", detail, begun)
    assert found == shown or ("a" in detail and "s3cret" not in found and "czNj" not in found)


def test_names_of_ours_stay_as_they_are() -> None:
    assert refused("no-route", 'no cluster "shop"') == 'no cluster "shop"'


HEADER = {"matchHeader": {"name": "authorization", "value": "s3cret"}}


@pytest.mark.parametrize(
    ("match", "how"),
    [
        (HEADER, ALWAYS),
        ({"matchHeader": {"name": "Cookie", "type": "regex", "regex": ".*s3cret.*"}}, ALWAYS),
        ({"matchCookie": {"name": "session", "value": "s3cret"}}, ALWAYS),
        ({"any": [HEADER, {"all": [HEADER, {"not": HEADER}]}]}, ALWAYS),
        ({"op": "test", "path": "/HTTP/headers/x-api-key", "value": "s3cret"}, ALWAYS),
        ({"op": "contains", "path": "/HTTP/headers/X-Custom", "value": "s3cret"}, hidden(("x-custom",))),
        ({"matchHeader": {"name": "x-custom", "value": "s3cret"}}, hidden(("X-Custom",))),
        ({"matchQuery": {"name": "token", "value": "s3cret"}}, hidden((), False)),
        ({"op": "starts", "path": "/HTTP/url/path", "value": "/a?token=s3cret"}, hidden((), False)),
    ],
)
def test_a_reason_shows_no_value_that_is_hidden(match: object, how: object) -> None:
    try:
        condition = compile_match(match)
    except Exception:
        pytest.skip("not a match of ours")
    assert "s3cret" not in condition.words(how)  # type: ignore[arg-type]
    assert "(redacted)" in condition.words(how)  # type: ignore[arg-type]


def test_a_reason_shows_what_is_not_hidden() -> None:
    assert (
        compile_match({"matchHeader": {"name": "x-user", "value": "john"}}).words(hidden(("x-other",), False)) == 'header x-user is "john"'
    )


@given(st.text())
def test_text_is_visible_and_quotes_hold(text: str) -> None:
    for made in (visible(text), quoted(text)):
        assert not any(ord(char) < 32 or 0x7F <= ord(char) <= 0x9F for char in made)
    made = quoted(text)
    assert (made.isascii() and made.count('"') - made.count('\\"') == 2) or "\\\\" in made
    assert json.loads(json.dumps(visible(text))) == visible(text)


def test_control_bytes_are_written_in_hexadecimal_and_quotes_escaped_once() -> None:
    assert visible("a\x1b[31m\x7f\x9b\n") == "a\\x1b[31m\\x7f\\x9b\\x0a"
    assert quoted('say "no"\n\\') == '"say \\"no\\"\\x0a\\\\"'


def test_a_document_that_is_given_away_has_no_value_that_may_be_secret() -> None:
    given = {
        "match": [{"matchHeader": {"name": "X-Session-Token", "value": "s1"}}, {"matchCookie": {"name": "sid", "value": "s2"}}],
        "any": {"matchQuery": {"name": "api_key", "value": "s3"}},
        "op": {"op": "test", "path": "/HTTP/headers/authorization", "value": "s4"},
        "spec": {"command": ["prog", "-p", "s5"], "body": "s6", "password": "s7", "url": "redis://u:s8@db:6379/"},
        "when": 'cookie user is "s9" and header x-my-secret begins with "s\\"10" and path is "/kept"',
        "kept": {"matchHeader": {"name": "x-user", "value": "john"}, "port": 8080, "names": ("a", None, True, 1.5)},
    }
    said = json.dumps(redact.document(given))
    assert not re.search(r"s\d|s.{0,3}10", said), said
    assert '"john"' in said and "8080" in said and "/kept" in said and "prog" in said and "redis://(redacted)@db" in said
    assert given["spec"]["password"] == "s7"  # type: ignore[index]
