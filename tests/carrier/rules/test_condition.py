"""Conditions: `matchX` against requests, in the index and in explain."""

from __future__ import annotations

from typing import Any

import pytest

from tests.matching import header, holds, path, request


@pytest.mark.parametrize(
    ("match", "meta", "expected"),
    [
        (header("john", name="X-User"), request(x_user="john"), True),
        (header("john"), request(x_user="John"), False),
        (header("jo", "prefix"), request(x_user="john"), True),
        (header("^j.*n$", "regex"), request(x_user="john"), True),
        (header("^j.*n$", "regex"), request(x_user="jane"), False),
        (header("john"), request(x_user="jane, john"), True),
        (header("jane, john"), request(x_user="jane, john"), True),
        (header("john"), request(x_user=["jane", "john"]), True),
        (header("jo", "prefix"), request(x_user="jane,john"), True),
        (header("^john$", "regex"), request(x_user="jane, john"), True),
        (header("john"), request(x_user="johnny, bjohn"), False),
        (path("/admin"), request("/admin?x"), True),
        (path("/%61dmin"), request("/admin"), True),
        (path("/admin"), request("/admin/"), False),
        (path("/admin", "prefix"), request("/admin;x"), True),
        (path("^/a+$", "regex"), request("/%61a?b"), True),
        (path("/admin"), request("/x%2f../admin"), False),
        ({"matchMethod": {"method": "PUT"}}, request(method="PUT"), True),
        ({"matchMethod": {"method": ["PUT", "POST"]}}, request(method="POST"), True),
        ({"matchMethod": {"method": ["PUT", "POST"]}}, request(), False),
        ({"matchQuery": {"name": "user", "value": "j n"}}, request("/?a=1&user=j+n"), True),
        ({"matchQuery": {"name": "user", "value": "j"}}, request("/?user=x&user=j"), True),
        ({"matchQuery": {"name": "user", "value": ""}}, request("/?user="), True),
        ({"matchQuery": {"name": "user", "value": "j", "type": "prefix"}}, request("/?user=%6Aoe"), True),
        ({"matchQuery": {"name": "user", "value": "j"}}, request("/user=j"), False),
        ({"matchCookie": {"name": "user", "value": "j"}}, request(cookie="a=b; user=j"), True),
        ({"matchCookie": {"name": "user", "value": "j"}}, request(cookie="xuser=j"), False),
        ({"matchBaggage": {"name": "user", "value": "j n"}}, request(baggage="a=b, user = j%20n ;p=1"), True),
        ({"matchBaggage": {"key": "user", "value": "j"}}, request(baggage=["a=b", "user=j"]), True),
        ({"matchTracestate": {"key": "gefyra", "value": "j", "type": "prefix"}}, request(tracestate="congo=t61,gefyra=john"), True),
        ({"matchHost": {"host": "A.example.org"}}, request(host="a.EXAMPLE.org.:8080"), True),
        ({"matchHost": {"host": "example.org", "type": "suffix"}}, request(host="a.example.org"), True),
        ({"matchHost": {"host": "example.org", "type": "suffix"}}, request(host="example.org"), True),
        ({"matchHost": {"host": ".example.org", "type": "suffix"}}, request(host="example.org"), False),
        ({"matchHost": {"host": "example.org", "type": "suffix"}}, request(host="badexample.org"), False),
        ({"matchHost": {"host": "::1"}}, {"HTTP": {"headers": {"host": "[::1]:80"}}}, True),
        ({"matchSni": {"sni": "example.org", "type": "suffix"}}, request(sni="A.example.org"), True),
        ({"matchSni": {"sni": "^a\\.", "type": "regex"}}, request(sni="b.org"), False),
        ({"matchSource": {"cidr": "192.0.2.0/24"}}, request(), True),
        ({"matchSource": {"cidr": "192.0.2.0/24"}}, request(src="::ffff:192.0.2.9"), True),
        ({"matchSource": {"cidr": "::ffff:192.0.2.0/120"}}, request(src="192.0.2.9"), True),
        ({"matchSource": {"cidr": "192.0.2.7"}}, request(src="::ffff:c000:207"), True),
        ({"matchSource": {"cidr": ["10.0.0.0/8", "2001:db8::/32"]}}, request(src="2001:db8::1%eth0"), True),
        ({"matchSource": {"cidr": "::/0"}}, request(), False),
        ({"matchSource": {"cidr": "0.0.0.0/0"}}, {"UNIX": {}}, False),
        ([header("john"), path("/a", "prefix")], request("/ab", x_user="john"), True),
        ({**header("john"), **path("/a", "prefix")}, request("/b", x_user="john"), False),
        ([header("john"), {"any": [path("/a"), path("/b")]}], request("/b", x_user="john"), True),
        ([header("john"), {"op": "not", "apply": [{"op": "test", "path": "/HTTP/method", "value": "GET"}]}], request(x_user="john"), False),
        ([], {}, True),
        (None, {}, True),
        ("anything", {}, True),
        ({"any": []}, request(), False),
    ],
)
def test_conditions(match: object, meta: dict[str, Any], expected: bool) -> None:
    assert holds(match, meta) is expected
