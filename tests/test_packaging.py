"""The wheel: what is in it, and that it works where nothing else of the repository is."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


def copy_tracked(target):
    """What git tracks, as a folder of its own."""
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listing.split("\n")):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((ROOT / name).read_bytes())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from what git tracks, so that nothing left in the folder can hide a missing file."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    copy_tracked(source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_masklib_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if ".dist-info" not in n} == {"masklib"}
    assert {"masklib/py.typed", "masklib/adapters/prune/__init__.py", "masklib/methods.py"} <= set(names)
    assert any(n.endswith("licenses/LICENSE") for n in names)
    entry = next(n for n in names if n.endswith("entry_points.txt"))
    assert zipfile.ZipFile(wheel).read(entry).decode().strip().splitlines() == [
        "[console_scripts]",
        "masklib = masklib.adapters.cli:main",
    ]


def test_the_wheel_needs_torch_and_numpy_only(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = archive.read(next(n for n in archive.namelist() if n.endswith("METADATA"))).decode()
    needs = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert [need.split(": ")[1].split(">=")[0] for need in needs] == ["torch", "numpy"]


def test_the_wheel_works_in_a_fresh_environment(wheel, tmp_path):
    """Installed into a new environment that sees this one's torch, but not the repository."""
    python = environment(tmp_path / "env", str(wheel))
    code = """
import sys, torch, masklib
loaded = set(sys.modules)
extras = {"masklib.adapters", "hypothesis", "matplotlib", "sklearn", "rich", "safetensors"}
assert not loaded & extras, loaded & extras
import masklib.adapters.prune as prune
assert "site-packages" in prune.__file__ and "env" in prune.__file__, prune.__file__
print(int(prune.l1_unstructured(torch.nn.Linear(4, 2), "weight", 3).weight_mask.sum()))
"""
    result = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout.strip() == "5", result.stderr


@pytest.mark.parametrize(
    ("module", "needs", "extra"),
    [
        ("masklib.testing", "hypothesis", "testing"),
        ("masklib.adapters.files", "safetensors", "files"),
        ("masklib.adapters.plot", "matplotlib", "plot"),
    ],
)
def test_what_needs_an_extra_says_what_is_missing(module, needs, extra):
    code = f"""
import sys
sys.modules[{needs!r}] = None
import masklib
try:
    import {module}
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == f"{module} needs {needs}: pip install 'masklib[{extra}]'."


# ---- the folder of a clone -------------------------------------------------------------------------------------------

IMPORT = "import masklib.adapters.prune as p, masklib.adapters as a; print(p.__file__, callable(a.weights))"


def environment(folder, *what):
    """A new environment that sees this one's torch and setuptools, with something installed; its Python."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "torch.pth").write_text(str(Path(torch.__file__).parents[1]))
    install = ["install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", *what]
    subprocess.run([sys.executable, "-m", "pip", "--python", python, *install], check=True, capture_output=True)
    return python


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_the_adapters_are_found_from_the_folder_of_a_clone_and_from_any_other(kind, wheel, tmp_path):
    """Python looks into the current folder first, where masklib/ and adapters/ lie side by side."""
    clone, elsewhere = tmp_path / "clone", tmp_path / "elsewhere"
    copy_tracked(clone)
    elsewhere.mkdir()
    python = environment(tmp_path / "env", *([str(wheel)] if kind == "wheel" else ["-e", str(clone)]))
    for folder in (clone, elsewhere):
        result = subprocess.run([python, "-c", IMPORT], cwd=folder, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        file, found = result.stdout.split()
        assert file.startswith(str(tmp_path / "env" if (kind, folder) == ("wheel", elsewhere) else clone))
        assert found == "True"


def test_the_wheel_has_the_adapters_themselves(wheel):
    archive = zipfile.ZipFile(wheel)
    assert archive.read("masklib/adapters/__init__.py") == (ROOT / "adapters/__init__.py").read_bytes()
    assert {"masklib/adapters/prune/__init__.py", "masklib/adapters/_module/state.py"} <= set(archive.namelist())
