"""What gRPC is beside HTTP/2: its types, its times, its texts."""

from __future__ import annotations

import pytest

from carrier.errors import STATUS, Error
from carrier.wire import grpc


@pytest.mark.parametrize(
    ("value", "yes"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc; x=y", True),
        (b"Application/GRPC", True),
        (b"application/grpc-web", False),
        (b"application/grpc-web+proto", False),
        (b"application/json", False),
        (b"", False),
    ],
)
def test_a_call_is_known_by_its_type(value: bytes, yes: bool) -> None:
    assert grpc.is_type(value) is yes


@pytest.mark.parametrize(("text", "seconds"), [(b"1S", 1.0), (b"250m", 0.25), (b"2M", 120.0), (b"1H", 3600.0), (b"5u", 5e-6)])
def test_a_timeout_is_read(text: bytes, seconds: float) -> None:
    assert grpc.timeout_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", [None, b"", b"1", b"S", b"123456789S", b"-1S", b"1.5S", b"1s"])
def test_what_is_no_timeout_is_none(text: bytes | None) -> None:
    assert grpc.timeout_of(text) is None


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.5, 99_999.0, 100_000.5, 1e9, 1e13])
def test_a_timeout_is_written_so_that_it_is_read_again(seconds: float) -> None:
    text = grpc.timeout_text(seconds)
    again = grpc.timeout_of(text)
    assert again is not None and len(text) <= 9
    assert again <= max(seconds, 0.001) and (seconds > 3.5e11 or again >= seconds * 0.999 - 0.001)


def test_reasons_are_percent_encoded() -> None:
    assert grpc.message_of("100 % für\n") == b"100 %25 f%C3%BCr%0A"


def test_every_kind_of_error_has_a_status() -> None:
    found = {kind: grpc.NAMES[grpc.status_of(Error(kind, ""))] for kind in STATUS}
    assert (found["refused"], found["timeout"], found["overload"]) == ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
    assert (found["no-route"], found["not-implemented"], found["forbidden"]) == ("UNIMPLEMENTED", "UNIMPLEMENTED", "PERMISSION_DENIED")


def test_what_trailers_say_is_told_by_name() -> None:
    assert grpc.said(((b"grpc-status", b"0"),)) == "OK" and grpc.said(((b"grpc-status", b"14"),)) == "UNAVAILABLE"
    assert grpc.said(((b"grpc-status", b"99"),)) == "99" and grpc.said(((b"grpc-status", b"x"),)) == "UNKNOWN"
    assert grpc.said(None) == grpc.said(()) == ""


def test_a_path_names_service_and_method() -> None:
    assert grpc.call_of(b"/a.b.Service/Method") == ("a.b.Service", "Method")
