"""Shadows: what is cloned, under which names, and what its proxy is told."""

import re

import pytest

from carrier.gefyra import clone
from carrier.gefyra.format import read

CONTAINER = {"name": "app", "image": "app:1", "ports": [{"containerPort": 80, "name": "web"}, {"containerPort": 53, "protocol": "UDP"}]}


def workload(name="web", container=None, kind="Deployment", **spec):
    labels = {"app": "web", "empty": ""}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container or CONTAINER], **spec}}
    metadata = {"name": name, "namespace": "shop", "labels": labels, "uid": "1", "resourceVersion": "2", "ownerReferences": [{}]}
    return {"kind": kind, "metadata": metadata, "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template}, "status": {}}


def test_nothing_of_the_original_selects_the_clone():
    original = workload()
    shadow = clone.cloned(original, "id-1")
    assert shadow["metadata"]["name"] == "web-gefyra"
    assert shadow["metadata"]["labels"]["app"] == "web-gefyra"
    assert shadow["spec"]["selector"]["matchLabels"] == {"app": "web-gefyra", clone.DUPLICATION: "id-1"}
    assert shadow["spec"]["template"]["metadata"]["labels"] == {"app": "web-gefyra", "empty": "gefyra", clone.DUPLICATION: "id-1"}
    assert not {"uid", "resourceVersion", "ownerReferences"} & set(shadow["metadata"])
    assert "status" not in shadow
    assert original == workload()


def test_a_pod_is_cloned_as_a_pod():
    pod = {
        "kind": "Pod",
        "metadata": {"name": "p", "labels": {"a": "b"}},
        "spec": {"containers": [CONTAINER], "nodeName": "n"},
        "status": {},
    }
    shadow = clone.cloned(pod, "id-1")
    made = {clone.MADE_OF: clone.hash_of(pod)}
    assert shadow["metadata"] == {"name": "p-gefyra", "labels": {"a": "b-gefyra", clone.DUPLICATION: "id-1"}, "annotations": made}
    assert "nodeName" not in shadow["spec"]


@pytest.mark.parametrize("length", [1, 40, 55, 56, 57, 62, 63])
def test_names_of_any_legal_length_are_legal_and_different(length):
    name, other = "a" * length, "a" * (length - 1) + "b"
    for made in (clone.short(name), clone.service_name(name, "app"), clone.cloned(workload(name), "i")["metadata"]["name"]):
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", made)
        assert len(made) <= 63
    assert clone.short(name) != clone.short(other)
    assert clone.cloned(workload(name), "i")["metadata"]["name"] == clone.short(name)


def test_udp_stays_udp_and_a_container_without_ports_has_no_service():
    service = clone.service(workload(), "app", "id-1")
    assert [(port["port"], port["protocol"]) for port in service["spec"]["ports"]] == [(80, "TCP"), (53, "UDP")]
    assert clone.service(workload(container={"name": "app", "image": "x"}), "app", "id-1") is None
    config = clone.base_config(workload(), "app")
    assert [(proxy["port"], proxy.get("protocol")) for proxy in config["proxy"]] == [(80, None), (53, "udp")]
    assert config["proxy"][0]["clusterUpstream"] == ["web-app-gefyra-svc.shop.svc.cluster.local:80"]
    assert clone.base_config(workload(container={"name": "app", "image": "x"}), "app")["proxy"] == []
    read(config)


def test_probes_of_every_kind_and_by_name():
    container = {
        **CONTAINER,
        "ports": [*CONTAINER["ports"], {"containerPort": 99, "name": "health"}],
        "livenessProbe": {"httpGet": {"port": "8001"}},
        "readinessProbe": {"httpGet": {"port": 8443, "scheme": "HTTPS"}},
        "startupProbe": {"grpc": {"port": 5000}},
    }
    assert clone.probes(container) == {"httpGet": [8001], "httpsGet": [8443], "grpc": [5000]}
    assert clone.probes({**container, "livenessProbe": {"httpGet": {"port": "web"}}})["httpsGet"] == [8443]
    assert "httpGet" not in clone.probes({**container, "livenessProbe": {"httpGet": {"port": "health"}}})
    assert clone.probes({"startupProbe": {"tcpSocket": {"port": 7}}}) == {"tcpSocket": [7]}
    assert clone.probes({"startupProbe": {"exec": {"command": ["ls"]}}}) == {}


def test_tls_of_the_mount_is_for_tcp_ports_that_have_it():
    tls = {"certificate": "c", "key": "k"}
    found = clone.base_config(workload(), "app", lambda port: tls if port == 80 else None)
    assert [port.get("tls") for port in found["proxy"]] == [tls, None]
    assert "tls" not in clone.base_config(workload(), "app")["proxy"][0]


def test_a_shadow_is_known_by_what_it_was_made_of():
    made = clone.cloned(workload(), "i")["metadata"]["annotations"][clone.MADE_OF]
    assert made == clone.hash_of(workload())
    assert made != clone.hash_of(workload(container={**CONTAINER, "image": "app:2"}))
    more = {**workload(), "spec": {**workload()["spec"], "replicas": 3}}
    assert made != clone.hash_of(more)
    assert clone.hash_of(more, scaled=True) == clone.hash_of(workload(), scaled=True)


def test_a_workload_is_rolled_out_when_every_pod_is_the_new_one_and_serves():
    def of(generation=2, observed=2, updated=2, replicas=2, available=2, kind="Deployment"):
        status = {"observedGeneration": observed, "updatedReplicas": updated, "replicas": replicas, "availableReplicas": available}
        return {"kind": kind, "metadata": {"generation": generation}, "spec": {"replicas": 2}, "status": status}

    assert clone.is_rolled_out(of())
    for wanting in ({"observed": 1}, {"updated": 1}, {"replicas": 3}, {"available": 1}):
        assert not clone.is_rolled_out(of(**wanting))
    assert clone.is_rolled_out({**of(), "kind": "Pod"})
    stateful = {"observedGeneration": 2, "updateRevision": "b", "currentRevision": "b", "replicas": 2, "readyReplicas": 2}
    assert clone.is_rolled_out({**of(kind="StatefulSet"), "status": stateful})
    assert not clone.is_rolled_out({**of(kind="StatefulSet"), "status": {**stateful, "readyReplicas": 1}})


@pytest.mark.parametrize(
    ("made", "claims", "sentence"),
    [
        (workload(), [{"metadata": {"name": "d"}, "spec": {"accessModes": ["ReadWriteOnce"]}}], "only one node"),
        (workload(), [{"metadata": {"name": "d"}, "spec": {"accessModes": ["ReadWriteOncePod"]}}], "only one node"),
        (workload(container={**CONTAINER, "livenessProbe": {"exec": {"command": ["ls"]}}}), [], "runs a command"),
        (workload(container={"name": "other"}), [], "has no container 'app'; it has other"),
        ({**workload(), "spec": {**workload()["spec"], "volumeClaimTemplates": [{}]}}, [], "volume for each pod"),
    ],
)
def test_what_cannot_be_cloned_is_told(made, claims, sentence):
    assert sentence in " ".join(clone.refusals(made, "app", claims))


def test_what_can_be_cloned_is_not_refused():
    claims = [{"metadata": {"name": "d"}, "spec": {"accessModes": ["ReadWriteMany"]}}]
    assert clone.refusals(workload(), "app", claims) == []


@pytest.mark.parametrize(
    ("target", "found"), [("deploy/a", ("Deployment", "a")), ("deployments/a", ("Deployment", "a")), ("sts/a", ("StatefulSet", "a"))]
)
def test_aliases_are_one_kind(target, found):
    assert clone.split_target(target + " ") == found
