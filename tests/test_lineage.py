"""``wl.lineage``: relatives and strangers told apart by their weights, and a p-value that is uniform under the null."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import weightlapse as wl
from tests.planted_bases import in_other_bases, network, wiring_of
from weightlapse.cli import main
from weightlapse.differences.lineage import ALPHA
from weightlapse.differences.partners import at_least

pytest.importorskip("transformers")
State = dict[str, np.ndarray]


def stranger(seed: int) -> State:
    rng = np.random.default_rng(seed)
    shapes = {
        "embed": (50, 24),
        "0.up": (40, 24),
        "0.down": (24, 40),
        "1.up": (40, 24),
        "1.down": (24, 40),
        "head": (50, 24),
        "norm": (24,),
    }
    return {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}


def relatives(a: State, rng: np.random.Generator) -> dict[str, State]:
    """Made from ``a``: noised, pruned, trained on (a drift of low rank), renumbered, turned."""
    order, hidden = rng.permutation(24), rng.permutation(40)
    q = np.linalg.qr(rng.normal(size=(24, 24)))[0].astype(np.float32)

    def renumbered(n: str, v: np.ndarray) -> np.ndarray:
        if v.ndim == 1:
            return v[order]
        v = v[order] if n.endswith("down") else v[:, order]
        return v[:, hidden] if n == "0.down" else v[hidden] if n == "0.up" else v

    def turned(n: str, v: np.ndarray) -> np.ndarray:
        return v if v.ndim == 1 else q @ v if n.endswith("down") else v @ q.T

    def trained(v: np.ndarray) -> np.ndarray:
        return (
            v
            if v.ndim == 1
            else v + (rng.normal(size=(v.shape[0], 2)) @ rng.normal(size=(2, v.shape[1]))).astype(v.dtype)
        )

    return {
        "noised": {n: v + 0.7 * rng.normal(size=v.shape).astype(v.dtype) for n, v in a.items()},
        "pruned": {n: np.where(np.abs(v) < 0.7, 0, v) for n, v in a.items()},
        "trained": {n: trained(v) for n, v in a.items()},
        "renumbered": {n: renumbered(n, v) for n, v in a.items()},
        "turned": {n: turned(n, v) for n, v in a.items()},
        "renumbered and noised": {
            n: renumbered(n, v) + 0.3 * rng.normal(size=v.shape).astype(v.dtype) for n, v in a.items()
        },
        "widened": {n: np.concatenate([v, v[:8]], axis=0) if n == "0.up" else v for n, v in a.items()},
    }


@pytest.mark.parametrize("seed", range(3))
def test_relatives_are_derived(seed: int) -> None:
    a = stranger(seed)
    for kind, b in relatives(a, np.random.default_rng(seed)).items():
        found = wl.lineage(a, b)
        assert found.verdict == "derived", (kind, found)
        assert found.p_value <= ALPHA
        assert wl.lineage(b, a).verdict == "derived", kind


def test_strangers_are_independent_and_their_p_values_uniform() -> None:
    from scipy.stats import kstest

    states = [stranger(100 + i) for i in range(40)]
    found = [wl.lineage(a, b, seed=i) for i, (a, b) in enumerate(zip(states[::2], states[1::2]))]
    assert {f.verdict for f in found} == {"independent"}
    assert kstest([f.p_value for f in found], "uniform").pvalue > 0.01
    assert max(f.agreement or 0 for f in found) < 0.3


def test_with_a_wiring_a_copy_is_called_the_same() -> None:
    net = network("llama")
    w, a = wiring_of("llama"), {n: v.clone() for n, v in net.state_dict().items()}
    for kinds in (("order",), ("order", "signs", "rotations", "heads")):
        found = wl.lineage(a, in_other_bases(a, w, np.random.default_rng(0), kinds), w)
        assert found.verdict == "same up to symmetry"
        assert found.p_value < ALPHA
        assert "another guise" in found.explain()
    assert wl.lineage(a, a, w).verdict == "same up to symmetry"
    assert wl.lineage(a, network("llama", 9).state_dict(), w).verdict == "independent"


def test_the_bound_of_fixed_points_against_counting() -> None:
    import itertools

    for n in (3, 5):
        fixed = [sum(i == p for i, p in enumerate(q)) for q in itertools.permutations(range(n))]
        for k in range(n + 1):
            share = sum(f >= k for f in fixed) / len(fixed)
            assert share <= at_least(k, n, n) + 1e-12
            assert at_least(k, n, n) == pytest.approx(1 / math.factorial(k))
    choices = list(itertools.permutations(range(5), 3))
    assert sum(q[:2] == (0, 1) for q in choices) / len(choices) <= at_least(2, 3, 5)


def test_checkpoints_on_disk_and_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.numpy import save_file

    a = stranger(0)
    made = relatives(a, np.random.default_rng(0))
    for name, state in {"a": a, "b": made["renumbered"], "c": stranger(1)}.items():
        (tmp_path / name).mkdir()
        save_file({n: np.ascontiguousarray(v) for n, v in state.items()}, tmp_path / name / "model.safetensors")
    with pytest.raises(SystemExit) as done:
        main(["lineage", str(tmp_path / "a"), str(tmp_path / "b"), "--json"])
    assert done.value.code == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "derived"
    with pytest.raises(SystemExit) as done:
        main(["lineage", str(tmp_path / "a"), str(tmp_path / "c" / "model.safetensors")])
    assert done.value.code == 1
    assert "Independent" in capsys.readouterr().out


def test_what_cannot_be_compared_is_refused() -> None:
    a = stranger(0)
    with pytest.raises(wl.InvalidArgument, match="no matrices of one name"):
        wl.lineage(a, {f"other.{n}": v for n, v in a.items()})
    with pytest.raises(wl.InvalidArgument, match="all square"):
        wl.lineage({"w": np.eye(8)}, {"w": np.eye(8)})
    broken = {n: v.copy() for n, v in a.items()}
    broken["head"][3, 3] = np.nan
    with pytest.raises(wl.CannotAlign, match="head"):
        wl.lineage(a, broken)
