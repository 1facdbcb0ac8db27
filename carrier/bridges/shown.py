"""A bridge as the REST API and the command show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carrier.log import rfc3339

if TYPE_CHECKING:
    from carrier.core.cluster import Cluster
    from carrier.core.endpoint import Endpoint
    from carrier.errors import Error
    from carrier.model import Bridge, Config


def dump_bridge(config: Config, bridge: Bridge, running: Mapping[str, Cluster]) -> dict[str, Any]:
    listener = config.listeners.get(bridge.listener)
    in_force = listener is not None and any(
        rule in config.rulelists[listener.rules].rules and rule in config.rules
        for rule in bridge.rules
        if listener.rules in config.rulelists
    )
    route = config.routes.get(bridge.cluster)
    status: dict[str, Any] = {"state": "in force" if in_force else "its listener or its rule is gone", "listener": bridge.listener}
    status |= {"rule": bridge.rules[0] if bridge.rules else None, "cluster": bridge.cluster}
    status["fallback"] = route.fallback if route is not None else None
    if bridge.cluster in running:
        status |= health(running[bridge.cluster])
    shown = {"name": bridge.name, **bridge.spec}
    if bridge.expires is not None:
        shown["expires"] = rfc3339(bridge.expires)
    return {**shown, "status": status}


def health(cluster: Cluster) -> dict[str, Any]:
    """How a bridge's endpoint is: `healthy`, and in words why not."""
    for endpoint in cluster.endpoints:
        state = cluster.health.states.get(endpoint)
        if state is not None and state.last is not None:
            return {"healthy": False, "health": plainly(endpoint, state.last), **_counts(cluster)}
    return {"healthy": True, "health": "reached" if cluster.sessions_total else "not tried yet", **_counts(cluster)}


def _counts(cluster: Cluster) -> dict[str, int]:
    """Sessions at this moment, and ever."""
    return {"sessions": sum(endpoint.active for endpoint in cluster.endpoints), "total": cluster.sessions_total}


def plainly(endpoint: Endpoint, error: Error) -> str:
    """What the failure of a laptop means to the one who owns it."""
    where = endpoint.address
    if error.kind == "refused":
        return f"{where} refused: is your container listening on {endpoint.port}?"
    if error.kind == "dns":
        return f"{endpoint.host} is not known: has your client's connection been removed?"
    if error.kind == "tls":
        return f"{error.detail}: does your container speak TLS on {endpoint.port}, with the right certificate?"
    if error.kind == "unreachable" or (error.kind == "timeout" and error.retry == "yes"):
        return f"{where} cannot be reached: is your client connected to the cluster?"
    if error.kind == "timeout":
        return f"{where} takes requests and does not answer them: is your container stopped at a breakpoint?"
    if error.kind in ("forbidden", "loop"):
        return f"{error.detail}: where does your container listen?"
    if error.kind in ("reset", "closed"):
        return f"{where} breaks connections before it answers: does your container crash?"
    return f"{where} does not answer in the protocol of this port: {error.detail}"
