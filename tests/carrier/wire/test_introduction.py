"""The PROXY protocol, bytes in, who is meant out."""

from __future__ import annotations

import pytest

from carrier.errors import Error
from carrier.wire.introduction import SIGNATURE, Introduced, Introduction, crc32c, version_1, version_2

FOUR = (("192.0.2.7", 4000), ("198.51.100.1", 443))
SIX = (("2001:db8::7", 4000), ("2001:db8::1", 443))


def read(data: bytes) -> tuple[Introduced | None, bytes]:
    """Who is meant, and what stands behind the header; fed as somebody does who reads no byte too many."""
    introduction, at = Introduction(), 0
    while introduction.more:
        part = data[at : at + introduction.more]
        assert part, "it wants more than there is"
        introduction.feed(part)
        at += len(part)
    return introduction.said, data[at:]


@pytest.mark.parametrize("places", [FOUR, SIX])
@pytest.mark.parametrize("write", [version_1, version_2])
def test_what_is_written_is_read_and_nothing_behind_it(places: tuple[tuple[str, int], tuple[str, int]], write: object) -> None:
    assert read(write(*places) + b"GET / HTTP/1.1\r\n") == (Introduced(*places), b"GET / HTTP/1.1\r\n")  # type: ignore[operator]


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP6 ::ffff:192.0.2.7 ::FFFF:198.51.100.1 4000 443\r\n",
        b"PROXY TCP6 ::ffff:c000:207 ::ffff:c633:6401 4000 443\r\n",
        version_2(("::ffff:192.0.2.7", 4000), ("::ffff:198.51.100.1", 443)),
    ],
)
def test_an_ipv4_client_of_a_proxy_that_listens_on_ipv6_is_one_of_ipv4(header: bytes) -> None:
    """HAProxy with `bind :::80` and `send-proxy`: rules, `trusted` and the log took it for somebody else."""
    assert read(header) == (Introduced(*FOUR), b"")
    said, _ = read(version_2(("::ffff:192.0.2.7", 1), ("2001:db8::1", 2)))
    assert said is not None and said.local == ("2001:db8::1", 2) and ":" in said.peer[0], "one of the two alone is as it was said"


def test_name_and_protocol_of_a_tls_are_told() -> None:
    said, rest = read(version_2(*FOUR, "a.example", "h2") + b"x")
    assert said == Introduced(*FOUR, "a.example", "h2") and rest == b"x"


@pytest.mark.parametrize(("tls", "name", "bits"), [("TLSv1.3", "", 1), ("TLSv1.2", "jöhn", 7)])
def test_version_and_certificate_of_a_tls_are_told(tls: str, name: str, bits: int) -> None:
    header = version_2(*FOUR, "a.example", "h2", tls, name)
    said, _ = read(header)
    assert said == Introduced(*FOUR, "a.example", "h2", tls, name)
    at = header.index(b"\x20\0", 28)  # PP2_TYPE_SSL: the client's bits, and 0 for a certificate that was found good
    assert header[at + 3] == bits and header[at + 4 : at + 8] == b"\0\0\0\0"


OF_HAPROXY = bytes.fromhex("0d0a0d0a000d0a515549540a211100167f0000017f0000019e6ec32f03000453b5cd58050000")
"""What haproxy 2.6 sends with `send-proxy-v2 proxy-v2-options crc32c,unique-id`."""


def test_a_checksum_is_held_against_the_header() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert read(OF_HAPROXY + b"hi") == (Introduced(("127.0.0.1", 0x9E6E), ("127.0.0.1", 0xC32F)), b"hi")
    for at in range(16, len(OF_HAPROXY)):
        wrong = bytearray(OF_HAPROXY)
        wrong[at] ^= 1
        if at not in (28, 35):  # of which type a value is: another one is no checksum, or one of no bytes
            with pytest.raises(Error, match=r"checksum|middle of a value"):
                read(bytes(wrong))


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_a_header_that_ends_in_the_middle_of_a_value_is_none(cut: int) -> None:
    header = version_2(*FOUR, "a.example", "h2")
    header = header[:14] + (len(header) - 16 - cut).to_bytes(2, "big") + header[16:-cut]
    with pytest.raises(Error, match="middle of a value"):
        read(header)


@pytest.mark.parametrize(
    "data", [b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN a b c d\r\n", SIGNATURE + b"\x20\0\0\0", SIGNATURE + b"\x21\x31\0\x04abcd"]
)
def test_a_proxy_may_speak_for_itself(data: bytes) -> None:
    assert read(data + b"next") == (None, b"next")


def test_places_that_are_not_of_one_kind_are_unknown() -> None:
    assert version_1(("@unix", 0), ("127.0.0.1", 1)) == b"PROXY UNKNOWN\r\n"
    assert version_2(FOUR[0], SIX[1]) == SIGNATURE + b"\x20\0\0\0"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4000\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 70000\r\n",
        b"PROXY TCP4 2001:db8::7 198.51.100.1 4000 1\r\n",
        b"PROXY TCP4 192.0.2.7 nobody 4000 1\r\n",
        b"PROXY TCP9 192.0.2.7 198.51.100.1 4000 1\r\n",
        b"PROXY " + b"x" * 120,
        b"PROXY TCP4 192.0.2.7\n",
        SIGNATURE + b"\x31\x11\0\x0c" + b"\0" * 12,
        SIGNATURE + b"\x22\x11\0\x0c" + b"\0" * 12,
        SIGNATURE + b"\x21\x11\0\x04" + b"\0" * 4,
        SIGNATURE + b"\x21\x11\xff\xff",
    ],
)
def test_what_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(Error):
        read(data + b"x" * 20)
