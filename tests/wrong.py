"""The wrong thing in every argument: what people pass by mistake, and whether they are told in our words."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nested import nested_tensor

import masklib as ml

PACKAGES = [str(Path(ml.__file__).parent), str(Path(ml.__file__).parents[1] / "adapters")]
OURS = (ValueError, TypeError, IndexError, AttributeError)
W = torch.tensor([[3.0, -1.0, 2.0], [0.5, 4.0, -2.0]])
M = torch.tensor([[True, False, True], [True, True, False]])
X = torch.tensor([[1.0, 2.0, 0.5], [0.0, 1.0, 1.0], [2.0, 0.0, 1.0], [1.0, 1.0, 3.0]])
NORMS, HESSIAN = ml.scores.add_input_norms(None, X), ml.scores.add_hessian(None, X)


def wrong() -> dict[str, Any]:
    """What people pass by mistake."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # prototypes of torch
        masked = torch.masked.masked_tensor(W, M)
        nested = nested_tensor([torch.ones(2), torch.ones(3)])
        csr = W.to_sparse_csr()
        uninitialized = torch.nn.LazyLinear(3).weight
        quantized = torch.quantize_per_tensor(W, 0.1, 0, torch.qint8)
    return {
        "None": None,
        "a list": [1.0, 2.0],
        "a list of lists": [[1, 2], [3]],
        "a string": "weight",
        "a number": 3,
        "a fraction": 0.3,
        "nan": float("nan"),
        "inf": float("inf"),
        "a negative": -7,
        "a bool": True,
        "a huge int": 2**70,
        "an int beyond float64": 10**400,
        "a negative zero": -0.0,
        "an object": object(),
        "a class": ml.Folding,
        "a function": print,
        "a module": torch.nn.Linear(3, 2),
        "parameters": torch.nn.Linear(3, 2).parameters(),
        "an array": W.numpy(),
        "an array without dims": np.array(1.0),
        "an array of objects": np.array([None]),
        "a str of numpy": np.str_("weight"),
        "a size": torch.Size([]),
        "bytes": b"weight",
        "a set of names": {"weight"},
        "a list of names": ["weight"],
        "nothing left": iter(()),
        "uninitialized": uninitialized,
        "needs a gradient": W.clone().requires_grad_(),
        "meta": W.to("meta"),
        "meta mask": M.to("meta"),
        "sparse": W.to_sparse(),
        "sparse csr": csr,
        "quantized": quantized,
        "nested": nested,
        "masked": masked,
        "complex": W.to(torch.complex64),
        "conjugate": W.to(torch.complex64).conj(),
        "bool tensor": M,
        "half": W.half(),
        "int": W.long(),
        "float8": W.to(torch.float8_e4m3fn),
        "NaN": W * float("nan"),
        "empty": torch.empty(0),
        "empty rows": torch.empty(0, 3),
        "0-d": torch.tensor(1.0),
        "0-d int": torch.tensor(1),
        "0-d meta": torch.tensor(1, device="meta"),
        "1-d": W[0],
        "3-d": W[None],
        "transposed": W.T,
        "a mapping": {"a": W, "b": W},
        "a mapping of masks": {"a": M, "b": M},
        "a mapping of numbers": {"a": 1},
        "a mapping of lists": {"a": [1], "weight": [1]},
        "a mapping of nothing": {"a": None},
        "an empty mapping": {},
        "another name": {"zzz": W},
        "names that are numbers": {0: W},
        "a lone surrogate": {"\ud800": W},
        "a tuple": (W, W),
        "a state": HESSIAN,
        "another state": NORMS,
        "a state of another form": ml.scores.add_hessian(None, {"a": X}),
        "a groups value": ml.windows(4),
        "another groups value": ml.coupled({"zzz": ml.rows()}),
    }


WRONG = wrong()


def spoken(error: Exception, kinds: tuple[type, ...] = OURS[:3]) -> str:
    """What is wrong with an error: nothing if it is one of ours, or of a function that was passed."""
    if any(frame.name in ("loss", "model", "forward") for frame in traceback.extract_tb(error.__traceback__)):
        return ""
    if not isinstance(error, kinds):
        return f"is a {type(error).__name__}"
    frames = traceback.extract_tb(error.__traceback__)
    if not any(frames[-1].filename.startswith(package) for package in PACKAGES):
        return f"comes from {Path(frames[-1].filename).name}"
    if not (frames[-1].line or "").startswith("raise"):
        return f"is Python's own, at {frames[-1].line!r}"
    return "" if "`" in str(error) or "'" in str(error) or "scores" in str(error) else "names nothing"


def called(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    stars = [v for n, v in arguments.items() if n.startswith("*")]
    return function(*stars, **{n: v for n, v in arguments.items() if not n.startswith("*")})


def told(
    function: Callable[..., Any], arguments: Callable[[], dict[str, Any]], kinds: tuple[type, ...] = OURS[:3]
) -> str:
    """What is wrong with the errors of a function that is given the wrong thing in each of its arguments."""
    bad = []
    for argument in arguments():
        for what, thing in WRONG.items():
            given = arguments()
            if callable(thing) and (callable(given[argument]) or argument in ("fixed", "names")):
                continue  # a function that does something else
            try:
                called(function, given | {argument: thing})
            except Exception as error:
                if said := spoken(error, kinds):
                    bad.append(f"{argument} = {what}: {said}: {str(error)[:150]!r}")
    return "\n".join(bad)
