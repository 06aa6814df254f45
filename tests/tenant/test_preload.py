"""What the forkserver imports leaves CUDA alone, whatever else is installed."""

from __future__ import annotations

import subprocess
import sys

ASKS = """
import os, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "transformers":
            print("while", os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK"))

sys.meta_path.insert(0, Finder())
import mtexp.tenant.preload
print("after", os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK"))
"""


def test_a_package_that_asks_for_a_gpu_does_not_start_cuda() -> None:
    """torch.cuda.is_available() asks NVML during the imports; tenants find the environment as it was."""
    done = subprocess.run([sys.executable, "-c", ASKS], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["while", "1", "after", "None"]
