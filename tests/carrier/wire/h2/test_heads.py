"""Sections as heads, and heads as blocks."""

from __future__ import annotations

import random

import pytest
from hpack import Encoder

from carrier.wire.forwarding import Forwarding
from carrier.wire.h1.text import text_of
from carrier.wire.h2 import Limits, Memo, encode
from carrier.wire.h2.encoder import Encoder as Blocks
from carrier.wire.h2.fields import read
from carrier.wire.h2.frames import frame
from carrier.wire.h2.heads import answer_block, lines_block, request_block, request_of
from carrier.wire.h2.hpack import size_of
from carrier.wire.http import Head
from tests.h2talk import GET, server

LIMITS = Limits()
PROFILES = {
    "rules on a user": Forwarding(frozenset((b"x-user",))),
    "rules on what differs": Forwarding(frozenset((b"x-trace-id",))),
    "rules on everything": Forwarding(None),
    "a trusted peer": Forwarding(frozenset(), trusted=True),
    "claims are kept": Forwarding(frozenset(), keeps=True, via=b"c2"),
}
SEEN = (
    "text",
    "method",
    "target",
    "authority",
    "body",
    "length",
    "has_id",
    "key",
    "fields",
    "explain",
    "never",
    "grpc",
    "simple",
    "version",
)


def sections(number: int, last: bool = True):
    """What a client is read as whose heads differ in some values, and the same read anew."""
    chance = random.Random(3)
    engine, heard = server(LIMITS, Memo(LIMITS))
    heard.then["head"] = lambda stream: stream.reset()
    encoder = Encoder()
    for n in range(number):
        method = [(b":method", b"GET" if last else b"POST")]
        fields = [*method, *GET[1:], (b"x-user", chance.choice((b"john", b"mary"))), (b"x-request-id", b"%d" % n)]
        fields += [(b"x-trace-id", b"t%d" % (n * 7)), (b"x-forwarded-for", b"10.0.0.%d" % (n % 250))]
        fields += [] if last else [(b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"grpc-timeout", b"%dS" % n)]
        engine.feed(frame(1, 4 | last, 2 * n + 1, encoder.encode(fields)), 0.0)
        yield heard.sections[-1], read(fields, size_of(fields), (), LIMITS, False)


@pytest.mark.parametrize("last", [True, False], ids=["GET", "a call of gRPC"])
@pytest.mark.parametrize("name", PROFILES)
def test_a_request_by_its_shape_is_the_one_that_reading_it_anew_gives(name, last):
    profile, shapes = PROFILES[name], 0
    blocks = Blocks()
    for section, fresh in sections(60, last):
        shapes += section.shape is not None
        head, other = request_of(section, last, profile), request_of(fresh, last, profile)
        text_of(head), text_of(other)
        assert [getattr(head, slot) for slot in SEEN] == [getattr(other, slot) for slot in SEEN]
        assert head.sent_on() == other.sent_on()
        assert request_block(head, b"http", blocks) == request_block(other, b"http", blocks)
    assert shapes > 30


def test_what_was_decided_for_one_request_is_known_with_the_next_of_its_shape_but_not_a_head_of_its_own():
    profile = PROFILES["rules on a user"]
    found = [request_of(section, True, profile) for section, _ in sections(40)]
    assert all(head.decision is None for head in found)
    decided = object()
    for section, _ in sections(40):
        head = request_of(section, True, profile)
        before, head.decision = head.decision, (decided, None)
        assert before is None or before == (decided, None)
    assert before == (decided, None)
    for section, _ in sections(40):
        head = request_of(section, True, profile)
        assert head.decision is None
        head.decision = decided, head


def test_a_new_revision_decides_anew():
    old, new = Forwarding(frozenset()), Forwarding(frozenset())
    for section, _ in sections(40):
        request_of(section, True, old).decision = ("old", None)
        assert request_of(section, True, new).decision is None


def test_a_section_that_is_kept_keeps_its_head():
    memo = Memo(LIMITS)
    engine, heard = server(LIMITS, memo)
    heard.then["head"] = lambda stream: stream.reset()
    for n in range(2):
        engine.feed(frame(1, 5, 2 * n + 1, encode(GET)), 0.0)
    profile = Forwarding()
    assert request_of(heard.sections[0], True, profile) is request_of(heard.sections[1], True, profile)
    assert request_of(heard.sections[0], False, profile) is not request_of(heard.sections[1], True, profile)


def test_an_answer_that_comes_again_keeps_its_block_whatever_version_it_came_in():
    blocks = Blocks()
    text = b"HTTP/1.1 200 OK\r\nx-user: john\r\n\r\n"
    for head in (Head(text, status=200), Head(b"", status=200, version="2", onward=((b"x-user", b"john"),))):
        block = answer_block(head, blocks)
        assert answer_block(head, blocks) is block
        assert block == encode([(b":status", b"200"), (b"x-user", b"john")])


def test_lines_with_an_id_of_ours_are_the_same_block_whether_such_came_before_or_not():
    for address in (b"10.0.0.1", b"10.0.0.2"):
        for number in range(3):
            lines = b"x-forwarded-for: %b\r\nx-request-id: %b%03x" % (address, b"a" * 29, number)
            block = encode([tuple(text.split(b": ")) for text in lines.split(b"\r\n")])
            assert lines_block(lines + b"\r\n\r\n") == block
    assert lines_block(b"x-request-id: " + b"a" * 29 + b"000\r\n\r\n") == encode([(b"x-request-id", b"a" * 29 + b"000")])
