"""Gefyra's format, written as short as it can be said: it is read as the same, and many bridges fit into what the operator reads back."""

import json
from pathlib import Path

import pytest
import yaml

from carrier.gefyra.compact import READ_BACK, compact, owner, written
from carrier.gefyra.format import read

DOCUMENT = {
    "version": 1,
    "threads": 4,
    "error_log": "/tmp/carrier.log",
    "pid_file": "/tmp/carrier2.pid",
    "upgrade_sock": "/tmp/carrier2.sock",
    "upstream_keepalive_pool_size": 100,
    "probes": {"httpGet": [8081], "httpsGet": []},
    "proxy": [{"port": 8080, "tls": None, "clusterUpstream": ["web-web-gefyra-svc.shop.svc.cluster.local:8080"], "bridges": {}}],
}


def bridges(count):
    rules = [{"match": [{"matchHeader": {"name": "x-user", "value": "somebody", "type": "exact", "raw": True}}]}]
    endpoint = "gefyra-stowaway-proxy-10000.gefyra.svc.cluster.local:10000"
    return [{"name": f"bridge-user{i:02}.8080", "port": 8080, "user": "u", "endpoint": endpoint, "rules": rules} for i in range(count)]


def test_twenty_four_bridges_fit_into_what_the_operator_reads_back():
    text = compact(DOCUMENT, bridges(24))
    assert len(text.encode()) <= READ_BACK
    found = yaml.safe_load(text)["proxy"][0]["bridges"]
    assert len(found) == 24
    assert found["bridge-user07"]["endpoint"] == "gefyra-stowaway-proxy-10000.gefyra.svc.cluster.local:10000"
    assert len(yaml.safe_dump(yaml.safe_load(text), sort_keys=False)) > READ_BACK  # as the operator writes it, it would not


def same(one, other):
    """Equal, but for `exact`, which a condition is without a type."""

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(member) for key, member in value.items() if (key, member) != ("type", "exact")}
        return list(map(plain, value)) if isinstance(value, list) else value

    return plain(one) == plain(other)


def test_it_says_the_same():
    given = {**DOCUMENT, "proxy": [{**DOCUMENT["proxy"][0]}]}
    given["proxy"][0]["bridges"] = {
        "odd:{name}": {"endpoint": "[fd00::1]:80", "rules": [{"match": [{"matchPath": {"path": "/a, {b}: [c] # d", "type": "regex"}}]}]},
        "1": {"endpoint": "h:1", "rules": [{"match": [{"matchHeader": {"name": "on", "value": "yes", "type": "exact"}}]}]},
    }
    text = compact(given)
    for name, found in yaml.safe_load(text)["proxy"][0]["bridges"].items():
        assert found["endpoint"] == given["proxy"][0]["bridges"][name]["endpoint"]
    assert same(read(yaml.safe_load(text)), read(given))
    assert compact(yaml.safe_load(text)) == text


def test_every_sample_is_read_as_before():
    folder = Path(__file__).resolve().parents[4] / "shared" / "data" / "gefyra"
    files = ["default_upstream", "default_upstream_tls", "one_peer", "three_peers_tls", "operator-generated-multiport-tls"]
    if not folder.exists():
        pytest.skip("upstream's samples are not at hand")
    for name in files:
        given = yaml.safe_load((folder / f"{name}.yaml").read_text())
        assert same(read(yaml.safe_load(compact(given))), read(given)), name


@pytest.mark.parametrize(
    ("bridge", "rules"),
    [
        ({"type": "stream"}, [{"match": []}]),
        ({"type": "http", "url": "/api"}, [{"match": [{"matchPath": {"path": "/api", "type": "prefix"}}]}]),
        ({"match": {"matchHeader": {"name": "a", "value": "b"}}}, [{"match": [{"matchHeader": {"name": "a", "value": "b"}}]}]),
    ],
)
def test_bridges_of_every_kind_have_words_in_it(bridge, rules):
    found = yaml.safe_load(compact(DOCUMENT, [{"name": "john.8080", "port": 8080, "endpoint": "h:1", "fallback": "error", **bridge}]))
    assert found["proxy"][0]["bridges"] == {"john": {"endpoint": "h:1", "rules": rules, "fallback": "error"}}


def test_a_bridge_belongs_to_the_object_it_was_made_for():
    assert [owner(name) for name in ("a.b.80", "john", ".80", "john.x")] == ["a.b", "john", ".80", "john.x"]
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT


def test_it_is_written_as_the_operator_writes_it_while_that_fits():
    few, many = written(DOCUMENT, bridges(3)).decode(), written(DOCUMENT, bridges(20))
    assert (
        "bridge-user01:\n      endpoint: gefyra-stowaway-proxy-10000.gefyra.svc.cluster.local:10000\n      rules:\n      - match:\n" in few
    )
    assert yaml.safe_load(few) == yaml.safe_load(compact(DOCUMENT, bridges(3)))
    assert many == compact(DOCUMENT, bridges(20)).encode()
    own = yaml.safe_dump(DOCUMENT).encode()
    assert written(DOCUMENT, [], own) == own
    assert written(DOCUMENT, [], own + b"#" * READ_BACK) != own


@pytest.mark.parametrize("value", [{}, {"a": []}, {"a": {}}, {"a": [1, [2, {"b": "c: d"}], {}]}, {"x": {"y": [{"z": [{"q": None}]}]}}])
def test_block_style_says_the_same(value):
    assert yaml.safe_load(written({"x": value}, [])) == {"x": value}
