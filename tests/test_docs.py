"""Every Python block and session in the README and in docs/ runs, block by block in one namespace a page."""

from __future__ import annotations

import doctest
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch

import masklib as ml

ROOT = Path(__file__).parents[1]
ADVICE = {"lightning", "trainer", "gains"}  # others give advice there: on workers and loggers, on sparse tensors
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[tuple[str, str]]:
    """Kind and text of each block: python runs, pycon must print what stands there."""
    return re.findall(r"^```(python|pycon)\n(.*?)^```", page.read_text(), flags=re.M | re.S)


def session(text: str, page: Path, names: dict[str, object]) -> None:
    test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    test.globs = names
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    said: list[str] = []
    assert runner.run(test, out=said.append, clear_globs=False).failed == 0, "".join(said)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_run(page, monkeypatch):
    """As a module, so that values of classes that a page defines can be pickled."""
    if page.stem == "fsdp2" and torch.__version__.startswith("2.6."):
        pytest.skip("fully_shard of torch 2.6 has no backward pass on the CPU")
    module = ModuleType(f"page_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    if page.stem in ADVICE:
        warnings.simplefilter("ignore")
    for kind, block in blocks(page):
        if kind == "pycon":
            session(block, page, vars(module))
        else:
            exec(compile(block, str(page), "exec"), vars(module))


def test_a_session_that_prints_something_else_is_noticed(tmp_path):
    right = ">>> raise ValueError('a b')\nTraceback (most recent call last):\nValueError: a\nb\n"
    session(right, tmp_path, {})
    with pytest.raises(AssertionError, match="a c"):
        session(right.replace("a\nb", "a c"), tmp_path, {})


def test_the_readme_has_exactly_two_lines_to_set_up_and_go():
    lines = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.M | re.S)
    assert [line.count("\n") for line in lines] == [1, 1]
    assert [line.split("&&")[-1].split()[0] for line in lines] == ["masklib", "pytest"]
    assert len([b for page in PAGES for b in blocks(page)]) > 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_reference_has_every_public_name():
    """Functions of the core one by one, all other public modules whole."""
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    functions = {name for name, value in vars(ml).items() if callable(value) and not name.startswith("_")}
    assert functions == set(re.findall(r"^\.\. auto(?:function|class):: (?:masklib\.)?(\w+)$", pages, flags=re.M))
    folders = (path for path in (ROOT / "adapters").iterdir() if not path.name.startswith(("_", ".")))
    adapters = {f"masklib.adapters.{path.stem}" for path in folders} - {"masklib.adapters.cli", "masklib.adapters.demo"}
    core = {f"masklib.{name}" for name in ("scores", "budgets", "schedules", "updates", "testing")}
    assert adapters | core <= set(re.findall(r"^\.\. automodule:: ([\w.]+)$", pages, flags=re.M))


def test_the_citation_is_of_this_version():
    assert f"version: {ml.__version__}\n" in (ROOT / "CITATION.cff").read_text()
