"""Runs scripts as ``python SCRIPT`` would, without importing torch and Matplotlib for each of them: every script is a fork of one process that has them.

The process is a fresh interpreter of its own, with one thread; what a script changes ends with it.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

PRELOADED = (
    "torch", "scipy.optimize", "matplotlib.pyplot", "weightlapse.capture.watch", "weightlapse.adapters.torch", "weightlapse.recording.recording",
    "weightlapse.symmetry.compare", "weightlapse.growth.widen", "weightlapse.film.movie", "weightlapse.film.plot", "weightlapse.measures.doctor",
)  # fmt: skip


def run_script(
    script: Path, folder: Path, *, seconds: int = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    """What ``script`` printed, and how it ended, when it was run in ``folder``."""
    request = {"script": str(script), "folder": str(folder), "environment": environment, "seconds": seconds}
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    answer = server.stdout.readline()
    assert answer, "the process that runs scripts has ended"
    code = int(answer)
    told = [(folder / name).read_text(encoding="utf-8", errors="replace") for name in (".out", ".err")]
    for name in (".out", ".err"):
        (folder / name).unlink()
    return subprocess.CompletedProcess([str(script)], code, *told)


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
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _be(**request)
        print(_ended(child, request["seconds"]), flush=True)


def _ended(child: int, seconds: float) -> int:
    """The exit code; a script that takes too long is ended."""
    import signal
    import time

    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)


def _be(script: str, folder: str, environment: dict[str, str], seconds: float) -> None:
    """Become the script: its streams, its folder, its arguments. Never returns."""
    import runpy

    os.chdir(folder)
    os.environ.update(environment)
    for number, name in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv, sys.path[0] = [script], str(Path(script).parent)
    runpy.run_path(script, run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    serve()
