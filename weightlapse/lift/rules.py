"""What a Lift is trained toward: the settings of `fit_lift`, checked once, and what training reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument

RuleName = Literal["target", "end_to_end", "fixed_start"]
OptimizerName = Literal["rmsprop", "sgd"]
RULES: tuple[str, ...] = get_args(RuleName)
OPTIMIZERS: tuple[str, ...] = get_args(OptimizerName)


@dataclass(frozen=True)
class Rule:
    """How one update of the generator is computed.

    ``task_*`` and ``inner_steps`` describe the step of the task's weights that makes the target; the others the generator's own optimizer.
    ``eps_inside`` puts RMSprop's epsilon under the root, sqrt(v + eps) (Keras 3), instead of behind it, sqrt(v) + eps (PyTorch, TF 2.0-2.10).
    """

    name: str = "target"
    optimizer: str = "rmsprop"
    lr: float = 1e-3
    task_optimizer: str = "rmsprop"
    task_lr: float = 1e-3
    inner_steps: int = 1
    rho: float = 0.9
    eps: float = 1e-7
    eps_inside: bool = False

    def __post_init__(self) -> None:
        if self.name not in RULES:
            raise InvalidArgument(f"fit_lift: rule must be one of {', '.join(map(repr, RULES))}, not {self.name!r}")
        for what, value in (("optimizer", self.optimizer), ("task_optimizer", self.task_optimizer)):
            if value not in OPTIMIZERS:
                raise InvalidArgument(f"fit_lift: {what} must be 'rmsprop' or 'sgd', not {value!r}")
        if not (self.lr > 0 and self.task_lr > 0 and self.eps > 0 and 0 <= self.rho < 1):
            raise InvalidArgument("fit_lift: lr, task_lr and eps must be positive, rho in [0, 1)")
        if self.inner_steps < 1:
            raise InvalidArgument(f"fit_lift: inner_steps must be at least 1, not {self.inner_steps}")


@dataclass
class History:
    """What `fit_lift` hands back. One entry per update of the generator, in order.

    ``loss``: the task's loss before the update (squared error for "mse"), float64 (updates,).
    ``target_loss``: the generator's loss, mean squared distance to the target weights; NaN for rule "end_to_end".
    ``seconds``: wall time without recording callbacks counted apart. ``engine``: "numpy", "numba" or "torch", whichever did the work.
    """

    loss: NDArray[np.float64] = field(repr=False)
    target_loss: NDArray[np.float64] = field(repr=False)
    samples: int
    epochs: int
    seconds: float
    engine: str
    rule: Rule = field(repr=False, default_factory=Rule)

    @property
    def updates(self) -> int:
        """Number of updates of the generator."""
        return len(self.loss)

    @property
    def samples_per_second(self) -> float:
        """Samples trained on per second of the clock."""
        return self.samples / self.seconds if self.seconds > 0 else float("inf")

    def epoch_means(self) -> NDArray[np.float64]:
        """Mean task loss of each epoch, float64 (epochs,)."""
        return (
            np.array([part.mean() for part in np.array_split(self.loss, self.epochs)]) if self.updates else np.zeros(0)
        )

    def __len__(self) -> int:
        return self.updates
