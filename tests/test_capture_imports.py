"""Checkpoints that people have become recordings; files that could run code are refused, not run."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import weightlapse as wl
from tests.framework_presence import require
from weightlapse.adapters.checkpoints import read_checkpoint, step_of
from weightlapse.capture.imports import import_checkpoints
from weightlapse.cli import main


def models(count: int = 4) -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2).bfloat16()) for _ in range(count)]


def check(path: Path, saved: list[nn.Module], steps: list[int]) -> wl.Recording:
    run = wl.load(path)
    assert run.steps.tolist() == steps
    for frame, model in enumerate(saved):
        stored = run.stored_frame(frame)
        state = model.state_dict()
        assert set(stored) == set(state)
        for name, tensor in state.items():
            values = (
                tensor.view(torch.int16).numpy().view(np.uint16) if tensor.dtype == torch.bfloat16 else tensor.numpy()
            )
            assert stored[name].tobytes() == values.tobytes()
    assert run.dtypes["2.weight"] == "bfloat16"
    assert run.streams["1.running_mean"] == "buffers"
    return run


def save_torch(model: nn.Module, path: Path) -> None:
    torch.save(model.state_dict(), path)


def save_lightning(model: nn.Module, path: Path) -> None:
    torch.save(
        {
            "epoch": 3,
            "global_step": 7,
            "state_dict": model.state_dict(),
            "optimizer_states": [{}],
            "hyper_parameters": {"lr": 1},
        },
        path,
    )


def save_safetensors(model: nn.Module, path: Path) -> None:
    from safetensors.torch import save_file

    save_file(model.state_dict(), path)


def save_folder(model: nn.Module, path: Path) -> None:
    path.mkdir()
    (path / "optimizer.pt").write_bytes(b"not looked at")
    save_safetensors(model, path / "model.safetensors")


def save_sharded(model: nn.Module, path: Path) -> None:
    from safetensors.torch import save_file

    path.mkdir()
    state = model.state_dict()
    parts = {"model-00001-of-00002.safetensors": list(state)[:5], "model-00002-of-00002.safetensors": list(state)[5:]}
    for file, names in parts.items():
        save_file({n: state[n] for n in names}, path / file)
    index = {"weight_map": {n: file for file, names in parts.items() for n in names}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


FORMATS: dict[str, tuple[Any, str]] = {
    "torch": (save_torch, "model-{}.pt"),
    "pth": (save_torch, "net_v{}.pth"),
    "lightning": (save_lightning, "epoch=1-step={}.ckpt"),
    "safetensors": (save_safetensors, "model_{}.safetensors"),
    "hugging face": (save_folder, "checkpoint-{}"),
    "sharded": (save_sharded, "checkpoint-{}"),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_series(tmp_path: Path, kind: str) -> None:
    require("safetensors")
    save, pattern = FORMATS[kind]
    steps, saved = [5, 40, 100, 1000], models()
    for step, model in zip(steps, saved):
        save(model, tmp_path / pattern.format(step))
    files = sorted(tmp_path.iterdir(), key=str)  # not in the order of steps
    assert import_checkpoints(files, tmp_path / "run") == 4
    check(tmp_path / "run", saved, steps)


def test_npz_and_steps_that_are_given(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 2.0)):
        np.savez(tmp_path / f"{name}.npz", w=np.full(3, value), n=np.int32(value))
    with pytest.raises(wl.InvalidArgument, match="no number that could be its step"):
        import_checkpoints([tmp_path / "a.npz"], tmp_path / "run")
    import_checkpoints([tmp_path / "b.npz", tmp_path / "a.npz"], tmp_path / "run", steps=[9, 3])
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == [3, 9]
    assert run["w"][:, 0].tolist() == [1.0, 2.0]
    assert run["n"].dtype == np.int32


def test_keras_weights(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    for step in (1, 2):
        with h5py.File(tmp_path / f"m-{step}.weights.h5", "w") as file:
            file["layers/dense/vars/0"] = np.full((2, 3), step, np.float32)
            file["layers/dense/vars/1"] = np.zeros(3, np.float32)
            file["optimizer/vars/0"] = np.zeros(3)
    import_checkpoints(sorted(tmp_path.glob("*.h5")), tmp_path / "run")
    run = wl.load(tmp_path / "run")
    assert run.names == ["layers/dense/vars/0", "layers/dense/vars/1"]
    assert run["layers/dense/vars/0"][:, 0, 0].tolist() == [1, 2]


class Attack:
    """What a hostile pickle does: it calls something when it is read."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path: Path, suffix: str, how: str) -> None:
    proof, good, bad = tmp_path / "proof", tmp_path / "m-1.pt", tmp_path / f"m-2{suffix}"
    save_torch(models(1)[0], good)
    if how == "torch":
        torch.save({"w": torch.ones(2), "x": Attack(proof)}, bad)
    else:
        bad.write_bytes(pickle.dumps({"w": Attack(proof)}))
    with pytest.raises(wl.CannotRecord, match="could run code, so it was not read") as caught:
        import_checkpoints([good, bad], tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not proof.exists()
    assert not (tmp_path / "run").exists()


def test_an_object_array_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "m-1.npz", w=np.array([Attack(tmp_path / "proof")], dtype=object))
    with pytest.raises(wl.CannotRecord, match="arrays of numbers"):
        import_checkpoints([tmp_path / "m-1.npz"], tmp_path / "run")
    assert not (tmp_path / "proof").exists()


def safetensors_bytes(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
BROKEN = {
    "empty": b"",
    "short": b"1234",
    "huge header": safetensors_bytes({"w": F32}, bytes(8), length=1 << 60),
    "not json": safetensors_bytes(b"{nothing"),
    "a list": safetensors_bytes([1, 2]),
    "cut": safetensors_bytes({"w": F32}, bytes(4)),
    "outside": safetensors_bytes({"w": F32 | {"data_offsets": [1 << 40, (1 << 40) + 8]}}, bytes(8)),
    "negative": safetensors_bytes({"w": F32 | {"data_offsets": [-8, 0]}}, bytes(8)),
    "wrong shape": safetensors_bytes({"w": F32 | {"shape": [1 << 40]}}, bytes(8)),
    "odd dtype": safetensors_bytes({"w": F32 | {"dtype": "PICKLE"}}, bytes(8)),
    "no tensors": safetensors_bytes({}),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_safetensors_are_refused(tmp_path: Path, case: str) -> None:
    (tmp_path / "m-1.safetensors").write_bytes(BROKEN[case])
    with pytest.raises(wl.CannotRecord) as caught:
        read_checkpoint(tmp_path / "m-1.safetensors")
    assert "m-1.safetensors" in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".ckpt", ".weights.h5", ".keras"])
def test_other_broken_files_are_refused(tmp_path: Path, suffix: str) -> None:
    for k, content in enumerate((b"", b"\x80\x04garbage", b"PK\x03\x04" + bytes(40))):
        (tmp_path / f"m{k}{suffix}").write_bytes(content)
        with pytest.raises(wl.CannotRecord):
            read_checkpoint(tmp_path / f"m{k}{suffix}")


def test_an_index_may_not_point_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "model.safetensors.index.json").write_text(
        '{"weight_map": {"w": "../../secret.safetensors"}}'
    )
    with pytest.raises(wl.CannotRecord, match="outside of its folder"):
        read_checkpoint(tmp_path / "checkpoint-1")


def test_steps_of_names() -> None:
    assert step_of("a/b-2/model.0007.safetensors") == 7
    assert step_of("epoch=3-step=1200.ckpt") == 1200
    assert step_of("model_7.weights.h5") == 7


def test_more_refusals(tmp_path: Path) -> None:
    for name in ("a-1.npz", "b-1.npz"):
        np.savez(tmp_path / name, w=np.ones(2))
    files = sorted(tmp_path.iterdir())
    with pytest.raises(wl.InvalidArgument, match="both say step 1"):
        import_checkpoints(files, tmp_path / "run")
    with pytest.raises(wl.InvalidArgument, match="3 steps were given for 2 files"):
        import_checkpoints(files, tmp_path / "run", steps=[1, 2, 3])
    with pytest.raises(wl.InvalidArgument, match="nothing to import"):
        import_checkpoints([], tmp_path / "run")
    with pytest.raises(wl.InvalidArgument, match="does not exist"):
        import_checkpoints([tmp_path / "c-3.npz"], tmp_path / "run")
    (tmp_path / "x-1.txt").write_text("hello")
    with pytest.raises(wl.InvalidArgument, match="known endings"):
        import_checkpoints([tmp_path / "x-1.txt"], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_layer_that_grows_between_checkpoints(tmp_path: Path) -> None:
    for step, n in ((1, 2), (2, 2), (3, 5)):
        np.savez(tmp_path / f"m-{step}.npz", w=np.full(n, step))
    import_checkpoints(sorted(tmp_path.glob("*.npz")), tmp_path / "run")
    run = wl.load(tmp_path / "run")
    assert [(e.start, e.stop, e.shapes["w"]) for e in run.layouts] == [(0, 2, (2,)), (2, 3, (5,))]


def test_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (1, 2):
        np.savez(tmp_path / f"m-{step}.npz", w=np.ones(2), v=np.ones(2))
    files = [str(p) for p in sorted(tmp_path.glob("*.npz"))]
    from weightlapse.cli import program

    done = CliRunner().invoke(
        program, ["import", *files, "-o", str(tmp_path / "run"), "--steps", "10,20", "--tensors", "w", "--json"]
    )
    assert json.loads(done.stdout) == {"path": str(tmp_path / "run"), "frames": 2}
    assert wl.load(tmp_path / "run").names == ["w"]
    for arguments, code in (
        (["import", *files, "-o", str(tmp_path / "run")], 2),
        (["import", *files, "-o", str(tmp_path / "new"), "--steps", "ten"], 2),
        (["import", "-o", str(tmp_path / "new")], 2),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == code
        assert "Traceback" not in capsys.readouterr().err
