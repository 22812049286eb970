"""weightlapse page RUN -o PAGE.html: one self-contained, offline file."""

from __future__ import annotations

import click


@click.command(name="page")
@click.argument("run", type=click.Path())
@click.option("-o", "--out", required=True, type=click.Path(dir_okay=False), help="The HTML file to write.")
@click.option("--other", type=click.Path(), help="A second recording to show beside the first.")
@click.option(
    "--max-bytes", default=20_000_000, show_default=True, type=click.IntRange(min=1), help="Largest size of the file."
)
def command(run: str, out: str, other: str | None, max_bytes: int) -> None:
    """Write RUN as one HTML file that opens from disk, without a server or a network.

    What does not fit under --max-bytes is thinned evenly and quantised; the page says so and gives the error of each value.
    """
    from weightlapse.view.page_file import make_page

    path = make_page(run, out, max_bytes=max_bytes, other=other)
    click.echo(f"{path}  ({path.stat().st_size:,} bytes)")
