"""
A lottery ticket, and another one
=================================

Two networks with the same initial weights see the same images in another order. Both are trained, pruned by a fifth and
rewound, eight times. Do they draw the same ticket?
"""

import digits
import matplotlib.pyplot as plt

import masklib as ml
from masklib import updates
from masklib.adapters import plot

plt.style.use(digits.STYLE)
ROUNDS, LENGTH = 8, 150

# %%
# ``lottery`` rewinds by itself; what is kept here is each round's ticket.


def tickets(seed):
    """The masks of each round, and the accuracy at its end."""
    found, right = [], []

    def look(step, pruning):
        if step % LENGTH == LENGTH - 1:
            found.append(dict(pruning.masks))
            right.append(digits.accuracy(net))

    net = digits.network()
    schedule = ml.schedules.exponential(0.2, every=LENGTH, start=0, stop=ROUNDS * LENGTH)
    update = updates.lottery(ml.l1_unstructured, schedule)
    digits.fit(net, steps=(ROUNDS + 1) * LENGTH, update=update, seed=seed, each=look)
    return found, right


(first, right), (second, other) = tickets(1), tickets(2)

# %%
# Two masks drawn by chance would overlap by d / (2 - d) where d is the share that lives.

alive = [1 - float(ml.sparsity(masks)) for masks in first]
chance = [share / (2 - share) for share in alive]
figure, (left, middle, far) = plt.subplots(1, 3, figsize=(12, 4))
plot.overlap(first, ax=left)
left.set(title="one ticket over time", xlabel="round")
left.legend(loc="lower center", fontsize=8.5)
middle.plot(alive, [float(ml.overlap(a, b)) for a, b in zip(first, second)], "o-", label="two tickets")
middle.plot(alive, chance, "o--", color="C5", label="two masks by chance")
middle.set(title="two tickets, one start", ylabel="overlap (Jaccard)", ylim=(0, 1.03))
far.plot(alive, [100 * x for x in right], "o-", label="first")
far.plot(alive, [100 * x for x in other], "o-", label="second")
far.set(title="how well they do", ylabel="accuracy (%)", ylim=(80, 100))
for ax in (middle, far):
    ax.set(xlabel="share that lives", xlim=(1.02, 0))
    ax.legend()
plt.show()
