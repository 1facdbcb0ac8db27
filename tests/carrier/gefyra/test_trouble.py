"""Why pods do not serve, read from statuses, conditions and events as kubelets, schedulers and controllers write them."""

import pytest

from carrier.gefyra import trouble
from carrier.gefyra.trouble import of_container, of_events, of_pod, of_pods, of_workload

PULL = 'Back-off pulling image "app:2": ErrImagePull: failed to pull and unpack image "app:2": not found'
STUCK = "0/3 nodes are available: 3 Insufficient memory."
QUOTA = 'pods "web-gefyra-1" is forbidden: exceeded quota: small, requested: pods=1, used: pods=4, limited: pods=4'
NO_FILE = 'failed to create containerd task: exec: "/app/server": stat /app/server: no such file or directory'


def container(**status):
    return {"name": "web", "image": "app:2", "ready": False, "restartCount": 0, **status}


def waiting(reason, message="", **more):
    return container(state={"waiting": {"reason": reason, "message": message}}, **more)


def ended(reason="Error", code=1, **more):
    return {"terminated": {"reason": reason, "exitCode": code, **more}}


def pod(*containers, name="web-1", **status):
    return {"metadata": {"name": name}, "status": {"phase": "Pending", "containerStatuses": list(containers), **status}}


@pytest.mark.parametrize(
    ("status", "kind", "words", "lasts"),
    [
        (waiting("ImagePullBackOff", PULL), "web/image", ["image app:2 cannot be had", "not found"], True),
        (waiting("ErrImagePull", PULL), "web/image", ["cannot be had"], True),
        (waiting("InvalidImageName"), "web/image", ["InvalidImageName"], True),
        (waiting("CreateContainerConfigError", 'secret "db" not found'), "web/start", ['secret "db" not found'], True),
        (waiting("CrashLoopBackOff", "back-off 10s", lastState=ended("OOMKilled", 137)), "web/crash", ["no more memory"], True),
        (waiting("CrashLoopBackOff", "back-off 10s", lastState=ended()), "web/crash", ["exit code 1"], True),
        (waiting("CrashLoopBackOff", lastState=ended("StartError", 128, message=NO_FILE)), "web/crash", ["no such file"], True),
        (container(state=ended()), "web/crash", ["ends again and again"], False),
        (waiting("ContainerCreating"), "web/waiting", ["not there yet: ContainerCreating"], False),
        (container(state={"running": {}}), "web/ready", ["runs and is not ready"], False),
        (container(state={"running": {}}, restartCount=3, lastState=ended()), "web/ready", ["after 3 restarts", "exit code 1"], False),
    ],
)
def test_a_container_that_does_not_serve_says_why(status, kind, words, lasts):
    found = of_container(status)
    assert (found.kind, found.lasts) == (kind, lasts)
    assert all(word in found.text for word in words), found.text


def test_one_that_serves_has_no_trouble_nor_has_one_that_ended_in_order():
    assert of_container(container(ready=True, state={"running": {}})) is None
    assert of_container(container(state={"terminated": {"exitCode": 0, "reason": "Completed"}})) is None
    assert of_container({"name": "web"}) is None
    assert of_pod({"metadata": {"name": "x"}}) is None


def test_what_lasts_is_told_before_what_may_pass():
    side = {"name": "side", "image": "side:1", "ready": False, "state": {"waiting": {"reason": "ContainerCreating"}}}
    assert of_pod(pod(side, waiting("ImagePullBackOff", PULL))).kind == "web/image"
    found = of_pods([pod(side, name="a"), pod(waiting("ImagePullBackOff", PULL), name="b"), pod(waiting("ErrImagePull"), name="c")])
    assert found.text.startswith("pod b and 1 more: container web: its image")
    init = pod(side, initContainerStatuses=[{**waiting("CrashLoopBackOff", lastState=ended()), "name": "migrate"}])
    assert "container migrate ends again" in of_pod(init).text


def test_a_pod_without_a_node_or_evicted_says_so():
    conditions = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": STUCK}]
    assert of_pod(pod(conditions=conditions)).text == f"no node takes it: Unschedulable: {STUCK}"
    assert "Evicted: the node was low" in of_pod(pod(phase="Failed", reason="Evicted", message="the node was low on memory")).text


def test_a_controller_that_may_not_make_pods_says_so():
    condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": QUOTA}
    assert "exceeded quota: small" in of_workload({"status": {"conditions": [condition]}}).text
    assert of_workload({"status": {"conditions": [{**condition, "status": "False"}]}}) is None
    assert "replicas are 0" in of_workload({"spec": {"replicas": 0}}).text


def test_what_others_say_is_one_line_and_not_too_long():
    found = of_container(waiting("ImagePullBackOff", "a\n" * 1000))
    assert "\n" not in found.text
    assert len(found.text) < trouble.LONGEST + 100


class Events:
    def __init__(self, *found):
        self.found = found

    async def list(self, kind, namespace, labels, fields):
        assert (kind, labels, fields["type"]) == ("Event", {}, "Warning")
        if isinstance(self.found[0], Exception):
            raise self.found[0]
        return [one for one in self.found if one["regarding"] == (fields["regarding.kind"], fields["regarding.name"])]


async def test_what_stands_in_no_status_stands_in_an_event():
    def event(reason, note, at, name="web-gefyra"):
        return {"reason": reason, "note": note, "deprecatedLastTimestamp": at, "regarding": ("StatefulSet", name)}

    events = Events(event("FailedCreate", "old", "2026-01-01T00:00:00Z"), event("FailedCreate", QUOTA, "2026-01-01T00:00:09Z"))
    found = await of_events(events, "shop", "StatefulSet", "web-gefyra")
    assert found.text == f"StatefulSet web-gefyra: FailedCreate: {QUOTA}"
    assert found.lasts
    assert await of_events(events, "shop", "StatefulSet", "other") is None
    assert await of_events(Events(PermissionError("no")), "shop", "Pod", "x") is None
