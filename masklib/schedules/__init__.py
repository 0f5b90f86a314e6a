"""Schedules: step -> sparsity, as plain data to call, and the steps at which masks are updated.

    target = schedules.cubic(0.9, stop=1000, every=100)
    if target.due(step):
        masks = l1_unstructured(weights, masks, sparsity=target(step))

A step is an int or a 0-d integer tensor. The sparsity is a float, or a 0-d float64 tensor for a tensor, so that one
compiled graph serves a whole schedule; `due` is a bool, or a 0-d bool tensor. The sparsity changes only where an update
is due. `stop` is the step of the last update, from which on the sparsity is exactly `final`.

Schedules are equal if they are of one kind and have the same numbers; they print as the call that makes them.
"""

from masklib.schedules._ramps import Cosine as Cosine
from masklib.schedules._ramps import Geometric as Geometric
from masklib.schedules._ramps import Polynomial as Polynomial
from masklib.schedules._ramps import cosine as cosine
from masklib.schedules._ramps import cubic as cubic
from masklib.schedules._ramps import geometric as geometric
from masklib.schedules._ramps import linear as linear
from masklib.schedules._ramps import polynomial as polynomial
from masklib.schedules._rounds import Exponential as Exponential
from masklib.schedules._rounds import Join as Join
from masklib.schedules._rounds import OneShot as OneShot
from masklib.schedules._rounds import exponential as exponential
from masklib.schedules._rounds import join as join
from masklib.schedules._rounds import one_shot as one_shot
from masklib.schedules._steps import Schedule as Schedule
