"""Trees of published checkpoints: every layout of them, one at a time, going on after a kill, and what is wrong with them said."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weightlapse.adapters.step_names import step_in
from weightlapse.capture.import_tree import front, import_revisions
from weightlapse.capture.imports import import_checkpoints
from weightlapse.capture.revisions import Tree
from weightlapse.capture.suspicions import exchanged, missing_steps, sample_of
from weightlapse.cli import main
from weightlapse.errors import CannotRecord, InvalidArgument
from weightlapse.recording.recording import load
from weightlapse.store.reader import Store

safetensors = pytest.importorskip("safetensors.numpy")
State = dict[str, np.ndarray]


def training(count: int, seed: int = 0) -> list[State]:
    rng, out = np.random.default_rng(seed), []
    w = {"a.weight": rng.standard_normal((30, 20)).astype(np.float32), "a.bias": np.zeros(30, np.float32)}
    for _ in range(count):
        out.append(w)
        w = {k: (v + 0.1 * rng.standard_normal(v.shape)).astype(np.float32) for k, v in w.items()}
    return out


def save(folder: Path, state: State, *, shards: int = 1) -> None:
    folder.mkdir(parents=True)
    if shards == 1:
        safetensors.save_file(state, folder / "model.safetensors")
    else:
        names = sorted(state)
        where = {name: f"model-{i % shards + 1:05d}-of-{shards:05d}.safetensors" for i, name in enumerate(names)}
        for file in set(where.values()):
            safetensors.save_file({n: state[n] for n in names if where[n] == file}, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "config.json").write_text("{}")


def tree(root: Path, steps: list[int], pattern: str = "step{}", **more: Any) -> list[State]:
    states = training(len(steps))
    for step, state in zip(steps, states):
        save(root / pattern.format(step), state, **more)
    return states


def same(path: Path, steps: list[int], states: list[State]) -> None:
    run = load(path)
    assert run.steps.tolist() == steps
    for frame, state in enumerate(states):
        for name, values in state.items():
            assert run[name][frame].tobytes() == values.tobytes()


@pytest.mark.parametrize("pattern", ["step{}", "checkpoint-{}", "global_step{}", "iter_{:07d}", "main-step{}-tokens4B"])
@pytest.mark.parametrize("shards", [1, 2])
def test_folders_of_all_kinds(tmp_path: Path, pattern: str, shards: int) -> None:
    steps = [0, 1, 512, 1000, 2000]
    states = tree(tmp_path / "hub", steps, pattern, shards=shards)
    (tmp_path / "hub" / "README.md").write_text("a model")
    (tmp_path / "hub" / "main").mkdir()
    said: list[str] = []
    done = import_revisions(tmp_path / "hub", tmp_path / "run", say=said.append)
    assert (done.frames, done.checkpoints, done.lost, done.odd, said) == (5, 5, [], [], [])
    same(tmp_path / "run", steps, states)


def test_torch_files_deepspeed_and_bfloat16(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    states = training(3)
    for step, state in zip((10, 20, 30), states):
        folder = tmp_path / "hub" / f"global_step{step}"
        folder.mkdir(parents=True)
        held = {name: torch.from_numpy(values).bfloat16() for name, values in state.items()}
        torch.save({"module": held}, folder / "mp_rank_00_model_states.pt")
        torch.save({"x": torch.zeros(3)}, folder / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    assert import_revisions(tmp_path / "hub", tmp_path / "run").odd == []
    run = load(tmp_path / "run")
    assert run.dtypes["a.weight"] == "bfloat16"
    assert np.array_equal(run["a.weight"][1], torch.from_numpy(states[1]["a.weight"]).bfloat16().float().numpy())


def test_files_and_the_cache_of_a_hub(tmp_path: Path) -> None:
    states = training(4)
    for k, state in enumerate(states):
        np.savez(tmp_path / f"model-{k * 5}.npz", **state)
    import_revisions(tmp_path, tmp_path / "run")
    same(tmp_path / "run", [0, 5, 10, 15], states)
    cache = tmp_path / "models--x--y"
    (cache / "refs").mkdir(parents=True)
    for k, state in enumerate(states):
        save(cache / "snapshots" / f"{k:040x}", state)
        (cache / "refs" / f"step{k * 100}").write_text(f"{k:040x}")
    (cache / "refs" / "main").write_text(f"{3:040x}")
    import_revisions(cache, tmp_path / "hub-run")
    same(tmp_path / "hub-run", [0, 100, 200, 300], states)


def test_a_url_has_one_checkpoint_on_disk_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    states = tree(tmp_path / "hub", [0, 1, 2, 3, 4])
    files = fsspec.filesystem("memory")
    for file in (tmp_path / "hub").rglob("*"):
        if file.is_file():
            files.pipe_file(f"/revisions-test/{file.relative_to(tmp_path / 'hub').as_posix()}", file.read_bytes())
    held: list[int] = []
    inner = Tree.opened

    def opened(self: Tree, revision: Any, room: Path) -> Any:
        held.append(len([p for p in tmp_path.rglob(".import-*") if p.is_dir()]))
        return inner(self, revision, room)

    monkeypatch.setattr(Tree, "opened", opened)
    import_revisions("memory://revisions-test", tmp_path / "run")
    same(tmp_path / "run", [0, 1, 2, 3, 4], states)
    assert held == [0] * 5  # nothing is left of the one before
    assert not list(tmp_path.rglob(".import-*"))


def test_half_written_ones_are_gaps_and_said(tmp_path: Path) -> None:
    steps = [100 * k for k in range(10)]
    states = tree(tmp_path / "hub", steps, shards=2)
    hub = tmp_path / "hub"
    (hub / "step200" / "model-00002-of-00002.safetensors").unlink()  # a shard is missing
    file = hub / "step300" / "model-00001-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-100])  # cut short
    (hub / "step400" / "model-00001-of-00002.safetensors").write_bytes(b"")  # empty
    shutil.rmtree(hub / "step500")
    (hub / "step500").mkdir()  # begun
    (hub / "step500" / "model.safetensors.incomplete").write_bytes(b"abc")
    (hub / "step600" / "model.safetensors.index.json").write_text('{"weight_map": ')
    (hub / "step000").mkdir()
    said: list[str] = []
    done = import_revisions(hub, tmp_path / "run", say=said.append)
    lost = [text.split(" ")[0] for text in done.lost]
    assert lost == ["step200", "step300", "step400", "step500", "step600"]
    run = load(tmp_path / "run")
    assert [gap[0] for gap in run.gaps] == [200, 300, 400, 500, 600]
    assert all(text in said for text in done.lost)
    same(tmp_path / "run", [0, 100, 700, 800, 900], [states[k] for k in (0, 1, 7, 8, 9)])
    for folder in hub.iterdir():
        shutil.rmtree(folder)
        folder.mkdir()
    with pytest.raises(CannotRecord, match="none of the checkpoints"):
        import_revisions(hub, tmp_path / "other")


def test_zeros_duplicates_exchanged_and_missing_ones_are_said(tmp_path: Path) -> None:
    steps = [100 * k for k in range(12) if k != 6]
    states = tree(tmp_path / "hub", steps)
    hub = tmp_path / "hub"
    save_over(hub / "step900", states[8])  # states of steps 100 * k without 6: step 900 is number 8, step 800 number 7
    save_over(hub / "step800", states[3])  # the checkpoint of step 300 once more
    save_over(hub / "step400", {"a.weight": np.zeros((30, 20), np.float32), "a.bias": states[4]["a.bias"]})
    done = import_revisions(hub, tmp_path / "run")
    assert done.lost == []
    told = "\n".join(done.odd)
    assert "step400: 1 of its matrices are all zeros" in told
    assert "step800 is the same, bit for bit, as the checkpoint of step 300" in told
    assert "leaves out 1 steps: 600" in told
    events = [text for _, text in load(tmp_path / "run").events]
    assert set(done.odd) <= set(events)
    assert [gap[0] for gap in load(tmp_path / "run").gaps] == [600]


def save_over(folder: Path, state: State) -> None:
    shutil.rmtree(folder)
    save(folder, state)


@pytest.mark.parametrize(("i", "j"), [(3, 4), (2, 7), (0, 5), (10, 11), (0, 1)])
def test_exchanged_checkpoints_are_named(tmp_path: Path, i: int, j: int) -> None:
    states = training(12)
    states[i], states[j] = states[j], states[i]
    for k, state in enumerate(states):
        save(tmp_path / "hub" / f"step{k}", state)
    odd = import_revisions(tmp_path / "hub", tmp_path / "run").odd
    if (i, j) in ((0, 1), (10, 11)):  # the last two could as well have gone there and back
        assert odd == [] or f"steps {i} and {j} seem exchanged" in odd[0]
    else:
        assert f"steps {i} and {j} seem exchanged" in odd[0]
        assert len(odd) == 1


def test_healthy_series_are_not_suspected() -> None:
    rng = np.random.default_rng(0)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        walk = np.cumsum(rng.standard_normal((20, 500)), axis=0)
        assert exchanged(list(walk)) == []
        around = rng.standard_normal((20, 500))  # about a minimum
        assert exchanged(list(around)) == []
        straight = np.arange(20)[:, None] * rng.standard_normal(500) + 0.1 * rng.standard_normal((20, 500))
        assert exchanged(list(straight)) == []
        slower = np.cumsum(rng.standard_normal((20, 500)) / (1 + np.arange(20))[:, None], axis=0)
        assert exchanged(list(slower)) == []
        log_spaced = walk[[0, 1, 2, 4, 8, 16, 19]]
        assert exchanged(list(log_spaced)) == []
    assert missing_steps([0, 1, 2, 4, 8, 16, 32]) == []
    assert missing_steps([5, 10]) == []
    assert missing_steps([0, 10, 20, 50, 60]) == [30, 40]


def straight(count: int, noise: float = 0.0, seed: int = 0) -> list[State]:
    """A march on, with noise."""
    rng = np.random.default_rng(seed)
    w, d = rng.standard_normal((40, 30)), 0.02 * rng.standard_normal((40, 30))
    out = []
    for _ in range(count):
        w = w + d + noise * rng.standard_normal(w.shape)
        out.append({"w": w.astype(np.float32), "b": (w[0] * 2).astype(np.float32)})
    return out


def imported(folder: Path, states: list[State]) -> Any:
    for k, state in enumerate(states):
        save(folder / "hub" / f"step{k * 10}", state)
    return import_revisions(folder / "hub", folder / "run")


@pytest.mark.parametrize(("to", "of"), [(6, 2), (9, 0), (5, 4), (1, 8)])
def test_a_doubled_checkpoint_is_not_exchanged(tmp_path: Path, to: int, of: int) -> None:
    states = straight(10)
    states[to] = states[of]
    first, second = min(to, of), max(to, of)
    done = imported(tmp_path, states)
    if to > of:
        assert done.odd == [f"step{second * 10} is the same, bit for bit, as the checkpoint of step {first * 10}"]
    else:  # the later one is the right one, which nobody can know before it comes
        assert f"step{second * 10} is the same, bit for bit, as the checkpoint of step {first * 10}" in done.odd


def test_swinging_weights_are_not_exchanged() -> None:
    rng = np.random.default_rng(0)
    centre, d, e = rng.standard_normal((3, 500))
    for speed in (0.2, 0.5, 0.9, 1.3, 2.0, 2.9, 3.1):
        for count in (8, 12, 30):
            at = speed * np.arange(count)
            for swing in (np.sin(at)[:, None] * d, np.sin(at)[:, None] * d + np.cos(1.7 * at)[:, None] * e):
                assert exchanged(list(centre + swing)) == [], (speed, count)
    for k in (1, 4, 7):  # one that does not belong here
        walk = np.cumsum(rng.standard_normal((10, 500)), axis=0)
        walk[k] += 30 * d
        assert exchanged(list(walk)) == []


def test_exchanges_are_seen_where_first_rows_rest() -> None:
    rng = np.random.default_rng(0)
    states = [
        {"emb": np.concatenate([np.ones((3, 20)), np.ones((47, 20)) * k]) + 0.01 * rng.standard_normal((50, 20))}
        for k in range(7)
    ]
    for state in states:
        state["emb"][:3] = 1.0
    states[1], states[4] = states[4], states[1]
    assert exchanged([sample_of({"emb": front(s["emb"])}) for s in states]) == [(1, 4)]
    line = [np.full(9, float(k)) for k in (0, 3, 2, 1, 4)]  # the first and last exchanged would be as short, backwards
    assert exchanged(line) == [(1, 3)]


@pytest.mark.parametrize("seed", range(6))
def test_noisy_healthy_series_stay_silent(tmp_path: Path, seed: int) -> None:
    done = imported(tmp_path, straight(12, 0.05, seed))
    assert (done.odd, done.lost) == ([], [])


@pytest.mark.parametrize("rows", [slice(20, None), slice(0, 12), slice(10, 25)])
def test_zeros_on_end_in_a_part_of_a_matrix(tmp_path: Path, rows: slice) -> None:
    states = straight(6)
    states[3]["w"][rows] = 0
    done = imported(tmp_path, states)
    (told,) = done.odd
    assert told.startswith("step30: 1 of its matrices are zeros on end")
    assert told in [text for _, text in load(tmp_path / "run").events]


@pytest.mark.parametrize("where", [..., slice(5, 6), slice(30, None)])
def test_a_tensor_that_is_no_number_in_one_checkpoint(tmp_path: Path, where: Any) -> None:
    states = straight(6)
    states[3]["w"][where] = np.nan
    (told,) = imported(tmp_path, states).odd
    assert told.startswith("step30: NaN or Inf in 1 of its tensors")
    assert f"{np.isnan(states[3]['w']).sum():,} of 1,200 values of w" in told


def test_a_tensor_that_is_missing_in_one_checkpoint_or_from_one_on(tmp_path: Path) -> None:
    states = straight(6)
    del states[2]["b"]
    done = imported(tmp_path / "one", states)
    assert done.lost == ["step20 is not whole: b, of the checkpoints before and after, is not in it"]
    same(tmp_path / "one" / "run", [0, 10, 30, 40, 50], [states[k] for k in (0, 1, 3, 4, 5)])
    for state in states:
        state.pop("b", None) if state is not states[0] and state is not states[1] else None
    done = imported(tmp_path / "on", states)
    assert done.lost == []
    assert done.odd == ["step20 does not hold b, which the checkpoints before do"]


@pytest.mark.parametrize(("at", "of"), [(3, 1), (4, 0), (5, 2), (3, 2), (2, 1)])
def test_one_file_of_an_older_step(tmp_path: Path, at: int, of: int) -> None:
    rng = np.random.default_rng(0)
    states = [{"a": a, "b": b} for a, b in np.cumsum(rng.standard_normal((7, 2, 8, 8)), axis=0).astype(np.float32)]
    states[at]["b"] = states[of]["b"]
    (told,) = imported(tmp_path, states).odd
    flat = [
        {"a": np.full((4, 4), k * 10 + 1.0), "b": np.full((4, 4), (of if k == at else k) * 10 + 2.0)} for k in range(7)
    ]
    assert len(imported(tmp_path / "flat", flat).odd) == 1
    assert "a file of" in told
    assert "seems to be an older one's" in told
    assert (
        f"step{at * 10}: " in told and f"b of step {of * 10}" in told
    ) or f"same at steps {of * 10} and {at * 10}" in told


def test_what_is_odd_is_seen_after_a_resumed_import_too(tmp_path: Path) -> None:
    states = straight(6)
    imported(tmp_path, states[:3])
    states[3]["w"][20:] = 0
    for k in (3, 4, 5):
        save(tmp_path / "hub" / f"step{k * 10}", states[k])
    done = import_revisions(tmp_path / "hub", tmp_path / "run", resume=True)
    assert [text.split(":")[0] for text in done.odd] == ["step30"]
    same(tmp_path / "run", [0, 10, 20, 30, 40, 50], states)


def test_layers_that_are_frozen_for_a_while_and_zeros_from_the_start_are_sound(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.standard_normal((8, 2, 8, 8)), axis=0).astype(np.float32)
    walk[:, :, 4:] = 0  # never used
    states = [
        {"a": a, "b": walk[max(k, 1), 1], "c": walk[min(k, 3), 1] + 1, "n": np.array([k % 2])}
        for k, (a, _) in enumerate(walk)
    ]
    done = imported(tmp_path, states)
    assert (done.odd, done.lost) == ([], [])


def test_it_goes_on_after_a_kill(tmp_path: Path) -> None:
    steps = list(range(40))
    states = tree(tmp_path / "hub", steps)
    program = (
        "import sys, time\nfrom weightlapse.capture.import_tree import import_revisions\nfrom weightlapse.capture.revisions import Tree\n"
        "inner = Tree.opened\n"
        "def slow(self, *a):\n    time.sleep(0.05)\n    return inner(self, *a)\n"
        "Tree.opened = slow\nimport_revisions(sys.argv[1], sys.argv[2])\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "hub"), str(tmp_path / "run")])
    for _ in range(600):
        time.sleep(0.02)
        if (tmp_path / "run" / "manifest.json").exists() and len(Store.open(tmp_path / "run").steps) > 4:
            break
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    before = len(Store.open(tmp_path / "run").steps)
    assert 4 < before < 40
    with pytest.raises(InvalidArgument):
        import_revisions(tmp_path / "hub", tmp_path / "run")
    done = import_revisions(tmp_path / "hub", tmp_path / "run", resume=True)
    assert (done.frames, done.odd, done.lost) == (40, [], [])
    same(tmp_path / "run", steps, states)
    assert Store.open(tmp_path / "run").verify() == []
    assert import_revisions(tmp_path / "hub", tmp_path / "run", resume=True).frames == 40  # nothing left to do
    tree(tmp_path / "x", [1, 2])
    with pytest.raises(InvalidArgument, match="not imported from"):
        import_revisions(tmp_path / "x", tmp_path / "run", resume=True)


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree(tmp_path / "hub", [0, 10, 20])
    with pytest.raises(SystemExit) as end:
        main(["import", str(tmp_path / "hub"), "-o", str(tmp_path / "run"), "--json"])
    assert end.value.code == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 3
    shutil.rmtree(tmp_path / "hub" / "step20")
    (tmp_path / "hub" / "step20").mkdir()
    with pytest.raises(SystemExit) as end:
        main(["import", str(tmp_path / "hub"), "-o", str(tmp_path / "run"), "--overwrite"])
    assert end.value.code == 1
    assert "step20 cannot be read" in capsys.readouterr().err
    for wrong in (["--steps", "1,2"], []):
        with pytest.raises(SystemExit) as end:
            main(["import", str(tmp_path / "hub"), "-o", str(tmp_path / "run"), *wrong])
        assert end.value.code == 2
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InvalidArgument, match="no checkpoints"):
        import_revisions(tmp_path / "nothing", tmp_path / "y")


@pytest.mark.parametrize(
    "name",
    ["tmp-checkpoint-40", "checkpoint-40.tmp", "checkpoint-40-tmp", ".checkpoint-40", "_checkpoint-40", "checkpoint-40.partial",
     "checkpoint-40.incomplete", "checkpoint-40_tmp", "temp_checkpoint-40"],
)  # fmt: skip
def test_unfinished_folders_are_not_taken(tmp_path: Path, name: str) -> None:
    states = tree(tmp_path / "hub", [10, 20, 30, 40], "checkpoint-{}")
    os.rename(tmp_path / "hub" / "checkpoint-40", tmp_path / "hub" / name)
    done = import_revisions(tmp_path / "hub", tmp_path / "run")
    assert done.lost == [f"{name} cannot be read: its name says that it was not finished"]
    same(tmp_path / "run", [10, 20, 30], states[:3])
    save(tmp_path / "hub" / "checkpoint-40", states[3])  # and now it was finished
    done = import_revisions(tmp_path / "hub", tmp_path / "again")
    assert (done.lost, done.odd) == ([], [])
    assert done.ignored == {name: "its name says that it was not finished"}
    same(tmp_path / "again", [10, 20, 30, 40], states)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["mp_rank_00_model_states.pt", "mp_rank_01_model_states.pt"], "tensor parallel"),
        (["mp_rank_00_model_states.pt", "layer_00-model_states.pt", "layer_01-model_states.pt"], "pipeline parallel"),
        (["layer_00-model_00-model_states.pt", "x_optim_states.pt"], "pipeline parallel"),
        (["zero_pp_rank_0_mp_rank_00_model_states.pt", "zero_pp_rank_1_mp_rank_00_model_states.pt"], "ZeRO stage 3"),
        (["mp_rank_01_model_states.pt"], "tensor parallel"),
    ],
)
def test_parts_of_a_parallel_network_are_not_taken_for_it(tmp_path: Path, files: list[str], told: str) -> None:
    torch = pytest.importorskip("torch")
    folder = tmp_path / "hub" / "global_step0"
    folder.mkdir(parents=True)
    for k, file in enumerate(files):
        torch.save({"module": {"w": torch.full((2, 2), float(k))}}, folder / file)
    with pytest.raises(CannotRecord, match=f"{told}.*merge them first"):
        import_revisions(tmp_path / "hub", tmp_path / "run")
    torch.save({"module": {"w": torch.ones(2, 2)}}, tmp_path / "hub" / "global_step5.pt")
    done = import_revisions(tmp_path / "hub", tmp_path / "run")
    assert (done.frames, len(done.lost)) == (1, 1)
    with pytest.raises(InvalidArgument, match="a part of one checkpoint"):  # nor one after the other
        import_revisions(folder, tmp_path / "other")


def test_an_index_that_is_not_whole(tmp_path: Path) -> None:
    states = tree(tmp_path / "hub", [0, 1, 2, 3, 4], shards=2)
    hub = tmp_path / "hub"
    index = "model.safetensors.index.json"
    where = json.loads((hub / "step1" / index).read_text())["weight_map"]
    (hub / "step1" / index).write_text(json.dumps({"weight_map": {"a.bias": where["a.bias"]}}))
    (hub / "step2" / index).write_text(json.dumps({"weight_map": where | {"zz": where["a.bias"]}}))
    (hub / "step3" / index).write_text(json.dumps({"weight_map": {"a.bias": where["a.bias"]}}))
    (hub / "step3" / where["a.weight"]).unlink()
    done = import_revisions(hub, tmp_path / "run")
    assert [text.split(" ")[0] for text in done.lost] == ["step1", "step2", "step3"]
    assert "names 1 of its shards" in done.lost[0]
    assert "'zz'" in done.lost[1]
    same(tmp_path / "run", [0, 4], [states[0], states[4]])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("step10000000000000000000", "64-bit"), ("checkpoint-9300000000000000000", "64-bit"), ("step1.0001k", "no whole number"),
        ("step1.5", "no whole number"), ("step5b", "more than one way"), ("step1_000", "more than one way"), ("iter_5of10", "more than one way"),
    ],
)  # fmt: skip
def test_steps_that_cannot_be_told_are_refused(tmp_path: Path, name: str, why: str) -> None:
    tree(tmp_path / "hub", [1, 2])
    save(tmp_path / "hub" / name, training(1)[0])
    with pytest.raises(InvalidArgument, match=f"{name}.*{why}.*--steps"):
        import_revisions(tmp_path / "hub", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree(tmp_path / "hub", [10, 20])
    for name in ("best", "2024-01-02", "llama-7b", "3fa8c21"):
        save(tmp_path / "hub" / name, training(1)[0])
    safetensors.save_file(training(1)[0], tmp_path / "hub" / "model.safetensors")
    (tmp_path / "hub" / "README.md").write_text("a model")
    with pytest.raises(SystemExit) as end:
        main(["import", str(tmp_path / "hub"), "-o", str(tmp_path / "run")])
    assert end.value.code == 0
    (line,) = capsys.readouterr().err.splitlines()
    for name in ("best", "2024-01-02", "llama-7b", "3fa8c21", "model.safetensors", "README.md"):
        assert f"{name} (" in line
    assert load(tmp_path / "run").steps.tolist() == [10, 20]
    with pytest.raises(InvalidArgument, match="does not exist"):
        import_checkpoints([tmp_path / "nowhere"], tmp_path / "x")


def test_steps_in_names() -> None:
    assert [
        step_in(n)
        for n in ("step143000", "epoch_3_step_20", "ckpt-7.pt", "v2.safetensors", "latest", "pytorch_model-iter000500")
    ] == [143000, 20, 7, 2, None, 500]
    assert [
        step_in(n)
        for n in ("rev1k", "rev2k", "step1.5B", "step-250M", "iter_1e3", "tokens4B", "step007", "v2-step1", "epoch=09-val_loss=0.25.ckpt", "step1000.ema")
    ] == [1000, 2000, 1_500_000_000, 250_000_000, 1000, 4_000_000_000, 7, 1, 9, 1000]  # fmt: skip
