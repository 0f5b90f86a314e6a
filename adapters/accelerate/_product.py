"""Products with sparse weights, and the operator that graphs of `torch.export` and `torch.compile` hold for them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def compressed(crow: Tensor, col: Tensor, values: Tensor, shape: tuple[int, int], *, checked: bool = False) -> Tensor:
    """The sparse tensor that shares the memory of its parts: CSR, or BSR if the values are blocks."""
    layout = torch.sparse_csr if values.dim() == 1 else torch.sparse_bsr
    return torch.sparse_compressed_tensor(crow, col, values, shape, layout=layout, check_invariants=checked)


def product(weight: Tensor, rows: Tensor, bias: Tensor | None, *, rows_first: bool) -> Tensor:
    """Rows (many, in) times the transposed weight, in one of two orders: (many, out)."""
    if rows_first or weight.layout == torch.strided:
        return by_rows(weight, rows, bias)
    return by_columns(weight, rows.T, bias).T.contiguous()


def by_rows(weight: Tensor, rows: Tensor, bias: Tensor | None) -> Tensor:
    """Rows (many, in) times the transposed weight. Of one row addmv takes 8 us where linear takes 13."""
    if len(rows) != 1 or bias is None or weight.layout != torch.sparse_csr:
        return functional.linear(rows, weight, bias)
    return torch.addmv(bias, weight, rows[0])[None]


def by_columns(weight: Tensor, columns: Tensor, bias: Tensor | None) -> Tensor:
    """A sparse weight times columns (in, many)."""
    return weight @ columns if bias is None else torch.addmm(bias[:, None], weight, columns)


# ---- in graphs, which hold no sparse tensors ------------------------------------------------------------------------


@torch.library.custom_op("masklib::sparse_linear", mutates_args=())
def sparse_linear(
    rows: Tensor, crow: Tensor, col: Tensor, values: Tensor, bias: Tensor | None, out: int, rows_first: bool
) -> Tensor:
    """Multiply rows (many, in) by a compressed weight (out, in)."""
    weight = compressed(crow, col, values, (out, rows.shape[1]))
    return product(weight, rows, bias, rows_first=rows_first).clone()


@sparse_linear.register_fake
def _(
    rows: Tensor, crow: Tensor, col: Tensor, values: Tensor, bias: Tensor | None, out: int, rows_first: bool
) -> Tensor:
    return rows.new_empty(rows.shape[0], out)


@torch.library.custom_op("masklib::dense_weight", mutates_args=())
def dense_weight(crow: Tensor, col: Tensor, values: Tensor, out: int, wide: int) -> Tensor:
    """A compressed weight with its zeros: torch has no gradients of products with blocks."""
    return compressed(crow, col, values, (out, wide)).to_dense()


@dense_weight.register_fake
def _(crow: Tensor, col: Tensor, values: Tensor, out: int, wide: int) -> Tensor:
    return values.new_empty(out, wide)


def _remember(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    rows, crow, col, values, _, out, _ = inputs
    ctx.save_for_backward(crow, col, values)
    ctx.sizes = (out, rows.shape[1])


def _backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    return grad @ dense_weight(*ctx.saved_tensors, *ctx.sizes), None, None, None, None, None, None


sparse_linear.register_autograd(_backward, setup_context=_remember)
