"""Gefyra's format as our configuration: its rules decide as theirs do, its samples load, and what is wrong is named."""

import asyncio
import json
import socket
import ssl
from pathlib import Path

import pytest

from carrier.cli import main as cli
from carrier.config.source import loads
from carrier.errors import ConfigError
from carrier.gefyra.format import BridgesOfFile, alternatives, is_everybodys, probe_ports, read
from carrier.rules.table import Matchers, Table
from tests.ports import free_port
from tests.support import http, port_of, running, tcp_server, udp_server

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "gefyra"

VECTORS = [
    ("exact path", [{"matchPath": {"path": "/a", "type": "exact"}}], "/a", {}, True),
    ("exact path sees the query", [{"matchPath": {"path": "/a", "type": "exact"}}], "/a?b=1", {}, False),
    ("exact path is no prefix", [{"matchPath": {"path": "/a", "type": "exact"}}], "/ab", {}, False),
    ("prefix", [{"matchPath": {"path": "/a", "type": "prefix"}}], "/ab?c=1", {}, True),
    ("regex sees the query", [{"matchPath": {"path": "user=jo", "type": "regex"}}], "/x?user=john", {}, True),
    ("regex anchored", [{"matchPath": {"path": "^/[a-z]{2,}/m", "type": "regex"}}], "/x/m", {}, False),
    ("header is exact unless it says otherwise", [{"matchHeader": {"name": "x-user", "value": "jo"}}], "/", {"x-user": "jon"}, False),
    ("header prefix", [{"matchHeader": {"name": "x-user", "value": "jo", "type": "prefix"}}], "/", {"x-user": "jon"}, True),
    ("header regex, in the name too", [{"matchHeader": {"name": "x-g-.*", "value": "^jo", "type": "regex"}}], "/", {"x-g-1": "jon"}, True),
    (
        "header regex, the name must be there",
        [{"matchHeader": {"name": "x-g-.*", "value": "^jo", "type": "regex"}}],
        "/",
        {"x-g": "jon"},
        False,
    ),
    ("all conditions", [{"matchHeader": {"name": "x-user", "value": "jo"}}, {"matchPath": {"path": "/a"}}], "/b", {"x-user": "jo"}, False),
    ("header names have no case", [{"matchHeader": {"name": "X-User", "value": "jo"}}], "/", {"x-user": "jo"}, True),
    ("no condition takes everything", [], "/", {}, True),
]


def translated(rules, **port):
    return loads(
        json.dumps({"version": 1, "proxy": [{"port": 8080, "clusterUpstream": ["a:1"], "bridges": {"b": bridge(rules)}, **port}]})
    ).config


def bridge(rules, endpoint="127.0.0.1:9"):
    return {"endpoint": endpoint, "rules": rules}


def decided(config, target, headers):
    """The cluster that serves a request."""
    listener = next(iter(config.listeners.values()))
    table = Table(config, listener.rules, {}, Matchers(), {})
    meta = {"HTTP": {"method": "GET", "url": {"path": target}, "headers": headers}, "IP": {"src_addr": "10.0.0.1"}}
    return config.routes[table.decide(meta).route].destination


@pytest.mark.parametrize(("match", "target", "headers", "wanted"), [v[1:] for v in VECTORS], ids=[v[0] for v in VECTORS])
def test_rules_decide_as_upstream_has_been_seen_to(match, target, headers, wanted):
    config = translated([{"match": match}])
    assert (decided(config, target, headers) == "8080/b") is wanted


def test_the_recorded_decisions_are_reproduced_except_the_listed_defects():
    file = SHARED / "match_vectors.json"
    if not file.exists():
        pytest.skip("the recorded vectors are not at hand")
    different = []
    for vector in json.loads(file.read_text()):
        try:
            found = decided(
                translated(vector["rules"]), vector["request"]["target"], {k.lower(): v for k, v in vector["request"]["headers"].items()}
            )
        except ConfigError:
            found = None
        if (found == "8080/b" if found else None) != vector["upstream_result"]:
            different.append(vector["id"])
    assert different == ["uppercase-rule-name"]


def test_rules_are_alternatives_and_the_first_bridge_of_the_file_wins():
    rules = [{"match": [{"matchPath": {"path": "/a", "type": "prefix"}}]}, {"match": [{"matchHeader": {"name": "x", "value": "1"}}]}]
    text = {"proxy": [{"port": 8080, "clusterUpstream": ["a:1"], "bridges": {"z": bridge(rules), "a": bridge([{"match": []}])}}]}
    config = loads(json.dumps(text)).config
    assert decided(config, "/a/b", {}) == "8080/z"
    assert decided(config, "/b", {"x": "1"}) == "8080/z"
    assert decided(config, "/b", {}) == "8080/a"


def test_a_bridge_may_have_any_name_without_taking_what_is_everybodys():
    """DNS labels all, and what no label can be: a bridge called `shadow` is not the shadow."""
    names = ["shadow", "probes", "bridge", "x", "x/probes", "bridge/probes", "bridge/x", "0", "-"]
    agent = {"matchHeader": {"name": "user-agent", "value": "kube-probe/x"}}

    def rules(i):
        return [{"match": [{"matchHeader": {"name": "x-user", "value": str(i)}}]}, {"match": [agent]}]

    bridges = {name: {"endpoint": f"laptop:{100 + i}", "rules": rules(i)} for i, name in enumerate(names)}
    config = loads(json.dumps({"proxy": [{"port": 8080, "clusterUpstream": ["shadow:80"], "bridges": bridges}]})).config
    for i, name in enumerate(names):
        cluster = decided(config, "/", {"x-user": str(i)})
        assert [endpoint.spec["port"] for endpoint in config.clusters[cluster].endpoints] == [100 + i], name
        assert not is_everybodys(cluster)
    assert decided(config, "/", {}) == "8080/shadow"
    assert is_everybodys("8080/shadow") and is_everybodys("53/udp/probes")
    found = BridgesOfFile()
    assert [(bridge.user, bridge.listener) for bridge in {one.name: one for one in found(config).values()}.values()] == [
        (name, "port/8080") for name in names
    ]
    assert set(found(config)["8080/x"].rules) == {"8080/x", "8080/probes/x"} and found(config) is found(config)
    assert found(loads('{"proxy": [{"port": 8080, "clusterUpstream": ["shadow:80"]}]}').config) == {}


def test_a_bridge_without_rules_never_matches():
    assert decided(translated([]), "/", {}) == "8080/shadow"


def test_probes_reach_the_shadow_unless_a_rule_names_them():
    probe = {"user-agent": "kube-probe/1.29"}
    assert decided(translated([{"match": []}]), "/", probe) == "8080/shadow"
    named = [{"match": [{"matchHeader": {"name": "user-agent", "value": "kube-probe", "type": "prefix"}}]}]
    assert decided(translated(named), "/", probe) == "8080/b"
    assert decided(translated(named), "/", {}) == "8080/shadow"


def test_hooks_of_the_container_reach_nobody():
    """preStop: httpGet /shutdown: the shadow, or a laptop, would do it."""
    for rules in ([{"match": []}], [{"match": [{"matchHeader": {"name": "user-agent", "value": "kube-", "type": "prefix"}}]}]):
        assert decided(translated(rules), "/shutdown", {"user-agent": "kube-lifecycle/1.34"}) == "probe/httpGet"


@pytest.mark.parametrize(
    "name", ["default_upstream", "one_peer", "operator-generated-multiport-tls", "three_peers_tls", "default_upstream_tls"]
)
def test_upstream_samples_load(name):
    file = SHARED / f"{name}.yaml"
    if not file.exists():
        pytest.skip("the samples are not at hand")
    loaded = loads(file.read_text())
    assert loaded.config.listeners


def test_names_that_do_not_resolve_refuse_nothing():
    config = translated([{"match": []}], clusterUpstream=["no-such-name.invalid:80"])
    assert config.clusters["8080/shadow"].endpoints[0].spec["address"] == "no-such-name.invalid"


def test_tls_goes_to_the_shadow_and_to_laptops_unless_a_bridge_says_no():
    tls = {"certificate": "c.pem", "key": "k.pem", "sni": "app.test"}
    bridges = {"a": bridge([{"match": []}]), "b": {**bridge([]), "tls": False}, "c": {**bridge([]), "sni": "other.test"}}
    document = read({"proxy": [{"port": 443, "clusterUpstream": ["a:1"], "tls": tls, "bridges": bridges}]})
    specs = {cluster["name"]: cluster["spec"].get("tls") for cluster in document["clusters"]}
    assert specs.pop("probe/httpGet") is None
    assert specs == {
        "443/shadow": {"verify": False, "sni": "app.test"},
        "443/a": {"verify": False, "sni": "app.test"},
        "443/b": None,
        "443/c": {"verify": False, "sni": "other.test"},
    }
    assert document["listeners"][0]["spec"]["tls"] == {"certificate": "c.pem", "key": "k.pem"}


async def test_a_udp_port_serves_ipv4_and_ipv6_as_a_tcp_port_does():
    async with udp_server() as upstream:
        port = free_port(socket.SOCK_DGRAM)
        proxy = {"port": port, "protocol": "udp", "clusterUpstream": [f"127.0.0.1:{upstream.port}"]}
        async with running(loads(json.dumps({"version": 1, "proxy": [proxy]})).config) as running_proxy:
            for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
                with socket.socket(family, socket.SOCK_DGRAM) as client:
                    client.setblocking(False)
                    client.connect((host, port))
                    client.send(b"hello")
                    assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 99), 5) == b"hello"
            sources = {session.metadata["IP"]["src_addr"] for session in running_proxy.sessions()}
            assert sources == {"127.0.0.1", "::1"}


def test_what_is_wrong_is_told_at_once_and_with_its_line():
    text = """
version: 1
proxy:
  - port: 99999
  - port: 80
    clusterUpstrem: ["a:1"]
    clusterUpstream: ["no port"]
    bridges:
      john:
        endpoint: 10.0.0.1
        rules:
          - match:
              - matchPath: {path: "(", type: regex}
              - matchHeader: {name: x-user, vlaue: john}
  - port: 80
probes: {httpGet: [http], httpGett: [1]}
"""
    with pytest.raises(ConfigError) as caught:
        loads(text)
    problems = {problem.line: problem.message for problem in caught.value.problems}
    assert set(problems) >= {4, 6, 7, 10, 13, 14, 15, 16}
    assert "unknown field 'clusterUpstrem'" in problems[6]
    assert "taken" in problems[15]


def test_a_value_that_no_header_can_have_is_wrong():
    with pytest.raises(ConfigError, match="no header has CR, LF or NUL in its value"):
        alternatives([{"match": [{"matchHeader": {"name": "x-user", "value": "jo\nhn", "type": "exact"}}]}])


def test_unknown_top_level_keys_are_passed_over_as_upstream_does():
    assert loads('{"version": 1, "threads": 4, "grace_period_seconds": 3, "probes": {"httpGet": [8001]}}').config.listeners


def test_probe_ports_of_an_odd_document_are_none():
    assert probe_ports({"probes": {"httpGet": [1, "x", True, 0], "httpsGet": 3}}) == {"httpGet": [1]}
    assert probe_ports([]) == {}


# -- in force


async def test_a_port_without_upstream_answers_503_and_a_dead_laptop_is_answered_for_by_the_shadow():
    async def serve(peer):
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nshadow")

    async with tcp_server(serve) as shadow:
        text = {
            "proxy": [
                {"port": 1, "clusterUpstream": [f"127.0.0.1:{shadow.port}"], "bridges": {"john": bridge([{"match": []}], "127.0.0.1:3")}},
                {"port": 2},
            ]
        }
        config = loads(json.dumps(text)).config
        for listener in config.listeners.values():
            listener.spec.update(port=0, address="127.0.0.1")
        async with running(config) as proxy:
            assert (await http(port_of(proxy, "port/2")))[0] == 503
            status, fields, body = await http(port_of(proxy, "port/1"))
            assert (status, fields["x-carrier-fallback"], body) == (200, "refused", b"shadow")


async def test_probe_ports_answer_200_over_http_and_https_accept_over_tcp():
    config = loads(json.dumps({"probes": {"httpGet": [1], "httpsGet": [2], "tcpSocket": [3]}})).config
    for listener in config.listeners.values():
        listener.spec.update(port=0, address="127.0.0.1")
    async with running(config) as proxy:
        status, fields, body = await http(port_of(proxy, "probe-1"), "/healthz?x")
        assert (status, body, fields["content-length"]) == (200, b"", "0")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(proxy, "probe-2"), ssl=context)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 200 ")
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(proxy, "probe-3"))
        writer.close()


def test_the_translation_can_be_shown_and_reads_back_as_the_same(tmp_path, capsys):
    file = tmp_path / "gefyra.yaml"
    rules = [{"match": [{"matchPath": {"path": "/a", "type": "regex"}}, {"matchHeader": {"name": "x", "value": "1"}}]}]
    file.write_text(json.dumps({"proxy": [{"port": 8080, "clusterUpstream": ["[::1]:1", "b:2"], "bridges": {"b": bridge(rules)}}]}))
    assert cli.main(["check", "--print", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "matchPath" in shown
    assert loads(shown).config == loads(file.read_text()).config
