"""What the mass study concludes: each sentence with the test that could refute it."""

from __future__ import annotations

from weightlapse.studies.mass_rules import RULES
from weightlapse.studies.referee import Sentence
from weightlapse.studies.results import Results

SEPARATED = 0.35  # of all mass: w1 stands out; an equal share would be 1/15
CONTROLS = ("gd", "momentum", "adam_eps", "adam_shared", "rmsprop", "adagrad", "adamw")


def judge(results: Results) -> None:
    """Enter claims and verdict."""
    shares = ("share_end", *(f"{r}_share_end" for r in CONTROLS))
    results.facts |= {"separated": SEPARATED, "equal_share": 1 / 15, "controls": [RULES[r].words for r in CONTROLS]}
    results.claim(
        "the informative weight separates from the rest",
        Sentence(
            "within", ("rest_max_over_w1",),
            "Under Adam it does: the largest noise weight ends at {rest_max_over_w1} of w1.",
            "Under Adam it does not: the largest noise weight ends at {rest_max_over_w1} of w1 (interval of the median {interval}).",
            "Under Adam the largest noise weight ends at {rest_max_over_w1} of w1; {n} seeds do not decide whether w1 stays larger.",
            {"high": 1.0},
        ),
        Sentence(
            "only", shares,
            "Of the rules run here {found} separate it ({names}), and none of the {controls} others does.",
            "It is not plain gradient descent alone: of the rules run here, w1 ends with more than {separated:%} of the mass under {names}; under Adam with epsilon at a hundredth with {adam_eps_share_end}.",
            "With {n} seeds per rule it is not decided which rules separate it.",
            {"who": ["gd_share_end"], "low": SEPARATED, "labels": {f"{r}_share_end": RULES[r].words for r in CONTROLS}},
        ),
    )  # fmt: skip
    results.claim(
        "mass is shuffled to the informative weight",
        Sentence(
            "within", ("share_end",),
            "Its share ends at {share_end}, from {share_start}, under Adam.",
            "Its share ends at {share_end}, from {share_start}, under Adam.",
            "Its share ends at {share_end}, from {share_start}, under Adam; {n} seeds do not decide more.",
            {"low": SEPARATED},
        ),
        Sentence(
            "less", ("share_end", "gd_share_end"),
            "Under gradient descent it ends {times:.1f} times higher (interval {times_interval}), at {gd_share_end}; with a price on mass at {l1_share_end}; where mass is conserved and can but be shuffled at {eg_share_end}.",
            "Under gradient descent it is not higher ({gd_share_end}).",
            "Under gradient descent it ends at {gd_share_end}.",
        ),
    )  # fmt: skip
    results.claim(
        "the rest becomes more negative",
        Sentence(
            "every", ("rest_mean_change",),
            "Its mean falls in all {n} seeds.",
            "Its mean falls in {k} of {n} seeds and rises in {others}. Noise weights drift at {rest_drift_over_limit:%} of the fastest that Adam allows.",
            bounds={"high": 0.0},
        ),
    )  # fmt: skip
    results.claim(
        "the second weight goes to zero",
        Sentence(
            "within", ("w2_over_w1",),
            "|w2 / w1| is {w2_over_w1} at the end.",
            "|w2 / w1| is {w2_over_w1} at the end.",
            "|w2 / w1| is {w2_over_w1} at the end; {n} seeds do not decide more.",
            {"high": 0.015},
        ),
    )  # fmt: skip
    results.claim(
        "decay would cure it",
        Sentence(
            "within", ("adamw_share_end",),
            "With decoupled decay the share of w1 ends at {adamw_share_end}.",
            "With decoupled decay the share of w1 still ends at {adamw_share_end}, the largest noise weight at {adamw_rest_max_over_w1} of w1.",
            "With decoupled decay the share of w1 ends at {adamw_share_end}; {n} seeds do not decide more.",
            {"low": SEPARATED},
        ),
    )  # fmt: skip
    cause = Sentence(
        "less", ("share_end", "adam_shared_share_end"),
        "The second moment of each weight is what causes it: Adam with one second moment for all weights, and nothing else changed, leaves w1 with {adam_shared_share_end} "
        "({times:.1f} times the share, interval {times_interval}). With its own, a noise weight receives {adam_amplification.median:.0f} times more of its gradient than w1; with epsilon "
        "at a hundredth {adam_eps_amplification.median:.1f} times (share {adam_eps_share_end.median}), under gradient descent and momentum as much.",
        "Adam with one second moment for all weights does not leave w1 with more ({adam_shared_share_end}): the normalisation of each weight is not the reason.",
        "Adam with one second moment for all weights leaves w1 with {adam_shared_share_end}; {n} seeds do not decide more. A noise weight receives "
        "{adam_amplification.median:.0f} times as much of its gradient as w1.",
    )  # fmt: skip
    results.claim("Adam turns the tiny gradients of the noise into full steps", cause)
    results.conclude(
        Sentence(
            "within", ("share_end",),
            "Under Adam mass moves to the weight that matters: its share ends at {share_end}.",
            "Under Adam no mass moves to the weight that matters: its share ends at {share_end}, and the largest noise weight at {rest_max_over_w1} of it.",
            "Under Adam the share of the weight that matters ends at {share_end}; {n} seeds do not decide more.",
            {"low": SEPARATED},
        ),
        cause,
        Sentence(
            "within", ("momentum_share_end",),
            "Gradient descent leaves the noise where it was, with momentum or without: w1 then holds {gd_share_end} and {momentum_share_end} of the mass.",
            "Without normalisation w1 holds {gd_share_end} of the mass, with momentum {momentum_share_end}.",
            "Gradient descent ends with {gd_share_end} of the mass on w1, with momentum {momentum_share_end}; {n} seeds do not decide more.",
            {"low": SEPARATED},
        ),
        Sentence(
            "less", ("share_end", "l1_share_end"),
            "A price on mass (L1) or a rule that conserves it moves it to w1: {l1_share_end} and {eg_share_end}.",
            "Neither a price on mass nor a rule that conserves it moves it to w1: {l1_share_end} and {eg_share_end}.",
            "With a price on mass w1 ends with {l1_share_end}, with mass conserved {eg_share_end}; {n} seeds do not decide more.",
        ),
    )  # fmt: skip
