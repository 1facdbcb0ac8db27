"""A joint of two rings: what goes in on one side comes out on the other, and its listener is whole. In use: test_framing.py."""

from __future__ import annotations

from carrier.core.stream import link
from carrier.errors import Error
from carrier.hops.joint import Joint, Over, OverCluster
from tests.support import Neighbour, cluster, config, echo, listener, port_of, running, tcp


def rings() -> tuple[Neighbour, Joint, Neighbour]:
    """A transport's ear, the joint, a session's ear."""
    wire, joint, session = Neighbour(), Joint(), Neighbour()
    link([wire, joint.near])
    link([session, joint.far])
    return wire, joint, session


def test_data_and_ends_cross_in_both_directions() -> None:
    wire, joint, session = rings()
    wire.to.data(b"in")
    session.to.data(b"out")
    wire.to.end()
    wire.to.end()
    session.to.end()
    assert session.heard == [b"in", "end"] and wire.heard == [b"out", "end"]
    assert (joint.far.bytes_in, joint.far.bytes_out) == (2, 3)


def test_pause_and_resume_cross_in_both_directions() -> None:
    wire, _, session = rings()
    wire.back.pause()
    assert session.heard == ["pause"] and not wire.heard
    session.back.pause()
    session.back.resume()
    assert wire.heard == ["pause", "resume"]


def test_a_reset_crosses_once_and_nothing_after_it() -> None:
    wire, joint, session = rings()
    wire.to.reset(Error("reset"))
    wire.to.data(b"late")
    assert session.heard == ["reset"] and joint.over
    wire, joint, session = rings()
    session.to.reset(Error("closed"))
    assert wire.heard == ["closed"] and joint.far.status() == "END"


async def test_a_wrapped_listener_and_cluster_are_as_good_as_plain_ones() -> None:
    up = cluster("up", 1)
    up["spec"]["framing"] = "lines"
    conf = config(clusters=[echo(), up], listeners=[listener("in", spec={"framing": "lines"}, options={"max_connections": 1})])
    async with running(conf) as proxy:
        found, wrapped = proxy.listeners["in"], proxy.clusters["up"]
        assert isinstance(found, Over) and isinstance(wrapped, OverCluster)
        assert found.listening and found.bound == found.inner.bound and found.key() == found.inner.key() and found.local()
        assert wrapped.endpoints[0].port == 1 and wrapped.endpoints[0].address == "127.0.0.1:1"
        async with tcp(port_of(proxy, "in")) as client:
            client.send(b"x\n")
            assert await client.read(2) == b"x\n"
            assert len(list(proxy.sessions())) == 1  # the transport's own is not listed
            assert found.inner.max_connections == 1  # type: ignore[attr-defined]
    assert not found.listening
