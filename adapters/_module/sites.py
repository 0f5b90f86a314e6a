"""Which places in modules one call is about: tied parameters are one parameter with several sites."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from masklib import _read

from . import state
from .computed import MARK, plain
from .values import a_module, a_name
from .weights import pickable


class Site(NamedTuple):
    """A module and the name of a parameter in it."""

    module: nn.Module
    name: str

    @property
    def what(self) -> str:
        """How messages name it."""
        return f"parameter {self.name!r} of {type(self.module).__name__}"


def sites_of(module: nn.Module, name: str, root: nn.Module | None) -> list[Site]:
    """The given site and, in `root`, all others of the same parameter."""
    a_module(module)
    a_name(name)
    return [Site(module, name)] if root is None else _among(Site(module, name), _known(root))


def global_sites(parameters: Any, names: Any, root: nn.Module | None) -> list[list[Site]]:
    """The sites of each parameter of a global call, in the order given, each parameter once."""
    if root is None and isinstance(parameters, nn.Module):
        root = parameters
    known = None if root is None else _known(root)
    groups: dict[int, dict[Site, None]] = {}
    for site in _pairs(parameters, names):
        sites = [site] if known is None else _among(site, known)
        groups.setdefault(id(state.parameter(*site)), {}).update(dict.fromkeys(sites))
    if not groups:
        raise ValueError("`parameters` names nothing to prune. For example [(model.fc1, 'weight')], or model itself.")
    return [list(group) for group in groups.values()]


class _Known(NamedTuple):
    """What is in a module: the modules, and the sites of each parameter, by identity."""

    modules: set[int]
    sites: dict[int, list[Site]]


def _known(root: nn.Module) -> _Known:
    """One walk, however many parameters are asked for."""
    a_module(root, "root")
    known = _Known(set(), {})
    for module in root.modules():
        known.modules.add(id(module))
        for name, param in plain(module).items():
            known.sites.setdefault(id(param), []).append(Site(module, name))
    return known


def tied_sites(root: nn.Module) -> list[list[Site]]:
    """The sites of each parameter in a module."""
    return list(_known(root).sites.values())


def _among(site: Site, known: _Known) -> list[Site]:
    """A site and, among the known ones, all others of its parameter."""
    param = state.parameter(*site)
    if id(site.module) not in known.modules:
        raise ValueError(f"`root` must contain {site.module}. Pass the whole model, or leave `root` out.")
    return [site, *(other for other in known.sites.get(id(param), ()) if other != site)]


def _pairs(parameters: Any, names: Any) -> list[Site]:
    if isinstance(parameters, nn.Module):
        return _pairs_of_module(parameters, names)
    if names is not None:
        raise TypeError("`names` goes with a module as `parameters`: pass the module, or (module, name) pairs alone.")
    if not isinstance(parameters, Iterable):
        raise TypeError("global_unstructured(): `parameters` must be an iterable of (module, name) pairs, or a module.")
    return [_pair(entry) for entry in parameters]


def _pair(entry: Any) -> Site:
    if not (isinstance(entry, (tuple, list)) and len(entry) == 2 and isinstance(entry[0], nn.Module)):
        shown = f"a {type(entry).__name__}"
        raise TypeError(f"`parameters` must hold (module, name) pairs, got {shown}. For example (model.fc1, 'weight').")
    return Site(*entry)


def _pairs_of_module(module: nn.Module, names: Iterable[str] | Callable[[str, Tensor], bool] | None) -> list[Site]:
    if names is None:
        chosen = list(pickable(module, "parameters"))
    elif callable(names):
        chosen = [n for n, p in plain_names(module).items() if names(n, p)]
    else:
        chosen = known_names(names, plain_names(module), "parameters of the module")
    return [dotted(module, name) for name in chosen]


def known_names(names: Any, known: Mapping[str, Any], what: str, argument: str = "names") -> list[str]:
    """The names as a list, all of which must be known."""
    if isinstance(names, (str, Tensor)) or not _read.iterates(names):
        raise TypeError(f"`{argument}` must hold several names, got {names!r}. For example {list(known)[:1]}.")
    wanted = list(names)
    unknown = [name for name in wanted if not isinstance(name, str) or name not in known]
    if unknown:
        raise ValueError(f"`{argument}` must be {what}, got {unknown}. They are: {list(known)}.")
    return wanted


def plain_names(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by every dotted name they have when they are not pruned."""
    named = module.named_modules(remove_duplicate=False)
    return {f"{prefix}.{n}" if prefix else n: p for prefix, m in named for n, p in plain(m).items()}


def pruned_names(module: nn.Module) -> list[str]:
    """The dotted names of the pruned parameters."""
    named = module.named_modules()
    return [f"{prefix}.{n}" if prefix else n for prefix, m in named for n in m.__dict__.get(MARK, ())]


def dotted(module: nn.Module, name: str) -> Site:
    """The site of a dotted parameter name."""
    prefix, _, last = name.rpartition(".")
    return Site(module.get_submodule(prefix), last)
