"""Importance criteria: higher = more important. Tensors in, tensors out; mappings by name likewise.

Those that need data are two halves: a pure accumulator, `add_x(state, ...) -> X(total, count)`, and a score of what it
returns. The state of the whole is that of its parts added one after another, empty parts included.
"""

from masklib.scores._depth import Distances as Distances
from masklib.scores._depth import add_angles as add_angles
from masklib.scores._depth import add_influences as add_influences
from masklib.scores._depth import distance as distance
from masklib.scores._experts import ExpertNorms as ExpertNorms
from masklib.scores._experts import add_expert_norms as add_expert_norms
from masklib.scores._experts import reap as reap
from masklib.scores._gradients import Movement as Movement
from masklib.scores._gradients import SquaredGrads as SquaredGrads
from masklib.scores._gradients import add_movement as add_movement
from masklib.scores._gradients import add_squared_grads as add_squared_grads
from masklib.scores._gradients import fisher as fisher
from masklib.scores._gradients import grasp as grasp
from masklib.scores._gradients import movement as movement
from masklib.scores._gradients import saliency as saliency
from masklib.scores._gradients import synflow as synflow
from masklib.scores._gradients import taylor as taylor
from masklib.scores._inputs import Hessian as Hessian
from masklib.scores._inputs import InputNorms as InputNorms
from masklib.scores._inputs import add_hessian as add_hessian
from masklib.scores._inputs import add_input_norms as add_input_norms
from masklib.scores._inputs import wanda as wanda
from masklib.scores._products import curvature as curvature
from masklib.scores._products import ria as ria
from masklib.scores._weights import batch_norm as batch_norm
from masklib.scores._weights import fpgm as fpgm
from masklib.scores._weights import lamp as lamp
from masklib.scores._weights import magnitude as magnitude
from masklib.scores._weights import random as random
