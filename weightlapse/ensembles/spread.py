"""An ensemble over a Ray cluster: groups of members on its workers, their frames streamed back and joined into one.

Every group's training is a pure function of its job, so a worker that is lost costs time and nothing else: the group is trained again
and the frames that had already arrived are not taken a second time. This module is imported only when engine="ray" is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weightlapse.ensembles.job import Frame, Job
from weightlapse.errors import InvalidArgument, missing_extra

if "RAY_ADDRESS" not in os.environ:
    # Read by Ray when it is imported: a Ray of our own is for this machine alone and listens on 127.0.0.1, not on the network.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
try:
    import ray
except ImportError as error:
    raise missing_extra("ray", extra="ray", purpose="ensemble(engine='ray')") from error

# Frames that a worker may be ahead of us before it waits.
_AHEAD = 32
_MOST_RERUNS = 8

_LOST = (
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.LocalRayletDiedError,
    ray.exceptions.RaySystemError,
)
Message = tuple[int, Frame, NDArray[np.int64]]  # index of the frame, the frame, when each member of the group diverged


def train_part(job: Job, every: int, skip: int) -> Iterator[Message]:
    """Runs on a worker: train one group and send its frames, except the first ``skip``, which have arrived before."""
    torch.set_num_threads(1)
    torch.manual_seed(job.batches.seeds[0])  # for dropout and its like: a second run must go the same way
    job = replace(job, stack=job.stack[:])  # objects from the store are read-only
    died_at = torch.full((len(job.stack),), -1)
    for index, frame in enumerate(job.run(died_at, every)):
        if index >= skip:
            # The states are views of memory that the next step overwrites.
            copies = {name: value.copy() for name, value in frame.states.items()}
            yield index, replace(frame, states=copies), died_at.numpy().copy()


class Spread:
    """Runs a `Job` in ``parts`` groups of members. ``reruns`` counts the groups that were trained again."""

    def __init__(self, job: Job, parts: int | None = None) -> None:
        connect()
        if parts is not None and parts < 1:
            raise InvalidArgument(f"ensemble: parts must be at least 1, not {parts}")
        members = len(job.stack)
        count = min(members, parts or max(1, int(ray.cluster_resources().get("CPU", 1))))
        edges = np.linspace(0, members, count + 1).astype(int)
        self.slices = [slice(int(a), int(b)) for a, b in pairwise(edges)]
        # Put by this process, so that they outlive every worker.
        self.jobs = [ray.put(job.restrict(part)) for part in self.slices]
        self.reruns = 0

    def run(self, died_at: Tensor, every: int) -> Iterator[Frame]:
        """Joined frames, in order, each as soon as every group has sent its share."""
        remote = ray.remote(
            num_cpus=1, max_retries=0, num_returns="streaming", _generator_backpressure_num_objects=_AHEAD
        )(train_part)
        arrived: list[list[Frame]] = [[] for _ in self.slices]  # not yet joined
        taken = [0] * len(self.slices)  # how many frames each group has delivered
        tries = [0] * len(self.slices)
        streams = {part: remote.remote(job, every, 0) for part, job in enumerate(self.jobs)}
        while streams:
            ready, _ = ray.wait(list(streams.values()), num_returns=1)
            part = next(p for p, stream in streams.items() if stream is ready[0])
            try:
                index, frame, died = ray.get(next(streams[part]))
            except StopIteration:
                del streams[part]
                continue
            except _LOST as error:
                tries[part] += 1
                self.reruns += 1
                if tries[part] > _MOST_RERUNS:
                    members = self.slices[part]
                    raise InvalidArgument(
                        f"ensemble: the worker of members {members.start} to {members.stop - 1} was lost {tries[part]} times "
                        f"({type(error).__name__}); it probably runs out of memory: use more parts"
                    ) from error
                streams[part] = remote.remote(self.jobs[part], every, taken[part])
                continue
            if index != taken[part]:
                continue
            taken[part] += 1
            arrived[part].append(frame)
            died_at[self.slices[part]] = torch.from_numpy(died.copy())
            while all(arrived):
                yield _join([queue.pop(0) for queue in arrived])


def _join(frames: list[Frame]) -> Frame:
    states: dict[str, NDArray[Any]] = {
        name: np.concatenate([f.states[name] for f in frames]) for name in frames[0].states
    }
    return Frame(frames[0].step, states, np.concatenate([f.losses for f in frames], axis=1))


def connect() -> None:
    """Use the Ray that is there: connected already, named by RAY_ADDRESS, or a fresh one on this machine alone."""
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False)
    else:
        ray.init(include_dashboard=False, log_to_driver=False)
