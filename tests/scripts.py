"""Runs scripts as ``python SCRIPT`` would, without importing torch and Matplotlib for each of them: every script is a fork of one process that has them.

The process is a fresh interpreter of its own, with one thread; what a script changes ends with it. A script can also run as the ranks of a
torch.distributed job, a fork each, with the environment that ``torchrun`` gives them.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

PRELOADED = (
    "torch", "torch.distributed.fsdp", "scipy.optimize", "matplotlib.pyplot", "weightlapse.capture.watch", "weightlapse.adapters.torch", "weightlapse.recording.recording",
    "weightlapse.symmetry.compare", "weightlapse.growth.widen", "weightlapse.film.movie", "weightlapse.film.plot", "weightlapse.measures.doctor",
)  # fmt: skip


def run_script(
    script: Path, folder: Path, *arguments: str, seconds: int = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    """What ``script`` printed, and how it ended, when it was run in ``folder``."""
    return run_ranks(script, folder, *arguments, seconds=seconds, **environment)[0]


def run_verb(folder: Path, *words: str, seconds: int = 300) -> subprocess.CompletedProcess[str]:
    """The same for ``weightlapse WORDS``."""
    return run_script(Path(__file__).parent / "programs" / "verb.py", folder, *words, seconds=seconds)


def run_ranks(
    script: Path, folder: Path, *arguments: str, ranks: int = 0, seconds: int = 300, **environment: str
) -> list[subprocess.CompletedProcess[str]]:
    """The same for every rank of a job of so many processes; 0: one process that is no rank."""
    request = {"command": [str(script), *arguments], "folder": str(folder), "seconds": seconds}
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    places = [_place(rank, ranks, environment) for rank in range(ranks)] or [environment]
    server.stdin.write(json.dumps(request | {"environments": places}) + "\n")
    server.stdin.flush()
    answer = server.stdout.readline()
    assert answer, "the process that runs scripts has ended"
    return [
        subprocess.CompletedProcess([str(script)], code, _taken(folder / f".out{k}"), _taken(folder / f".err{k}"))
        for k, code in enumerate(json.loads(answer))
    ]


def _place(rank: int, ranks: int, environment: dict[str, str]) -> dict[str, str]:
    """What ``torchrun`` tells a rank."""
    if rank == 0:  # the others get the same port
        with socket.create_server(("127.0.0.1", 0)) as free:
            environment["MASTER_PORT"] = str(free.getsockname()[1])
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    return {"MASTER_ADDR": "127.0.0.1", **environment, **{key: str(value) for key, value in place.items()}}


def _taken(file: Path) -> str:
    text = file.read_text(encoding="utf-8", errors="replace")
    file.unlink()
    return text


@cache
def _server() -> subprocess.Popen[str]:
    environment = os.environ | {
        "MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "WEIGHTLAPSE_STRICT": "1",
    }  # fmt: skip
    server = subprocess.Popen([sys.executable, "-m", "tests.scripts"], cwd=Path(__file__).parent.parent, env=environment, text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[str]) -> None:
    assert server.stdin is not None
    server.stdin.close()  # it ends when it is asked for nothing more
    server.wait(10)


def serve() -> None:
    import importlib
    import threading

    for name in PRELOADED:
        importlib.import_module(name)
    assert threading.active_count() == 1, "a thread that was forked away would be missed"
    gc.collect()
    gc.freeze()  # a script that collects its garbage leaves what was loaded alone
    gc.set_threshold(10_000, 20, 50)
    for line in sys.stdin:
        request = json.loads(line)
        children = []
        for number, environment in enumerate(request["environments"]):
            child = os.fork()
            if child == 0:
                _be(request["command"], request["folder"], environment, number)
            children.append(child)
        end = time.monotonic() + request["seconds"]
        print(json.dumps([_ended(child, end) for child in children]), flush=True)


def _ended(child: int, end: float) -> int:
    """The exit code; a script that takes too long is ended."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)


def _be(command: list[str], folder: str, environment: dict[str, str], number: int) -> None:
    """Become the script: its streams, its folder, its arguments. Never returns."""
    import runpy

    os.chdir(folder)
    os.environ.update({"TMPDIR": folder, **environment})
    tempfile.tempdir = None  # what it was when torch was loaded
    for stream, name in ((1, f".out{number}"), (2, f".err{number}")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv, sys.path[0] = command, str(Path(command[0]).parent)
    runpy.run_path(command[0], run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    serve()
