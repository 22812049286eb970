"""``weightlapse grow``: checkpoints widened by a written wiring, and everything that can be wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import tests.nets_growth as nets
import weightlapse as wl
from weightlapse.cli import main
from weightlapse.errors import CannotGrow, InvalidArgument, UnknownTensor
from weightlapse.growth.checkpoint import read_checkpoint, widen_state


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    return int(stop.value.code or 0)


@pytest.fixture
def network(tmp_path: Path) -> tuple[nn.Module, Path, Path]:
    """A trained network, its checkpoint and its spec."""
    model = nets.trained_a_little(nets.Lenet())
    save_file(model.state_dict(), tmp_path / "net.safetensors", metadata={"epoch": "7"})
    (tmp_path / "net.wiring").write_text(wl.trace(model, nets.images(1, 14)).to_spec(), encoding="utf-8")
    return model, tmp_path / "net.safetensors", tmp_path / "net.wiring"


def test_the_widened_checkpoint_computes_the_same(
    network: tuple[nn.Module, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model, checkpoint, spec = network
    out = checkpoint.with_name("wide.safetensors")
    assert run("grow", checkpoint, "--wiring", spec, "--widen", "conv2=9", "--widen", "fc1=13", "-o", out) == 0
    said = capsys.readouterr().out
    assert "conv2.weight  (6, 4, 3, 3) -> (9, 4, 3, 3)" in said
    assert "bit for bit" in said
    wide = nets.Lenet()
    wide.conv2, wide.fc1, wide.fc2 = nn.Conv2d(4, 9, 3), nn.Linear(36, 13), nn.Linear(13, 3)
    wide.load_state_dict(load_file(out))
    x = nets.images(1, 14).double()
    a, b = model.double()(x), wide.double()(x)
    assert ((a - b).abs().max() / a.abs().max()).item() <= 1e-12


def test_json_tells_the_lineage(network: tuple[nn.Module, Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    _, checkpoint, spec = network
    out = checkpoint.with_name("wide.safetensors")
    assert run("grow", checkpoint, "--wiring", spec, "--widen", "fc1=10", "-o", out, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["lineage"]["fc1"][:8] == list(range(8))
    assert told["tensors"] == {"fc1.weight": [10, 24], "fc1.bias": [10], "fc2.weight": [3, 10]}
    assert np.bincount(told["lineage"]["fc1"], weights=told["parts"]["fc1"]) == pytest.approx(np.ones(8))


def test_metadata_and_the_seed(network: tuple[nn.Module, Path, Path]) -> None:
    from safetensors import safe_open

    _, checkpoint, spec = network
    outs = [checkpoint.with_name(f"{i}.safetensors") for i in range(3)]
    for out, seed in zip(outs, (1, 1, 2), strict=True):
        assert run("grow", checkpoint, "--wiring", spec, "--widen", "fc1=10", "-o", out, "--seed", seed) == 0
    one, two, other = (load_file(out)["fc2.weight"] for out in outs)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    with safe_open(outs[0], framework="pt") as file:
        assert file.metadata()["epoch"] == "7"


def test_torch_checkpoints_tied_names_and_bfloat16(tmp_path: Path) -> None:
    model = nets.trained_a_little(nets.Gpt(tied=True)).bfloat16()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "net.pt")
    (tmp_path / "w").write_text(wl.trace(model, nets.tokens()).to_spec(), encoding="utf-8")
    out = tmp_path / "wide.safetensors"
    assert run("grow", tmp_path / "net.pt", "--wiring", tmp_path / "w", "--widen", "blocks.0.up=23", "-o", out) == 0
    grown = load_file(out)
    assert grown["blocks.0.up.weight"].shape == (23, 8)
    assert torch.equal(grown["head.weight"], grown["tokens.weight"])
    assert grown["blocks.0.down.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    "change, code, text",
    [
        ({"--widen": "fc1"}, 2, "NAME=SIZE"),
        ({"--widen": "fc1=-3"}, 2, "NAME=SIZE"),
        ({"--widen": "fc1=4"}, 2, "would be fewer"),
        ({"--widen": "nine=9"}, 1, "no group of units is called 'nine'"),
        ({"-o": "wide.pt"}, 2, "must end in .safetensors"),
        ({"-o": "net.safetensors"}, 2, "exists"),
        ({"--wiring": "net.safetensors"}, 2, "not a text file"),
        ({"checkpoint": "net.wiring"}, 2, "cannot be read as a checkpoint"),
        ({"checkpoint": "broken.safetensors"}, 2, "not a readable safetensors file"),
        ({"checkpoint": "other.safetensors"}, 1, "the checkpoint has no 'fc1.weight'"),
        ({"checkpoint": "wrong.safetensors"}, 2, "has shape"),
        ({"checkpoint": "list.pt"}, 2, "holds no state dict"),
    ],
)
def test_wrong_calls_leave_nothing_behind(
    network: tuple[nn.Module, Path, Path], capsys: pytest.CaptureFixture[str], change: dict[str, str], code: int, text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    model, checkpoint, _ = network
    monkeypatch.chdir(checkpoint.parent)
    state = model.state_dict()
    Path("broken.safetensors").write_bytes(checkpoint.read_bytes()[:200])
    save_file({k: v for k, v in state.items() if k != "fc1.weight"}, "other.safetensors")
    save_file(state | {"fc1.weight": torch.zeros(7, 24)}, "wrong.safetensors")
    torch.save([1, 2], "list.pt")
    files = {p: p.read_bytes() for p in Path().iterdir()}
    call = {
        "checkpoint": "net.safetensors",
        "--wiring": "net.wiring",
        "--widen": "fc1=10",
        "-o": "wide.safetensors",
    } | change
    arguments = [call.pop("checkpoint"), *(word for pair in call.items() for word in pair)]
    assert run("grow", *arguments) == code
    said = capsys.readouterr()
    assert text in said.err
    assert "Traceback" not in said.err
    assert {p: p.read_bytes() for p in Path().iterdir()} == files


def test_pickles_are_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    torch.save({"a": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(InvalidArgument):
        read_checkpoint(tmp_path / "trap.pt")
    assert not (tmp_path / "sprung").exists()


def test_a_written_refusal_holds() -> None:
    model = nets.Gpt()
    wiring = wl.trace(model, nets.tokens())
    with pytest.raises(CannotGrow, match="layer_norm"):
        widen_state(model.state_dict(), wiring, {"tokens": 11})
    grown, cells = widen_state(model.state_dict(), wiring, {"tokens": 16}, seed=0)
    assert grown["norm.weight"].shape == (16,)
    assert len(cells.lineage["tokens"]) == 16
    with pytest.raises(UnknownTensor):
        widen_state({}, wiring, {"tokens": 16})
