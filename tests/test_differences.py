"""`wl.diff` names what was planted, and says nothing where nothing changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import weightlapse as wl
from tests.framework_presence import require

require("torch", "transformers", "safetensors")

from tests.planted_edits import NETWORKS, Edit, edits, low_rank, mlp, state_of, with_tensor  # noqa: E402
from tests.zoo import ZOO  # noqa: E402

EDITS = list(edits())


def test_there_are_a_hundred() -> None:
    assert len(EDITS) >= 100


@pytest.mark.parametrize("edit", EDITS, ids=str)
def test_a_planted_edit_is_named(edit: Edit) -> None:
    d = wl.diff(edit.a, edit.b)
    assert not d.identical
    assert [t.name for t in d.differing] == [edit.tensor]
    found = d.tensors[edit.tensor]
    assert (found.status, found.kind) == (edit.status, edit.kind), found.text
    assert edit.rank is None or found.rank == edit.rank
    assert edit.tensor in d.summary
    json.dumps(d.to_json(), allow_nan=False)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_one_flipped_bit_anywhere(dtype: str) -> None:
    rng = np.random.default_rng(8)
    network = {n: v.astype(dtype) for n, v in state_of("cnn").items()} | {
        "step": np.array(3.0, dtype),
        "zeros": np.zeros(7, dtype),
    }
    for name, w in network.items():
        for _ in range(6):
            other, at, place = w.copy(), rng.integers(w.size), int(rng.integers(8 * w.itemsize))
            other.reshape(-1).view(f"u{w.itemsize}")[at] ^= np.array(1 << place, f"u{w.itemsize}")
            d = wl.diff(network, network | {name: other})
            assert [(t.name, t.kind) for t in d.differing] == [(name, "single bit")], (place, d.explain())
            assert f"bit {place} " in d.tensors[name].text


def test_numbers_on_a_grid_already_are_not_called_quantised(w: np.ndarray) -> None:
    """Whole numbers that moved by whole numbers, and rows that got the values of others."""
    rng = np.random.default_rng(9)
    whole = np.rint(40 * w / np.abs(w).max()).astype(np.float32)
    for moved in (
        whole + rng.integers(-2, 3, w.shape).astype(np.float32),
        np.where(rng.random(w.shape) < 0.5, whole, whole[::-1]),
    ):
        assert wl.diff({"w": whole}, {"w": moved}).tensors["w"].kind != "quantised"
    half = w.copy()
    half[::2] = 0.25
    assert wl.diff({"w": w}, {"w": half}).tensors["w"].kind != "quantised"


# ---- nothing changed: other formats, other shards ---------------------------------------------------------------------------------------


def formats(state: dict[str, np.ndarray], folder: Path) -> dict[str, object]:
    """The same network as everything that `wl.diff` takes."""
    import torch
    from safetensors.numpy import save_file

    made: dict[str, object] = {"mapping": state, "tensors": {n: torch.from_numpy(v.copy()) for n, v in state.items()}}
    folder.mkdir()
    save_file(state, folder / "one.safetensors")
    torch.save(made["tensors"], folder / "one.pt")
    np.savez(folder / "one.npz", **state)
    with wl.watch({n: v * 0 for n, v in state.items()}, folder / "run") as rec:
        rec.step(state)
        rec.step({n: v + 1 for n, v in state.items()})
    made |= {name: folder / name for name in ("one.safetensors", "one.pt", "one.npz")}
    made["run@1"] = f"{folder}/run@1"
    for count in (1, 2, 5):
        made[f"{count} shards"] = shards(state, folder / f"shards{count}", count)
    bare = shards(state, folder / "bare", 3)
    (bare / "model.safetensors.index.json").unlink()
    made["shards without index"] = bare
    made["float64"] = {n: v.astype(np.float64) if v.dtype.kind == "f" else v for n, v in state.items()}
    made["fortran order"] = {n: np.asfortranarray(v) if v.ndim > 1 else v for n, v in state.items()}
    made["wrapped"] = {f"module.{n}": v for n, v in state.items()}
    return made


def shards(state: dict[str, np.ndarray], folder: Path, count: int) -> Path:
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    names = sorted(state, key=lambda n: hash((count, len(n), n[::-1] < n)))
    where = {}
    for i in range(count):
        file = f"model-{i + 1:05}-of-{count:05}.safetensors"
        part = {n: state[n] for n in names[i::count]}
        where |= dict.fromkeys(part, file)
        save_file(part, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


@pytest.mark.parametrize("network", NETWORKS)
def test_no_alarm_on_other_formats_and_shards(network: str, tmp_path: Path) -> None:
    made = formats(state_of(network), tmp_path / "in")
    first = made["2 shards"]
    for name, other in made.items():
        for d in (wl.diff(first, other), wl.diff(other, first)):
            assert d.identical, (name, d.explain())
            assert d.summary.startswith("nothing differs"), (name, d.summary)
    assert not wl.diff(first, f"{tmp_path}/in/run").identical  # the last frame
    assert not wl.diff(first, wl.load(tmp_path / "in" / "run")).identical


def test_a_tied_network_is_the_same_with_both_names_and_with_one() -> None:
    state = state_of("transformer")
    both = state | {"lm_head.weight": state["model.embed_tokens.weight"].copy()}
    one = {n: v for n, v in both.items() if n != "lm_head.weight"}
    for d in (wl.diff(both, one), wl.diff(one, both)):
        assert d.identical, d.explain()
        assert d.tensors["lm_head.weight"].kind == "tied"


def test_modules_are_taken_and_a_module_is_itself() -> None:
    import torch

    net = mlp()
    assert wl.diff(net, net).identical
    assert wl.diff(net, net.state_dict()).identical
    other = mlp()
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        other[2].weight[3, 4] += 1
    d = wl.diff(net, other)
    assert d.summary.startswith("one of 6 tensors differs: 2.weight, one value: [3, 4]")
    assert wl.diff(net, torch.nn.DataParallel(other)).summary == d.summary


# ---- more kinds -------------------------------------------------------------------------------------------------------------------------


def kind_of(a: np.ndarray, b: np.ndarray) -> tuple[str, str]:
    t = wl.diff({"w": a}, {"w": b}).tensors["w"]
    return t.kind, t.text


@pytest.fixture
def w() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((96, 128)).astype(np.float32)


def test_factors_of_rows_and_columns_are_found(w: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    r, c = rng.uniform(0.5, 2, (96, 1)).astype(np.float32), rng.uniform(0.5, 2, (1, 128)).astype(np.float32)
    for factors, by in ((r, "rows"), (c, "columns"), (r * c, "rows and columns")):
        kind, text = kind_of(w, w * factors)
        assert kind == "scale"
        assert text.startswith(f"only a scale of {by}:")


def test_rows_and_columns_in_another_order_at_once(w: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    p, q = rng.permutation(96), rng.permutation(128)
    t = wl.diff({"w": w}, {"w": w[p][:, q]}).tensors["w"]
    assert t.kind == "permutation"
    assert t.order is not None
    np.testing.assert_array_equal(t.order[0], p)
    np.testing.assert_array_equal(t.order[1], q)
    kernels = w.reshape(16, 6, 16, 8)
    assert kind_of(kernels, kernels[:, rng.permutation(6)])[0] == "permutation"
    assert kind_of(w, np.random.default_rng(3).permuted(w.reshape(-1)).reshape(w.shape))[0] == "permutation"


def test_what_changed_in_other_ways(w: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    assert kind_of(w, w + np.float32(0.5))[0] == "shift"
    assert kind_of(w, rng.standard_normal(w.shape).astype(np.float32))[0] == "unrelated"
    assert kind_of(w, w * 0) == ("pruned", "only pruned: every value was set to zero")
    assert kind_of(w, np.where(np.arange(96)[:, None] % 3 == 0, np.float32(0), w)) == (
        "pruned",
        "only pruned: 32 whole rows set to zero",
    )
    assert kind_of(w, -w) == ("signs", "only signs: every value has the other sign")
    broken = w.copy()
    broken[3:5, ::2] = np.nan
    assert kind_of(w, broken)[0] == "not finite"
    assert kind_of(broken, broken)[0] == ""
    few = w.copy()
    few.reshape(-1)[rng.choice(w.size, 40, replace=False)] += 1
    assert kind_of(w, few)[0] == "sparse"
    assert kind_of(w, w.reshape(-1)[: 50 * 128].reshape(50, 128))[1].endswith("what both have is the same")
    assert kind_of(np.float32(3), np.float32(4)) == ("single value", "3 became 4")
    assert kind_of(np.zeros((0, 3)), np.zeros((0, 3)))[0] == ""


def test_numbers_that_cannot_be_squared_and_those_that_are_none(w: np.ndarray) -> None:
    large = w.astype(np.float64) * 1e300
    for factor in (1e300, 1e-290):
        t = wl.diff({"w": w * np.float64(factor)}, {"w": w * np.float64(factor) * 1.5}).tensors["w"]
        assert (t.kind, t.text) == ("scale", "only a scale: every value times 1.5")
        assert t.relative == pytest.approx(0.5)
    assert kind_of(large, large[::-1])[0] == "permutation"
    assert kind_of(np.full((4, 4), np.nan), np.ones((4, 4)))[0] == "dense"
    assert kind_of(np.full((4, 4), np.inf), np.full((4, 4), -np.inf))[0] == "signs"
    assert kind_of(np.zeros((4, 4)), -np.zeros((4, 4)))[0] == "signs"
    assert kind_of(np.ones((4, 4)), np.full((4, 4), 2.0)) == ("scale", "only a scale: every value times 2")
    assert "A is all zeros" in kind_of(w * 0, w)[1]
    assert kind_of(w + 1j * w, (w + 1j * w) * 2)[0] == "scale"


def test_models_of_every_framework() -> None:
    require("sklearn", "jax", "equinox", "flax")
    import equinox
    import jax
    from flax import nnx
    from sklearn.neural_network import MLPRegressor

    x = np.random.default_rng(0).standard_normal((20, 3))
    models = [
        MLPRegressor(hidden_layer_sizes=(4,)).partial_fit(x, x[:, 0]),
        {"layer": {"w": jax.numpy.ones((3, 4))}},
        equinox.nn.MLP(3, 2, 8, 1, key=jax.random.PRNGKey(0)),
        nnx.Linear(3, 4, rngs=nnx.Rngs(0)),
        {"g": mlp(), "d": mlp()},
        [mlp(), mlp()],
    ]
    for model in models:
        assert wl.diff(model, model).identical, type(model)


def test_columns_with_a_step_each(w: np.ndarray) -> None:
    step = np.abs(w).max(axis=0, keepdims=True) / np.float32(7)
    kind, text = kind_of(w, np.rint(w / step) * step)
    assert kind == "quantised"
    assert "each column" in text


@pytest.mark.parametrize("group", [32, 64])
def test_groups_with_a_step_or_a_code_book_of_their_own(w: np.ndarray, group: int) -> None:
    rows = w.reshape(-1, group)
    low, high = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
    step = (high - low) / 15
    zero = np.rint(-low / step)
    assert kind_of(w, ((np.clip(np.rint(rows / step) + zero, 0, 15) - zero) * step).reshape(w.shape))[0] == "quantised"
    book = np.array(
        [-1, -0.7, -0.53, -0.39, -0.28, -0.18, -0.09, 0, 0.08, 0.16, 0.25, 0.34, 0.44, 0.56, 0.72, 1], np.float32
    )
    top = np.abs(rows).max(axis=1, keepdims=True)
    nearest = book[np.abs(rows[:, :, None] / top[:, :, None] - book).argmin(axis=2)]
    assert kind_of(w, (nearest * top).reshape(w.shape))[0] == "quantised"


def test_names_that_all_gained_a_prefix_and_an_edit() -> None:
    state = state_of("mlp")
    edited = state | {"2.weight": state["2.weight"] * np.float32(3)}
    d = wl.diff(state, {f"model.{n}": v for n, v in edited.items()})
    assert {t.status for t in d.tensors.values()} == {"renamed"}
    assert d.tensors["model.2.weight"].other == "2.weight"
    assert d.tensors["model.2.weight"].kind == "scale"
    assert d.tensors["model.0.weight"].kind == "renamed"


# ---- unit by unit -----------------------------------------------------------------------------------------------------------------------


def moved(network: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], wl.Wiring]:
    """A network, itself with all its units in another order, and its wiring."""
    import torch

    torch.manual_seed(0)
    module = NETWORKS[network][0]()
    examples = {"mlp": (torch.randn(2, 20),), "cnn": (torch.randn(2, 3, 8, 8),)}.get(network)
    wiring = wl.trace(module, *(examples or ZOO["hf_llama"].examples))
    before = {n: v.detach().numpy().copy() for n, v in module.state_dict().items()}
    after = before
    for i, group in enumerate(g for g in wiring.groups if g.parent is None):
        after = wl.permute(after, wiring, group.name, np.random.default_rng(i).permutation(group.size))
    return before, after, wiring


@pytest.mark.parametrize("network", NETWORKS)
def test_units_in_another_order_all_over_the_network(network: str) -> None:
    before, after, wiring = moved(network)
    d = wl.diff(before, after, wiring)
    assert {t.kind for t in d.differing} == {"units permuted"}, d.explain()
    assert d.units
    assert all(u.same_function for u in d.units.values())
    assert "the same function" in d.summary
    wrong = after | {wiring.groups[0].consumers[0].tensor: before[wiring.groups[0].consumers[0].tensor]}
    d = wl.diff(before, wrong, wiring)
    assert "did not go along" in d.summary
    assert not d.units[wiring.groups[0].name].same_function


def test_units_that_changed_are_listed() -> None:
    before, _, wiring = moved("mlp")
    after = {n: v.copy() for n, v in before.items()}
    after["0.weight"][[3, 9]] += 1
    after["2.weight"][:, 11] *= 2
    d = wl.diff(before, after, wiring)
    assert d.units["0"].changed == [3, 9, 11]
    assert "3 of 64 units of 0 changed (3, 9, 11)" in d.explain()


def test_units_rescaled_and_undone_after() -> None:
    before, _, wiring = moved("mlp")
    s = np.random.default_rng(0).uniform(0.5, 2, 64).astype(np.float32)
    after = before | {
        "0.weight": before["0.weight"] * s[:, None],
        "0.bias": before["0.bias"] * s,
        "2.weight": before["2.weight"] / s,
    }
    d = wl.diff(before, after, wiring)
    assert d.tensors["0.weight"].kind == d.tensors["2.weight"].kind == "scale"
    assert d.units["0"].changed == list(range(64))
    assert d.units["0"].same_function, d.explain()
    twice = {"2.weight": before["2.weight"] * 2, "2.bias": before["2.bias"] * 2, "4.weight": before["4.weight"] / 2}
    d = wl.diff(before, before | twice, wiring)
    assert list(d.units) == ["2"]
    assert d.units["2"].same_function
    less = wl.diff(before, before | twice | {"4.weight": before["4.weight"] / 3}, wiring)
    assert not less.units["2"].same_function
    wrong = wl.diff(before, after | {"2.weight": before["2.weight"] * s}, wiring)
    assert not wrong.units["0"].same_function


def test_a_wiring_of_another_network_is_refused() -> None:
    _, _, wiring = moved("mlp")
    with pytest.raises(wl.InvalidArgument, match="another network"):
        wl.diff({"x": np.ones(3)}, {"x": np.zeros(3)}, wiring)


# ---- from a shell, as a page and as a figure --------------------------------------------------------------------------------------------


def shell(*arguments: object) -> int:
    from weightlapse.cli import main

    with pytest.raises(SystemExit) as done:
        main(["diff", *map(str, arguments)])
    return int(done.value.code or 0)


def test_a_shell_gets_the_answer_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = state_of("transformer")
    name = "model.layers.1.mlp.down_proj.weight"
    a = shards(state, tmp_path / "a", 2)
    b = shards(with_tensor(state, name, low_rank(state[name], 2, np.random.default_rng(0))), tmp_path / "b", 3)
    page = tmp_path / "page.html"
    assert shell(a, b, "-o", page) == 1
    said = capsys.readouterr().out
    assert said.startswith(f"One of {len(state)} tensors differs: {name}, rank 2 holds ")
    text = page.read_text()
    assert name in text
    assert "data:image/png;base64," in text
    assert [outside for outside in ("http://", "https://", "<script") if outside in text] == []
    assert shell(a, b, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["tensors"][name]["rank"] == 2
    assert shell(a, a, "--json") == 0
    assert json.loads(capsys.readouterr().out)["identical"] is True
    assert shell(a, tmp_path / "nothing") == 2
    assert shell(a, b, "-o", tmp_path / "page.odt") == 2


def test_a_page_and_a_figure_show_hostile_names_and_values_as_they_are(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    from weightlapse.view.diff_page import make_diff_page

    a = {"<b>&\"'": np.ones((3, 5)), "v": np.zeros(7), "s": np.float32(1), "gone": np.arange(6.0)}
    b = {"<b>&\"'": np.full((3, 5), np.nan), "v": np.arange(7.0), "s": np.float32(np.inf), "new": np.arange(9.0)}
    d = wl.diff(a, b)
    text = make_diff_page(d, tmp_path / "p.html").read_text()
    assert "<b>&amp;" not in text
    assert "&lt;b&gt;&amp;&quot;&#x27;" in text
    assert wl.plot.diff(d).figure.axes
    assert wl.plot.diff(wl.diff(a, a)).get_title(loc="left").startswith("nothing differs")
    json.dumps(d.to_json(), allow_nan=False)
    plt.close("all")


# ---- what cannot be compared ------------------------------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run",)


def bad_inputs(folder: Path) -> dict[str, object]:
    import torch

    state = state_of("mlp")
    good = shards(state, folder / "good", 2)
    cut = folder / "cut.safetensors"
    cut.write_bytes((good / "model-00001-of-00002.safetensors").read_bytes()[:-100])
    missing = shards(state, folder / "missing", 2)
    (missing / "model-00002-of-00002.safetensors").unlink()
    stale = shards(state, folder / "stale", 2)
    index = json.loads((stale / "model.safetensors.index.json").read_text())
    index["weight_map"]["more.weight"] = "model-00001-of-00002.safetensors"
    (stale / "model.safetensors.index.json").write_text(json.dumps(index))
    torch.save({"x": torch.ones(3), "code": Evil()}, folder / "code.pt")
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "empty").mkdir()
    (folder / "text.txt").write_text("hello")
    with wl.watch(state, folder / "run") as rec:
        rec.step(state)
    return {
        "not there": folder / "nothing.safetensors",
        "cut off": cut,
        "a shard is missing": missing,
        "an index names more": stale,
        "a pickle with code": folder / "code.pt",
        "an empty file": folder / "empty.safetensors",
        "an empty folder": folder / "empty",
        "a text": folder / "text.txt",
        "a step that is not there": f"{folder}/run@99",
        "no step": f"{folder}/run@last",
        "a step of a file": f"{good}/model-00001-of-00002.safetensors@3",
    }


def test_bad_input_is_one_clear_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = shards(state_of("mlp"), tmp_path / "sound", 1)
    for what, path in bad_inputs(tmp_path).items():
        for arguments in ((path, good), (good, path)):
            assert shell(*arguments) in (1, 2), what
            said = capsys.readouterr()
            assert said.out == "", what
            assert said.err.startswith("weightlapse: "), what
            assert len(said.err.strip().splitlines()) == 1, (what, said.err)


@pytest.mark.parametrize("thing", [None, 3, {}, {"x": "text"}, b"run", 3.5], ids=repr)
def test_what_is_no_network_is_refused(thing: object) -> None:
    with pytest.raises(wl.WeightlapseError):
        wl.diff({"x": np.ones(3)}, thing)
