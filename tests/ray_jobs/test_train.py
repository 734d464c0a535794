"""The environment of a worker on CPUs."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from paramcrop.data.killable import KEEP_MEMORY

FAULTS = """
import resource, threading
import torch

def steps(count):
    for _ in range(count):
        kept = [torch.ones(megabytes, 2**18) for megabytes in (5, 20, 40)]

def run():
    steps(40)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    steps(20)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=run)  # as Ray Train runs it
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library's malloc has other settings")
def test_a_workers_steps_reuse_memory() -> None:
    def faults(extra: dict[str, str]) -> int:
        environment = os.environ | extra
        return int(
            subprocess.run([sys.executable, "-c", FAULTS], check=True, env=environment, capture_output=True).stdout
        )

    assert faults(KEEP_MEMORY) < 100 < 10_000 < faults({})
