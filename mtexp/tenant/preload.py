"""What the forkserver imports once, so that a forked tenant imports nothing. Must not start CUDA or any thread pool.

transformers imports packages that happen to be installed, and torchao starts CUDA as it is imported, after which no
forked process can use it. So torchao counts as absent until all is imported: a tenant that needs it imports it itself.
"""
# ruff: noqa: E402

import gc
import sys

_STARTS_CUDA = "torchao"
_there = _STARTS_CUDA in sys.modules
sys.modules.setdefault(_STARTS_CUDA, None)  # type: ignore[arg-type]  # importing it fails, looking for it finds nothing
gc.disable()  # a tenth of the time of these imports

import pandas  # noqa: F401  pyarrow imports it at its first array
import pyarrow.parquet  # noqa: F401  the sampler writes its file with it, and the next point waits for that
import torch  # noqa: F401
import transformers.models.bert.modeling_bert
import transformers.models.deberta_v2.modeling_deberta_v2
import transformers.models.gpt2.modeling_gpt2
import transformers.models.llama.modeling_llama
import transformers.models.mistral.modeling_mistral  # noqa: F401

import mtexp.tenant.model_requests
import mtexp.tenant.process
import mtexp.tenant.shared_weights  # noqa: F401

if not _there:
    del sys.modules[_STARTS_CUDA]
gc.enable()
gc.freeze()  # a tenant's collector need not look at any of it, nor copy its pages
