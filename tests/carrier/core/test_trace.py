"""Which requests are traced, and the spans of their attempts."""

from __future__ import annotations

from carrier.core.endpoint import Endpoint
from carrier.core.trace import ATTEMPTS, Trace, Tracer
from carrier.errors import Error
from carrier.wire.making import request_head
from carrier.wire.trace import read

TRACE, SPAN = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"


def asked(flags: bytes | None = None) -> object:
    fields = [(b"host", b"a")]
    if flags is not None:
        fields.append((b"traceparent", b"00-" + TRACE + b"-" + SPAN + b"-" + flags))
    return request_head(b"GET", b"/", fields)


def test_the_caller_decides_and_of_the_others_the_ratio() -> None:
    none, every, half = Tracer(0), Tracer(1), Tracer(0.5)
    assert none.sample(asked()) is None and every.sample(asked()) is not None  # type: ignore[arg-type]
    found = none.sample(asked(b"01"))  # type: ignore[arg-type]
    assert found is not None and (found.trace, found.parent) == (TRACE, SPAN) and found.span != SPAN
    assert every.sample(asked(b"00")) is None  # type: ignore[arg-type]
    assert [every.is_next() or every.left for _ in range(3)] == [True] * 3 and not none.is_next()
    some = sum(half.sample(asked()) is not None for _ in range(1000))  # type: ignore[arg-type]
    assert 350 < some < 650


def test_each_attempt_has_a_span_which_goes_upstream() -> None:
    trace = Trace(read(b"00-" + TRACE + b"-" + SPAN + b"-01"))
    trace.fields = b"x-request-id: 1\r\n\r\n"
    one, two = Endpoint("one", "10.0.0.1", 80, 1), Endpoint("two", "10.0.0.2", 80, 1)
    first = trace.attempt("up", one)
    trace.ended(Error("refused", "no"))
    trace.ended(Error("closed", "told twice"))
    second = trace.attempt("up", two)
    spans = [attempt.span for attempt in trace.attempts]
    assert first == b"traceparent: 00-" + TRACE + b"-" + spans[0] + b"-01\r\nx-request-id: 1\r\n\r\n"
    assert spans[1] in second and len({*spans, trace.span, SPAN}) == 4
    assert trace.attempts[0].failed is not None and trace.attempts[0].failed.kind == "refused" and trace.attempts[1].failed is None


def test_attempts_are_bounded_and_the_rest_is_counted() -> None:
    trace = Trace(None)
    for _ in range(ATTEMPTS + 5):
        trace.attempt("up", Endpoint("one", "10.0.0.1", 80, 1))
        trace.ended(None, 503)
    assert len(trace.attempts) == ATTEMPTS and trace.more == 5
