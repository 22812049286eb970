"""``weightlapse query``: SQL over a recording."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

import click

from weightlapse.recording.recording import load


@click.command("query")
@click.argument("run", type=click.Path())
@click.argument("sql")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(run: str, sql: str, as_json: bool) -> None:
    """Ask a recording in SQL (DuckDB).

    Tables: tensors, frames, stats (a row for each tensor and block: min, max, sumsq, update_sumsq, changed, ...), scalars, events, gaps, and
    weights('NAME', '100:200, 3'), a slice of a tensor as NumPy writes it, time first.
    """
    found = load(run).query(sql)
    rows = list(zip(*(column.to_pylist() for column in found.columns))) if found.num_columns else []
    if as_json:
        plain = [[_plain(value) for value in row] for row in rows]
        click.echo(json.dumps({"columns": found.column_names, "rows": plain}, allow_nan=False, default=str))
        return
    shown = [found.column_names, *([_shown(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in shown) for i in range(len(found.column_names))]
    for row in shown:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())


def _plain(value: Any) -> Any:
    """As JSON has it: whole numbers of any size and decimals (sums of integers are such) as numbers, null for what is no finite number, as in all verbs."""
    if isinstance(value, Decimal):
        value = int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def _shown(value: Any) -> str:
    return (
        ""
        if value is None
        else f"{value:.6g}"
        if isinstance(value, float)
        else str(_plain(value))
        if isinstance(value, Decimal)
        else str(value).replace("\n", " ")
    )
