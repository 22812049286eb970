"""Every verb on everything that may lie where a recording, a checkpoint or an output is expected: one sentence, exit 1 or 2, never a traceback."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlapse as wl
from tests.framework_presence import require
from weightlapse.cli import VERBS, main

require("torch", "matplotlib", "starlette", "zarr", "pyarrow", "av")

# verb -> its arguments; IN is a recording (or checkpoint), GOOD a good one, OUT what is to be written
ON_RECORDINGS = {
    "info": ["info", "IN"],
    "info --json": ["info", "IN", "--json", "--wiring"],
    "plot": ["plot", "IN", "--kind", "lines", "-o", "OUT.png"],
    "film": ["film", "IN", "-o", "OUT.gif", "--size", "64x64"],
    "film --other": ["film", "GOOD", "--other", "IN", "-o", "OUT.gif", "--size", "64x64"],
    "view": ["view", "IN", "--no-browser"],
    "view two": ["view", "GOOD", "IN", "--no-browser"],
    "page": ["page", "IN", "-o", "OUT.html"],
    "page --other": ["page", "GOOD", "--other", "IN", "-o", "OUT.html"],
    "compare": ["compare", "IN", "GOOD"],
    "compare with": ["compare", "GOOD", "IN"],
    "diff": ["diff", "IN", "GOOD"],
    "diff with": ["diff", "GOOD", "IN"],
    "doctor": ["doctor", "IN"],
    "ls": ["ls", "IN"],
    "verify": ["verify", "IN"],
    "verify --against": ["verify", "GOOD", "--against", "IN"],
    "compact": ["compact", "IN"],
    "lineage": ["lineage", "IN", "GOOD"],
    "top": ["top", "IN", "update"],
    "top --of": ["top", "IN", "change", "--of", "units", "--steps", "0:9"],
    "query": ["query", "IN", "select count(*) from stats, scalars, tensors"],
    "export --partition": ["export", "IN", "--to", "parquet", "--partition", "a", "-o", "OUT"],
    "export": ["export", "IN", "--to", "npz", "-o", "OUT.npz"],
    "plan": ["plan", "IN", "--no-measure"],
}
ON_FILES = {
    "import": ["import", "IN", "-o", "OUT", "--steps", "0"],
    "grow": ["grow", "IN", "--wiring", "SPEC", "--widen", "fc1=9", "-o", "OUT.safetensors"],
    "grow --wiring": ["grow", "CHECKPOINT", "--wiring", "IN", "--widen", "fc1=9", "-o", "OUT.safetensors"],
    "compare --wiring": ["compare", "GOOD", "GOOD", "--wiring", "IN"],
    "diff a file": ["diff", "IN", "CHECKPOINT"],
    "diff --wiring": ["diff", "GOOD", "GOOD", "--wiring", "IN"],
    "compare a file": ["compare", "IN", "CHECKPOINT"],
}
OUTPUTS = {
    "plot": ["plot", "GOOD", "--kind", "lines", "-o", "OUT.png"],
    "film": ["film", "GOOD", "-o", "OUT.gif", "--size", "64x64"],
    "film a still": ["film", "GOOD", "-o", "OUT.png", "--size", "64x64"],
    "page": ["page", "GOOD", "-o", "OUT.html"],
    "compare": ["compare", "GOOD", "GOOD", "-o", "OUT.png"],
    "diff": ["diff", "GOOD", "GOOD", "-o", "OUT.html"],
    "diff a figure": ["diff", "GOOD", "GOOD", "-o", "OUT.png"],
    **{f"export {kind}": ["export", "GOOD", "--to", kind, "-o", "OUT"] for kind in ("npz", "zarr", "safetensors", "parquet", "tensorboard")},
    "import": ["import", "CHECKPOINT", "--steps", "0", "-o", "OUT"],
    "grow": ["grow", "CHECKPOINT", "--wiring", "SPEC", "--widen", "fc1=9", "-o", "OUT.safetensors"],
    "demo": ["demo", "--out", "OUT"],
    "study": ["study", "neuron", "--quick", "--out", "OUT"],
}  # fmt: skip


def test_every_verb_is_here() -> None:
    assert {case[0] for table in (ON_RECORDINGS, ON_FILES, OUTPUTS) for case in table.values()} == set(VERBS) - {
        "completion"
    }  # which opens nothing


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A good recording, a good checkpoint, a good wiring."""
    import torch
    from torch import nn

    folder = tmp_path_factory.mktemp("good")
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("fc1", nn.Linear(3, 4))
    model.add_module("act", nn.Tanh())
    model.add_module("fc2", nn.Linear(4, 2))
    with wl.watch(model, folder / "run", example=torch.zeros(1, 3)) as rec:
        for step in range(6):
            with torch.no_grad():
                model.fc1.weight.add_(0.1)
            rec.step(loss=1 / (step + 1))
    torch.save(model.state_dict(), folder / "model-1.pt")
    wiring = wl.load(folder / "run").wiring_spec
    assert wiring is not None
    (folder / "spec.txt").write_text(wiring)
    return {"GOOD": folder / "run", "CHECKPOINT": folder / "model-1.pt", "SPEC": folder / "spec.txt"}


def filled(arguments: list[str], places: dict[str, Any]) -> list[str]:
    out = []
    for word in arguments:
        stem = word.split(".")[0]
        out.append(str(places[stem]) + word[len(stem) :] if stem in places else word)
    return out


def said(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and standard error of the program; anything but an orderly exit comes out as it is."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        main(arguments)
    error = capfd.readouterr().err
    assert isinstance(end.value.code, int)
    return end.value.code, error


def check(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    code, error = said(arguments, capfd)
    assert code in (1, 2), (arguments, code, error)
    assert "Traceback" not in error
    lines = [line for line in error.splitlines() if line.startswith(("weightlapse: ", "Error: "))]
    assert len(lines) == 1, error
    assert 15 < len(lines[0]) < 6500
    assert "Errno" not in error
    assert "Error:" not in error.replace("\nError: ", ""), error  # the name of an exception is no sentence


def test_the_check_itself_fails_on_a_traceback_and_on_success(
    things: dict[str, Path], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssertionError):
        check(["info", str(things["GOOD"])], capfd)
    monkeypatch.setattr("weightlapse.cli.info.load", lambda run: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        check(["info", str(things["GOOD"])], capfd)


# ---- where a recording or a file is expected -----------------------------------------------------------------------


def text_file(path: Path) -> None:
    path.write_text("hello")


def binary_file(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 10)


def empty_file(path: Path) -> None:
    path.touch()


def empty_folder(path: Path) -> None:
    path.mkdir()


def folder_of_others(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("mine")


def dangling_link(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def nothing(path: Path) -> None:
    assert not path.exists()


ODD: dict[str, Callable[[Path], None]] = {
    f.__name__: f
    for f in (text_file, binary_file, empty_file, empty_folder, folder_of_others, dangling_link, link_to_itself, pipe, nothing)
}  # fmt: skip


@pytest.mark.parametrize("verb", ON_RECORDINGS)
def test_odd_recordings(things: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], verb: str) -> None:
    for name, make in ODD.items():
        make(tmp_path / name)
        check(filled(ON_RECORDINGS[verb], {**things, "IN": tmp_path / name, "OUT": tmp_path / "out"}), capfd)
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "run", tmp_path / ("x" * 3000)):
        check(filled(ON_RECORDINGS[verb], {**things, "IN": path, "OUT": tmp_path / "out"}), capfd)
    assert {path.name for path in tmp_path.iterdir()} <= {*ODD, "file"}, "nothing is left behind"


@pytest.mark.parametrize("verb", ON_FILES)
@pytest.mark.parametrize("suffix", ["", ".npz", ".pt", ".safetensors"])
def test_odd_files(
    things: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], verb: str, suffix: str
) -> None:
    for name, make in ODD.items():
        make(tmp_path / f"{name}{suffix}")
        check(
            filled(ON_FILES[verb], {**things, "IN": str(tmp_path / f"{name}{suffix}"), "OUT": tmp_path / "out"}), capfd
        )
    assert not (tmp_path / "out").exists()


# ---- recordings in which something is not what it should be --------------------------------------------------------


def replaced(name: str, make: Callable[[Path], None]) -> Callable[[Path], None]:
    def act(run: Path) -> None:
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        make(path)

    act.__name__ = f"{name} is {make.__name__}"
    return act


HURT = {
    act.__name__: act
    for name in ("manifest.json", "journal.log", "log", "blocks", "blocks/000000.blk", "log/000001.seg")
    for make in (text_file, binary_file, empty_file, empty_folder, dangling_link, link_to_itself, pipe)
    for act in [replaced(name, make)]
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A block and, behind it, a log."""
    from weightlapse.store.layout import Layout, TensorSpec
    from weightlapse.store.writer import Writer

    path = tmp_path_factory.mktemp("whole") / "run"
    layout = Layout([TensorSpec("w", "float32", (4, 3)), TensorSpec("b", "float32", (4,))])
    rows = np.random.default_rng(0).random((40, layout.row_nbytes // 4), np.float32).view(np.uint8)
    writer = Writer.create(path, layout)
    writer.append(np.arange(20), rows[:20])
    writer.close()
    writer = Writer.resume(path, layout, compact="never")
    writer.append(np.arange(20, 40), rows[20:])
    writer.scalars(np.arange(40), ["loss"] * 40, np.arange(40.0))
    writer.close()
    return path


@pytest.mark.parametrize("what", HURT)
def test_hurt_recordings(
    whole: Path, things: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], what: str
) -> None:
    """What is whole may still be read; what is not is said, and ``verify`` never calls it whole."""
    quick = {
        v: a
        for v, a in ON_RECORDINGS.items()
        if v in ("info", "doctor", "verify", "compare", "export", "compact", "view two", "top", "query")
    }
    for verb, arguments in quick.items():
        run = tmp_path / verb.replace(" ", "-") / "run"
        shutil.copytree(whole, run)
        HURT[what](run)
        words = filled(arguments, {**things, "IN": run, "OUT": tmp_path / f"out-{verb.replace(' ', '-')}"})
        if verb == "view two":
            continue  # would serve what can be read
        code, error = said(words, capfd)
        assert code in (0, 1, 2), error
        assert "Traceback" not in error
        assert "Errno" not in error
        assert code in (1, 2) or verb != "verify", f"{what}: verify finds nothing wrong"
        assert code == 0 or error or verb in ("verify", "doctor", "compare")


# ---- outputs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", OUTPUTS)
def test_odd_outputs(
    things: dict[str, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    verb: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A folder or a link in the way, a file for a parent, a parent that cannot be: said, and nothing is harmed."""
    monkeypatch.chdir(tmp_path)
    suffix = OUTPUTS[verb][-1].removeprefix("OUT")
    (tmp_path / "file").write_text("precious")
    (tmp_path / f"folder{suffix}").mkdir()
    (tmp_path / f"folder{suffix}" / "mine.txt").write_text("precious")
    (tmp_path / f"loop{suffix}").symlink_to(tmp_path / f"loop{suffix}")
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    outs = [tmp_path / "file" / "out", tmp_path / "folder", tmp_path / "loop", tmp_path / ("x" * 3000)]
    if suffix in (".png", ".html", ".gif"):  # pictures and pages replace what has their name, a link too
        outs.remove(tmp_path / "loop")
    for out in outs:
        check(filled(OUTPUTS[verb], {**things, "OUT": out}), capfd)
        assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before, out
    assert (tmp_path / f"folder{suffix}" / "mine.txt").read_text() == (tmp_path / "file").read_text() == "precious"


def test_paths_that_are_not_unicode_can_be_said(
    things: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/r\xffn")
    shutil.copytree(things["GOOD"], odd)
    for arguments in (["info", odd], ["verify", odd], ["info", odd, "--json"], ["compact", odd], ["doctor", odd]):
        code, error = said(arguments, capfd)
        assert (code, error) == (0, "") or arguments[0] == "doctor", error
    for arguments in (
        ["info", odd + "x"],
        ["import", odd + "-1.npz", "-o", odd + "o"],
        ["export", odd, "--to", "npz", "-o", odd],
    ):
        check(arguments, capfd)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RecursionError("maximum recursion depth exceeded"),
        OSError(28, "No space left on device"),
        OSError("odd"),
    ],
)
def test_what_the_machine_lacks_is_said_in_a_sentence(
    things: dict[str, Path], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(run: str) -> None:
        raise error

    monkeypatch.setattr("weightlapse.cli.info.load", fail)
    code, text = said(["info", str(things["GOOD"])], capfd)
    assert code == 1
    assert text.startswith("weightlapse: ")
    assert len(text.splitlines()) == 1
