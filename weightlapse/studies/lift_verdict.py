"""What the Lift study concludes: each sentence with the test that could refute it."""

from __future__ import annotations

from weightlapse.studies.referee import Sentence
from weightlapse.studies.results import Results

CUBIC = (2.5, 3.5)  # the degrees that round to three


def judge(results: Results) -> None:
    """Enter claims and verdict."""
    early = Sentence(
        "less", ("outside_1", "equal_1"),
        "After one epoch Lift's error is {outside_1}, {times:.1f} times lower than that of the better network of its size, {equal_1} (interval {times_interval}).",
        "After one epoch Lift's error, {outside_1}, is not lower than that of the better network of its size, {equal_1}.",
        "After one epoch Lift's error is {outside_1}, that of the better network of its size {equal_1}; {n} seeds do not decide more.",
    )  # fmt: skip
    late = Sentence(
        "less", ("outside_10", "equal_10"),
        "After ten epochs it is still lower, {outside_10} against {equal_10} ({times:.1f} times, interval {times_interval}).",
        "After ten epochs it is higher, {outside_10} against {equal_10}.",
        "After ten epochs there is no lead that {n} seeds could show: {outside_10} against {equal_10}, lower in {k} of {n} (ratio {ratio:.2f}, interval {interval}).",
    )  # fmt: skip
    ends = Sentence(
        "less", ("e2e_10", "outside_10"),
        "Training the same network end to end is better than the rule: {e2e_10} against {outside_10} after ten epochs (ratio {ratio:.2f}, interval {interval}).",
        "The rule is better than training the same network end to end: {outside_10} against {e2e_10} after ten epochs (ratio {ratio:.2f}, interval {interval}).",
        "Between the rule and plain end-to-end training {n} seeds do not decide: {outside_10} against {e2e_10} after ten epochs (ratio {ratio:.2f}, interval {interval}).",
    )  # fmt: skip
    far = Sentence(
        "less", ("ood_mlp_10", "ood_outside_10"),
        "Outside its data Lift is {times:.0f} times worse than three plain layers even after ten epochs (interval {times_interval}).",
        "Outside its data Lift is not worse than three plain layers after ten epochs (ratio {ratio:.2f}).",
        "Outside its data Lift's error after ten epochs is {ood_outside_10}, that of three plain layers {ood_mlp_10}; {n} seeds do not decide more.",
    )  # fmt: skip
    degree = Sentence(
        "within", ("degree_outside",),
        "There its answer grows with the power {degree_outside:.2f} of the input, like a cubic; the truth has {true_degree}, plain layers {degree_mlp:.2f}. The degree is measured; that "
        "nothing else spoils the answer is not.",
        "There its answer grows with the power {degree_outside:.2f} of the input, not like the cubic that three factors would make; the truth has {true_degree}.",
        "There its answer grows with the power {degree_outside:.2f} of the input (the truth: {true_degree}); {n} seeds do not decide whether that is a cubic.",
        {"low": CUBIC[0], "high": CUBIC[1]},
    )  # fmt: skip
    epsilon = Sentence(
        "less", ("many_outside_1", "many_inside_1"),
        "Where RMSprop puts its epsilon alone moves the published {outside_1.document:.2f} (ours, {n} seeds: {many_outside_1}) to {many_inside_1}, {times:.1f} times higher (interval {times_interval}).",
        "Where RMSprop puts its epsilon does not raise the published {outside_1.document:.2f} (ours: {many_outside_1}): {many_inside_1}.",
        "With epsilon outside the root the error is {many_outside_1}, inside {many_inside_1}; {n} seeds do not decide more.",
    )  # fmt: skip
    results.facts["true_degree"] = 2
    results.claim("Lift is clearly much better than a plain network", early, late, yes="partly")
    results.claim("with more training Lift will also be good outside its data", far, yes="no", no="yes")
    results.claim(
        "two errors multiply, and that spoils it outside its data",
        degree,
        yes="partly",
        no="partly",
    )
    results.claim("training toward the improved weights is a good new rule", ends, yes="no", no="yes")
    results.claim(
        "the test error is measured on new data",
        Sentence(
            "fact", ("test_rows_in_training",),
            "{test_rows_in_training:.1%} of the test rows are training rows; on points kept out the error after ten epochs is {heldout_10}.",
            "{test_rows_in_training:.1%} of the test rows are training rows.",
            bounds={"low": 0.5},
        ),
        yes="no", no="yes",
    )  # fmt: skip
    results.conclude(early, late, epsilon, ends, far)
