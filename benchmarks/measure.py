"""Readings of a running process tree: CPU seconds, resident memory; and the few statistics that the report needs.

CPU is the measure that this directory stands on: requests per second depend on who else wants the cores, CPU per request hardly does.
It is read from the kernel's per-process CPU clock (ns), which holds what /proc shows as utime + stime, without its rounding to 10 ms.
"""

import os
import statistics
import time
from collections.abc import Iterable

CPU_CORES = sorted(os.sched_getaffinity(0))
PROXY_CORE = CPU_CORES[0]
LOAD_CORE = CPU_CORES[-1]

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command name, which may itself hold spaces and brackets: field 0 is the state (proc(5))."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()


def process_tree(root: int) -> list[int]:
    """`root` and all its living descendants, by parent ids in /proc; [] when it has ended."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                children.setdefault(int(stat_fields(int(entry))[1]), []).append(int(entry))
            except (FileNotFoundError, ProcessLookupError):
                pass  # ended while we were reading
    found = [root] if os.path.exists(f"/proc/{root}") else []
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def cpu_clock(pid: int) -> float:
    """CPU seconds (user and system, all threads, ended ones too) of one process, 0.0 when it is gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # the kernel's MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED)
    except OSError:
        return cpu_ticks(pid)


def cpu_ticks(pid: int) -> float:
    """The same from /proc/PID/stat, in steps of 10 ms: for kernels that hide the clocks of other processes."""
    try:
        fields = stat_fields(pid)
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def tree_cpu(root: int) -> float:
    """CPU seconds of `root` and its descendants (worker processes)."""
    return sum(map(cpu_clock, process_tree(root)))


def tree_rss(root: int) -> int:
    """Resident bytes of `root` and its descendants; pages that they share count for each of them."""
    return sum(map(rss, process_tree(root)))


def rss(pid: int) -> int:
    """Resident bytes of one process, 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0


def median(values: Iterable[float]) -> float | None:
    """The median, None of nothing."""
    known = list(values)
    return statistics.median(known) if known else None


def core_busy(core: int) -> float:
    """Seconds that `core` has worked since boot, for whomever, stolen time too; from /proc/stat in steps of 10 ms."""
    with open("/proc/stat") as file:
        fields = next(line.split() for line in file if line.startswith(f"cpu{core} "))
    numbers = [int(field) for field in fields[1:9]]  # user nice system idle iowait irq softirq steal
    return (sum(numbers) - numbers[3] - numbers[4]) / TICKS_PER_SECOND
