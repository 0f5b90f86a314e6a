"""Updates: how masks change while a model trains, as plain data to call, and the steps at which they change.

    update = updates.gradual(l1_unstructured, schedules.cubic(0.9, stop=1000, every=100))
    masks = update(step, params, masks, grads)

Step k is the moment after k steps of the optimizer, so that step 0 is before the first. Where no update is due the
masks come back as they are. `grads` are dense gradients, those of dead entries included, of the step just taken. A step
may be a 0-d integer tensor: then one compiled graph serves the whole training. `adapters.training.attach` runs an
update through an optimizer.
"""

from masklib.updates._dynamic import rigl as rigl
from masklib.updates._dynamic import set_ as set_
from masklib.updates._gradual import ac_dc as ac_dc
from masklib.updates._gradual import gradual as gradual
from masklib.updates._gradual import lottery as lottery
from masklib.updates._gradual import static as static
from masklib.updates._through import decayed as decayed
from masklib.updates._through import sr_ste as sr_ste
from masklib.updates._through import straight_through as straight_through
from masklib.updates._value import Update as Update
