"""Ensembles over a Ray cluster of two local nodes: the same numbers as here, also when a node dies in the middle."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import torch

import weightlapse as wl
from weightlapse.ensembles.stack import glorot
from weightlapse.errors import InvalidArgument

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings are not ours to mend

HERE = "127.0.0.1"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # what makes Ray listen on 127.0.0.1 alone
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "node_ip_address": HERE}
    )
    ray.init(address=nodes.address, log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()
    patch.undo()


def data() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(60, 3, generator=g)
    return x, x.sum(1, keepdim=True)


def settings() -> dict[str, Any]:
    x, y = data()
    return {"x": x, "y": y, "steps": 150, "batch_size": 16, "lr": 0.02}


def slowly(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Fresh data that take their time, so that there is a middle in which to kill."""
    time.sleep(0.02 if ray_is_here() else 0.0)
    g = torch.Generator().manual_seed(step)
    x = torch.rand(16, 3, generator=g)
    return x, x.prod(1, keepdim=True)


def ray_is_here() -> bool:
    return (
        "ray" in sys.modules and sys.modules["ray"].get_runtime_context().worker.mode == 1
    )  # a worker, not this process


def test_a_killed_node_costs_time_only(cluster: Any) -> None:
    node = cluster.add_node(num_cpus=1, node_ip_address=HERE)
    make = glorot(3, 8, 1)
    frames: list[tuple[int, torch.Tensor]] = []
    killed: list[int] = []

    class Recorder:
        def step(self, states: dict[str, np.ndarray], *, step: int, loss: float) -> None:
            frames.append((step, torch.cat([torch.from_numpy(v).flatten(1) for v in states.values()], 1)))

    def kill(step: int, _: Any) -> None:
        if step >= 20 and not killed:
            killed.append(step)
            cluster.remove_node(node, allow_graceful=False)

    case: dict[str, Any] = {"data": slowly, "steps": 150, "lr": 0.02, "record_every": 5}
    run = wl.ensemble(make, 6, engine="ray", parts=2, record=Recorder(), callback=kill, **case)
    wanted: list[tuple[int, torch.Tensor]] = []
    here = wl.ensemble(make, 6, callback=lambda step, s: wanted.append((step, s.theta.clone())), **case)
    assert killed == [20]
    assert run.reruns == 1, "the node's members were not trained again, or too often"
    assert run.engine == "ray"
    np.testing.assert_array_equal(run.losses, here.losses)
    assert [step for step, _ in frames] == [step for step, _ in wanted] == list(range(5, 151, 5))
    for (_, got), (_, want) in zip(frames, wanted):
        assert torch.equal(got, want), "a member is missing, doubled, or in the wrong place"
    assert torch.equal(run.stack.theta, here.stack.theta)
    assert run.alive.all()


def test_it_listens_to_this_machine_only(cluster: Any) -> None:
    ours = psutil.Process().children(recursive=True)
    listening = {
        c.laddr.ip.removeprefix("::ffff:")
        for p in ours
        for c in p.net_connections(kind="tcp")
        if c.status == psutil.CONN_LISTEN
    }
    assert listening
    assert listening <= {HERE, "::1"}, listening


def test_members_that_diverge_and_more_parts_than_workers(cluster: Any) -> None:
    case = settings() | {"lr": [0.02, 1e6, 0.02, 0.02, 1e6], "optimizer": "sgd"}
    run = wl.ensemble(glorot(3, 8, 1), 5, engine="ray", parts=5, **case)
    here = wl.ensemble(glorot(3, 8, 1), 5, **case)
    assert run.died_at.tolist() == here.died_at.tolist()
    assert run.alive.tolist() == [True, False, True, True, False]
    np.testing.assert_array_equal(run.losses, here.losses)
    assert run.reruns == 0


def test_fresh_data_reach_their_members(cluster: Any) -> None:
    from weightlapse.ensembles.batches import imitation
    from weightlapse.ensembles.stack import Stack

    make = glorot(4, 3, 1)
    fresh = imitation(Stack.make(make, 5, seeds=range(50, 55)), 8)
    run = wl.ensemble(make, 5, fresh=fresh, steps=30, engine="ray", parts=2)
    np.testing.assert_array_equal(run.losses, wl.ensemble(make, 5, fresh=fresh, steps=30).losses)


def test_a_mistake_in_the_loss_is_no_lost_worker(cluster: Any) -> None:
    def broken(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        raise ValueError("a mistake of the user's")

    with pytest.raises(Exception, match="a mistake of the user's"):
        wl.ensemble(glorot(3, 2, 1), 2, engine="ray", loss=broken, **settings())
    with pytest.raises(InvalidArgument, match="parts"):
        wl.ensemble(glorot(3, 2, 1), 2, engine="ray", parts=0, **settings())


def test_without_being_asked_nothing_of_ray_is_imported() -> None:
    code = (
        "import sys, torch, weightlapse as wl\n"
        "wl.ensemble(lambda: torch.nn.Linear(1, 1), 2, torch.rand(4, 1), torch.rand(4, 1), steps=2)\n"
        "assert not [m for m in sys.modules if m == 'ray' or m.startswith('ray.')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
