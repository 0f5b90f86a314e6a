"""The wrong thing in every argument, told in our words."""

from __future__ import annotations

import pytest
import torch
from wrong import OURS, told

from masklib.adapters.files import load_masks, open_checkpoint, save_masks, sparse_size

MASKS = {"w": torch.tensor([True, False])}
CALLS = {
    open_checkpoint: lambda path: {"path": path},
    load_masks: lambda path: {"path": path},
    save_masks: lambda path: {"path": path, "masks": MASKS, "history": ()},
    sparse_size: lambda path: {"masks": MASKS, "others": 0, "itemsize": 4},
}


@pytest.mark.parametrize("function", CALLS, ids=lambda function: function.__name__)
def test_wrong_things_are_told_in_our_words(function, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.fsync", lambda number: None)  # a hundred files, none of them to be kept
    save_masks("x", MASKS)
    assert told(function, lambda: CALLS[function]("x"), (*OURS[:3], OSError)) == ""
    assert {path.name for path in tmp_path.iterdir()} <= {"x", "weight"}
    assert torch.equal(load_masks("x").masks["w"], MASKS["w"]) or function is save_masks
