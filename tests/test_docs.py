"""Every Python block in the README and in docs/ runs, one page after another block by block in one namespace."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_run(page, monkeypatch):
    """As a module, so that values of classes that a page defines can be pickled."""
    if page.stem == "sharded" and torch.__version__.startswith("2.6."):
        pytest.skip("fully_shard of torch 2.6 has no backward pass on the CPU")
    module = ModuleType(f"page_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), vars(module))


def test_the_readme_has_exactly_two_lines_to_set_up_and_go():
    lines = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.M | re.S)
    assert [line.count("\n") for line in lines] == [1, 1]
    assert [line.split("&&")[-1].split()[0] for line in lines] == ["masklib", "pytest"]
    assert len([b for page in PAGES for b in blocks(page)]) > 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
