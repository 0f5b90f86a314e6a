"""The command line: what it prints where, its exit status, and a sentence for every bad call."""

from __future__ import annotations

import builtins
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from commands import run
from safetensors.torch import load_file, save_file

import masklib as ml
from masklib.adapters.files import prune_checkpoint, save_masks


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, with a small checkpoint."""
    g = torch.Generator().manual_seed(0)
    tensors = {n: torch.randn(8, 8, generator=g).to(d) for n, d in (("a.weight", torch.float32), ("b.x", torch.half))}
    save_file(
        {**tensors, "a.bias": torch.randn(8), "model.embed.weight": torch.randn(4, 8)}, tmp_path / "s.safetensors"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


MAGNITUDES = ml.scores.magnitude
CALLS = {
    "--sparsity 0.5": partial(ml.l1_unstructured, sparsity=0.5),
    "--sparsity 0.5 --method random --seed 3": partial(ml.random_unstructured, sparsity=0.5, key=3),
    "--sparsity 0.5 --method random": partial(ml.random_unstructured, sparsity=0.5, key=0),
    "--sparsity 0.3 --method ln --n 1 --dim 1": partial(ml.ln_structured, sparsity=0.3, n=1, dim=1),
    "--sparsity 0.3 --method ln --dim -1": partial(ml.ln_structured, sparsity=0.3, n=2, dim=-1),
    "--sparsity 0.3 --method random-structured --key 9": partial(ml.random_structured, sparsity=0.3, dim=0, key=9),
    "--sparsity 0.3 --per-layer": partial(ml.layerwise(ml.l1_unstructured), sparsity=0.3),
    "--sparsity 0.3 --method ln --per-layer": partial(ml.layerwise(ml.ln_structured), n=2, dim=0, sparsity=0.3),
    "--sparsity 0.5 --per-row": lambda w: ml.compute_mask(MAGNITUDES(w), sparsity=0.5, groups=ml.rows()),
    "--keep 2 --of 4": lambda w: ml.n_of_m(MAGNITUDES(w), keep=2, of=4),
    "--keep 1 --of 4 --method random --key 5": lambda w: ml.n_of_m(ml.scores.random(w, key=5), keep=1, of=4),
    "--sparsity 0.6 --budget erk": lambda w: ml.layerwise(ml.l1_unstructured)(
        w, keep=ml.budgets.kept(w, ml.budgets.erk(w, 0.6))
    ),
}  # fmt: skip


@pytest.mark.parametrize("options", CALLS)
def test_a_call_prunes_as_its_method_does(options, folder, capsys):
    status, out, err = run(f"prune s.safetensors t.safetensors {options}", capsys)
    assert (status, out) == (0, "")
    before, after = load_file("s.safetensors"), load_file("t.safetensors")
    masks = CALLS[options]({n: before[n] for n in ("a.weight", "b.x")})
    assert all(torch.equal(after[n], ml.apply(before, masks)[n]) for n in before)
    assert f"{100 * ml.sparsity(masks):.2f} %" in err
    assert "not pruned: model.embed.weight: an embedding" in err


def test_names_masks_and_json(folder, capsys):
    save_masks("m.safetensors", {"a.weight": torch.arange(64).view(8, 8) % 2 == 0})
    status, out, _ = run(
        "prune s.safetensors t.safetensors --sparsity 0.75 --names a.* --names b.x --masks m.safetensors --json", capsys
    )
    report = json.loads(out)
    assert status == 0
    assert (report["dead"], report["size"], report["sparsity"]) == (96, 128, 0.75)
    assert report["tensors"]["b.x"]["dtype"] == "float16"
    assert report["skipped"]["a.bias"] == "of one dim"
    assert not load_file("t.safetensors")["a.weight"].view(-1)[1::2].any()


def test_a_dry_run_writes_nothing_and_says_the_same(folder, capsys):
    _, out, err = run("prune s.safetensors --sparsity 0.5 --dry-run --json", capsys)
    assert "Nothing was written: --dry-run." in err
    assert [p.name for p in folder.iterdir()] == ["s.safetensors"]
    _, again, err = run("prune s.safetensors t.safetensors --sparsity 0.5 --json", capsys)
    assert "Written: t.safetensors" in err
    assert json.loads(out)["tensors"] == json.loads(again)["tensors"]


def test_info_says_what_is_sparse(folder, capsys):
    prune_checkpoint("s.safetensors", "t.safetensors", lambda s, m: ml.n_of_m(MAGNITUDES(s), keep=2, of=4))
    status, out, err = run("info t.safetensors", capsys)
    assert (status, err) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert rows["a.weight"][:6] == ["8x8", "float32", "32", "50.00", "%", "2:4"]
    assert rows["model.embed.weight"][:5] == ["4x8", "float32", "0", "0.00", "%"]
    assert rows["all"][:3] == ["64", "38.10", "%"]
    status, out, err = run("info t.safetensors --json", capsys)
    found = json.loads(out)
    assert found["layers"]["b.x"] == {
        "shape": [8, 8], "dtype": "float16", "kept": 32, "dead_channels": [0, 0], "pattern": "2:4", "heads": None,
        "uses": None, "size": 64, "dead": 32, "sparsity": 0.5, "dense_bytes": 128, "packed_bytes": 72,
        "csr_bytes": 228, "flops": None,
    }  # fmt: skip
    assert (found["size"], found["dead"]) == (168, 64)


def test_info_compares_two(folder, capsys):
    prune_checkpoint("s.safetensors", "t.safetensors", lambda s, m: ml.n_of_m(MAGNITUDES(s), keep=2, of=4))
    status, out, _ = run("info t.safetensors --against s.safetensors", capsys)
    assert status == 0
    assert "s.safetensors -> t.safetensors" in out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert rows["a.weight"][:6] == ["+32", "0.00", "%", "->", "50.00", "%"]
    assert "2 layers are as they were" in out
    _, out, _ = run("info t.safetensors --against s.safetensors --json", capsys)
    assert [json.loads(out)[side]["dead"] for side in ("before", "after")] == [0, 64]


def test_info_reads_masks_pickles_and_folders(folder, capsys):
    masks = {"w": torch.tensor([[True, False, False, False]] * 2)}
    save_masks("m.safetensors", masks, history=[partial(ml.l1_unstructured, amount=0.75)])
    _, out, _ = run("info m.safetensors --json", capsys)
    found = json.loads(out)
    assert (found["layers"]["w"]["dead"], found["layers"]["w"]["pattern"], found["sparsity"]) == (6, "1:4", 0.75)
    assert found["history"] == [{"method": "l1_unstructured", "with": {"amount": 0.75}}]
    torch.save({"w": torch.tensor([0.0, -0.0, 1.0]), "f": torch.zeros(2).to(torch.float8_e5m2)}, "p.pt")
    _, out, _ = run("info p.pt --json", capsys)
    assert {n: t["dead"] for n, t in json.loads(out)["layers"].items()} == {"w": 2, "f": 2}
    (folder / "one").mkdir()
    save_file({"w": torch.ones(2)}, "one/model.safetensors")
    assert run("info one", capsys)[0] == 0


# ---- bad calls ------------------------------------------------------------------------------------------------------

S = "prune s.safetensors t.safetensors"
BAD_CALLS = {
    "": "masklib: required: command, one of demo, info, perplexity, prune. See masklib --help.",
    "prun": "No such command 'prun'",
    "--nope": "No such option: --nope",
    "prune": "masklib prune: SOURCE is missing. See masklib prune --help.",
    "info": "masklib info: FILE is missing.",
    "prune s.safetensors --sparsity 0.5": "TARGET is missing; to write nothing, pass --dry-run.",
    f"{S} u --sparsity 0.5": "unexpected extra argument",
    S: "how many go is not said: give --sparsity 0.5, or --keep 2 --of 4.",
    f"{S} --sparsity": "'--sparsity' requires an argument",
    f"{S} --sparsity 1.5": "`--sparsity` must be float in [0, 1], got '1.5'. For example --sparsity 0.5. See",
    f"{S} --sparsity half": "`--sparsity` must be float in [0, 1], got 'half'.",
    f"{S} --sparsity nan": "`--sparsity` must be float in [0, 1], got 'nan'.",
    f"{S} --keep 2": "`--keep` needs `--of`, for example --keep 2 --of 4.",
    f"{S} --of 4": "`--of` needs `--keep`",
    f"{S} --keep 5 --of 4": "`--keep` must be at most `--of`, 4, got 5.",
    f"{S} --keep 2 --of 3": "`--of` must divide the inputs of each weight, got 3 for the 8 of 'a.weight' and 1 more",
    f"{S} --keep 1.5 --of 4": "`--keep` must be int in [0, ",
    f"{S} --keep 2 --of 4 --sparsity 0.5": "`--sparsity` and `--keep` both say how many go",
    f"{S} --sparsity 0.5 --method wandas": "`--method` must be one of l1, random, ln, random-structured, magnitude,",
    f"{S} --sparsity 0.5 --budget owl": "`--budget` must be one of uniform, er, erk, got 'owl'; it is for magnitude,",
    f"{S} --sparsity 0.5 --n 2": "`--n` says nothing to `--method l1`; it is for ln.",
    f"{S} --sparsity 0.5 --dim 1": "`--dim` says nothing to `--method l1`; it is for ln, random-structured.",
    f"{S} --sparsity 0.5 --seed 1": "`--key` says nothing to `--method l1`; it is for random, random-structured.",
    f"{S} --sparsity 0.5 --method random --key -1": "`--key` must be int in [0, ",
    f"{S} --sparsity 0.5 --method ln --dim x": "`--dim` must be int in",
    f"{S} --sparsity 0.5 --method ln --n nan": "`--n` must be float in",
    f"{S} --sparsity 0.5 --per-layer --budget er": "`--per-layer` and `--budget` both say which weights compete",
    f"{S} --keep 2 --of 4 --per-row": "`--per-row` and `--of` both say which weights compete",
    f"{S} --sparsity 0.5 --method ln --budget er": "`--budget` is for single weights",
    "demo --rounds 0": "`--rounds` must be int in [1, 100], got '0'.",
}
FAILURES = {
    "prune nowhere t.safetensors --sparsity 0.5": "`source` 'nowhere' cannot be read: No such file or directory.",
    "prune ~/s.safetensors t.safetensors --sparsity 0.5": "Pass os.path.expanduser('~/s.safetensors').",
    "prune s.safetensors ~ --sparsity 0.5": "`target` must be a path that the system knows, got '~'",
    "prune s.safetensors new/ --sparsity 0.5": "For example 'new/model.safetensors'.",
    "prune s.safetensors t.bin --sparsity 0.5": "Pass 't.safetensors'.",
    "prune s.safetensors . --sparsity 0.5": "`target` must be a file or new",
    "prune s.safetensors no/t.safetensors --sparsity 0.5": "`target` 'no' cannot be found: ",
    f"{S} --sparsity 0.5 --names nothing": "`names` has ['nothing'], which fit no tensor.",
    f"{S} --sparsity 0.5 --masks s.safetensors": "`masks` must be a file of masks of this version",
    f"{S} --sparsity 0.5 --masks nowhere": "`masks` 'nowhere' cannot be read",
    f"{S} --sparsity 0.5 --method ln --dim 7": "`dim` must be a dimension of shape (8, 8), got 7.",
    "info nowhere": "'nowhere' cannot be read: No such file or directory",
    "info .": "",
    "prune nan.safetensors t.safetensors --sparsity 0.5": "3 NaN in scores of 'n.weight'.",
}


@pytest.mark.parametrize(("text", "status"), [*((t, 2) for t in BAD_CALLS), *((t, 1) for t in FAILURES)])
def test_what_goes_wrong_is_one_sentence(text, status, folder, capsys):
    save_file({"n.weight": torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan]])}, "nan.safetensors")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert (got := run(text, capsys))[:2] == (status, ""), got
    assert (BAD_CALLS | FAILURES)[text] in got[2]
    assert got[2].startswith("masklib")
    assert got[2].count("\n") == 1
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


@pytest.mark.parametrize("text", ["--help", "-h", "prune --help", "prune -h", "info --help", "demo --help"])
def test_help_is_printed(text, capsys):
    status, out, err = run(text, capsys)
    assert (status, err) == (0, "")
    assert "Usage: masklib" in out


@pytest.mark.parametrize(("module", "text", "extra"), [("typer", "--help", "cli"), ("safetensors", "info x", "files")])
def test_a_missing_extra_is_one_sentence(module, text, extra, monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    for name in [n for n in sys.modules if n.startswith(("masklib.adapters.cli._", "masklib.adapters.files"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    status, out, err = run(text, capsys)
    assert (status, out) == (1, "")
    assert f"pip install 'masklib[{extra}]'" in err
    assert err.count("\n") == 1


def test_an_interruption_is_told(folder, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("masklib.adapters.files.prune_checkpoint", interrupted)
    assert run(f"{S} --sparsity 0.5", capsys) == (130, "", "masklib: interrupted; no target was written.\n")


@pytest.mark.parametrize("options", ["", " --json"])
def test_a_reader_who_leaves_is_no_failure_of_ours(options, folder, monkeypatch, capsys):
    """As `masklib info x | head -0` does it."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        assert run(f"info s.safetensors{options}", capsys) == (1, "", "")


# ---- as a process of its own ----------------------------------------------------------------------------------------


def process(text, **options):
    return subprocess.Popen([sys.executable, "-m", "masklib.adapters.cli", *text.split()], **options)


@pytest.mark.parametrize("closed", [1, 2])
def test_a_closed_stream_is_written_to_nowhere(closed, folder):
    """As of a job that some schedulers start."""
    text = "prune s.safetensors t.safetensors --sparsity 0.5 --json"
    started = process(text, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=partial(os.close, closed))
    out, err = started.communicate(timeout=120)
    assert started.returncode == 0, err
    assert b"Traceback" not in out + err
    assert (folder / "t.safetensors").exists()


def test_names_that_a_stream_has_no_letters_for_are_printed(folder):
    os.rename("s.safetensors", b"caf\xe9.safetensors")
    arguments = [sys.executable, "-m", "masklib.adapters.cli", "info", b"caf\xe9.safetensors"]
    done = subprocess.run(arguments, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=False)
    assert done.returncode == 0, done.stderr
    assert b"a.weight" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_one_that_is_ended_leaves_nothing_over(number, folder):
    """The terminal is closed, or the machine is shut down: what is half written is as large as the model."""
    save_file({f"{i}.weight": torch.randn(1024, 2048) for i in range(24)}, "s.safetensors")
    started = process("prune s.safetensors t.safetensors --sparsity 0.5", stderr=subprocess.PIPE)
    end = time.monotonic() + 120
    while not any(n.endswith(".tmp") for n in os.listdir()) and started.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    started.send_signal(number)
    started.communicate(timeout=120)
    left = set(os.listdir())
    if started.returncode == 0:  # it was ready
        left.remove("t.safetensors")
    else:
        assert started.returncode == 128 + number
    assert left == {"s.safetensors"}


def test_masks_are_not_written_over(folder, capsys):
    save_masks("m.safetensors", {"a.weight": torch.ones(8, 8, dtype=torch.bool)})
    before = (folder / "m.safetensors").read_bytes()
    status, _, err = run("prune s.safetensors ./m.safetensors --sparsity 0.5 --masks m.safetensors", capsys)
    assert status == 1
    assert "`target` must be another file than `masks`" in err
    assert (folder / "m.safetensors").read_bytes() == before
