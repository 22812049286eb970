"""What does recording cost a training step on two processes? DDP (rank 0 records) and FSDP2 (each rank records its shards), beside no recording.

    python bench/distributed.py [--steps N]

Starts torchrun on this machine (gloo, CPU, bound to the loopback interface). Recording and not recording alternate within one run.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
ROUNDS = 5


def worker(kind: str, steps: int, folder: Path) -> None:
    import torch
    import torch.distributed as dist
    from torch import nn

    import weightlapse as wl

    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    rank, count = dist.get_rank(), dist.get_world_size()
    medians: dict[bool, list[float]] = {False: [], True: []}
    for round_ in range(2 * ROUNDS):
        recording = round_ % 2 == 1
        torch.manual_seed(0)
        model: nn.Module = nn.Sequential(
            nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
        )
        if kind == "ddp":
            model = nn.parallel.DistributedDataParallel(model)
        else:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            fully_shard(model, mesh=init_device_mesh("cpu", (count,)))
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        rec = wl.watch(model, folder / f"run{round_}", optimizer=optimizer) if recording else None
        x, y = torch.randn(64, 256), torch.randint(0, 10, (64,))
        seconds = []
        for _ in range(steps):
            start = time.perf_counter()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            seconds.append(time.perf_counter() - start)
        if rec is not None:
            rec.close()
        dist.barrier()
        medians[recording].append(statistics.median(seconds[steps // 10 :]))
    if rank == 0:
        without, with_it = statistics.median(medians[False]), statistics.median(medians[True])
        ratio = statistics.median(b / a for a, b in zip(medians[False], medians[True]))
        print(
            f"| {kind.upper()} | {count} | {without * 1e3:.2f} ms | {with_it * 1e3:.2f} ms | {ratio - 1:+.1%} |",
            flush=True,
        )
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker[0], arguments.steps, Path(arguments.worker[1]))
        return
    lines = ["# What recording costs a step on two processes", ""]
    lines += [
        f"{len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, gloo; 400 k weights, batch 64, Adam",
        "",
    ]
    lines += ["| model | processes | step without | step with recording | slower by |", "|---|---|---|---|---|"]
    for kind in ("ddp", "fsdp"):
        with tempfile.TemporaryDirectory() as folder:
            launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
            command = [*launch, "--steps", str(arguments.steps), "--worker", kind, folder]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            found = [line for line in done.stdout.splitlines() if line.startswith("| ")]
            if done.returncode or not found:
                sys.exit(done.stderr[-3000:])
            lines += found
    text = (
        "\n".join(
            [
                *lines,
                "",
                "Medians of the step, recording and not recording alternating within one run. Each process has a core.",
            ]
        )
        + "\n"
    )
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "distributed.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
