"""The compiled passes write the same bytes as their twins in NumPy, for every dtype, rule and shape; threads change nothing either."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.test_store_blocks import LAYOUT, holds, moving_rows
from weightlapse.errors import InvalidArgument
from weightlapse.store import compact
from weightlapse.store.codecs import encode as encoding
from weightlapse.store.codecs.encode import encode, encode_bounded
from weightlapse.store.codecs.form import ENTRY, GRID, PACKED, Shape
from weightlapse.store.codecs.kernels import Passes
from weightlapse.store.codecs.patterns import PATTERNS
from weightlapse.store.codecs.predict import DAMPED, LAST, LINEAR, MOMENTUM, NONE, SLOPE, Predictor
from weightlapse.store.reader import Store
from weightlapse.store.threads import all_done, in_order, threads
from weightlapse.store.writer import Writer

DTYPES = [name for name, pattern in PATTERNS.items() if pattern.bits >= 16 and name != "bool"]


def walk(dtype: str, rows: int, columns: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scale = 10 ** rng.normal(0, 1, columns)
    steps = rng.normal(0, 1e-3, (rows, columns)) * scale
    w = rng.normal(0, 0.1, columns) + (0.9 * steps).cumsum(0) + steps
    pattern = PATTERNS[dtype]
    if dtype == "bfloat16":
        return (w.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    if pattern.is_float:
        return np.ascontiguousarray(w.astype(dtype)).view(pattern.unsigned)
    return (w * 1000).astype(np.int64).astype(pattern.unsigned)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bytes_for_every_dtype_and_rule(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = PATTERNS[dtype]
    rules = [Predictor(r) for r in (NONE, LAST, LINEAR, DAMPED, SLOPE)]
    rules += [Predictor(MOMENTUM, 0.9)] if pattern.is_float and pattern.bits >= 32 else []
    known = 0
    for k, (rows, columns, shape) in enumerate(
        [
            (40, 700, Shape(256, 8)),
            (3, 64, Shape(64, 8)),
            (2, 33, Shape(16, 4)),
            (1, 50, Shape(16, 4)),
            (97, 130, Shape(2048, 32)),
        ]
    ):
        u = walk(dtype, rows, columns, k)
        for rule in rules:
            made = [encoding._pack(u, pattern, PACKED, rule, shape, np.empty(0, ENTRY), c) for c in (False, True)]
            assert made[0] == made[1], (rows, columns, rule)
            known += Passes.know(u, pattern, rule)
        assert encode(u, dtype, shape) == encode(u, dtype, shape, compiled=True)
    assert known > 0


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_same_bytes_within_a_bound(dtype: str) -> None:
    u = walk(dtype, 50, 400, 1)
    values = PATTERNS[dtype].numbers(u)
    bounds = [1e-2 * float(values[:, :150].std()), 0.3 * float(values[:, 150:].std())]
    made = [encode_bounded(u, dtype, [150, 250], bounds, Shape(128, 16), compiled=c) for c in (False, True)]
    assert made[0] == made[1]
    assert made[0] is not None
    assert made[0][29] == GRID


def test_extreme_patterns_wrap_in_the_same_way() -> None:
    rng = np.random.default_rng(0)
    for kind in (np.uint16, np.uint32, np.uint64):
        u = rng.integers(0, np.iinfo(kind).max, (20, 90), dtype=kind, endpoint=True)
        u[3:6], u[8, ::2], u[9, ::3] = 0, np.iinfo(kind).max, np.iinfo(kind).max // 2 + 1
        name = {np.uint16: "int16", np.uint32: "uint32", np.uint64: "int64"}[kind]
        for rule in (LAST, LINEAR, DAMPED, SLOPE):
            made = [
                encoding._pack(u, PATTERNS[name], PACKED, Predictor(rule), Shape(32, 8), np.empty(0, ENTRY), c)
                for c in (False, True)
            ]
            assert made[0] == made[1]


def test_numba_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    u = walk("float32", 30, 100, 2)
    monkeypatch.setattr(encoding.importlib.util, "find_spec", lambda name: None)
    assert encoding._passes(u, PATTERNS["float32"], Predictor(LAST), [(1, 30)]) is None
    assert encode(u, "float32", compiled=True) == encode(u, "float32")


@pytest.mark.parametrize("tolerance", [None, 1e-2])
def test_a_block_is_the_same_whoever_encodes_it(
    tmp_path: Path, tolerance: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "LARGE", 50)  # large chunks and small ones
    monkeypatch.setattr(compact, "CHUNK", 64)
    rows = moving_rows(LAYOUT, 150)
    writer = Writer.create(tmp_path / "run", LAYOUT, tolerance=tolerance, compact="never")
    writer.append(np.arange(150), rows)
    writer.close()
    raw = Store.open(tmp_path / "run").raw_segments[0]
    made = set()
    for count in (1, 2, 5):
        for worth in (0, 1 << 40):
            monkeypatch.setattr(compact, "_WORTH_COMPILING", worth)
            compact.write_block(tmp_path / "run", 0, raw, tolerance, count=count, memory=count * (64 << 20))
            made.add((tmp_path / "run/blocks/000000.blk").read_bytes())
    assert len(made) == 1
    if tolerance is None:
        holds(Store.open(tmp_path / "run"), rows)


def test_results_come_in_order_and_an_error_ends_the_work() -> None:
    begun = []

    def task(k: int) -> int:
        begun.append(k)
        if k == 7:
            raise ZeroDivisionError
        return k * k

    assert list(in_order([lambda k=k: k * k for k in range(50)], 3)) == [k * k for k in range(50)]
    taken: list[int] = []
    with pytest.raises(ZeroDivisionError):
        taken.extend(in_order((lambda k=k: task(k) for k in range(1000)), 3))
    assert taken == [k * k for k in range(7)]
    assert len(begun) < 20


@pytest.mark.parametrize("count", [1, 2, 5])
def test_all_is_done_once_and_an_error_waits_for_what_is_under_way(count: int) -> None:
    done: list[int] = []
    all_done((lambda k=k: done.append(k) for k in range(200)), count)
    assert sorted(done) == list(range(200))
    all_done([], count)
    begun, ended = set(), set()

    def task(k: int) -> None:
        begun.add(k)
        time.sleep(0.002)
        if k == 7:
            raise KeyError(k)
        ended.add(k)

    with pytest.raises(KeyError, match="7"):
        all_done((lambda k=k: task(k) for k in range(1000)), count)
    assert begun - ended == {7}
    assert len(begun) < 20
    time.sleep(0.01)
    assert begun - ended == {7}


def test_the_number_of_threads_can_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTLAPSE_THREADS", "3")
    assert threads() == 3
    for wrong in ("0", "many", "-1", "1.5"):
        monkeypatch.setenv("WEIGHTLAPSE_THREADS", wrong)
        with pytest.raises(InvalidArgument, match="WEIGHTLAPSE_THREADS"):
            threads()
    monkeypatch.delenv("WEIGHTLAPSE_THREADS")
    assert threads() >= 1


def test_a_forked_child_has_threads_of_its_own() -> None:
    code = (
        "import os; from weightlapse.store.threads import in_order\n"
        "assert list(in_order([lambda: 1] * 9, 3)) == [1] * 9\n"
        "pid = os.fork()\n"
        "if pid == 0:\n    os._exit(0 if list(in_order([lambda: 2] * 9, 3)) == [2] * 9 else 1)\n"
        "print(os.waitpid(pid, 0)[1])"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60, check=False, env=env
    )
    assert run.stdout.strip() == "0", run.stderr
