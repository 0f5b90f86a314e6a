"""Labels of positions, and which of them are one: a union-find over arrays.

Every position along every dim has a label. Positions that live and die together have one root. Label 0 is a position
that cannot be cut. What makes a label fixed is kept as a mark with its reason rather than united with 0, so that
components stay apart and each can say why it cannot be cut.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.int64]]


class Labels:
    """Which labels are one, which are fixed, and why."""

    def __init__(self) -> None:
        self.used = 1
        self.parent: Array = np.zeros(1024, dtype=np.int64)
        self.dead = np.zeros(1024, dtype=bool)
        self.dead[0] = True
        self.routed = np.zeros(1024, dtype=bool)
        self.marks: list[tuple[Array, str]] = []

    def fresh(self, count: int) -> Array:
        """New labels, each its own root."""
        start, self.used = self.used, self.used + count
        while self.used > len(self.parent):
            self.parent = np.concatenate([self.parent, np.zeros_like(self.parent)])
            self.dead = np.concatenate([self.dead, np.zeros_like(self.dead)])
            self.routed = np.concatenate([self.routed, np.zeros_like(self.routed)])
        new = np.arange(start, self.used, dtype=np.int64)
        self.parent[new] = new
        return new

    def roots(self, labels: Array) -> Array:
        """The root of each label; the way there is shortened."""
        found = self.parent[labels]
        while True:
            above = self.parent[found]
            if np.array_equal(above, found):
                break
            found = above
        self.parent[labels] = found
        return found

    def unite(self, left: Array, right: Array, why: str) -> None:
        """Let labels be one, pair by pair; what meets label 0 is fixed."""
        left, right = (side.reshape(-1) for side in np.broadcast_arrays(left, right))
        self.fix(np.concatenate([left[right == 0], right[left == 0]]), why)
        both = (left != 0) & (right != 0)
        left, right = left[both], right[both]
        while len(left):
            a, b = self.roots(left), self.roots(right)
            apart = a != b
            left, right, a, b = left[apart], right[apart], a[apart], b[apart]
            low, high = np.minimum(a, b), np.maximum(a, b)
            np.minimum.at(self.parent, high, low)  # a root that several pairs hang goes below the least of them
            for marked in (self.dead, self.routed):
                np.logical_or.at(marked, self.roots(high), marked[high])

    def fix(self, labels: Array, why: str) -> None:
        """Let labels be such as cannot be cut."""
        labels = labels[labels != 0]
        if len(labels):
            self.dead[self.roots(labels)] = True
            self.marks.append((labels.reshape(-1).copy(), why))

    def route(self, labels: Array) -> None:
        """Let labels be experts, among which a router chooses."""
        self.routed[self.roots(labels)] = True

    def alive(self, labels: Array) -> Any:
        """Which labels can still be cut."""
        return ~self.dead[self.roots(labels)]

    def experts(self, labels: Array) -> Any:
        """Which labels are experts that can be removed."""
        return self.alive(labels) & self.routed[self.roots(labels)]

    def reasons(self) -> dict[int, list[str]]:
        """Why each fixed root is fixed."""
        found: dict[int, list[str]] = {}
        for labels, why in self.marks:
            for root in np.unique(self.roots(labels)).tolist():
                known = found.setdefault(root, [])
                if why not in known:
                    known.append(why)
        return found
