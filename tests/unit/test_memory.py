"""The memory setting that halves the time of an edit on Linux."""

import platform
import subprocess
import sys

import pytest

from gra_core.constants import PROJECT_ROOT

PROGRAM = """
import resource
from concurrent.futures import ThreadPoolExecutor
import torch
from gra_core.memory import keep_freed_memory
torch.set_num_threads(1)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.zeros(20_000_000).add_(1)  # 80 MB: more than a thread's own pool could hold
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

default = faults()
print(keep_freed_memory())
faults()
with ThreadPoolExecutor(1) as pool:  # where the page's visitors are answered
    pool.submit(faults).result()
    print(default, faults(), pool.submit(faults).result())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is one of glibc's")
def test_large_blocks_are_reused_instead_of_faulted_in_again():
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    obeyed, counts = done.stdout.splitlines()
    default, kept, kept_in_a_thread = map(int, counts.split())
    assert obeyed == "True"
    assert kept < 0.1 * default
    assert kept_in_a_thread < 0.1 * default
