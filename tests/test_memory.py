import os
import subprocess
import sys

import pytest

from fima.torch_tools.allocator import keep_freed_memory

COUNT_FAULTS = """
import resource
from fima.torch_tools.allocator import keep_freed_memory
import torch
{setting}
def tensors():
    return [torch.ones(size) for size in (2**23, 2**24, 2**22)]
for _ in range(10):
    tensors()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    tensors()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(setting: str) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", COUNT_FAULTS.format(setting=setting)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is glibc's")
def test_freed_tensors_are_used_again() -> None:
    assert faults("assert keep_freed_memory()") < faults("") / 10


def test_settings_of_the_user_are_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000")
    assert not keep_freed_memory()
