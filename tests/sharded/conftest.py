"""Which versions of torch shard on a mesh of CPUs as these tests do."""

from __future__ import annotations

import torch

VERSION = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
if VERSION < (2, 7):  # `fully_shard` has no backward pass on the CPU
    collect_ignore_glob = ["test_modules.py", "test_training.py"]
