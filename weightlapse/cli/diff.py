"""``weightlapse diff``: what differs between two networks, tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path

import click

from weightlapse.errors import InvalidArgument


@click.command("diff")
@click.argument("a")
@click.argument("b")
@click.option("--wiring", type=click.Path(path_type=Path), help="A spec: wl.trace(model, x).to_spec().")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="PAGE.html: one offline page; or FIG.png, .svg, .pdf."
)
def command(a: str, b: str, wiring: Path | None, as_json: bool, out: Path | None) -> int:
    """Say what differs between A and B, tensor by tensor: the answer first, then a table.

    A and B are recordings (RUN, or RUN@STEP), checkpoints (.safetensors, .npz, .pt with weights only) or folders with a sharded checkpoint.
    Exit code 1 when they differ; also when one cannot be read: then standard output stays empty.
    """
    from weightlapse.cli.wiring_file import read_wiring
    from weightlapse.differences.diff import diff

    if out is not None:
        _check(out)
    found = diff(a, b, None if wiring is None else read_wiring(wiring))
    if out is not None:
        _write(found, out)
    if as_json:
        click.echo(json.dumps(found.to_json() | {"out": None if out is None else str(out)}, allow_nan=False))
    else:
        click.echo(found.explain())
        if out is not None:
            click.echo(str(out))
    return 0 if found.identical else 1


def _check(out: Path) -> None:
    known = (".html", ".png", ".svg", ".pdf")
    if out.suffix.lower() not in known:
        raise InvalidArgument(f"cannot tell the format of {str(out)!r}: the suffix must be one of {', '.join(known)}")
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise InvalidArgument(
            f"{str(out)!r} cannot be written: {'it is a folder' if out.is_dir() else 'its folder does not exist'}"
        )


def _write(found: object, out: Path) -> None:
    from weightlapse.film.encode import whole_file

    if out.suffix.lower() == ".html":
        from weightlapse.view.diff_page import make_diff_page

        make_diff_page(found, out)
        return
    from weightlapse.film.differences import diff as draw

    with whole_file(out) as file:
        draw(found).figure.canvas.print_figure(file, format=out.suffix.lower()[1:], dpi=140)
