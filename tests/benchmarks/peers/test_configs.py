"""What each peer is told, and that the programs that are installed do it: the job is the same for all."""

import json
import re

import pytest
import yaml

from benchmarks.check import check
from benchmarks.measure import PROXY_CORE
from benchmarks.peers import H2, PROTOCOLS, carrier, envoy, haproxy, nginx, node, usual_job, version
from benchmarks.peers.registry import PEERS
from benchmarks.processes import Children, free_ports, start_backend, wait_for_port

PORTS = {"A": 9001, "B": 9002, "D": 9003}
JOB = usual_job("http", 8000, PORTS)


def test_nginx_maps_the_header_and_keeps_upstreams_alive(tmp_path):
    text = nginx.config(JOB, tmp_path)
    assert "map $http_x_user $chosen { default D; alice A; bob B; }" in text
    assert re.findall(r"upstream (\w) \{ server 127.0.0.1:(\d+); keepalive 1024;", text) == [("A", "9001"), ("B", "9002"), ("D", "9003")]
    assert "worker_processes 1;" in text and "access_log off;" in text and "stream {" not in text


def test_nginx_relays_streams_and_datagrams(tmp_path):
    text = nginx.config(usual_job("udp", 8000, {"D": 9003}), tmp_path, "load_module m.so;")
    assert text.startswith("load_module m.so;") and "listen 127.0.0.1:8000 udp reuseport;" in text and "http {" not in text
    assert "proxy_buffer_size 256k;" in nginx.config(usual_job("bulk", 1, {"D": 2}), tmp_path, "", nginx.STREAM_BUFFERS["nginx-tuned"])


def test_haproxy_has_one_thread_and_reuses_connections():
    text = haproxy.config(JOB)
    assert "nbthread 1" in text and text.count("http-reuse always") == 3
    assert text.index("-m str alice") < text.index("-m str bob") < text.index("path_beg /svc/") < text.index("default_backend D")
    assert "mode tcp" in haproxy.config(usual_job("tcp", 1, {"D": 2}))


def test_envoy_routes_in_the_same_order():
    manager = envoy.config(JOB)["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    assert [route["route"]["cluster"] for route in routes] == ["A", "B", "A", "D"]


@pytest.mark.parametrize("protocol", ["h2", "h2-h2", "grpc"])
def test_http_2_is_spoken_to_clients_and_where_the_job_says_so_to_backends(protocol, tmp_path):
    job = usual_job(protocol, 8000, PORTS)
    up = protocol != "h2"
    text = haproxy.config(job)
    assert "backlog 4096 proto h2" in text and text.count(" proto h2") == (4 if up else 1)
    told = envoy.config(job)["static_resources"]
    assert told["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]["codec_type"] == "HTTP2"
    assert all(("typed_extension_protocol_options" in cluster) is up for cluster in told["clusters"])
    ours = carrier.config(job, protocol, 1234)["clusters"][:3]
    assert all(cluster["spec"].get("http") == (2 if up else None) for cluster in ours)
    if protocol != "h2-h2":
        text = nginx.config(job, tmp_path)
        assert "backlog=4096 http2;" in text and (f"{'grpc' if up else 'proxy'}_pass {'grpc' if up else 'http'}://$chosen;") in text


def test_node_gets_the_whole_job():
    told = json.loads(node.config(JOB))
    assert told["users"] == {"alice": "A", "bob": "B"} and told["backends"] == PORTS and told["prefix"] == "/svc/"


def test_ours_has_a_rule_each_and_the_default_last():
    told = carrier.config(JOB, "http", 1234)
    rules = told["listeners"][0]["rules"]
    assert [rule["action"]["route"]["destination"] for rule in rules] == ["A", "B", "A", "D"]
    assert rules[0]["match"] == {"matchHeader": {"name": "x-user", "value": "alice"}} and "match" not in rules[-1]
    assert told["listeners"][1]["spec"]["port"] == 1234


def test_ours_has_no_http_rules_for_streams():
    told = carrier.config(usual_job("udp", 8000, {"D": 9003}), "udp", 1234)
    assert told["listeners"][0]["spec"]["protocol"] == "UDP" and len(told["listeners"][0]["rules"]) == 1


def test_the_variant_with_many_rules_puts_them_before_the_others(tmp_path):
    peer = next(peer for peer in PEERS if peer.name == "carrier-100")
    peer.prepare(usual_job("rules", 8000, PORTS), tmp_path)
    rules = yaml.safe_load((tmp_path / "carrier.yaml").read_text())["listeners"][0]["rules"]
    assert len(rules) == 104 and rules[99]["name"] == "user-nobody-99" and rules[100]["name"] == "user-alice"


def test_every_peer_has_its_own_name_and_known_protocols():
    assert len({peer.name for peer in PEERS}) == len(PEERS)
    assert all(set(peer.protocols) <= set(PROTOCOLS) for peer in PEERS)


OTHERS = [peer for peer in PEERS if not peer.name.startswith("carrier")]


@pytest.mark.parametrize("protocol", ["http", "tls", "h2", "h2-h2", "grpc", "websocket", "tcp", "udp"])
@pytest.mark.parametrize("peer", OTHERS, ids=lambda peer: peer.name)
def test_the_installed_program_does_the_job(peer, protocol):
    if protocol not in peer.protocols:
        lacks = {("haproxy", "udp"), ("nginx", "h2-h2"), ("node", "tcp"), ("node", "udp")}
        lacks |= {(name, other) for name in ("node", "ceiling") for other in (*H2, "tls")}
        assert (peer.name, protocol) in lacks or peer.name == "bare-tls" or peer.name.startswith("nginx-")
        return
    if why := peer.missing(protocol):
        pytest.skip(why)
    with Children() as children:
        ports = start_backend(children, ["A", "B", "D"])
        backends = {name: ports[name] for name in "ABD"} if protocol in ("http", "tls", "websocket", *H2) else {"D": ports[protocol]}
        job = usual_job(protocol, free_ports(1)[0], backends)
        children.directory.chmod(0o777)
        command = peer.prepare(job, children.directory)
        child = children.start(peer.name, command.arguments, PROXY_CORE, command.env)
        if protocol != "udp":
            wait_for_port(job.port, child)
        check(job, peer.routes)
    assert version(peer)
