"""``python -m mtexp.tenant JOB.json``: a tenant process in a fresh interpreter, the same child as a forked one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mtexp.tenant.process import serve

if __name__ == "__main__":
    serve(json.loads(Path(sys.argv[1]).read_text()))
