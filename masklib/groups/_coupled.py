"""Items that span tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from masklib.groups._folding import Folding
from masklib.groups._norm import norm
from masklib.groups._plan import Shapes, folded, folds
from masklib.groups._printing import printed

_EXAMPLE = "coupled({'fc1.weight': channels(0), 'fc2.weight': channels(1)}, p=2)"


@dataclass(frozen=True, slots=True, repr=False)
class Coupled:
    """The i-th items of the tensors of a set an item, the items of all sets one pool."""

    members: tuple[tuple[tuple[str, Any], ...], ...]
    p: float | None = None
    mean: bool = False

    def __repr__(self) -> str:
        return printed(self, [repr(dict(members)) for members in self.members])

    def sets(self, shapes: Shapes) -> list[Mapping[str, Folding]]:
        """One set for each mapping, in the order of their names."""
        self._refuse(shapes)
        return [{name: folded(groups, name, shapes[name]) for name, groups in members} for members in self.members]

    def _refuse(self, shapes: Shapes) -> None:
        """Refuse scores that do not have exactly the names of the sets."""
        names = list(dict.fromkeys(name for members in self.members for name, _ in members))
        if list(shapes) == [""] and "" not in names:
            raise TypeError(
                f"`scores` must be a mapping of tensors by name for {self!r}, got a Tensor. "
                "For example dict(module.named_parameters()); for one tensor alone, groups=channels(0, p=2)."
            )
        missing, unknown = [n for n in names if n not in shapes], [n for n in shapes if n not in names]
        if missing or unknown:
            found = [n for n in names if n in shapes]
            hints = [f"Leave {missing} out of coupled, or pass their scores."] if missing else []
            hints += [f"Pass {{name: scores[name] for name in {found}}}, or couple {unknown} too."] if unknown else []
            raise ValueError(
                "`scores` must have exactly the names of coupled `groups`: "
                f"missing {missing}, unknown {unknown}. {' '.join(hints)}"
            )


def coupled(*sets: Mapping[str, Any], p: float | None = None, mean: bool = False) -> Coupled:
    """Let items that span the tensors of a mapping compete in one pool, and tensors have items of their own kind.

        item i of a set = the i-th items of all its tensors

    A channel goes with its bias and with the inputs of the next layer; a head with its output projection. A set of
    one name is a tensor with a structure of its own. The score of an item is that of `channels`, over its live
    scores in all its tensors.

    A tensor may be in several sets: its rows are the outputs of one layer, its columns the inputs of the next. What one
    set kills is dead, whatever the others say. Each set is counted on its own, so that what dies of both counts in
    both.

        coupled({"0.weight": channels(0), "2.weight": channels(1)}, {"2.weight": channels(0), "4.weight": channels(1)})

    Among equals the set of the lower names dies first, then the lower index.

    Args:
        sets: mappings from name to a groups value of single tensors, such as `channels`, `heads`, `blocks` or one of
            your own, without `p` and `mean`; together they have exactly the names of the scores, and the tensors of
            one set as many items each.
        p: the order of the norm that scores an item, as in `channels`; None for the signed sum.
        mean: whether to divide by the live count, so that items of different sizes compare.

    Raises:
        TypeError: if a set is not a mapping from names to such groups; and, once applied, if the scores are a tensor.
        ValueError: if a set is empty, a name has the same items in two sets, or groups have their own `p` or `mean`;
            and, once applied, if names are missing or unknown, or tensors of a set differ in their number of items.

    >>> units = coupled({"fc1.weight": channels(0), "fc1.bias": channels(0), "fc2.weight": channels(1)}, p=2)
    >>> params = {"fc1.weight": torch.ones(2, 3), "fc1.bias": torch.tensor([0.0, 5.0]), "fc2.weight": torch.ones(2, 2)}
    >>> compute_mask(params, amount=1, groups=units)["fc2.weight"]
    tensor([[False,  True],
            [False,  True]])

    Reference: Fang et al., "DepGraph: Towards Any Structural Pruning", 2023.
    """
    for each in sets:
        _refuse_set(each)
    names = [name for each in sets for name in each]
    apart = len(set(names)) == len(names)
    if not apart:  # Dynamo of torch 2.6 traces no repr: sets of distinct names need none
        _refuse_twice(sets)
    members = [tuple((name, each[name]) for name in sorted(each)) for each in sets]
    members.sort(key=lambda pairs: ([name for name, _ in pairs], "" if apart else repr(pairs)))
    return Coupled(tuple(members), *norm(p, mean))


# ---- what is refused ------------------------------------------------------------------------------------------------


def _refuse_set(each: Any) -> None:
    """Refuse anything but a mapping from name to groups of one tensor."""
    if not isinstance(each, Mapping):
        raise TypeError(f"`sets` must be mappings from name to groups, got {each!r}. For example {_EXAMPLE}.")
    if not each:
        raise ValueError(f"`sets` must not be empty mappings, got {each!r}. For example {_EXAMPLE}.")
    for name, groups in each.items():
        _refuse_member(name, groups)


def _refuse_member(name: Any, groups: Any) -> None:
    """Refuse what cannot be coupled."""
    if not isinstance(name, str):
        raise TypeError(f"`sets` must be keyed by names (str), got the key {name!r}. For example {_EXAMPLE}.")
    if not folds(groups):
        raise TypeError(
            f"`sets` must hold groups that fold one tensor, with `fold(shape)`, got {groups!r} for {name!r}. "
            f"For example {_EXAMPLE}."
        )
    if getattr(groups, "p", None) is not None or getattr(groups, "mean", False):
        raise ValueError(
            f"`sets` must hold groups without `p` and `mean` of their own, got {groups!r} for {name!r}: "
            f"an item has one score. For example {_EXAMPLE}."
        )


def _refuse_twice(sets: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a tensor whose items would be counted twice."""
    counts: dict[str, int] = {}
    for name, groups in (pair for each in sets for pair in each.items()):
        what = f"{name!r} by {groups!r}"
        counts[what] = counts.get(what, 0) + 1
    twice = [what for what, count in counts.items() if count > 1]
    if twice:
        raise ValueError(
            f"`sets` must have the items of a tensor once, got {', '.join(twice)} in several. Join these sets."
        )
