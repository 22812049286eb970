"""`info` and `verify` from the shell: what they print, their exit codes, and no traceback whatever they are given."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlapse as wl
from weightlapse.cli import main

WIRING = "weightlapse wiring 1\ntensor fc.weight (3, 4)\nfixed fc.weight[0]: output\nfixed fc.weight[1]: input\n"


def run_cli(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    return int(stopped.value.code or 0), said.out, said.err


@pytest.fixture
def run(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    weights: dict[str, Any] = {"fc.weight": draw.normal(size=(3, 4)).astype(np.float32), "n": np.int64(0)}
    with wl.watch(weights, tmp_path / "run", meta={"who": "test"}, wiring=WIRING) as rec:
        for k in range(1, 30):
            rec.step(
                {"fc.weight": draw.normal(size=(3, 4)).astype(np.float32), "n": np.int64(k)},
                loss=1 / k,
                broken=float("nan"),
            )
        rec.mark("the end")
    return tmp_path / "run"


def test_info(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_cli(capsys, "info", str(run))
    assert (code, err) == (0, "")
    for said in ("30 frames, steps 0 to 29", "fc.weight  float32[3, 4]", "bit-exact", "step 29: the end"):
        assert said in out


def test_info_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_cli(capsys, "info", str(run), "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["frames"] == 30
    assert facts["last_step"] == 29
    assert facts["numbers"] == 13
    assert facts["raw_bytes"] == 30 * (48 + 8)
    assert facts["stored_bytes"] == sum(p.stat().st_size for p in run.rglob("*") if p.is_file())
    first = {"name": "fc.weight", "shape": [3, 4], "dtype": "float32", "stream": "weights", "aliases": [], "bound": 0.0}
    assert facts["tensors"][0] | first == facts["tensors"][0]
    assert facts["scalars"] == {"loss": 1 / 29, "broken": None}
    assert facts["events"] == [{"step": 29, "text": "the end"}]
    assert facts["meta"]["who"] == "test"
    assert facts["closed"] is True
    assert facts["wiring"] is True


def test_verify(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_cli(capsys, "verify", str(run))
    assert code == 0
    assert "30 frames, every checksum right" in out
    code, out, _ = run_cli(capsys, "verify", str(run), "--json")
    assert json.loads(out)["whole"] is True


@pytest.mark.parametrize("how", ["flip", "cut", "delete"])
def test_verify_tells_what_is_damaged(run: Path, capsys: pytest.CaptureFixture[str], how: str) -> None:
    data = max((p for p in run.rglob("*") if p.is_file() and p.parent != run), key=lambda p: p.stat().st_size)
    if how == "flip":
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 4
        data.write_bytes(content)
    elif how == "cut":
        os.truncate(data, data.stat().st_size // 5)  # the index is at the end, and is rebuilt when lost
    else:
        data.unlink()
    code, out, _ = run_cli(capsys, "verify", str(run), "--json")
    assert code == 1
    found = json.loads(out)
    assert found["whole"] is False
    assert found["lost_frames"] > 0
    assert found["damage"]
    code, out, _ = run_cli(capsys, "verify", str(run))
    assert code == 1
    assert "of 30 frames" in out


def hostile(tmp_path: Path) -> dict[str, Path]:
    """Things that are given instead of a recording."""
    cases = {"absent": tmp_path / "absent", "empty": tmp_path / "empty", "file": tmp_path / "file"}
    cases["empty"].mkdir()
    cases["file"].write_text("hello")
    for name, content in (("json", b"{"), ("other", b'{"format": "zarr"}'), ("huge", b""), ("no journal", b"")):
        cases[name] = tmp_path / name
        cases[name].mkdir()
        (cases[name] / "manifest.json").write_bytes(content)
    os.truncate(cases["huge"] / "manifest.json", 1 << 36)
    good = b'{"format": "weightlapse recording", "version": 1, "meta": {}, "tolerance": null}'
    (cases["no journal"] / "manifest.json").write_bytes(good)
    return cases


@pytest.mark.parametrize("verb", ["info", "verify"])
@pytest.mark.parametrize("case", ["absent", "empty", "file", "json", "other", "huge", "no journal"])
def test_what_is_no_recording_gets_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, case: str
) -> None:
    code, out, err = run_cli(capsys, verb, str(hostile(tmp_path)[case]))
    assert (code, out) == (1, "")
    assert err.startswith("weightlapse: ")
    assert len(err.splitlines()) == 1


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["info"], ["verify", "a", "--against"], ["compare", "a"], ["info", "run", "--nonsense"]):
        code, out, _ = run_cli(capsys, *arguments)
        assert (code, out) == (2, "")
