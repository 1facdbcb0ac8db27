"""Spans as bytes, with OpenTelemetry's own messages as the reference."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("opentelemetry.proto", reason="opentelemetry-proto is not here")

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from carrier.wire.otlp import Span, attribute, export
from tests.otlp import said

TEXT = st.text(st.characters(codec="utf-8"), max_size=300)
NUMBER = st.integers(0, 2**64 - 1)
VALUES = st.one_of(TEXT, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False))
SPANS = st.builds(
    Span,
    TEXT,
    st.booleans(),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=8, max_size=8),
    st.sampled_from((b"", b"parent__")),
    NUMBER,
    NUMBER,
    st.dictionaries(TEXT, VALUES, max_size=5),
    TEXT,
    TEXT,
)


def read(spans: list[Span], resource: dict[str, Any]) -> tuple[Any, Any, list[Any]]:
    """Resource, scope and spans, as OpenTelemetry reads them."""
    (of_resource,) = ExportTraceServiceRequest.FromString(export(resource, ("carrier2", "1"), spans)).resource_spans
    (of_scope,) = of_resource.scope_spans
    return of_resource.resource, of_scope.scope, list(of_scope.spans)


@given(st.lists(SPANS, max_size=3), st.dictionaries(TEXT, VALUES, max_size=3))
def test_what_is_written_is_what_opentelemetry_reads(spans: list[Span], resource: dict[str, Any]) -> None:
    of, scope, found = read(spans, resource)
    assert said(of) == resource and (scope.name, scope.version) == ("carrier2", "1") and len(found) == len(spans)
    for span, seen in zip(spans, found, strict=True):
        assert (seen.name, seen.kind, seen.trace_id, seen.span_id) == (span.name, 2 if span.server else 3, span.trace, span.span)
        assert (seen.parent_span_id, seen.trace_state) == (span.parent, span.state)
        assert (seen.start_time_unix_nano, seen.end_time_unix_nano) == (span.began, span.ended)
        assert said(seen) == span.attributes and [*map(type, said(seen).values())] == [*map(type, span.attributes.values())]
        assert (seen.status.code, seen.status.message) == ((2, span.failed) if span.failed else (0, ""))
        assert seen.flags == 0x101 + 0x200 * bool(span.server and span.parent)


def test_what_is_remembered_tells_true_from_one_and_holds_no_long_texts() -> None:
    span = Span("a", True, bytes(16), bytes(8), b"", 0, 0, {}, "", "")
    values: list[str | bool | int | float] = [True, 1, 1.0, "1", False, 0]
    for _ in range(2):
        found = read([span._replace(attributes={"x": value}) for value in values], {})[2]
        assert [said(seen)["x"] for seen in found] == values and [type(said(seen)["x"]) for seen in found] == [*map(type, values)]
    before = attribute.cache_info().currsize
    assert said(read([span._replace(attributes={"long": "x" * 129})], {})[2][0]) == {"long": "x" * 129}
    assert attribute.cache_info().currsize == before
