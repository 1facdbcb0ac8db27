"""The Answer cluster: one answer for everybody, on connections that are kept."""

import pytest

from clusters.answer import AnswerCluster
from tests.support import ask, config, http, listener, port_of, running, tcp


def answering(**spec):
    return {"name": "answer", "spec": {"protocol": "Answer", **spec}}


async def test_every_request_gets_it_and_the_connection_is_kept():
    conf = config(clusters=[answering(status=418, body="short and stout")], listeners=[listener("in", "answer", protocol="HTTP")])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        for request in (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody"):
            client.send(request)
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 418 ")
            assert b"content-length: 15" in head
            assert await client.read(15) == b"short and stout"


async def test_without_a_body_it_is_empty():
    async with running(config(clusters=[answering()], listeners=[listener("in", "answer", protocol="HTTP")])) as proxy:
        status, fields, body = await http(port_of(proxy, "in"))
        assert (status, fields["content-length"], body) == (200, "0", b"")


async def test_a_client_that_knows_no_http_gets_the_body():
    async with running(config(clusters=[answering(body="hello")], listeners=[listener("in", "answer")])) as proxy:
        assert await ask(port_of(proxy, "in"), b"anything") == b"hello"


@pytest.mark.parametrize("spec", [{"status": 99}, {"status": True}, {"status": "200"}, {"body": 1}, {"type": "a\r\nb: c"}, {"bodi": ""}])
def test_what_cannot_be_answered_is_refused(spec):
    assert AnswerCluster.check({"protocol": "Answer", **spec}, "$")
