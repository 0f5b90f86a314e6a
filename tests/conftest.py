"""Hypothesis profiles: `ci` is deterministic; MASKLIB_PROFILE=thorough draws more, and anew each time."""

from __future__ import annotations

import os

import hypothesis
import torch

torch.set_num_threads(1)  # small tensors: more threads only get in one another's way

COMMON = {"deadline": None, "print_blob": True, "suppress_health_check": list(hypothesis.HealthCheck)}
hypothesis.settings.register_profile("ci", max_examples=20, derandomize=True, database=None, **COMMON)
hypothesis.settings.register_profile("thorough", max_examples=200, **COMMON)
hypothesis.settings.load_profile(os.environ.get("MASKLIB_PROFILE", "ci"))
