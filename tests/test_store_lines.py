"""Lines: what is on the main one and on the branches, against a slow twin; and rewinds of which every record is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.test_store_blocks import LAYOUT, moving_rows
from weightlapse.errors import DamagedRecording
from weightlapse.store.journal import Journal
from weightlapse.store.lines import OPEN_END, Fork, lines_of, positions, untold
from weightlapse.store.reader import Store
from weightlapse.store.writer import Writer

TRAININGS = st.lists(
    st.tuples(st.integers(1, 6), st.integers(0, 30)), min_size=1, max_size=6
)  # (frames, rewound before them to ...)

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy


def trained(parts: list[tuple[int, int]]) -> tuple[list[list[int]], list[int], dict[str, list[int]], list[Fork]]:
    """The slow twin: the steps of each file, the main line and the branches as lists of steps, and the rewinds."""
    files: list[list[int]] = []
    main: list[tuple[int, int]] = []  # (number, step)
    branches: dict[str, list[int]] = {}
    forks: list[Fork] = []
    number = 0
    for count, to in parts:
        cut = [(n, step) for n, step in main if step > to]
        if cut and len(cut) < len(main):
            main = [(n, step) for n, step in main if step <= to]
            forks.append(Fork(number, len(main), to, f"b{len(forks)}"))
            branches[forks[-1].name] = [step for _, step in cut]
            first = to + 1
        else:
            first = main[-1][1] + 1 if main else 0
        files.append(list(range(first, first + count)))
        main += [(number + k, first + k) for k in range(count)]
        number += count
    return files, [step for _, step in main], branches, forks


def along(line: tuple[tuple[int, int], ...], files: list[list[int]]) -> list[int]:
    steps = np.concatenate([np.array(file, np.int64) for file in files])
    where = positions(line, np.arange(len(steps)))
    on_it = np.flatnonzero(where >= 0)
    return steps[on_it[np.argsort(where[on_it])]].tolist()  # type: ignore[no-any-return]


@UNHURRIED
@given(TRAININGS)
def test_lines_are_those_of_the_slow_twin(parts: list[tuple[int, int]]) -> None:
    files, main, branches, forks = trained(parts)
    line, others = lines_of(forks)
    assert along(line, files) == main
    assert {name: along(other, files) for name, other in others.items()} == branches


@UNHURRIED
@given(TRAININGS, st.data())
def test_rewinds_that_no_record_tells_are_read_from_the_steps(
    parts: list[tuple[int, int]], data: st.DataObject
) -> None:
    files, main, branches, forks = trained(parts)
    known = data.draw(st.lists(st.sampled_from(forks), unique=True)) if forks else []
    firsts = np.cumsum([0, *map(len, files)])[:-1].tolist()
    found = untold(known, [(first, np.array(file, np.int64)) for first, file in zip(firsts, files)])
    line, others = lines_of(sorted([*known, *found], key=lambda fork: fork.first))
    assert along(line, files) == main
    assert sorted(along(other, files) for other in others.values()) == sorted(branches.values())
    assert len(found) == len(forks) - len(known)
    assert len({fork.name for fork in found}) == len(found)


def test_steps_that_rise_tell_of_no_rewind() -> None:
    assert untold([], [(0, np.arange(5)), (5, np.arange(7, 9)), (7, np.array([-1, 30]))]) == []
    assert untold([], []) == []
    assert lines_of([])[0] == ((0, OPEN_END),)


@pytest.mark.parametrize("compact", ["never", "after"])
@pytest.mark.parametrize("rewinds", [(10,), (10, 5), (4, 6)])
def test_every_record_of_the_rewinds_is_lost(tmp_path: Path, compact: str, rewinds: tuple[int, ...]) -> None:
    run = tmp_path / "run"
    true = {}
    writer = Writer.create(run, LAYOUT, compact=compact)  # type: ignore[arg-type]
    for seed, to in enumerate((-1, *rewinds)):
        if to >= 0:
            writer = Writer.resume(run, LAYOUT, rewind_to=to, compact=compact)  # type: ignore[arg-type]
            true = {step: row for step, row in true.items() if step <= to}
        rows = moving_rows(LAYOUT, 12, seed)
        writer.append(np.arange(to + 1, to + 13), rows)
        true |= {to + 1 + k: row for k, row in enumerate(rows)}
        writer.close()
    lines = {name: Store.open(run).on_branch(name).steps.tolist() for name in Store.open(run).branches}
    for file in [run / "journal.log", *run.glob("log/*"), *run.glob("blocks/*")]:
        file.write_bytes(file.read_bytes().replace(b"FORK", b"KROF"))
    store = Store.open(run)
    assert store.steps.tolist() == sorted(true)
    for k, step in enumerate(store.steps.tolist()):
        for name, value in store.read_frame(k).items():
            assert (
                value.tobytes() == np.ascontiguousarray(LAYOUT.view(true[step][None], LAYOUT.index[name])[0]).tobytes()
            )
    assert sorted(store.on_branch(name).steps.tolist() for name in store.branches) == sorted(lines.values())
    assert sum("no record is left of a rewind" in str(damage) for damage in store.verify()) == len(rewinds)


@pytest.mark.parametrize(
    "payload",
    [
        '{"keep": Infinity, "step": 1, "name": "b"}',
        '{"keep": 1, "step": -Infinity, "name": "b"}',
        '{"keep": 1, "step": NaN, "name": "b"}',
        '{"keep": 9, "step": 1, "name": "b"}',
        '{"keep": [], "step": 1, "name": "b"}',
        '{"step": 1, "name": "b"}',
    ],
)
def test_a_rewind_that_cannot_be_meant_is_damage(payload: str) -> None:
    with pytest.raises(DamagedRecording, match="a rewind in the journal cannot be meant"):
        Journal().add_fork(5, payload.encode())
