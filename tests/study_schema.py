"""What a study must hand back: keys, types, files, and the facts that hold for every run, quick or full."""

from __future__ import annotations

import math
from pathlib import Path

VALUES = {
    "neuron": "loss_before loss_after w1 w2 bias loss_100 w1_100 w2_100 bias_100",
    "imitation": "final_error fresh_error first_error raw_distance_before raw_distance_after student_loss student_raw_distance student_aligned_distance "
    "zero_loss_raw_distance zero_loss_aligned_distance control_raw_distance control_aligned_distance",
    "net2net": "doc_teacher_before doc_teacher_after doc_student_before doc_student_after doc_live_units doc_death_step live_units live_teacher_loss "
    "widen_error widen_error_two_layers rule_error deepen_error widened_start widened_end scratch_start scratch_end padded_start padded_end",
    "lift": "outside_1 outside_10 inside_1 inside_10 task_1 task_10 mlp_1 mlp_10 wide_1 wide_10 deep_1 deep_10 e2e_1 e2e_10 heldout_1 heldout_10 "
    "ood_outside_1 ood_outside_10 ood_task_1 ood_task_10 ood_mlp_1 ood_mlp_10",
    "mass": "cost_0 cost_10000 cost_end accuracy_train accuracy_test w1_end w2_end w2_over_w1 rest_mean_change rest_abs_start rest_abs_end rest_max_over_w1 "
    "share_start share_end gd_cost_end gd_w1_end gd_rest_max_over_w1 gd_share_end adamw_rest_max_over_w1 adamw_share_end nl_accuracy_train nl_accuracy_test "
    "nl_cost_9000 nl_w1_end nl_w2_end",
}
CURVES = {
    "neuron": "",
    "imitation": "loss raw_distance aligned_distance",
    "net2net": "widened scratch padded",
    "lift": "",
    "mass": "share_gd share_adam share_adamw",
}
FIGURES = {
    "neuron": "weights surface ensemble", "imitation": "panels distances students", "net2net": "comparison death rule",
    "lift": "errors ood generated", "mass": "cost weights mass boundary",
}  # fmt: skip
LEAST_SEEDS = {"neuron": 100, "imitation": 20, "net2net": 5, "lift": 2, "mass": 6}


def _samples(results, name):
    return results["values"][name]["samples"]


FACTS = {
    "neuron": lambda r, f: [
        f["steps"] == 160, f["frames"] == 161, f["film_frames"] >= 160, 0.3 <= f["share_within_0.1"] <= 0.5, 0.05 <= f["share_within_0.05"] <= 0.25,
        set(f["tensors"]) == {"kernel", "bias"},
    ],
    "imitation": lambda r, f: [
        f["students"] >= 8, f["teachers"] >= 2, f["zero_loss"] == sum(x < 1e-12 for x in _samples(r, "student_loss")) > 0, f["parameters"] == 169,
        f["all_zero_loss_aligned"] is True, f["frames"] >= 51, f["film_frames"] >= 50,
        all(a < 1e-3 for x, a in zip(_samples(r, "student_loss"), _samples(r, "student_aligned_distance")) if x < 1e-12),
    ],
    "net2net": lambda r, f: [
        f["doc_dead"] == r["seeds"], f["doc_vacuous"] is True, bool(f["doc_refusal"]), bool(f["rule_two_layers"]), f["deepen_tanh_refused"] is True,
        f["units"] == {"teacher": 10, "student": 20}, f["film_frames"] >= 10, any(c["holds"] == "vacuous" for c in r["claims"]),
        all(x in (0, None) for x in _samples(r, "doc_live_units")), all(x > 0 for x in _samples(r, "live_units")),
        all(x <= 1e-6 for n in ("widen_error", "widen_error_two_layers", "deepen_error") for x in _samples(r, n)),
        r["values"]["rule_error"]["median"] >= max(1e-2, 1000 * r["values"]["widen_error"]["median"]),
        all(abs(a - b) <= 1e-5 for a, b in zip(_samples(r, "widened_start"), _samples(r, "live_teacher_loss"))),
        _samples(r, "doc_student_after") == _samples(r, "doc_teacher_after"),
    ],
    "lift": lambda r, f: [
        f["parameters"] == {"lift": 326, "task": 26, "mlp": 161, "wide": 326, "deep": 316}, 0.99 <= f["test_rows_in_training"] <= 1,
        f["first_rows"] == [[6, 6, 0], [4, 8, 7], [6, 4, 7]], f["loop_samples_per_s"] > 0, bool(f["loop_kind"]), f["online_ratio"] > 1, f["film_frames"] >= 100,
    ],
    "mass": lambda r, f: [
        {"gd", "adam", "adamw"} <= set(f["optimizers"]), f["frames"] == 750, f["film_frames"] == 750, {"linear", "nonlinear"} <= set(f["boundaries"]),
        0 < f["rest_falls"] < r["seeds"], len(r["curves"]["share_adam"]["steps"]) == 750,
    ],
}  # fmt: skip


def complaints(results: dict, folder: Path) -> list[str]:
    """Everything that is wrong with a study's results; empty when nothing is."""
    bad: list[str] = []
    study = results.get("study")
    if study not in VALUES:
        return [f"study is {study!r}"]
    for key, kind in {
        "schema": int,
        "quick": bool,
        "seeds": int,
        "seconds": float,
        "verdict": str,
        "claims": list,
        "facts": dict,
        "curves": dict,
        "files": dict,
    }.items():
        if not isinstance(results.get(key), kind):
            bad.append(f"{key} is no {kind.__name__}")
    if bad:
        return bad
    bad += [
        f"claim {c}"
        for c in results["claims"]
        if set(c) != {"claim", "holds", "why"} or c["holds"] not in ("yes", "no", "partly", "vacuous")
    ]
    bad += [] if results["claims"] else ["no claims"]
    bad += [] if results["seeds"] >= LEAST_SEEDS[study] else ["too few seeds"]
    bad += [f"value {n} is missing" for n in VALUES[study].split() if n not in results["values"]]
    for name, v in results["values"].items():
        finite = [s for s in v["samples"] if s is not None]
        if v["seeds"] != len(v["samples"]) or not v["unit"] or not finite:
            bad.append(f"value {name} is empty or miscounted")
        elif not (v["min"] == min(finite) <= v["median"] <= max(finite) == v["max"]) or not all(
            math.isfinite(s) for s in finite
        ):
            bad.append(f"value {name}: {v['min']}, {v['median']}, {v['max']} do not fit its samples")
    bad += [f"curve {n} is missing" for n in CURVES[study].split() if n not in results["curves"]]
    bad += [f"curve {n} is uneven" for n, c in results["curves"].items() if len(c["steps"]) != len(c["median"])]
    bad += [f"figure {n} is missing" for n in FIGURES[study].split() if n not in results["files"]["figures"]]
    for name in [results["files"].get(k, "?") for k in ("recording", "film", "report")] + list(
        results["files"]["figures"].values()
    ):
        path = folder / name
        if not path.exists() or (path.is_file() and path.stat().st_size == 0):
            bad.append(f"file {name} is not there")
    bad += [
        f"fact {i} of {study} does not hold"
        for i, holds in enumerate(FACTS[study](results, results["facts"]))
        if not holds
    ]
    return bad
