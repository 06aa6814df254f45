"""What the forkserver imports leaves CUDA alone, whatever else is installed; what a tenant imports is what it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ASKS = """
import sys
import mtexp.tenant.process
print("transformers" in sys.modules)
import mtexp.tenant.preload
print("torchao" in sys.modules)
import torchao
print(torchao.WHOSE)
"""


def test_a_package_that_starts_cuda_is_left_to_the_tenants(tmp_path: Path) -> None:
    """torchao, which transformers imports where it is installed; afterwards it can be imported as ever.

    A tenant that is no model of transformers does without it.
    """
    package = tmp_path / "torchao"
    package.mkdir()
    (package / "__init__.py").write_text("WHOSE = 'this one'\n")
    metadata = tmp_path / "torchao-0.18.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: torchao\nVersion: 0.18.0\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{ASKS}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split("\n")[:3] == ["False", "False", "this one"]
