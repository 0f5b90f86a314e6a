"""Training under masks on FSDP2 and HSDP: what the same loop on whole tensors gives."""

from __future__ import annotations

import pytest

from sharded import trained
from sharded.crew import run


@pytest.mark.parametrize("mesh", [(2,), (3,), (2, 2)])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("falling", "AdamW"), ("growing", "AdamW"), ("through", "SGD")],
)
def test_a_sharded_run_is_the_whole_one(mesh, name, kind):
    run(trained.same_as_whole, name, kind, mesh=mesh)


@pytest.mark.slow  # a minute where four processes share a busy core
def test_so_is_one_that_ranks():
    run(trained.same_as_whole, "gradual", "AdamW", mesh=(2,), seconds=300)
