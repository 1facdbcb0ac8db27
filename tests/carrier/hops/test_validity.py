"""From when until when a certificate is good, against certificates of the `cryptography` package."""

import math
from datetime import UTC, datetime

import pytest
import trustme

from carrier.hops.selfsigned import pem
from carrier.hops.validity import validity


@pytest.mark.parametrize(
    "until", [datetime(2027, 5, 6, 7, 8, 9, tzinfo=UTC), datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2051, 1, 1, tzinfo=UTC)]
)
def test_the_end_of_a_certificate_is_read_in_both_forms_of_a_time(until):
    made = trustme.CA().issue_cert("a.test", not_after=until)
    since, found = validity(b"some words before it\n" + made.cert_chain_pems[0].bytes())
    assert found == until.timestamp()
    assert since < found


def test_a_certificate_of_our_own_is_good_now():
    since, until = validity(pem())
    assert since < datetime.now(UTC).timestamp() < until


@pytest.mark.parametrize(
    "data", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----", b"-----BEGIN CERTIFICATE-----"]
)
def test_what_cannot_be_read_is_good_for_ever(data):
    assert validity(data) == (0.0, math.inf)


def test_no_damaged_certificate_raises():
    good = trustme.CA().issue_cert("a.test").cert_chain_pems[0].bytes()
    for at in range(28, len(good), 7):
        validity(good[:at] + b"A" + good[at + 1 :])
