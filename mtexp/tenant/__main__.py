"""``python -m mtexp.tenant JOB.json``: a tenant process in a fresh interpreter, the same child as a forked one."""

from __future__ import annotations

import gc
import json
import sys
from contextlib import suppress
from pathlib import Path

from mtexp.collector import collector_off
from mtexp.spec import from_json
from mtexp.tenant.job import ProcessJob

if __name__ == "__main__":
    data = json.loads(Path(sys.argv[1]).read_text())
    with collector_off():
        from mtexp.tenant.process import serve

        models = [tenant.tenant.model for tenant in from_json(ProcessJob, data).tenants]
        if any(model.of_transformers for model in models):
            with suppress(Exception):  # it comes again when the model is built, and is said
                import transformers.modeling_utils  # noqa: F401  every model imports it
    gc.freeze()  # else the collector goes through all of torch, a fifth of a second each time
    try:
        serve(data)
    finally:
        gc.freeze()  # else the interpreter, as it ends, does for a second
