"""
The schedule shapes
===================

A schedule is a function of the step, and says when an update is due. Those below go from dense to 90 % in a hundred
steps, with an update every ten.
"""

import digits
import matplotlib.pyplot as plt

from masklib import schedules
from masklib.adapters import plot

plt.style.use(digits.STYLE)

# %%
# On the left the shapes that end at a share; on the right those that are put together.

shapes = {
    "linear": schedules.linear(0.9, start=10, stop=110, every=10),
    "cubic": schedules.cubic(0.9, start=10, stop=110, every=10),
    "cosine": schedules.cosine(0.9, start=10, stop=110, every=10),
    "geometric": schedules.geometric(0.9, start=10, stop=110, every=10),
    "one shot": schedules.one_shot(0.9, at=60),
}
composed = {
    "a fifth of what lives, each time": schedules.exponential(0.2, start=10, stop=110, every=10),
    "linear, a rest, then cubic": schedules.join(
        [schedules.linear(0.5, stop=40, every=10), schedules.cubic(0.9, initial=0.5, start=20, stop=60, every=10)], [50]
    ),
    "a function of your own": lambda step: 0.45 * (step > 30) + 0.45 * (step > 90),
}
figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
for ax, group in zip(axes, (shapes, composed)):
    for label, shape in group.items():
        plot.schedule(shape, steps=125, label=label, ax=ax)
    ax.set(ylim=(-0.02, 1), yticks=[0, 0.3, 0.6, 0.9])
    ax.grid(axis="y")
    ax.legend(loc="lower right")
axes[0].set(title="one shape")
axes[1].set(title="put together", ylabel="")
plt.show()
