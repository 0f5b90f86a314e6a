"""No call depends on the default device: tensors that the library makes for itself say where they are."""

from __future__ import annotations

import ast
from pathlib import Path

import torch

from masklib.adapters.files import load_masks, save_masks

ROOT = Path(__file__).parents[1]
MAKERS = {"arange", "empty", "eye", "full", "linspace", "normal", "ones", "rand", "randint", "randn", "randperm"} | {
    "as_tensor",
    "scalar_tensor",
    "tensor",
    "zeros",
}
THEIRS = ("masklib/testing", "adapters/demo.py", "adapters/prune/_amounts.py")  # which make what a caller would


def made_anywhere(path):
    """Calls of torch that make a tensor on whatever the default device is."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of_torch = isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"
            if of_torch and node.func.attr in MAKERS and not {"device", None} & {k.arg for k in node.keywords}:
                yield f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"


def test_every_tensor_that_is_made_says_where():
    files = [p for folder in ("masklib", "adapters") for p in (ROOT / folder).rglob("*.py")]
    files = [p for p in files if not str(p.relative_to(ROOT).as_posix()).startswith(THEIRS)]
    assert len(files) > 200
    assert [call for path in files for call in made_anywhere(path)] == []
    assert len(list(made_anywhere(Path(__file__)))) == 1  # the one at the end


def test_masks_are_read_from_a_file_under_a_default_device(tmp_path):
    """What runs on modules is in adapters/test_rooms.py; `meta` stands for any device that is not the CPU."""
    mask = torch.rand(5, 6, device="cpu") < 0.5
    with torch.device("meta"):
        save_masks(tmp_path / "masks.safetensors", {"weight": mask})
        assert torch.equal(load_masks(tmp_path / "masks.safetensors").masks["weight"], mask)
    assert torch.zeros(1).device.type == "cpu"  # made where the default device says, which `made_anywhere` finds
