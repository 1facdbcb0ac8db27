"""What is made of a workload so that it can be bridged: the shadow, a clone under another name, and its Service. Objects in, objects out.

The clone has every label value with `-gefyra` and the duplication id, so that no Service of the original selects it. Names keep to
63 characters: a longer one is cut and gets a hash of the whole, and who looks it up computes it the same way. What refers to the
cluster's own state (uids, owners, status) is not cloned: an owner would adopt the clone, or delete it.

`base_config` is the configuration of a pod's proxy without any bridge, in Gefyra's format: ports lead to the shadow, probe ports answer.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carrier.gefyra.access import Object

SUFFIX = "-gefyra"
LONGEST = 63
"""Characters of a label's value, and of a Service's name (RFC 1123)."""
DUPLICATION = "bridge.gefyra.dev/duplication-id"
MADE_OF = "bridge.gefyra.dev/made-of"
"""Annotation of a shadow, and of its autoscaler: the hash of what it was cloned from."""
KINDS = {"deploy": "Deployment", "deployment": "Deployment", "sts": "StatefulSet", "statefulset": "StatefulSet", "pod": "Pod", "po": "Pod"}
_OF_THE_CLUSTER = (
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "generation",
    "managedFields",
    "selfLink",
    "ownerReferences",
    "deletionTimestamp",
)
_ANNOTATIONS = ("kubectl.kubernetes.io/last-applied-configuration", "deployment.kubernetes.io/revision")


def split_target(target: str) -> tuple[str, str]:
    """(kind, name) of `deploy/nginx`; aliases of a kind are the same kind. Raises ValueError with a sentence."""
    kind, slash, name = target.strip().partition("/")
    if not slash or not name or (kind.lower().removesuffix("s") not in KINDS and kind.lower() not in KINDS):
        raise ValueError(f"{target!r} is no target: expected deploy/NAME, statefulset/NAME or pod/NAME")
    return KINDS.get(kind.lower()) or KINDS[kind.lower().removesuffix("s")], name


def short(text: str, suffix: str = SUFFIX) -> str:
    """`text` with the suffix, in at most 63 characters, and different for different texts."""
    whole = text + suffix
    if len(whole) <= LONGEST:
        return whole
    mark = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{text[: LONGEST - len(suffix) - len(mark) - 1].rstrip('-._')}-{mark}{suffix}"


def service_name(workload: str, container: str) -> str:
    """The name of the shadow's Service."""
    return short(f"{workload}-{container}", f"{SUFFIX}-svc")


def template(workload: Object) -> Object:
    """The part of a workload that describes its pods: the template, or the pod itself."""
    found: Object = workload["spec"]["template"] if "template" in workload.get("spec", {}) else workload
    return found


def container(workload: Object, name: str) -> Object | None:
    """A container of the workload's pods."""
    return next((one for one in template(workload)["spec"].get("containers", []) if one.get("name") == name), None)


def ports(described: Object) -> list[tuple[int, str]]:
    """(port, "TCP" or "UDP") of a container; one without ports has none."""
    return [(int(port["containerPort"]), str(port.get("protocol") or "TCP")) for port in described.get("ports") or []]


def refusals(workload: Object, container_name: str, claims: Iterable[Object]) -> list[str]:
    """Why a workload cannot be cloned, in sentences. claims: the PersistentVolumeClaims that its pods use."""
    found = []
    kind, name = workload.get("kind", "workload"), workload["metadata"]["name"]
    described = container(workload, container_name)
    if described is None:
        names = ", ".join(one["name"] for one in template(workload)["spec"].get("containers", []))
        found.append(f"{kind} {name} has no container {container_name!r}; it has {names}")
    if DUPLICATION in ((template(workload).get("metadata") or {}).get("labels") or {}):
        found.append(f"{kind} {name} is the shadow of a mount itself")
    for claim in claims:
        modes = claim.get("spec", {}).get("accessModes") or []
        if not {"ReadWriteMany", "ReadOnlyMany"} & set(modes):
            volume = claim["metadata"]["name"]
            found.append(
                f"{kind} {name} uses the volume {volume} ({', '.join(modes) or 'no access mode'}), which only one node or pod may mount: "
                "the shadow could not start, or would share the app's own data. Use a ReadWriteMany volume, or take it out of the workload"
            )
    if workload.get("spec", {}).get("volumeClaimTemplates"):
        found.append(f"{kind} {name} makes a volume for each pod (volumeClaimTemplates): the shadow would begin with empty ones")
    for kind_of_probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = (described or {}).get(kind_of_probe) or {}
        if "exec" in probe:
            found.append(
                f"{kind_of_probe} of container {container_name!r} runs a command of the app's image, which is not there while it is bridged"
            )
    return found


def hash_of(workload: Object, scaled: bool = False) -> str:
    """What a shadow is known by: the description of the pods, and how many there are unless somebody scales them by himself."""
    described = template(workload)
    metadata = described.get("metadata") or {}
    made: list[Any] = [described["spec"], metadata.get("labels"), metadata.get("annotations") if described is not workload else None]
    if not scaled:
        made.append((workload.get("spec") or {}).get("replicas"))
    if described is workload:  # a lone pod's image is the proxy's by now
        made[0] = {**made[0], "containers": [{**one, "image": None} for one in made[0].get("containers") or []]}
    return hashlib.sha256(json.dumps(made, sort_keys=True, default=str).encode()).hexdigest()[:16]


def rolls_out(workload: Object) -> bool:
    """Are all pods of a workload replaced when what it says of them changes? Not a lone pod, nor those of a Deployment that is paused, or
    of a StatefulSet that waits for somebody to delete them (OnDelete) or to lower its partition."""
    spec = workload.get("spec") or {}
    strategy = spec.get("updateStrategy") or {}
    held = strategy.get("type") == "OnDelete" or (strategy.get("rollingUpdate") or {}).get("partition")
    return not (workload.get("kind") == "Pod" or spec.get("paused") or held)


def is_rolled_out(workload: Object) -> bool:
    """Does every pod of a workload run what it says by now, and serve? One without a status is nobody's to say."""
    spec, status = workload.get("spec") or {}, workload.get("status") or {}
    if workload.get("kind") == "Pod" or "generation" not in workload["metadata"]:
        return True
    if status.get("observedGeneration", 0) < workload["metadata"]["generation"]:
        return False
    wanted = spec.get("replicas", 1)
    if workload.get("kind") == "StatefulSet":
        kept = ((spec.get("updateStrategy") or {}).get("rollingUpdate") or {}).get("partition") or 0
        rolled = status.get("updateRevision") == status.get("currentRevision") or status.get("updatedReplicas", 0) >= wanted - kept
        return bool(rolled and status.get("readyReplicas", 0) == status.get("replicas", 0) == wanted)
    counts = [status.get(name, 0) for name in ("updatedReplicas", "replicas", "availableReplicas")]
    return all(count == wanted for count in counts)


def scaler(hpa: Object, workload: Object) -> Object:
    """The HorizontalPodAutoscaler of a workload, for its shadow."""
    found = {
        "apiVersion": hpa.get("apiVersion", "autoscaling/v2"),
        "kind": "HorizontalPodAutoscaler",
        "metadata": _metadata(hpa["metadata"]),
    }
    found["metadata"]["name"] = short(hpa["metadata"]["name"])
    reference = {**hpa["spec"]["scaleTargetRef"], "name": short(workload["metadata"]["name"])}
    found["spec"] = {**copy.deepcopy(hpa["spec"]), "scaleTargetRef": reference}
    mark = hashlib.sha256(json.dumps(hpa["spec"], sort_keys=True).encode()).hexdigest()[:16]
    found["metadata"]["annotations"] = {**found["metadata"].get("annotations", {}), MADE_OF: mark}
    return found


def scales(hpa: Object, workload: Object) -> bool:
    """Is this the HorizontalPodAutoscaler of a workload?"""
    reference = (hpa.get("spec") or {}).get("scaleTargetRef") or {}
    return (reference.get("kind"), reference.get("name")) == (workload.get("kind"), workload["metadata"]["name"])


def cloned(workload: Object, duplication: str, scaled: bool = False) -> Object:
    """The shadow. duplication: an id that stays the same for the life of a mount, so that preparing again rolls nothing."""
    clone = copy.deepcopy(workload)
    clone.pop("status", None)
    clone["metadata"] = _metadata(workload["metadata"])
    clone["metadata"]["name"] = short(workload["metadata"]["name"])
    clone["metadata"].setdefault("annotations", {})[MADE_OF] = hash_of(workload, scaled)
    clone["spec"].pop("paused", None)  # nobody makes pods of one that is
    described = template(clone)
    if described is not clone:
        described["metadata"] = _metadata(described.get("metadata") or {})
    described["metadata"].setdefault("labels", {})[DUPLICATION] = duplication
    if described is clone:
        for field in ("nodeName", "hostname"):
            clone["spec"].pop(field, None)
    else:
        selector = clone["spec"].get("selector") or {}
        clone["spec"]["selector"] = {**selector, "matchLabels": _labels(selector.get("matchLabels") or {})}
        clone["spec"]["selector"]["matchLabels"][DUPLICATION] = duplication
    return clone


def _metadata(metadata: Mapping[str, Any]) -> Object:
    found = {name: copy.deepcopy(value) for name, value in metadata.items() if name not in _OF_THE_CLUSTER}
    if found.get("labels"):
        found["labels"] = _labels(found["labels"])
    if found.get("annotations"):
        found["annotations"] = {name: value for name, value in found["annotations"].items() if name not in _ANNOTATIONS}
    return found


def _labels(labels: Mapping[str, str]) -> dict[str, str]:
    return {name: short(str(value)) if value else SUFFIX[1:] for name, value in labels.items()}


def service(workload: Object, container_name: str, duplication: str) -> Object | None:
    """The Service in front of the shadow, each port in its own protocol; None for a container without ports: there is nothing to serve."""
    described = container(workload, container_name)
    found = ports(described) if described is not None else []
    if not found:
        return None
    named = [{"name": f"{protocol.lower()}-{port}", "port": port, "targetPort": port, "protocol": protocol} for port, protocol in found]
    metadata = {
        "name": service_name(workload["metadata"]["name"], container_name),
        "namespace": workload["metadata"].get("namespace", "default"),
    }
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {**metadata, "labels": {DUPLICATION: duplication}},
        "spec": {"selector": {DUPLICATION: duplication}, "ports": named},
    }


def base_config(workload: Object, container_name: str, tls: Callable[[int], Object | None] = lambda port: None) -> Object:
    """The proxy's configuration in each pod of the workload, in Gefyra's format, without bridges. tls: that of a port."""
    described = container(workload, container_name) or {}
    metadata = workload["metadata"]
    host = f"{service_name(metadata['name'], container_name)}.{metadata.get('namespace', 'default')}.svc.cluster.local"
    proxies = []
    for port, protocol in ports(described):
        found: Object = {"port": port, "clusterUpstream": [f"{host}:{port}"]}
        if protocol == "UDP":
            found["protocol"] = "udp"
        elif (own := tls(port)) is not None:
            found["tls"] = own
        proxies.append(found)
    return {"version": 1, "proxy": proxies, "probes": probes(described)}


def probes(described: Object) -> dict[str, list[int]]:
    """The probe ports of a container that are no ports of the app: those the proxy itself answers."""
    own = {port for port, protocol in ports(described) if protocol != "UDP"}
    names = {port.get("name"): int(port["containerPort"]) for port in described.get("ports") or [] if port.get("name")}
    found: dict[str, list[int]] = {}
    for kind in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = described.get(kind) or {}
        for action, key in (("httpGet", "httpGet"), ("tcpSocket", "tcpSocket"), ("grpc", "grpc")):
            body = probe.get(action)
            if not body:
                continue
            given = body.get("port")
            port = names.get(given, given)
            if isinstance(port, str) and port.isdigit():
                port = int(port)
            if not isinstance(port, int) or port in own:
                continue
            where = found.setdefault("httpsGet" if action == "httpGet" and body.get("scheme", "HTTP").upper() == "HTTPS" else key, [])
            if port not in where:
                where.append(port)
    return found
