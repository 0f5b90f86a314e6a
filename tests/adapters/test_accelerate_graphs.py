"""Sparse layers in graphs of torch.export and torch.compile."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from sparse_layers import sparse
from torch import nn

from masklib.adapters.accelerate import SparseConv, SparseLinear


def packed(rows_first, block):
    """Both kinds of layers in one network, dense and sparse."""
    torch.manual_seed(0)
    layers = [sparse(nn.Conv2d(3, 8, 3, padding=1)), nn.ReLU(), sparse(nn.Conv2d(8, 16, 1)), nn.Flatten()]
    dense = nn.Sequential(*layers, sparse(nn.Linear(16 * 36, 8)))
    fast = copy.deepcopy(dense)
    fast[0], fast[2] = SparseConv(dense[0]), SparseConv(dense[2], rows_first=rows_first, block=block)
    fast[4] = SparseLinear(dense[4], rows_first=rows_first, block=block)
    return dense, fast, torch.randn(4, 3, 6, 6)


@pytest.mark.filterwarnings("ignore")  # torch's own, of what it exports
@pytest.mark.parametrize("block", [None, 2])
@pytest.mark.parametrize("rows_first", [False, True])
def test_sparse_layers_are_exported(rows_first, block):
    """Saved, loaded, and run on another batch: the same bits as eagerly."""
    _, fast, x = packed(rows_first, block)
    batch = {0: torch.export.Dim("batch", min=2, max=64)}
    program, file = torch.export.export(fast, (x,), dynamic_shapes=(batch,)), io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded, others = torch.export.load(file).module(), torch.randn(7, 3, 6, 6)
    assert torch.equal(loaded(others), fast(others))
    assert sum(node.target is torch.ops.masklib.sparse_linear.default for node in program.graph.nodes) == 3
    assert program.state_dict.keys() == {n for n in fast.state_dict() if not n.endswith("_extra_state")}


@pytest.mark.filterwarnings("ignore")  # torch's own, of what it compiles
@pytest.mark.parametrize("block", [None, 2])
def test_sparse_layers_are_compiled_without_a_break(block):
    dense, fast, x = packed(False, block)
    compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), fast(x))
    x.requires_grad_()
    (expected,), (got,) = (torch.autograd.grad(net(x).square().sum(), x) for net in (dense, compiled))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("block", [None, 2])
def test_the_operator_is_what_torch_demands(block):
    layer = SparseLinear(sparse(nn.Linear(6, 4)), block=block)
    parts = (layer.crow_indices, layer.col_indices, layer.values, layer.bias, 4, False)
    for x in (torch.randn(5, 6), torch.randn(1, 6, requires_grad=True)):
        torch.library.opcheck(torch.ops.masklib.sparse_linear.default, (x, *parts))
