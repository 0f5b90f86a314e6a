"""Methods that also change weights: what survives in a linear layer takes over from what is removed.

(weight, statistics, default_mask, *, amount | keep | sparsity, groups) -> (weight, mask)
"""

from masklib.surgery._admm import admm as admm
from masklib.surgery._least_squares import reconstruct as reconstruct
from masklib.surgery._sparsegpt import sparsegpt as sparsegpt
