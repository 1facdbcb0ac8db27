"""Why a session went where it went, told without what it brought in secret."""

from __future__ import annotations

import json

from carrier.admin.happened import happened, without_secrets
from carrier.redact import ALWAYS, hidden
from tests.support import config, echo, listener, running

SECRET = "s3cr3t-value"


async def test_a_secret_decides_and_is_not_shown():
    rules = [
        {"name": "mine", "match": {"matchCookie": {"name": "sid", "value": "other"}}, "action": {"route": {"destination": "echo"}}},
        {
            "name": "token",
            "match": {"matchHeader": {"name": "authorization", "value": SECRET}},
            "action": {"route": {"destination": "echo"}},
        },
        {"name": "user", "match": {"matchHeader": {"name": "x-user", "value": "john"}}, "action": {"route": {"destination": "echo"}}},
    ]
    metadata = {
        "HTTP": {
            "method": "GET",
            "url": {"url": "/a?b=c", "path": "/a?b=c", "query": "b=c"},
            "headers": {"cookie": f"sid={SECRET}", "authorization": SECRET, "x-user": "john"},
        }
    }
    async with running(config(clusters=[echo()], listeners=[listener("web", protocol="HTTP", rules=rules)])) as proxy:
        found = happened("web", proxy.tables["web"], metadata, ALWAYS)
    explanation = found["explanation"]
    assert explanation["rule"] == "token"  # as it was routed, though nobody sees by what
    mine, token, user = (report["conditions"][0] for report in explanation["steps"][0]["rules"])
    assert (mine["held"], mine["seen"]) == (False, "(redacted)")
    assert (token["held"], token["seen"]) == (True, "(redacted)")
    assert (user["held"], user["seen"]) == (True, '"john"')
    assert ["x-user", "john"] in found["headers"] and ["cookie", "(redacted)"] in found["headers"]
    wanted = [report["conditions"][0].pop("wanted") for report in explanation["steps"][0]["rules"]]
    assert SECRET in wanted[1]  # the rule's own, which GET /rules shows as well
    assert SECRET not in json.dumps(found)


def test_a_query_that_is_not_to_be_seen_is_not():
    metadata = {"HTTP": {"url": {"url": "http://joe:pw@x/a?b=c", "path": "/a?b=c", "query": "b=c"}, "headers": {"x": "a\x1bb"}}}
    shown = without_secrets(metadata, hidden(query=False))["HTTP"]
    assert shown["url"] == {"url": "http://(redacted)@x/a", "path": "/a"}
    assert shown["headers"] == {"x": "a\\x1bb"}
    assert without_secrets({"TCP": {"src_port": 1}}, ALWAYS) == {"TCP": {"src_port": 1}}
