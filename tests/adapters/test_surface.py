"""What a user finds with dir(), and what a reader finds in the files: no names that are not meant, no circles."""

from __future__ import annotations

import ast
import importlib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import torch.nn.utils.prune

import masklib.adapters
import masklib.adapters.prune

ROOT = Path(masklib.adapters.prune.__file__).parents[1]
FILES = sorted(path for path in ROOT.rglob("*.py") if path.name != "demo.py" and path.parent.name != "cli")
ORIGINAL = {
    n
    for n, v in vars(torch.nn.utils.prune).items()
    if getattr(v, "__module__", "") == torch.nn.utils.prune.__name__ and not n.startswith("_")
}
SURFACE = {
    "prune": ORIGINAL | {"apply", "bake", "masks", "set_mask", "undo"},
    "parametrize": {"Masked", "bake", "is_pruned", "masks", "prune", "remove", "set_mask", "undo"},
    "checkpoint": {"load_pruned", "to_dense", "to_pruned"},
    "oneshot": {"Layer", "Pruned", "Rule", "admm", "magnitude", "measure", "next_token_loss", "perplexity", "prune"}
    | {"prune_checkpoint", "ria", "sparsegpt", "to_checkpoint", "to_model", "wanda"},
    "optimizer": {"Handle", "keep_zero"},
    "files": {"Checkpoint", "MaskFile", "Pruned", "Report"}
    | {"load_masks", "open_checkpoint", "prune_checkpoint", "save_masks", "sparse_size"},
    "plot": {"mask", "overlap", "schedule", "scores", "sparsity", "training"},
    "report": {"Difference", "Layer", "Report", "diff", "report"},
    "training": {"Pruning", "Report", "attach", "freeze", "zero"},
    "accelerate": {"Layer", "SparseConv", "SparseLinear", "Table", "TwoOfFour", "accelerate", "race", "restore"},
    "depth": {"Runs", "drop", "measure"},
    "structural": {
        *["Count", "Dim", "Fixed", "Set", "Structure", "count", "shrink", "shrink_optimizer", "structure", "within"],
        *["drop_experts", "expert_norms", "Idle", "fold_constants", "idle"],
    },
}


@pytest.mark.parametrize("name", SURFACE)
def test_dir_shows_public_names_only(name):
    module = importlib.import_module(f"masklib.adapters.{name}")
    assert set(dir(module)) == SURFACE[name]
    assert all(getattr(module, n).__module__ == module.__name__ for n in dir(module))
    assert all(getattr(module, n).__doc__ for n in dir(module))


def test_dir_of_the_adapters_shows_functions_and_modules():
    shown = {n: getattr(masklib.adapters, n) for n in dir(masklib.adapters)}
    assert {"weights", "skipped", "prune"} <= set(shown)
    assert all(callable(v) or v.__name__ == f"masklib.adapters.{n}" for n, v in shown.items())
    assert callable(masklib.adapters.weights)


def imports(path):
    """The modules of the adapters that a file imports, by path; those inside functions as well."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for name in [alias.name for alias in node.names]:
                found = [
                    base / f"{name}.py",
                    base / name / "__init__.py",
                    base.with_suffix(".py"),
                    base / "__init__.py",
                ]
                yield next(p for p in found if p.exists())


def test_no_file_imports_itself_in_a_circle():
    graph = {path: set(imports(path)) for path in FILES}
    assert sum(map(len, graph.values())) > 40
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_a_room(path):
    tree = ast.parse(path.read_text())
    inside = [n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)]
    assert not [n for n in inside if isinstance(n, (ast.Import, ast.ImportFrom))]
    assert ast.get_docstring(tree)
    assert len(path.read_text().splitlines()) <= 300
