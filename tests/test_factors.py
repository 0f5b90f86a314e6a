"""Factors of many features, made by panels, and what is refused of statistics as wide."""

from __future__ import annotations

import pytest
import torch

from masklib.surgery._factors import cholesky, curvature, surgeon


def covariance(features):
    """Of features that go together, well conditioned."""
    x = torch.randn(2 * features, features, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x.T @ x / len(x) + 0.5


@pytest.mark.parametrize("features", [512, 560, 1])  # whole panels, a last one that is narrower, one
def test_the_factor_is_that_of_the_matrix(features):
    matrix = covariance(features)
    lower, failed = cholesky(matrix.clone())
    assert torch.equal(lower, lower.tril())
    assert int(failed) == 0
    torch.testing.assert_close(lower @ lower.T, matrix)


@pytest.mark.parametrize("at", [0, 100, 559])
def test_what_has_no_factor_is_told_wherever_it_fails(at):
    matrix = covariance(560)
    matrix[at, at] = -1.0
    assert int(cholesky(matrix)[1]) > 0


def test_the_surgeons_factor_is_upper():
    matrix = covariance(560)
    upper = surgeon(matrix, 0.01, 1, "`statistics`")
    assert torch.equal(upper, upper.triu())
    torch.testing.assert_close(upper @ upper.T, curvature(matrix, 0.01, 1, "`statistics`"))


@pytest.mark.parametrize("at", [(140, 3), (3, 140), (70, 127), (149, 148)])
def test_no_entry_may_differ_from_its_mirror_image(at):
    matrix = covariance(150)
    matrix[at] += 1e-4
    curvature(matrix, 0.01, 1, "`statistics`")  # as sums in another order do
    matrix[at] += 0.01 * matrix.max()
    with pytest.raises(ValueError, match="`statistics` must be symmetric"):
        curvature(matrix, 0.01, 1, "`statistics`")
