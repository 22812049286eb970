"""``weightlapse compare``: recordings and checkpoints, one JSON object, a figure, and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import nn

import weightlapse as wl
from weightlapse.cli import main


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    x = torch.randn(64, 5)
    for seed in (0, 1):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2))
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        with wl.watch(net, folder / f"run{seed}", optimizer=optimizer, example=x[:3]):
            for _ in range(5):
                optimizer.zero_grad()
                net(x).square().mean().backward()
                optimizer.step()
        torch.save(net.state_dict(), folder / f"{seed}.pt")
    w = wl.trace(net, x[:3])
    (folder / "net.wiring").write_text(w.to_spec())
    state = net.state_dict()
    rng = np.random.default_rng(0)
    for g in w.groups:
        state = wl.permute(state, w, g.name, rng.permutation(g.size))
    save_file({n: v.contiguous() for n, v in state.items()}, folder / "moved.safetensors")
    save_file({n: v.bfloat16() for n, v in state.items()}, folder / "half.safetensors")
    torch.save(net, folder / "pickled.pt")
    (folder / "empty").mkdir()
    plain = {n: v.contiguous() for n, v in net.state_dict().items()}
    for place, parts in (("shards", (0, 1)), ("half of it", (0,))):
        (folder / place).mkdir()
        for part in parts:
            some = {n: plain[n] for n in list(plain)[part::2]}
            save_file(some, folder / place / f"model-0000{part + 1}-of-00002.safetensors")
    return folder


def call(files: Path, *arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    words = [str(files / a) if (files / a.split("@")[0]).exists() else a for a in arguments]
    with pytest.raises(SystemExit) as stop:
        main(["compare", *words])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_a_permuted_checkpoint(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(files, "run1", "moved.safetensors", "--json", capsys=capsys)
    result = json.loads(out)
    assert (code, err) == (0, "")
    assert result["verdict"] == "same up to symmetry"
    assert result["aligned_distance"] == 0.0
    assert result["raw_distance"] > 1
    code, out, _ = call(files, "1.pt", "moved.safetensors", "--wiring", "net.wiring", capsys=capsys)
    assert code == 0
    assert out.startswith("The same network up to symmetry")


def test_two_recordings_with_a_figure(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("figure.png", "figure.svg"):
        code, out, _ = call(files, "run0", "run1", "--step", "3", "-o", str(tmp_path / name), capsys=capsys)
        assert code == 1, "the answer is no"
        assert "Different networks" in out
        assert (tmp_path / name).stat().st_size > 5000
    code, out, _ = call(files, "run0", "run0", "--json", capsys=capsys)
    assert (code, json.loads(out)["verdict"]) == (0, "identical")


def test_low_precision(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(files, "1.pt", "half.safetensors", "--wiring", "net.wiring", "--json", capsys=capsys)
    result = json.loads(out)
    assert 0 < result["aligned_distance"] < 0.01, "bfloat16 rounds"
    assert code == 1


def test_steps_and_folders_are_given_as_everywhere(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(files, "run1@3", "run1@3", "--json", capsys=capsys)
    assert (code, json.loads(out)["verdict"]) == (0, "identical")
    code, out, _ = call(files, "run1@3", "run1", "--json", capsys=capsys)
    assert (code, json.loads(out)["verdict"]) == (1, "different")
    by_step = json.loads(call(files, "run0", "run1", "--step", "3", "--json", capsys=capsys)[1])
    by_name = json.loads(call(files, "run0@3", "run1@3", "--json", capsys=capsys)[1])
    assert {k: v for k, v in by_step.items() if k not in "ab"} == {k: v for k, v in by_name.items() if k not in "ab"}
    code, out, _ = call(files, "run1", "shards", "--json", capsys=capsys)
    assert (code, json.loads(out)["aligned_distance"]) == (0, 0.0)


def test_without_a_wiring_it_says_so(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(files, "1.pt", "moved.safetensors", capsys=capsys)
    assert code == 1
    assert "Without a wiring" in out


@pytest.mark.parametrize(
    "arguments, code, complaint",
    [
        (("nowhere", "run0"), 2, "does not exist"),
        (("0.pt", "1.pt", "--step", "3"), 2, "--step"),
        (("run0", "run1", "--step", "77"), 1, "77"),
        (("pickled.pt", "1.pt"), 1, "run code"),
        (("run0", "run1", "--wiring", "moved.safetensors"), 2, "text"),
        (("run0", "run1", "-o", "figure.txt"), 2, "suffix"),
        (("run0",), 2, "Missing argument"),
        (("run0", "run1", "--wiring", "nowhere"), 2, "does not exist"),
        (("run0@77", "run1"), 1, "77"),
        (("run0@x", "run1"), 2, "is no step"),
        (("run0@3", "run1", "--step", "3"), 2, "names a step"),
        (("1.pt@3", "run1"), 2, "has no steps"),
        (("run0", "half of it"), 1, "is not whole"),
        (("run0", "empty"), 2, "neither a recording nor a checkpoint"),
    ],
)
def test_what_cannot_be_done(
    files: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, complaint: str
) -> None:
    found, out, err = call(files, *arguments, capsys=capsys)
    assert found == code
    assert complaint in err
    assert "Traceback" not in err + out


def test_help_needs_nothing() -> None:
    from weightlapse.cli.compare import command

    result = CliRunner().invoke(command, ["--help"])
    assert result.exit_code == 0
    assert "--wiring" in result.output
