"""From when until when a certificate is good, read from its DER bytes (RFC 5280 section 4.1): Python's OpenSSL shows nobody his own.

Only what stands in front of the validity is looked at. A certificate that cannot be read is good for ever: OpenSSL has accepted it.
"""

from __future__ import annotations

import math
import ssl
from datetime import UTC, datetime

BEGIN, END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_SEQUENCE, _INTEGER, _VERSION = 0x30, 0x02, 0xA0
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18


def validity(pem: bytes) -> tuple[float, float]:
    """Seconds since 1970 of the first certificate in a PEM file: good from, good until."""
    text = pem.decode("ascii", "replace")
    begin = text.find(BEGIN)
    end = text.find(END, begin)
    if begin < 0 or end < 0:
        return 0.0, math.inf
    try:
        return _validity(ssl.PEM_cert_to_DER_cert(text[begin : end + len(END)]))
    except (ValueError, IndexError):
        return 0.0, math.inf


def _validity(der: bytes) -> tuple[float, float]:
    _, certificate, _ = _element(der)
    _, body, _ = _element(certificate)
    kind, _, rest = _element(body)
    if kind == _VERSION:
        kind, _, rest = _element(rest)
    if kind != _INTEGER:  # the serial number
        raise ValueError
    for _ in range(2):  # the algorithm of the signature, the issuer
        _, _, rest = _element(rest)
    kind, times, _ = _element(rest)
    if kind != _SEQUENCE:
        raise ValueError
    kind, first, rest = _element(times)
    other, last, _ = _element(rest)
    return _seconds(kind, first), _seconds(other, last)


def _element(der: bytes) -> tuple[int, bytes, bytes]:
    """Tag and content of the first element, and what follows it (X.690 section 8.1). Raises IndexError."""
    kind, size, at = der[0], der[1], 2
    if size & 0x80:
        at += size & 0x7F
        size = int.from_bytes(der[2:at], "big")
    return kind, der[at : at + size], der[at + size :]


def _seconds(kind: int, text: bytes) -> float:
    """A time of section 4.1.2.5; two digits of a year below 50 are of this century."""
    digits = text.decode("ascii").removesuffix("Z")
    if kind == _UTC_TIME:
        digits = ("20" if int(digits[:2]) < 50 else "19") + digits
    elif kind != _GENERALIZED_TIME:
        raise ValueError
    return datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()
