"""What Gefyra's installation puts into a cluster, as far as its operator needs it: the kinds of objects, and the operator's role."""

from __future__ import annotations

from typing import Any

from tests.cluster.control import ControlPlane

ANYTHING = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
TEXT = {"type": "string"}
STATES = {"state": {"type": "string", "default": "REQUESTED"}, "stateTransitions": ANYTHING, "status": ANYTHING, "sunset": TEXT}
KINDS: dict[str, dict[str, Any]] = {
    "gefyrabridge": {
        "provider": {"type": "string", "enum": ["carrier", "carrier2"]},
        "providerParameter": ANYTHING,
        "connectionProvider": {"type": "string", "enum": ["stowaway"]},
        "targetNamespace": TEXT,
        "target": TEXT,
        "targetContainer": TEXT,
        "client": TEXT,
        "destinationIP": TEXT,
        "portMappings": {"type": "array", "default": [], "items": TEXT},
        "clusterEndpoint": ANYTHING,
        **STATES,
    },
    "gefyrabridgemount": {
        "targetNamespace": TEXT,
        "target": TEXT,
        "targetContainer": TEXT,
        "provider": TEXT,
        "providerParameter": ANYTHING,
        "missingGracePeriod": {"type": "integer", "minimum": 0},
        **STATES,
    },
    "gefyraclient": {
        "provider": {"type": "string", "enum": ["stowaway"]},
        "providerParameter": ANYTHING,
        "providerConfig": ANYTHING,
        "serviceAccountName": TEXT,
        "serviceAccountData": {"type": "object", "properties": {"token": TEXT, "ca.crt": TEXT, "namespace": TEXT}},
        "maxConnectionAge": {"type": "integer"},
        "lastClientContact": TEXT,
        **STATES,
    },
}
RULES = [
    {
        "apiGroups": ["", "apps", "batch", "extensions", "events.k8s.io", "rbac.authorization.k8s.io", "autoscaling"],
        "resources": [
            *("namespaces", "clusterroles", "serviceaccounts", "clusterrolebindings", "nodes", "configmaps", "secrets", "deployments"),
            *("statefulsets", "persistentvolumeclaims", "services", "pods", "pods/exec", "pods/status", "events"),
            "horizontalpodautoscalers",
        ],
        "verbs": ["*"],
    },
    {"apiGroups": ["gefyra.dev"], "resources": [f"{kind}s" for kind in KINDS], "verbs": ["*"]},
    {
        "apiGroups": ["apiextensions.k8s.io"],
        "resources": ["customresourcedefinitions"],
        "verbs": ["create", "patch", "delete", "list", "watch"],
    },
]
"""What the operator's ClusterRole allows, and nothing else: no EndpointSlices, no ReplicaSets, no pods/proxy."""


def definition(kind: str) -> dict[str, Any]:
    """The CustomResourceDefinition of a kind."""
    schema: dict[str, Any] = {"type": "object", "properties": KINDS[kind]}
    if kind == "gefyraclient":
        schema["required"] = ["provider"]
    names = {"kind": kind, "plural": f"{kind}s"}
    versions = [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind}s.gefyra.dev"},
        "spec": {"group": "gefyra.dev", "names": names, "scope": "Namespaced", "versions": versions},
    }


def install(control: ControlPlane) -> str:
    """Put it into a cluster; returns the token of the operator's ServiceAccount."""
    control.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "gefyra"}}, *map(definition, KINDS))
    account = {"kind": "ServiceAccount", "name": "gefyra-operator", "namespace": "gefyra"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "gefyra:operator"}
    rbac = "rbac.authorization.k8s.io/v1"
    control.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "gefyra-operator", "namespace": "gefyra"}},
        {"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": "gefyra:operator"}, "rules": RULES},
        {"apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": {"name": "operator"}, "roleRef": role, "subjects": [account]},
    )
    for kind in KINDS:
        control.until(kind, lambda kind=kind: control.ask("GET", f"/apis/gefyra.dev/v1/{kind}s", check=False)[0] == 200)
    return control.token_of("gefyra", "gefyra-operator")
