"""Spellings of what frames a request and names its host: the plain ones are served, all the others refused, alone and beside a plain one.

What is served must also reach the next hop with the body that was meant; what is refused lets nothing behind it through.
"""

from __future__ import annotations

import pytest

from tests.compliance.test_http1_cases import HELLO, NEXT, get, post, serve

CHUNKED = (b"chunked", b"Chunked", b"CHUNKED", b"cHuNkEd", b"chunked ", b"\tchunked", b" chunked\t ")
NOT_CHUNKED = (
    *(b"", b" ", b",", b"chunked,", b",chunked", b", chunked", b"chunked,,", b"chunked, chunked", b"chunked,CHUNKED", b"chunked chunked"),
    *(
        b"xchunked",
        b"chunkedx",
        b"chunk",
        b"chunke",
        b"x-chunked",
        b"chunked-x",
        b"chunked/1",
        b"chunked;",
        b"chunked;a=b",
        b"chunked;q=0.5",
    ),
    *(b'"chunked"', b"'chunked'", b"(chunked)", b"[chunked]", b"=chunked", b"chunked=", b"\\chunked", b"%63hunked", b"ch\\unked"),
    *(b"identity", b"identity, chunked", b"chunked, identity", b"gzip", b"gzip, chunked", b"chunked, gzip", b"deflate", b"br", b"trailers"),
    *(b"foo", b"foo, chunked", b'foo;a="b, chunked"', b"none", b"null", b"false", b"0", b"5", b"*"),
    *(
        b"chunked\x0b",
        b"\x0cchunked",
        b"chunked\0",
        b"\0chunked",
        b"chunked\xa0",
        b"\xe2\x80\x8bchunked",
        b"chun\xe2\x84\xaaed",
        b"chunked\x7f",
    ),
    *(
        b"\rchunked",
        b"\nchunked",
        b"chunked\r",
        b"chunked\n",
        b"\r\n chunked",
        b"\r\n\tchunked",
        b"chunked\r\n ",
        b"chunked\r\n\t, identity",
    ),
)
LENGTHS = (b"5", b" 5", b"5 ", b"\t5\t")
NOT_LENGTHS = (
    *(
        b"",
        b" ",
        b"+5",
        b"-5",
        b"-0",
        b"+0",
        b"05",
        b"005",
        b"00",
        b"0x5",
        b"0X5",
        b"5x",
        b"5h",
        b"1_0",
        b"1e1",
        b"5.0",
        b"5.",
        b".5",
        b"0b101",
    ),
    *(
        b"5,5",
        b"5, 5",
        b"5,",
        b",5",
        b"5, 6",
        b"0, 5",
        b"5;",
        b"5;5",
        b"5 5",
        b"5\t5",
        b'"5"',
        b"'5'",
        b"(5)",
        b"5=5",
        b"1,000",
        b"5L",
        b"%35",
    ),
    *(
        b"5\0",
        b"\x0b5",
        b"5\xa0",
        b"\xe2\x81\xb5",
        b"\xef\xbc\x95",
        b"\xd9\xa5",
        b"five",
        b"NaN",
        b"inf",
        b"null",
        b"5\r",
        b"\n5",
        b"\r\n 5",
    ),
    *(b"9" * 19, b"9223372036854775808", b"18446744073709551615", b"18446744073709551621", b"0" * 20 + b"5", b"9" * 500),
)
HOSTS = (
    *(b"a", b"A.Example", b"a.example:80", b"a.example:", b"a:0", b"a:65535", b"a:00080", b"1.2.3.4", b"1.2.3.4:8080", b"256.256.256.256"),
    *(b"[::1]", b"[::1]:80", b"[::]", b"[::ffff:1.2.3.4]", b"[v1.a]", b"a_b", b"-a", b"a.", b"a..b", b"a%2eb", b"xn--e1afmkfd", b"~", b"0"),
)
NOT_HOSTS = (
    *(
        b"",
        b" ",
        b":",
        b":80",
        b"a:65536",
        b"a:99999",
        b"a:-1",
        b"a:+80",
        b"a:x",
        b"a:80x",
        b"a:80:80",
        b"a: 80",
        b"a :80",
        b"a:8 0",
        b"a b",
    ),
    *(b"u@a", b"u:p@a", b"@a", b"a@", b"a/", b"a/x", b"/", b"a?x", b"a#x", b"http://a", b"a\\b", b"a,b", b"a, b", b"a;b", b"<a>", b'"a"'),
    *(b"*", b"*.a", b"a|b", b"a^b", b"a`b", b"a{b}", b"a!b", b"a$b", b"a&b", b"a'b", b"a(b)", b"a+b", b"a=b", b"a%", b"a%zz", b"a%2"),
    *(b"[::1", b"::1", b"::1]", b"[]", b"[]:80", b"[::1]x", b"x[::1]", b"[:::]", b"[g::1]", b"[1.2.3.4]", b"[fe80::1%eth0]", b"[v1.]"),
    *(b"\xe9", b"\xc3\xa9.example", b"a\0b", b"a\tb", b"a\x7fb", b"a\x0bb", b"a\r\n b", b"\r\n a"),
)
TE, CL = b"Transfer-Encoding: ", b"Content-Length: "


def refused(raw: bytes) -> None:
    server, error = serve(raw)
    assert server.sent == [], raw
    assert error is not None, raw
    assert error.status in (400, 501), raw
    drip, same = serve(raw, 1)
    assert drip.sent == []
    assert same is not None


@pytest.mark.parametrize("coding", CHUNKED)
def test_chunked_is_chunked_in_any_case_and_between_spaces(coding: bytes) -> None:
    for name in (b"Transfer-Encoding:", b"transfer-encoding:", b"TRANSFER-ENCODING:"):
        server, error = serve(post(name + coding, body=HELLO) + get())
        assert (server.bodies, error) == ([b"hello", b""], None)
    refused(get(TE + coding, b"Connection: keep-alive", line=b"POST /x HTTP/1.0") + HELLO + NEXT)


@pytest.mark.parametrize("coding", NOT_CHUNKED)
def test_what_is_not_exactly_chunked_is_refused_wherever_it_stands(coding: bytes) -> None:
    for body in (HELLO, b"", NEXT):
        refused(post(TE + coding, body=body) + NEXT)
        refused(post(TE + b"chunked", TE + coding, body=body) + NEXT)
        refused(post(TE + coding, TE + b"chunked", body=body) + NEXT)
        refused(post(TE + coding, CL + b"5", body=body) + NEXT)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_length_is_one_plain_number(length: bytes) -> None:
    for name in (b"Content-Length:", b"content-length:", b"CONTENT-LENGTH:"):
        server, error = serve(post(name + length, body=b"hello") + get())
        assert (server.bodies, error) == ([b"hello", b""], None)
    refused(post(CL + length, CL + length, body=b"hello") + NEXT)
    for coding in (b"chunked", b"identity"):
        refused(post(CL + length, TE + coding, body=HELLO) + NEXT)
        refused(post(TE + coding, CL + length, body=HELLO) + NEXT)


@pytest.mark.parametrize("length", NOT_LENGTHS)
def test_what_is_no_plain_number_is_refused_wherever_it_stands(length: bytes) -> None:
    for body in (b"hello", b"", NEXT):
        refused(post(CL + length, body=body) + NEXT)
        refused(post(CL + b"5", CL + length, body=body) + NEXT)
        refused(post(CL + length, CL + b"5", body=body) + NEXT)
        refused(post(CL + length, TE + b"chunked", body=body) + NEXT)


@pytest.mark.parametrize("host", HOSTS)
def test_hosts_that_are_names_or_addresses_are_served(host: bytes) -> None:
    for raw in (get(host=b"Host: " + host + b"\r\n"), get(line=b"GET http://" + host + b"/x HTTP/1.1", host=b"Host:" + host + b"\r\n")):
        server, error = serve(raw + get())
        assert (len(server.sent), error) == (2, None)


@pytest.mark.parametrize("host", NOT_HOSTS)
def test_hosts_that_are_none_are_refused_wherever_they_stand(host: bytes) -> None:
    plain = b"Host: a.example\r\n"
    refused(get(host=b"Host: " + host + b"\r\n") + NEXT)
    refused(get(b"Host: " + host, host=plain) + NEXT)
    refused(get(plain[:-2], host=b"Host: " + host + b"\r\n") + NEXT)
    refused(get(line=b"GET http://a.example/x HTTP/1.1", host=b"Host: " + host + b"\r\n") + NEXT)
    if host.strip() and b"/" not in host and b"?" not in host:
        refused(get(line=b"GET http://" + host + b"/x HTTP/1.1", host=plain) + NEXT)
