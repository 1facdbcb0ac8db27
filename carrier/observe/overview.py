"""What runs, for people: listeners with their rules in order, who they are for, where they lead and when they last did; endpoints and
their health; bridges; one revision of it all. `GET /api/v1/status` shows it, and `carrier status` is made of it.

Everything is read from the running parts at the moment of asking; nothing is kept here. `probe` asks an endpoint whether it is there.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from carrier.bridges.shown import health
from carrier.config import privileges
from carrier.config.dump import version
from carrier.core.address import authority
from carrier.core.labels import of_rule
from carrier.core.slices import Steps, whole
from carrier.errors import Error
from carrier.hops.certificates import ClientTls, ServerTls, report
from carrier.log import rfc3339

if TYPE_CHECKING:
    from carrier.core.cluster import Cluster
    from carrier.core.decision import Decision
    from carrier.core.endpoint import Endpoint
    from carrier.core.listener import Listener
    from carrier.model import Bridge
    from carrier.proxy.proxy import Proxy
    from carrier.rules.table import Table

Dict = dict[str, Any]
PATIENCE = 3.0
"""Seconds that a probe may take."""


def overview(proxy: Proxy, state: str = "ready", overloaded: str = "") -> Dict:
    """All of it, see `looking`."""
    return whole(looking(proxy, state, overloaded))


def looking(proxy: Proxy, state: str = "ready", overloaded: str = "") -> Steps[Dict]:
    """All of it, in slices. state: of the process; overloaded: why new sessions are refused, if they are."""
    config = proxy.config
    privileged = [{"kind": kind, "name": name, "why": why} for (kind, name), why in privileges.Reach(config).of.items()]
    yield
    listeners, clusters, bridges, shown = [], [], [], _bridges(proxy)
    for listener, table in [(listener, proxy.tables[listener.name]) for listener in proxy.listeners.values()]:
        listeners.append((yield from _listener(proxy, listener, table)))
    for cluster in list(proxy.clusters.values()):
        clusters.append(_cluster(cluster))
        yield
    for bridge in shown.values():
        bridges.append(_bridge(proxy, bridge))
        yield
    return {
        "version": version(),
        "pid": os.getpid(),
        "file": proxy.env.file,
        "revision": config.revision,
        "state": state,
        "overloaded": overloaded,
        "sessions": sum(len(listener.live) for listener in proxy.listeners.values()),
        "listeners": listeners,
        "clusters": clusters,
        "bridges": bridges,
        "privileged": privileged,
        "trusted": proxy.env.gate.trusted() if proxy.env.gate is not None else {},
    }


def address_of(listener: Listener) -> str:
    """Where a listener listens, as people write it."""
    key = listener.key()
    if key is None:
        return listener.name
    if key[2] < 0:  # a file, which has no port to ask for
        return key[1]
    port = listener.port if listener.bound else None
    return authority(key[1], port if port is not None else key[2])


def _listener(proxy: Proxy, listener: Listener, table: Table) -> Steps[Dict]:
    rules = []
    for matcher, _ in table.lists.values():
        yield from matcher.looking()
    for rule in _rules(proxy, table):
        rules.append(rule)
        yield
    return {
        "name": listener.name,
        "protocol": listener.spec.get("protocol"),
        "address": address_of(listener),
        "state": "drained" if listener.name in proxy.drained else "listening" if listener.bound else "not bound",
        "sessions": len(listener.live),
        "total": listener.counter,
        "failed": listener.failed,
        "dropped": dict(listener.dropped),
        "rules": rules,
    } | _tls(listener.certificates)


def _tls(tls: Any) -> Dict:
    """What is in force of a `tls` block, and what is wrong with it."""
    return {"tls": report(tls)} if isinstance(tls, (ServerTls, ClientTls)) else {}


def _rules(proxy: Proxy, table: Table) -> Iterator[Dict]:
    """The rules in the order in which they are asked, list by list."""
    for name, (matcher, decisions) in table.lists.items():
        notes = {finding.index: finding.text for finding in matcher.findings}
        for index, decision in enumerate(decisions):
            yield {"rulelist": name, "rule": decision.rule, "label": of_rule(decision.rule, name, index), **_leads(decision)} | {
                "when": matcher.text(index),
                "user": user_of(proxy, decision.rule),
                "hits": decision.hits.count,
                "last_hit": _moment(decision.hits.last) if decision.hits.count else None,
                "note": notes.get(index, ""),
            }


def _leads(decision: Decision) -> Dict:
    """Where a rule leads to, and who serves when that fails."""
    to = f"rule list {decision.jump}" if decision.jump is not None else decision.cluster.name if decision.cluster is not None else ""
    error = decision.error.detail.replace(' for session "{session}"', "") if decision.error is not None else ""
    return {"to": to, "fallback": decision.fallback.name if decision.fallback is not None else None, "error": error}


def user_of(proxy: Proxy, rule: str) -> str:
    """The user whose bridge a rule is; "" for other rules."""
    found = proxy.config.rules.get(rule)
    if found is not None and found.bridge is not None:
        bridge = proxy.config.bridges.get(found.bridge)
    else:
        bridge = proxy.env.bridges_of_file(proxy.config).get(rule)
    return bridge.user if bridge is not None else ""


def _bridges(proxy: Proxy) -> dict[str, Bridge]:
    """All user bridges by their names: those of the file, and those that were made over REST."""
    of_file = proxy.env.bridges_of_file(proxy.config)
    return {**{bridge.name: bridge for bridge in of_file.values()}, **proxy.config.bridges}


def _cluster(cluster: Cluster) -> Dict:
    reasons = {report["name"]: report["reason"] for report in cluster.health.report()}
    return {
        "name": cluster.name,
        "label": cluster.label,
        "protocol": cluster.spec.get("protocol"),
        "sessions": cluster.sessions_total,
        "down": cluster.down,
        "dropped": dict(cluster.dropped),
        "endpoints": [_endpoint(cluster, endpoint, reasons.get(endpoint.name, "")) for endpoint in cluster.endpoints],
    } | _tls(cluster.tls)


def _endpoint(cluster: Cluster, endpoint: Endpoint, reason: str) -> Dict:
    return {
        "name": endpoint.name,
        "address": endpoint.address,
        "up": endpoint.up,
        "tried": bool(endpoint.total or endpoint.failed or cluster.health.active or cluster.virtual),
        "drained": endpoint.name in cluster.drained,
        "reason": reason,
        "sessions": endpoint.active,
        "total": endpoint.total,
        "failed": endpoint.failed,
    }


def _bridge(proxy: Proxy, bridge: Bridge) -> Dict:
    """What a bridge's rules did, and whether its endpoint is up."""
    hits = [proxy.hits[rule] for rule in bridge.rules if rule in proxy.hits]
    last = max((found.last for found in hits if found.count), default=None)
    cluster = proxy.clusters.get(bridge.cluster)
    return {
        "name": bridge.name,
        "user": bridge.user,
        "listener": bridge.listener,
        "rules": list(bridge.rules),
        "hits": sum(found.count for found in hits),
        "last_hit": _moment(last) if last is not None else None,
        "expires": rfc3339(bridge.expires, "seconds") if bridge.expires is not None else None,
        "endpoints": _cluster(cluster)["endpoints"] if cluster is not None else [],
        **({name: shown for name, shown in health(cluster).items() if name in ("healthy", "health")} if cluster is not None else {}),
    }


def _moment(monotonic: float) -> str:
    """RFC 3339, with milliseconds."""
    return rfc3339(monotonic + time.time() - time.monotonic())


async def probe(proxy: Proxy, name: str) -> Dict:
    """Is the endpoint of bridge `name` there at this moment? Asked as health checks ask. Raises Error("not-found")."""
    bridge = _bridges(proxy).get(name)
    cluster = proxy.clusters.get(bridge.cluster) if bridge is not None else None
    if bridge is None or cluster is None:
        raise Error("not-found", f"there is no bridge {name!r}")
    return {"bridge": name, **await probe_cluster(cluster)}


async def probe_cluster(cluster: Cluster) -> Dict:
    """Are the endpoints of a cluster there at this moment? Asked as health checks ask, all at once."""
    found = await asyncio.gather(*(_probed(cluster, endpoint) for endpoint in cluster.endpoints))
    return {"cluster": cluster.name, "endpoints": list(found)}


async def _probed(cluster: Cluster, endpoint: Endpoint) -> Dict:
    began = time.monotonic()
    reason = ""
    try:
        async with asyncio.timeout(PATIENCE):
            await cluster.probe(endpoint, cluster.health)
    except TimeoutError:
        reason = f"no answer within {PATIENCE:g} s"
    except Error as error:
        reason = error.detail
    milliseconds = round((time.monotonic() - began) * 1000, 1)
    return {"address": endpoint.address, "reachable": not reason, "reason": reason, "milliseconds": milliseconds}
