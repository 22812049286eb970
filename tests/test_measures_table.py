"""The doctor measured: planted faults of all kinds found, healthy trainings left alone; the page of the docs shows this table and no other."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import tests.trainings_healthy  # they register themselves
import tests.trainings_planted  # noqa: F401
import weightlapse as wl
from tests.docs_tables import PAGE, filled
from tests.framework_presence import require, run_program
from tests.oracles_doctor import diagnosed
from tests.trainings import ALL, Planted
from weightlapse.measures.finding import Finding


@dataclass(frozen=True)
class Row:
    """One training: what was planted ("" in a healthy one), what counts as found, and what was."""

    name: str
    framework: str
    fault: str
    found: tuple[str, ...]  # kinds of findings that name the fault, at the right place
    alarms: tuple[str, ...]  # of a healthy one: kinds of errors and warnings
    blind: str = ""


def right(planted: Planted, finding: Any) -> bool:
    """Whether a finding names the planted fault: its kind, its tensor and its units."""
    place = planted.tensors == ("*",) or finding.tensor in planted.tensors
    units = planted.units is None or finding.units == planted.units
    if planted.units is not None and finding.kind == "nonfinite":  # it spreads at once
        units = set(planted.units) <= set(finding.units)
    return finding.kind in planted.kinds and place and units


def examined(path: Path) -> list[Finding]:
    """The findings of a recording: from statistics and few values, the same as from every value looked at one by one."""
    found, twin = wl.diagnose(wl.load(path)), diagnosed(wl.load(path))
    assert sorted(map(what, found)) == sorted(map(what, twin))
    return found


def what(finding: Finding) -> tuple[Any, ...]:
    return finding.kind, finding.tensor, finding.units, finding.first_step, finding.severity


def measured(folder: Path) -> list[Row]:
    rows = []
    for k, (name, (framework, train)) in enumerate(ALL.healthy.items()):
        train(folder / f"h{k}")
        alarms = [f for f in examined(folder / f"h{k}") if f.severity != "note"]
        rows.append(Row(name, framework, "", (), tuple(sorted({f.kind for f in alarms}))))
    for k, (name, planted) in enumerate(ALL.planted.items()):
        planted.train(folder / f"p{k}")
        hits = [f for f in examined(folder / f"p{k}") if right(planted, f)]
        rows.append(
            Row(name, planted.framework, planted.fault, tuple(sorted({f.kind for f in hits})), (), planted.blind)
        )
    for entry in json.loads(run_program("doctor_others.py", folder, KERAS_BACKEND="jax").splitlines()[-1]):
        findings = entry["findings"]
        if entry["expected"] is None:
            alarms = sorted({f["kind"] for f in findings if f["severity"] != "note"})
            rows.append(Row(entry["name"], entry["framework"], "", (), tuple(alarms)))
        else:
            hits = sorted(
                {f["kind"] for f in findings if f["kind"] in entry["expected"] and entry["where"] in ("*", f["tensor"])}
            )
            rows.append(Row(entry["name"], entry["framework"], entry["fault"], tuple(hits), ()))
    return rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    require("keras", "jax")
    with pytest.MonkeyPatch.context() as patch:  # statistics of every frame, as large tensors have them
        patch.setattr("weightlapse.store.statistics._ROW_EACH_FRAME", 1)
        patch.setattr("weightlapse.store.statistics._ROW_EACH_FRAME_ROUNDED", 1)
        return measured(tmp_path_factory.mktemp("doctor"))


def test_planted_faults_are_found_where_they_are(rows: list[Row]) -> None:
    planted = [row for row in rows if row.fault]
    assert len(planted) >= 20
    missed = [row.name for row in planted if not row.found and not row.blind]
    assert missed == []
    seen = [row.name for row in planted if row.found and row.blind]
    assert seen == [], "the page says that these cannot be seen"


def test_healthy_trainings_are_left_alone(rows: list[Row]) -> None:
    sound = [row for row in rows if not row.fault]
    assert len(sound) >= 20
    assert {row.framework for row in sound} == {"torch", "Keras", "JAX", "NumPy"}
    assert [(row.name, row.alarms) for row in sound if row.alarms] == []


def test_the_page_shows_this_table(rows: list[Row]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert filled(text, rows) == text, "run: python -m tests.docs_tables"


def test_a_fault_among_the_healthy_and_a_finding_elsewhere_count() -> None:
    """The counting itself: a wrong place is a miss, an alarm is an alarm."""
    finding = Finding("dead", "fc1.weight", (1,), 0, "error", "", "")
    made = Planted(lambda path: None, "torch", ("dead",), ("fc1.weight",), (1,))
    assert right(made, finding)
    for other in (
        Planted(lambda path: None, "torch", ("dead",), ("fc2.weight",), (1,)),
        Planted(lambda path: None, "torch", ("saturated",), ("fc1.weight",), (1,)),
        Planted(lambda path: None, "torch", ("dead",), ("fc1.weight",), (1, 2)),
    ):
        assert not right(other, finding)
