"""Writes of a file and of a folder, whole or not at all, and what a process needs for them."""

from __future__ import annotations

import os
from pathlib import Path

from masklib.adapters.files import _atomic
from masklib.adapters.files._atomic import new_file, whole_file, whole_folder

# What writes does not need torch, which takes seconds to import: processes that only write load nothing else.
LIGHT = f"""
import importlib.util, sys, types
sys.modules["masklib"] = types.ModuleType("masklib")
for name in ("masklib.adapters", "masklib.adapters.files"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [{str(Path(_atomic.__file__).parent)!r}]
"""


def write(path, data=b"new"):
    with whole_file(path) as sink:
        sink.write(data)


def fill(path, data=b"new"):
    with whole_folder(path) as folder, new_file(folder / "a", path / "a") as sink:
        sink.write(data)


def names(folder):
    return sorted(os.listdir(folder))
