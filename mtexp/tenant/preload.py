"""What the forkserver imports once, so that a forked tenant imports nothing. Must not start CUDA or any thread pool.

transformers imports packages that happen to be installed, and torchao asks torch.cuda.is_available() as it is imported.
That asks the CUDA driver, after which no forked process can use CUDA; meanwhile NVML is asked in its place.
"""
# ruff: noqa: E402

import gc
import os

_ASK_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"
_asked = os.environ.get(_ASK_NVML)
os.environ[_ASK_NVML] = "1"
gc.disable()  # a tenth of the time of these imports

import pandas  # noqa: F401  pyarrow imports it at its first array
import pyarrow.parquet  # noqa: F401  the sampler writes its file with it, and the next point waits for that
import torch  # noqa: F401
import transformers.models.bert.modeling_bert
import transformers.models.deberta_v2.modeling_deberta_v2
import transformers.models.gpt2.modeling_gpt2
import transformers.models.llama.modeling_llama
import transformers.models.mistral.modeling_mistral  # noqa: F401

import mtexp.tenant.process  # noqa: F401

if _asked is None:
    del os.environ[_ASK_NVML]
else:
    os.environ[_ASK_NVML] = _asked
gc.collect()
gc.enable()
gc.freeze()  # a tenant's collector need not look at any of it, nor copy its pages
