import pytest

from benchmarks import wrk
from benchmarks.load.http import TRACE
from benchmarks.processes import Children, start_backend
from benchmarks.scenario import Target


def test_a_request_becomes_a_lua_string_byte_by_byte():
    assert wrk.quoted(b'a"\\\r\n\x00\xff') == '"a\\034\\092\\013\\010\\000\\255"'


def test_a_request_is_cut_where_the_trace_id_goes():
    text = wrk.script([b"one", b"two " + TRACE + b" end"])
    assert 'before, after, n = {"one", "two "}, {"", " end"}, 0' in text


def test_the_last_line_of_the_output_is_read():
    load = wrk.read('Running 1s test\n\n{"requests": 10, "micros": 2000000, "p50": 500.0, "p99": 1000.0, "errors": 3}\n')
    assert (load.operations, load.seconds, load.p50, load.p99, load.errors) == (10, 2.0, 0.0005, 0.001, 3)


@pytest.mark.skipif(not wrk.installed(), reason="wrk is not installed")
def test_wrk_counts_the_answers_of_a_server():
    requests = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nt: " + TRACE + b"\r\n\r\n"]
    with Children() as children:
        load = wrk.drive(Target(start_backend(children, ["A"])["A"]), 1, requests, 4)
    assert load.operations > 100 and load.errors == 0
    assert 0 < load.p50 <= load.p99 < 1


@pytest.mark.skipif(not wrk.installed(), reason="wrk is not installed")
def test_a_server_that_is_not_there_is_an_error():
    from benchmarks.processes import free_ports

    with pytest.raises(RuntimeError, match="wrk failed: unable to connect"):
        wrk.drive(Target(free_ports(1)[0]), 1, [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"], 1)
