"""Stand-ins for nsys and ncu: programs that really run what they are given, and have their findings ready."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from mtexp.profiling import ncu
from tests.profiling.conftest import Export

MS = 1_000_000
NVTX = "thread Domain:Push/Pop_Range:PL_Type:PL_Value:CLR_Type:Color:Msg_Type:Msg"
TENSOR = "sm__ops_path_tensor_op_hgmma_src_tf32_dst_fp32_sparsity_off.sum"
TABLE = f"""==PROF== done
"ID","{NVTX}","Kernel Name","{ncu.TIME}","{ncu.READ}","{ncu.WRITTEN}","{ncu.SM}","{ncu.DRAM}","{TENSOR}"
"","","","ns","byte","byte","%","%",""
"0","1 ""<default domain>:mtexp_ncu_layer:none"" ","gemm","2,000","1,000","1,000","80","10","1,000,000"
"1","1 ""<default domain>:mtexp_ncu_layer:none"" ","norm","1,000","4,000","4,000","10","70","0"
"""
NCU = """#!{python}
import pathlib, subprocess, sys

query, broken = {query!r}, {broken!r}
first, *rest = sys.argv[1:]
if first == "--query-metrics":
    print(*query, sep="\\n")
elif first.startswith("--import="):
    print({table!r}, end="")
elif first == "--target-processes=all":
    inner = next(i for i, word in enumerate(sys.argv) if word == sys.executable)
    (out,) = [word.removeprefix("--export=") for word in rest if word.startswith("--export=")]
    for part, complaint in broken.items():
        if part in pathlib.Path(out).name:
            sys.exit(complaint)
    pathlib.Path(out + ".ncu-rep").touch()
    sys.exit(subprocess.run(sys.argv[inner:]).returncode)
else:
    sys.exit(f"unexpected: {{sys.argv}}")
"""
NSYS = """#!{python}
import pathlib, shutil, subprocess, sys

what, *rest = sys.argv[1:]
outputs = [word.removeprefix("--output=") for word in rest if word.startswith("--output=")]
if what == "--version":
    print("NVIDIA Nsight Systems version 2025.3.2.367-253235982083v0")
elif what == {broken!r}:
    sys.exit("nsys has a bad day")
elif what == "profile":
    inner = next(i for i, word in enumerate(sys.argv) if word == sys.executable)
    code = subprocess.run(sys.argv[inner:]).returncode
    pathlib.Path(outputs[0] + ".nsys-rep").write_text("a report")
    sys.exit(code)
elif what == "export":
    assert pathlib.Path(rest[-1]).read_text() == "a report"
    shutil.copy({capture!r}, outputs[0])
else:
    sys.exit(f"unexpected: {{sys.argv}}")
"""


def install_ncu(folder: Path, monkeypatch: pytest.MonkeyPatch, broken: dict[str, str] | None = None) -> None:
    """A stand-in for ncu; ``broken``: what it complains of, by a part of the name of a report."""
    query = [name.split(".")[0] for name in (*ncu.METRICS, TENSOR)]
    text = NCU.format(python=sys.executable, query=query, table=TABLE, broken=broken or {})
    monkeypatch.setenv("NCU", str(_program(folder / "ncu", text)))


def install_nsys(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tenants: Iterable[str] = (), broken: str = "nothing"
) -> None:
    """A stand-in for nsys that saw a 10 ms kernel of each tenant, 5 ms after the last one's; ``broken``: a command."""
    capture = Export(folder / "seen.sqlite").write(
        [((2 + i) * 5 * MS, (4 + i) * 5 * MS, 7 + i, 1) for i, _ in enumerate(tenants)],
        strings=[(1, "gemm")],
        nvtx=[(5 * MS, 50 * MS, 7 + i, f"tenant={tenant}|phase=measure") for i, tenant in enumerate(tenants)],
    )
    home = folder / "nsight-systems"
    _program(home / "host-linux-x64" / "QdstrmImporter", "#!/bin/true\n")
    text = NSYS.format(python=sys.executable, capture=str(capture), broken=broken)
    monkeypatch.setenv("NSYS", str(_program(home / "target-linux-x64" / "nsys", text)))


def _program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path
