"""Certificates for probes: good ones, made without the weight of a package."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from carrier.hops import selfsigned


@pytest.mark.parametrize("make", [selfsigned.pem, selfsigned.by_package])
def test_the_certificate_is_of_the_key_signed_by_it_and_good_for_years(make):
    text = make()
    key, certificate = load_pem_private_key(text, None), x509.load_pem_x509_certificate(text)
    assert certificate.public_key() == key.public_key()
    certificate.verify_directly_issued_by(certificate)
    now = datetime.now(UTC)
    assert certificate.not_valid_before_utc < now - timedelta(hours=23)
    assert certificate.not_valid_after_utc > now + timedelta(days=3600)
    assert certificate.subject.rfc4514_string() == "CN=carrier"


def test_no_two_are_the_same():
    assert len({selfsigned.pem() for _ in range(20)}) == 20


def test_python_s_own_openssl_makes_it():
    code = "import sys; from carrier.hops.selfsigned import pem; pem(); print('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_an_openssl_that_cannot_be_called_is_replaced(monkeypatch):
    def none():
        raise AttributeError("EVP_PKEY_Q_keygen")

    monkeypatch.setattr(selfsigned, "_by_openssl", none)
    assert b"BEGIN CERTIFICATE" in selfsigned.pem()
