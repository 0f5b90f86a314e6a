"""Hypothesis profiles, threads, and what other versions of torch warn of.

`ci` is deterministic; MASKLIB_PROFILE=thorough draws more, and anew each time.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is loaded: `-n auto` starts a process a core already

import hypothesis
import pytest
import torch
from hypothesis.internal.conjecture import providers

torch.set_num_threads(1)  # small tensors: more threads only get in one another's way

# Hypothesis also draws constants that it finds in the modules loaded so far and not installed. What is drawn would then
# depend on the order of the tests, the worker, and on where masklib and torch lie.
providers._get_local_constants = lambda: providers._local_constants

COMMON = {"deadline": None, "print_blob": True, "suppress_health_check": list(hypothesis.HealthCheck)}
hypothesis.settings.register_profile("ci", max_examples=20, derandomize=True, database=None, **COMMON)
hypothesis.settings.register_profile("thorough", max_examples=200, **COMMON)
hypothesis.settings.load_profile(os.environ.get("MASKLIB_PROFILE", "ci"))

VERSION = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
TORCHS_OWN_WARNINGS = {  # the first version tried that no longer gives them, and what they begin with
    (2, 13): [
        "ignore:Attempted to insert a get_attr Node:UserWarning",  # while it exports
        "ignore:Node lifted_tensor:UserWarning",  # the same
        "ignore:There is a performance drop because .* aten..count_nonzero:UserWarning",  # what counts under vmap
        "ignore:Skipping serialization of skipfiles_inline_module_allowlist:UserWarning",  # while inductor hashes
        "ignore:DTensor random operators may not have complete support:UserWarning",  # on a mesh of CPUs
        "ignore:TypedStorage is deprecated:UserWarning",  # while it writes a distributed checkpoint
    ],
}


def pytest_configure(config: pytest.Config) -> None:
    for fixed, filters in TORCHS_OWN_WARNINGS.items():
        for line in filters if fixed > VERSION else []:
            config.addinivalue_line("filterwarnings", line)
