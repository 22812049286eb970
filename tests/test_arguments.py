"""Arguments mean one thing everywhere: old names go on working and say so, frames and recordings are taken in all forms."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import weightlapse as wl
from weightlapse.arguments import Former, renamed
from weightlapse.recording.frames import check_frames, rising_frames
from weightlapse.recording.renamed import RenamedRecording
from weightlapse.recording.run import Seen

SPEC = """
tensor a.weight (3, 2)
tensor b.weight (1, 3)
group a: 3 units, permutation
  a.weight[0]: out
  b.weight[1]: in
"""
W = wl.Wiring.from_spec(SPEC)
STATE = {"a.weight": np.arange(6.0).reshape(3, 2), "b.weight": np.array([[10.0, 20.0, 30.0]])}
X = torch.linspace(-1, 1, 12, dtype=torch.float64)[:, None]


@pytest.fixture(autouse=True)
def no_figures_left() -> Iterator[None]:
    yield
    if (plots := sys.modules.get("matplotlib.pyplot")) is not None:
        plots.close("all")


def recorded(path: Path, frames: int, gone: int) -> wl.Recording:
    """Frames at every third step; from ``gone`` on the weights leave."""
    rng = np.random.default_rng(0)
    with wl.watch(STATE, path, wiring=W) as rec:
        for t in range(1, frames):
            size = 0.1 if t < gone else 10.0 ** (t - gone)
            rec.step({n: v + size * rng.standard_normal(v.shape) for n, v in STATE.items()}, step=3 * t, loss=1.0 / t)
    return wl.load(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> wl.Recording:
    return recorded(tmp_path_factory.mktemp("arguments") / "run", 12, 12)


def told(call: Callable[[], Any]) -> tuple[Any, list[warnings.WarningMessage]]:
    """What a call gives, and the warnings on the way."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        return call(), found


# ---- old names


@renamed("0.3", old="new", much=("little", lambda n: n / 10))
def example(first: int, new: int = 0, *, little: float = 0.0) -> tuple[int, int, float]:
    """What it does."""
    return first, new, little


def test_an_old_name_goes_on_working_and_says_what_to_use() -> None:
    value, found = told(lambda: example(1, old=2, much=30))
    assert value == (1, 2, 3.0)
    assert sorted(str(w.message) for w in found) == [
        "example(much=) is called little= now; much= goes in version 0.3",
        "example(old=) is called new= now; old= goes in version 0.3",
    ]
    assert all(w.category is DeprecationWarning and w.filename == __file__ for w in found), "the caller's line is named"


@pytest.mark.parametrize(
    "call", [lambda: example(1, 2), lambda: example(first=1, new=2), lambda: example(1, new=2, little=0.0)]
)
def test_the_new_names_give_no_warning(call: Callable[[], Any]) -> None:
    assert told(call) == ((1, 2, 0.0), [])


@pytest.mark.parametrize(
    "call",
    [lambda: example(1, 2, old=2), lambda: example(1, new=2, old=2), lambda: example(1, little=1.0, much=10)],
)
def test_both_names_at_once_are_refused(call: Callable[[], Any]) -> None:
    with pytest.raises(wl.InvalidArgument, match="given both"):
        call()


def test_what_is_decorated_keeps_its_signature_and_words() -> None:
    assert list(inspect.signature(example).parameters) == ["first", "new", "little"]
    assert (example.__doc__, example.__name__) == ("What it does.", "example")
    with pytest.raises(TypeError, match="none_such"):
        example(1, none_such=2)  # type: ignore[call-arg]
    with pytest.raises(AssertionError):
        renamed("0.3", old="nowhere")(lambda new: new)


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1)).double()


def batches(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    return X.float() + step, X.float()


Case = tuple[Callable[..., Any], Mapping[str, Any], dict[str, tuple[str, Any]], Callable[[Any], Any]]


def cases(run: wl.Recording, tmp: Path) -> dict[str, Case]:
    """Function, what is given besides, old name -> (new name, value), and what to compare of the answer."""
    small: dict[str, Any] = {"run": run, "size": (160, 120), "frames": [0, 1]}
    return {
        "permute": (wl.permute, {"state": STATE}, {"w": ("wiring", W), "group_name": ("group", "a"), "perm": ("order", [2, 0, 1])}, lambda s: s["b.weight"].tolist()),
        "compare": (wl.compare, {"a": STATE, "b": {n: v * 1.05 for n, v in STATE.items()}}, {"tolerance": ("agree", 0.1)}, lambda c: (c.verdict, c.tolerance)),
        "polish": (wl.polish, {"model": net(), "x": X, "y": X**2, "steps": 5}, {"tolerance": ("until", 1e-3)}, lambda p: (p.losses.tolist(), p.tolerance)),
        "ensemble": (wl.ensemble, {"make_model": lambda: torch.nn.Linear(1, 1), "n": 2, "steps": 3}, {"data": ("fresh", batches)}, lambda e: e.losses.tolist()),
        "make_film": (wl.make_film, small, {"path": ("out", tmp / "film.gif")}, lambda f: (f.frames, f.path.read_bytes())),
        "autopsy": (wl.autopsy, {"run": recorded(tmp / "lost", 64, 56)}, {"broken": ("step", 180)}, lambda found: [a.text for a in found]),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["permute", "compare", "polish", "ensemble", "make_film", "autopsy"])
def test_every_renamed_argument_of_the_face(name: str, run: wl.Recording, tmp_path: Path) -> None:
    call, given, moved, seen = cases(run, tmp_path)[name]
    old = {k: v for k, (_, v) in moved.items()}
    if name == "autopsy":
        old = {"broken": 60}  # it was a frame
    answer, found = told(lambda: seen(call(**given, **old)))
    assert len(found) == len(moved)
    assert {w.category for w in found} == {DeprecationWarning}
    texts = " ".join(str(w.message) for w in found)
    for before, (now, _) in moved.items():
        assert f"{name}({before}=) is called {now}= now; {before}= goes in version 0.3" in texts
    new = dict(moved.values())
    assert answer, "nothing would be told by nothing"
    assert told(lambda: seen(call(**given, **new))) == (answer, []), "the same answer, without a word"
    for before, (now, _) in moved.items():
        with pytest.raises(wl.InvalidArgument, match=f"{now}= and {before}="):
            call(**given, **{now: new[now], before: old[before]})


def test_an_export_is_named_out(run: wl.Recording, tmp_path: Path) -> None:
    _, found = told(lambda: run.export("npz", dest=tmp_path / "old.npz"))  # type: ignore[call-arg]
    assert [str(w.message) for w in found] == ["export(dest=) is called out= now; dest= goes in version 0.3"]
    assert told(lambda: run.export("npz", out=tmp_path / "new.npz"))[1] == []
    assert told(lambda: run.export("npz", tmp_path / "third.npz"))[1] == []
    old, new = (np.load(tmp_path / f"{n}.npz") for n in ("old", "new"))
    assert set(old) == set(new)
    assert all(np.array_equal(old[n], new[n], equal_nan=True) for n in old)
    with pytest.raises(wl.InvalidArgument, match="given both"):
        run.export("npz", tmp_path / "fourth.npz", dest=tmp_path / "fifth.npz")  # type: ignore[call-arg]
    assert not (tmp_path / "fourth.npz").exists()


def test_an_autopsy_of_a_step_that_was_not_recorded_names_the_nearest(run: wl.Recording) -> None:
    with pytest.raises(wl.MissingStep, match="27"):
        wl.autopsy(run, step=26)


class Grown:
    """It has an attribute that was called otherwise."""

    old, older = Former("0.3", "new"), Former("0.4", "new")

    def __init__(self, new: int) -> None:
        self.new = new


def test_the_old_name_of_an_attribute_gives_the_same_and_says_what_to_use() -> None:
    class Heir(Grown):
        pass

    for ask, text in (
        (lambda: Grown(3).old, "Grown.old is called new now; old goes in version 0.3"),
        (lambda: Grown(3).older, "Grown.older is called new now; older goes in version 0.4"),
        (lambda: Heir(3).old, "Heir.old is called new now; old goes in version 0.3"),
    ):
        value, found = told(ask)
        assert value == 3
        assert [(str(w.message), w.category, w.filename) for w in found] == [(text, DeprecationWarning, __file__)]
    with pytest.raises(AttributeError, match="old name of new"):
        Grown(3).old = 4
    assert told(lambda: Grown(5).new) == (5, [])
    assert told(lambda: (Grown.old.__doc__, inspect.getdoc(Grown))), "looking at the class warns of nothing"


def test_the_layouts_of_a_recording_by_their_old_name(run: wl.Recording) -> None:
    named = RenamedRecording(run, {"c.weight": "a.weight"})
    for seen, first in ((run, "a"), (Seen(run), "a"), (named, "c")):
        spans, found = told(functools.partial(getattr, seen, "epochs"))
        text = f"{type(seen).__name__}.epochs is called layouts now; epochs goes in version 0.3"
        assert [(str(w.message), w.category) for w in found] == [(text, DeprecationWarning)]
        assert [(s.start, s.stop, s.names) for s in spans] == [(0, 12, [f"{first}.weight", "b.weight"])]
        assert told(functools.partial(getattr, seen, "layouts"))[1] == []


def test_an_old_public_name_gives_the_new_one_and_says_so() -> None:
    for _ in range(2):  # each time, not the first alone
        thing, found = told(lambda: wl.Epoch)  # type: ignore[attr-defined]
        assert thing is wl.LayoutStretch
        assert [(str(w.message), w.category, w.filename) for w in found] == [
            ("wl.Epoch is called wl.LayoutStretch now; Epoch goes in version 0.3", DeprecationWarning, __file__)
        ]
    assert "Epoch" not in wl.__all__, "or `from weightlapse import *` would warn"
    with pytest.raises(AttributeError, match="no attribute 'Epochs'"):
        wl.Epochs  # type: ignore[attr-defined]


# ---- frames


FORMS = {
    "slice": (slice(2, 8, 3), [2, 5]),
    "range": (range(1, 9, 2), [1, 3, 5, 7]),
    "one": (4, [4]),
    "the last": (-1, [11]),
    "numpy's": (np.int64(3), [3]),
    "several": ([0, 1, 5, -2], [0, 1, 5, 10]),
    "array": (np.array([2, 3, 7]), [2, 3, 7]),
    "all": (None, list(range(12))),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_function_takes_frames_in_every_form(form: str, run: wl.Recording, tmp_path: Path) -> None:
    frames, meant = FORMS[form]
    assert check_frames(frames, 12).tolist() == rising_frames(frames, 12).tolist() == meant
    values = np.asarray(run["a.weight"][:])[meant].reshape(len(meant), -1)
    measured = wl.measure(run, ["norm", "update_norm", "distance", "distance_to_end", "mass"], frames=frames)
    assert np.allclose(measured["norm"]["a.weight"], np.linalg.norm(values, axis=1))
    moved = np.linalg.norm(np.diff(values, axis=0), axis=1)
    assert np.allclose(measured["update_norm"]["a.weight"][1:], moved), "from each frame that was chosen to the next"
    assert np.allclose(measured["distance"]["a.weight"], np.linalg.norm(values - values[0], axis=1))
    assert np.allclose(measured["distance_to_end"]["a.weight"], np.linalg.norm(values - values[-1], axis=1))
    assert np.allclose(measured["mass"]["a.weight"].reshape(len(meant), -1).sum(axis=1), 1)
    wl.diagnose(run, frames=frames)
    assert wl.follow(run, frames=frames).frames.tolist() == meant
    assert wl.align_runs(run, run, frames=frames).frames_b.tolist() == meant
    film = wl.make_film(run, tmp_path / "film.gif", size=(160, 120), frames=frames)
    assert film.frames == len(meant)
    pytest.importorskip("matplotlib")
    for figure in (wl.plot.norms, wl.plot.lines, wl.plot.mass, wl.plot.ridgeline):
        axes = figure(run, frames=frames)
        if figure is wl.plot.norms:
            assert axes.lines[0].get_xdata().tolist() == run.steps[meant].tolist()


TAKE_FRAMES: dict[str, Callable[[Any, Any], Any]] = {
    "measure": lambda run, f: wl.measure(run, "norm", frames=f),
    "diagnose": lambda run, f: wl.diagnose(run, frames=f),
    "follow": lambda run, f: wl.follow(run, frames=f),
    "align_runs": lambda run, f: wl.align_runs(run, run, frames=f),
    "make_film": lambda run, f: wl.make_film(run, size=(160, 120), frames=f),
    "plot.lines": lambda run, f: wl.plot.lines(run, frames=f),
    "plot.mass": lambda run, f: wl.plot.mass(run, frames=f),
    "plot.norms": lambda run, f: wl.plot.norms(run, frames=f),
    "plot.trajectory": lambda run, f: wl.plot.trajectory(run, frames=f),
    "plot.ridgeline": lambda run, f: wl.plot.ridgeline(run, frames=f),
}


@pytest.mark.parametrize("name", TAKE_FRAMES)
@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([], "selects none of the 12"),
        (slice(5, 5), "5:5: selects none"),
        (range(3, 3), "selects none"),
        (12, "frame 12 does not exist.*nearest is 11"),
        ([0, -13], "frame -13 does not exist.*nearest is 0"),
        (1.5, "must be a slice"),
        ("all", "must be a slice"),
        ([True] * 12, "must be a slice"),
        ([[0, 1]], "must be a slice"),
        (slice(0, 1.5), "a slice counts frames"),
    ],
)
def test_frames_that_cannot_be_meant_are_refused(name: str, frames: Any, words: str, run: wl.Recording) -> None:
    with pytest.raises(wl.InvalidArgument, match=words):
        TAKE_FRAMES[name](run, frames)


@pytest.mark.parametrize("name", [n for n in TAKE_FRAMES if n not in ("make_film", "align_runs", "plot.lines")])
@pytest.mark.parametrize("frames", [[3, 1], [2, 2], slice(None, None, -1)])
def test_a_way_through_time_goes_forward(name: str, frames: Any, run: wl.Recording) -> None:
    with pytest.raises(wl.InvalidArgument, match="rising"):
        TAKE_FRAMES[name](run, frames)


# ---- a path is a recording too


TAKE_RUNS: dict[str, Callable[[Any], Any]] = {
    "measure": lambda run: wl.measure(run, "norm")["a.weight"].tolist(),
    "diagnose": lambda run: [f.text for f in wl.diagnose(run)],
    "autopsy": lambda run: [a.text for a in wl.autopsy(run, step=27)],
    "follow": lambda run: wl.follow(run).moved,
    "align_runs": lambda run: wl.align_runs(run, run).raw_distance.tolist(),
    "make_film": lambda run: wl.make_film(run, size=(160, 120), frames=[0, 1]).frames,
    "plot.lines": lambda run: len(wl.plot.lines(run).lines),
    "plot.heatmap": lambda run: wl.plot.heatmap(run).get_title(),
    "plot.mass": lambda run: wl.plot.mass(run).get_title(),
    "plot.norms": lambda run: wl.plot.norms(run).get_title(),
    "plot.scalars": lambda run: wl.plot.scalars(run).get_title(),
    "plot.trajectory": lambda run: wl.plot.trajectory(run).get_title(),
    "plot.ridgeline": lambda run: wl.plot.ridgeline(run).get_title(),
}


@pytest.mark.parametrize("name", TAKE_RUNS)
def test_a_path_is_as_good_as_a_recording(name: str, run: wl.Recording) -> None:
    ask = TAKE_RUNS[name]
    assert ask(run) == ask(str(run.path)) == ask(Path(run.path))


@pytest.mark.parametrize("name", TAKE_RUNS)
@pytest.mark.parametrize("what", [STATE, 3, None])
def test_what_is_no_recording_is_refused(name: str, what: Any) -> None:
    with pytest.raises(
        wl.InvalidArgument, match=r"recording \(wl.load\) or the path of one.*" + re.escape(type(what).__name__)
    ):
        TAKE_RUNS[name](what)


# ---- seeds


def same(search: Callable[[int | None], Any]) -> None:
    """None is 0, not a draw; what is no seed is refused."""
    assert search(None) == search(0)
    for wrong in (-1, 0.5, "0", True):
        with pytest.raises(wl.InvalidArgument, match="whole number"):
            search(wrong)  # type: ignore[arg-type]


def strangers() -> tuple[dict[str, Any], dict[str, Any]]:
    """Networks whose best alignment depends on where the search begins."""
    rng = np.random.default_rng(3)
    a, b = (
        {f"{n}.weight": rng.normal(size=s) for n, s in (("a", (24, 8)), ("b", (24, 24)), ("c", (4, 24)))} for _ in "ab"
    )
    return a, b


STRANGERS = wl.Wiring.from_spec("""
tensor a.weight (24, 8)
tensor b.weight (24, 24)
tensor c.weight (4, 24)
group a: 24 units, permutation
  a.weight[0]: out
  b.weight[1]: in
group b: 24 units, permutation
  b.weight[0]: out
  c.weight[1]: in
""")


def test_a_search_without_a_seed_is_that_of_seed_0(run: wl.Recording) -> None:
    a, b = strangers()
    orders = {s: wl.align(a, b, STRANGERS, restarts=3, seed=s).permutations["a"].tolist() for s in range(6)}
    assert len({tuple(o) for o in orders.values()}) > 1, "or any seed would do"
    same(lambda seed: wl.align(a, b, STRANGERS, restarts=3, seed=seed).permutations["a"].tolist())
    same(lambda seed: wl.align_all([a, b], STRANGERS, restarts=3, seed=seed).distance_after.tolist())
    same(lambda seed: wl.align_runs(run, run, seed=seed).aligned_distance.tolist())
    same(lambda seed: wl.compare(a, b, STRANGERS, seed=seed).aligned_distance)
    same(lambda seed: wl.lineage(a, b, seed=seed).p_value)


def test_what_is_made_at_random_is_made_anew_without_a_seed() -> None:
    model, x = net().float(), X.float()

    def widened(seed: int | None) -> list[Any]:
        return [v.tolist() for v in wl.widen(model, {"0": 5}, x, seed=seed).model.state_dict().values()]

    def deepened(seed: int | None) -> list[Any]:
        return [
            v.tolist() for v in wl.deepen(model, x, after="0", kind="residual", seed=seed).model.state_dict().values()
        ]

    for made in (widened, deepened):
        assert made(0) == made(0)
        assert made(None) != made(None)


# ---- the wiring is never required


def test_the_wiring_is_the_recordings_or_the_modules(run: wl.Recording, tmp_path: Path) -> None:
    state, order = run.state(), [2, 0, 1]
    moved = wl.permute(state, W, "a", order)
    by_hand = wl.canonical(state, W)
    for given in (run, str(run.path), Path(run.path)):
        assert all(np.array_equal(v, by_hand[n]) for n, v in wl.canonical(given).items())
        assert wl.align_all([given, moved]).distance_after.max() == 0.0
        assert wl.align_all([moved, given]).distance_after.max() == 0.0
    model, x = net(), X
    w = wl.trace(model, x)
    traced, told_before = wl.canonical(model, data=x), wl.canonical(model, w)
    assert all(torch.equal(v, told_before[n]) for n, v in traced.items())
    other = wl.permute(model.state_dict(), w, "0", [1, 0])
    assert wl.align_all([model, other], data=x).distance_after.max() == 0.0
    assert wl.align_all([other, model], data=x).distance_after.max() == 0.0


@pytest.mark.parametrize("what", [STATE, net()], ids=["mapping", "module"])
def test_without_any_wiring_the_error_says_how_to_get_one(what: Any) -> None:
    words = r"the wiring is missing: pass wiring=wl.trace\(model, example\), or give a module and data"
    for ask in (wl.canonical, lambda net: wl.align_all([net, net]), lambda net: wl.align(net, net)):
        with pytest.raises(wl.InvalidArgument, match=words):
            ask(what)


# ---- examples


class Sum(torch.nn.Module):
    """Takes two arguments."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.end = torch.nn.Linear(2, 3), torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.end(torch.tanh(self.one(x) + self.two(y)))
        return out


ONE = torch.randn(5, 1, generator=torch.Generator().manual_seed(0))
TWO = (
    torch.randn(5, 2, generator=torch.Generator().manual_seed(1)),
    torch.randn(5, 4, generator=torch.Generator().manual_seed(2)),
)
TAKE_EXAMPLES: dict[str, Callable[..., Any]] = {
    "trace": lambda model, layer, *xs, **k: wl.trace(model, *xs, **k).to_spec(),
    "widen": lambda model, layer, *xs, **k: wl.widen(model, {layer: 5}, *xs, seed=0, **k).model.state_dict(),
    "deepen": lambda model, layer, *xs, **k: wl.deepen(model, *xs, after=layer, kind="residual", seed=0, **k).model.state_dict(),
    "narrow": lambda model, layer, *xs, **k: wl.narrow(model, *xs, **k).model.state_dict(),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKE_EXAMPLES)
@pytest.mark.parametrize(
    ("model", "layer", "given"), [(net().float(), "0", ONE), (Sum(), "one", TWO)], ids=["one", "two"]
)
def test_an_example_by_its_name_is_one_by_position(name: str, model: Any, layer: str, given: Any) -> None:
    ask = TAKE_EXAMPLES[name]
    assert str(ask(model, layer, example=given)) == str(ask(model, layer, given))
    with pytest.raises(wl.InvalidArgument, match="given both"):
        ask(model, layer, given, example=given)
    with pytest.raises(wl.InvalidArgument, match="at least one example"):
        ask(model, layer)
