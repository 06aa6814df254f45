"""The child process: models, workloads, arrivals, the measuring loop. The only importer of torch and transformers.

``job`` and ``buffers`` are what parent and child share, and import neither.
"""

import logging

# transformers imports torchao wherever it is installed, and it reports kernels that no precision of mtexp needs
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
