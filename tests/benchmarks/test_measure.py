import os
import subprocess
import sys
import time

import pytest

from benchmarks import measure

BURN = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass\nprint('done', flush=True)\ninput()"


@pytest.fixture
def burner():
    process = subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    yield process
    process.communicate(b"\n")


def test_the_cpu_clock_agrees_with_proc_within_its_rounding(burner):
    assert measure.cpu_clock(burner.pid) == pytest.approx(measure.cpu_ticks(burner.pid), abs=0.03)
    assert measure.cpu_clock(burner.pid) >= 0.2


def test_a_process_that_sleeps_uses_no_cpu(burner):
    before = measure.tree_cpu(burner.pid)
    time.sleep(0.05)
    assert measure.tree_cpu(burner.pid) - before < 0.01


def test_a_tree_holds_the_children_too(burner):
    assert {os.getpid(), burner.pid} <= set(measure.process_tree(os.getpid()))
    assert measure.process_tree(burner.pid) == [burner.pid]


def test_resident_memory_is_of_the_size_of_an_interpreter(burner):
    assert 2**21 < measure.tree_rss(burner.pid) < 2**27


def test_a_process_that_has_gone_counts_nothing():
    process = subprocess.Popen(["true"])
    process.wait()
    assert measure.process_tree(process.pid) == []
    assert measure.cpu_clock(process.pid) == 0.0
    assert measure.rss(process.pid) == 0


def test_the_busy_time_of_a_core_grows_with_work_on_it():
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {measure.LOAD_CORE})
    try:
        before, end = measure.core_busy(measure.LOAD_CORE), time.process_time() + 0.1
        while time.process_time() < end:
            pass
        assert measure.core_busy(measure.LOAD_CORE) - before >= 0.08
    finally:
        os.sched_setaffinity(0, cores)


def test_the_median_of_nothing_is_none():
    assert measure.median([]) is None
    assert measure.median([3, 1, 2]) == 2
