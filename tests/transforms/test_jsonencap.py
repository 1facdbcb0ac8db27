"""JSONEncap and JSONDecap, in a chain and against each other."""

from __future__ import annotations

import json
from base64 import b64encode

from tests.support import cluster, config, echo, listener, port_of, running, tcp, udp, udp_server

ENCAP = {"name": "encap", "spec": {"protocol": "JSONEncap"}}
DECAP = {"name": "decap", "spec": {"protocol": "JSONDecap"}}


async def test_each_message_carries_the_metadata_and_its_payload() -> None:
    async with udp_server() as upstream:
        conf = config(
            clusters=[cluster("up", upstream.port, protocol="UDP"), ENCAP],
            listeners=[
                listener(
                    "in",
                    protocol="UDP",
                    rules=[
                        {
                            "action": {
                                "rewrite": [{"path": "/labels/ü", "value": 7}],
                                "route": {"destination": "up", "ingress": ["encap"]},
                            }
                        }
                    ],
                )
            ],
        )
        async with running(conf) as proxy, udp(port_of(proxy, "in")) as client:
            client.send(b"\x00\xffhi")
            answer = await client.read()
            assert b" " not in answer and b"\\u" not in answer
            found = json.loads(answer)
            assert list(found) == ["metadata", "payload"]
            (session,) = proxy.sessions()
            assert found["metadata"] == session.metadata and next(iter(found["metadata"])) == "name"
            assert found["metadata"]["labels"] == {"ü": 7}
            assert found["payload"] == b64encode(b"\x00\xffhi").decode()
            assert proxy.clusters["encap"].sessions_total == 1


async def test_one_undoes_the_other_in_a_chain_of_both() -> None:
    conf = config(
        clusters=[echo(), ENCAP, DECAP],
        listeners=[listener("in", protocol="UDP", ingress=["encap", "decap", "encap"], egress=["decap"])],
    )
    async with running(conf) as proxy, udp(port_of(proxy, "in")) as client:
        for message in (b"one", b"x" * 1000):
            client.send(message)
            assert await client.read() == message


async def test_an_end_passes_through_both() -> None:
    conf = config(clusters=[echo(), ENCAP, DECAP], listeners=[listener("in", ingress=["encap", "decap"])])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        client.send(b"hi")
        client.end()
        assert await client.read_all() == b"hi"
