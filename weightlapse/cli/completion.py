"""``weightlapse completion``: what a shell needs in order to complete our verbs and options."""

from __future__ import annotations

import os

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


def script(shell: str) -> str:
    """The program that the shell runs once."""
    kind = get_completion_class(shell)
    assert kind is not None
    # not .source(): that asks the bash on the path for its version, which need not be the one that reads this
    complete = kind(click.Command("weightlapse"), {}, "weightlapse", "_WEIGHTLAPSE_COMPLETE")
    return complete.source_template % complete.source_vars()


@click.command("completion")
@click.argument("shell", required=False, type=click.Choice(SHELLS))
def command(shell: str | None) -> None:
    """Print what makes a shell complete verbs, options and paths; without SHELL, for the one that $SHELL names.

    \b
    bash   echo 'eval "$(weightlapse completion bash)"' >> ~/.bashrc      (bash 4.4 or newer)
    zsh    echo 'eval "$(weightlapse completion zsh)"' >> ~/.zshrc
    fish   weightlapse completion fish > ~/.config/fish/completions/weightlapse.fish
    """
    if shell is None:
        shell = os.path.basename(os.environ.get("SHELL", ""))
        if shell not in SHELLS:
            raise click.UsageError(f"say which shell: {', '.join(SHELLS)}")
    click.echo(script(shell))
