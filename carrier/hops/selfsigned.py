"""A key and a certificate that it signs itself, made by the OpenSSL that Python has loaded anyway.

The `cryptography` package would do it too, for ten MiB of memory that stay and a twentieth of a second, which a pod with a tenth of a CPU
waits half a second for. So OpenSSL's own functions are called (ctypes; they are those of OpenSSL 3), and the package is what is left
where Python's OpenSSL does not show them.
"""

from __future__ import annotations

import ctypes
import secrets
from typing import Any

from carrier.errors import Error

NAME = "carrier"
DAY = 86_400
LIFETIME = 3650 * DAY
"""Seconds."""
_ASCII = 0x1001  # MBSTRING_ASC
_VERSION_3 = 2
_POINTERS = (
    *("EVP_PKEY_Q_keygen", "X509_new", "X509_get_serialNumber", "X509_getm_notBefore", "X509_getm_notAfter", "X509_get_subject_name"),
    *("EVP_sha256", "BIO_new", "BIO_s_mem", "X509_gmtime_adj"),
)


def pem() -> bytes:
    """A new key and its certificate, both as PEM."""
    try:
        return _by_openssl()
    except (AttributeError, OSError, ImportError):
        return by_package()


def _by_openssl() -> bytes:
    """Raises AttributeError or OSError: this Python's OpenSSL cannot be called, or has failed."""
    import _ssl

    library: Any = ctypes.CDLL(_ssl.__file__)  # what it is linked to is found through it
    for name in _POINTERS:
        getattr(library, name).restype = ctypes.c_void_p
    pointer, number = ctypes.c_void_p, ctypes.c_long
    key = pointer(_good(library.EVP_PKEY_Q_keygen(None, None, b"EC", b"P-256")))
    certificate = pointer(_good(library.X509_new()))
    out = pointer(_good(library.BIO_new(pointer(library.BIO_s_mem()))))
    try:
        subject = pointer(library.X509_get_subject_name(certificate))
        _good(library.X509_set_version(certificate, number(_VERSION_3)))
        _good(library.ASN1_INTEGER_set(pointer(library.X509_get_serialNumber(certificate)), number(secrets.randbits(62))))
        _good(library.X509_gmtime_adj(pointer(library.X509_getm_notBefore(certificate)), number(-DAY)))
        _good(library.X509_gmtime_adj(pointer(library.X509_getm_notAfter(certificate)), number(LIFETIME)))
        _good(library.X509_NAME_add_entry_by_txt(subject, b"CN", _ASCII, NAME.encode(), -1, -1, 0))
        _good(library.X509_set_issuer_name(certificate, subject))
        _good(library.X509_set_pubkey(certificate, key))
        _good(library.X509_sign(certificate, key, pointer(library.EVP_sha256())))
        _good(library.PEM_write_bio_PrivateKey(out, key, None, None, 0, None, None))
        _good(library.PEM_write_bio_X509(out, certificate))
        buffer = ctypes.create_string_buffer(16 * 1024)
        size = _good(library.BIO_read(out, buffer, len(buffer)))
        return buffer.raw[:size]
    finally:
        library.BIO_free(out)
        library.X509_free(certificate)
        library.EVP_PKEY_free(key)


def _good(result: Any) -> Any:
    """OpenSSL's functions return 0, or less, when they fail."""
    if result is None or result <= 0:
        raise OSError("OpenSSL could not make a certificate")
    return result


def by_package() -> bytes:
    """The same by the `cryptography` package. Raises Error("config") where it is not installed."""
    from datetime import UTC, datetime, timedelta

    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID
    except ImportError:
        raise Error("config", "self_signed needs a Python that is linked to OpenSSL 3, or the package `cryptography`") from None

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(seconds=DAY))
    certificate = builder.not_valid_after(now + timedelta(seconds=LIFETIME)).sign(key, hashes.SHA256())
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private + certificate.public_bytes(serialization.Encoding.PEM)
