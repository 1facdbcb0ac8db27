import pytest

from benchmarks import h2load
from benchmarks.processes import Children, start_backend
from benchmarks.scenario import Target

SAID = """finished in 1.00s, 10.00 req/s, 1.00KB/s
requests: 10 total, 10 started, 10 done, 7 succeeded, 3 failed, 0 errored, 0 timeout
status codes: 7 2xx, 0 3xx, 1 4xx, 2 5xx
"""


def test_what_it_says_at_its_end_is_read():
    load = h2load.read(SAID, 1)
    assert (load.operations, load.seconds, load.errors, load.p50) == (7, 1, 6, None)
    with pytest.raises(RuntimeError, match="no counts"):
        h2load.read("finished in 1s", 1)


@pytest.mark.skipif(not h2load.installed(), reason="h2load is not installed")
def test_it_counts_the_answers_of_a_server():
    with Children() as children:
        load = h2load.drive(Target(start_backend(children, ["A"])["A"]), 1, ["/", "/svc/x"], [("x-a", "b")], 2, 4)
    assert load.operations > 50 and load.errors == 0
