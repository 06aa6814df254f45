"""``python -m mtexp.tenant JOB.json``: a tenant process in a fresh interpreter, the same child as a forked one."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

from mtexp.collector import collector_off

with collector_off():
    from mtexp.tenant.process import serve

if __name__ == "__main__":
    try:
        serve(json.loads(Path(sys.argv[1]).read_text()))
    finally:
        gc.freeze()  # else the interpreter, as it ends, goes through all of torch for a second
