"""How long other threads of this process stand still, and how much memory it takes together with its workers."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path


class Watch:
    """What was seen while a block ran.

    Attributes:
        stall: longest time, in seconds, that a thread did not run.
        peak: most memory of this process and its children, bytes; 0 where that cannot be known.
        before: the same before the block.
    """

    def __init__(self) -> None:
        self.stall, self.before = 0.0, memory()
        self.peak = self.before

    @property
    def growth(self) -> int:
        """How much memory the block took at most, bytes."""
        return self.peak - self.before


@contextlib.contextmanager
def watched(*, stalls: bool = True) -> Iterator[Watch]:
    """Watch this process while the block runs: its stalls, else its memory."""
    watch, stop = Watch(), threading.Event()

    def look() -> None:
        before = time.perf_counter()
        while not stop.wait(0.005):
            now = time.perf_counter()
            watch.stall = max(watch.stall, now - before)
            before = now
            if not stalls:
                watch.peak = max(watch.peak, memory())
                before = time.perf_counter()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join()


def memory(process: int | str = "self") -> int:
    """Memory of a process and its children, bytes; what they share counts once. 0 where that cannot be known.

    A child that has not started its own program yet still runs in the process' memory, and does not count.
    """
    if not Path("/proc/self/smaps_rollup").exists():
        return 0
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    children = {number for task in tasks for number in _read(task).split()}
    own = _read(Path(f"/proc/{process}/cmdline"))
    started = [number for number in children if _read(Path(f"/proc/{number}/cmdline")) != own]
    return sum(map(_pss, [str(process), *started]))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it ended meanwhile
        return ""


def _pss(number: str) -> int:
    lines = _read(Path(f"/proc/{number}/smaps_rollup")).splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def memory_of(process: int) -> float:
    """Resident memory of a process in megabytes."""
    fields = Path(f"/proc/{process}/status").read_text().split("VmRSS:")[1].split()
    return int(fields[0]) / 1000
