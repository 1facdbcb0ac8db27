"""Trace context: what counts as one, how it is found in a head, what goes on."""

from __future__ import annotations

import pytest

from carrier.wire.making import request_head
from carrier.wire.trace import Context, context_of, handed_on, new_span, new_trace, parent_line, read

TRACE, SPAN = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"
GOOD = b"00-" + TRACE + b"-" + SPAN + b"-01"


def test_a_good_traceparent_is_read() -> None:
    assert read(GOOD) == Context(TRACE, SPAN, 1)
    found = read(GOOD[:-2] + b"02")
    assert found is not None and not found.sampled and found.flags == 2
    assert read(b"cc" + GOOD[2:] + b"-what-the-future-brings") == Context(TRACE, SPAN, 1)


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"ff" + GOOD[2:],
        GOOD + b"-more",
        GOOD + b", " + GOOD,
        GOOD.upper(),
        b"00-" + b"0" * 32 + b"-" + SPAN + b"-01",
        b"00-" + TRACE + b"-" + b"0" * 16 + b"-01",
        GOOD[:-1],
        b"cc" + GOOD[2:] + b".x",
    ],
)
def test_what_is_none_is_none(value: bytes | None) -> None:
    assert read(value) is None


def test_a_head_is_looked_at_once_and_in_any_case() -> None:
    head = request_head(b"GET", b"/", [(b"host", b"a"), (b"TraceParent", GOOD)])
    assert context_of(head) == Context(TRACE, SPAN, 1) and head.trace == Context(TRACE, SPAN, 1)
    plain = request_head(b"GET", b"/traceparent", [(b"host", b"a")])
    assert context_of(plain) is None and plain.trace is False


def test_ours_takes_the_place_of_theirs_and_the_state_goes_on() -> None:
    head = request_head(b"GET", b"/", [(b"host", b"a"), (b"traceparent", GOOD), (b"tracestate", b"x=1")])
    onward = handed_on(head)
    assert b"traceparent" not in onward.text and b"traceparent" not in dict(onward.sent_on()) and b"tracestate: x=1" in onward.text
    assert onward.get(b"traceparent") == GOOD and onward.get(b"tracestate") == b"x=1"  # what came is still shown
    assert head.get(b"traceparent") == GOOD


def test_the_state_of_a_trace_that_is_none_ends_with_it() -> None:
    head = request_head(b"GET", b"/", [(b"host", b"a"), (b"traceparent", b"rubbish"), (b"tracestate", b"x=1")])
    assert handed_on(head).get(b"tracestate") is None


def test_ids_are_hex_and_flags_are_kept() -> None:
    assert len(new_trace()) == 32 and len(new_span()) == 16
    assert parent_line(TRACE, SPAN, 3) == b"traceparent: 00-" + TRACE + b"-" + SPAN + b"-03\r\n"
