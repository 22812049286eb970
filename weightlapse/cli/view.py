"""weightlapse view RUN [RUN2]: explore recordings in the browser."""

from __future__ import annotations

import click

from weightlapse.cli.recordings import expanded


@click.command(name="view")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--port", default=0, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one."
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Any but a loopback one opens the recordings to your network.",
)
@click.option("--browser/--no-browser", default=True, help="Open the page at once.")
def command(runs: tuple[str, ...], port: int, host: str, browser: bool) -> None:
    """Explore one recording, or two side by side, in the browser.

    Prints the page's address once it listens, and serves until interrupted. RUN may still be training: the page follows it.
    """
    from weightlapse.view.serve import Viewer

    viewer = Viewer(expanded(runs), port=port, host=host)
    if viewer.token is not None:
        click.echo(f"listening on {host}: whoever has the address with its token can read these recordings", err=True)

    def announce(url: str) -> None:
        click.echo(url)
        if browser:
            import webbrowser

            webbrowser.open(url)

    viewer.serve(announce)
