"""What was tried, and what was gained."""

from __future__ import annotations

from typing import NamedTuple


class Layer(NamedTuple):
    """What was tried of one layer.

    Attributes:
        kind: its class.
        shape: of its weight as a matrix, (out, in).
        alive: the share of its weight that is not zero.
        seconds: by form, for all calls of the layer in one run of the model; always with "dense".
        untried: why other forms have no time, by form.
        form: what it has become; "dense" if it stayed.
    """

    kind: str
    shape: tuple[int, int]
    alive: float
    seconds: dict[str, float]
    untried: dict[str, str]
    form: str

    @property
    def gain(self) -> float:
        """How many times as fast as dense it is."""
        return self.seconds["dense"] / max(self.seconds[self.form], 1e-12)

    def __str__(self) -> str:
        """One line: what it was, each time, and what it has become."""
        times = ", ".join(f"{form} {1e6 * s:.1f} us" for form, s in self.seconds.items())
        gained = f" ({self.gain:.2f} times as fast)" if self.form != "dense" else ""
        return f"{self.kind} {self.shape[0]} x {self.shape[1]}, {self.alive:.2%} alive: {times} -> {self.form}{gained}"


class Table(NamedTuple):
    """What was tried in a model and what was gained; it prints as a table.

    Attributes:
        layers: by name, what was tried of each.
        left_out: the other layers by name, and why they were not tried.
        before: seconds of one run of the model as it was.
        after: the same of the model with its faster layers. If that is no less than `before`, all stayed dense.
    """

    layers: dict[str, Layer]
    left_out: dict[str, str]
    before: float
    after: float

    @property
    def gain(self) -> float:
        """How many times as fast as it was the model is."""
        return max(self.before / max(self.after, 1e-12), 1.0)

    def __str__(self) -> str:
        """One line in all, one a layer, and what was not tried."""
        width = max(map(len, [*self.layers, *self.left_out]), default=0)
        rows = [f"  {name:{width}}  {layer}" for name, layer in self.layers.items()]
        left = [f"  {name:{width}}  left out: {why}" for name, why in self.left_out.items()]
        return "\n".join([self._in_all(), *rows, *left, *self._untried()])

    def _in_all(self) -> str:
        replaced = sum(layer.form != "dense" for layer in self.layers.values())
        before, after = (f"{1e3 * seconds:.3f} ms" for seconds in (self.before, self.after))
        if replaced:
            return (
                f"{replaced} of {len(self.layers)} layers replaced: {before} -> {after} ({self.gain:.2f} times as fast)"
            )
        if self.after > self.before:
            return f"nothing is faster here: with the faster layers a run takes {after}, not {before}; all stay dense"
        return f"nothing is faster here: all {len(self.layers)} layers stay dense, a run takes {before}"

    def _untried(self) -> list[str]:
        """One line for each form and reason, with the layers that it holds for."""
        found: dict[str, list[str]] = {}
        for name, layer in self.layers.items():
            for form, why in layer.untried.items():
                found.setdefault(f"{form} was not timed, {why}", []).append(name)
        return [f"  {what}: {_some(names)}" for what, names in found.items()]


def _some(names: list[str]) -> str:
    """The first few of many names."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
