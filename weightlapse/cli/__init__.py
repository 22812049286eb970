"""The same verbs from a shell: one file per verb, loaded only when it is called."""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from click.shell_completion import CompletionItem

from weightlapse.errors import InvalidArgument, RecordingIncomplete, WeightlapseError, closest, optional

# verb -> one line for --help; the verb's file is cli/<verb>.py and holds `command`
VERBS = {
    "demo": "Train a real network on real digits, record it, film it, page it.",
    "ls": "List the recordings in a folder: size, steps, last loss, findings.",
    "info": "Say what is in a recording.",
    "plan": "Say what recording a model would cost.",
    "plot": "Draw one figure from a recording.",
    "film": "Make a film of a recording.",
    "view": "Explore recordings in the browser.",
    "page": "Write one self-contained, offline HTML page.",
    "compare": "Say whether two networks are the same up to symmetry.",
    "diff": "Say what differs between two networks, tensor by tensor.",
    "top": "Say which weights, units or tensors are largest or moved most.",
    "query": "Ask a recording in SQL.",
    "lineage": "Say whether one network was made from the other.",
    "doctor": "Find dead, saturated, exploding, frozen ... weights.",
    "grow": "Widen a checkpoint without changing its function.",
    "verify": "Check every checksum, the index and the error bound.",
    "compact": "Compress a recording's log into blocks.",
    "import": "Turn a series of checkpoints into a recording.",
    "export": "Write a recording in another format.",
    "study": "Run one of the five studies.",
    "completion": "Print what makes a shell complete verbs, options and paths.",
}
_FILES = {"import": "import_"}  # a verb that is a Python keyword


class _LazyVerbs(click.Group):
    """Lists verbs without importing them, so that ``--help`` is immediate."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"weightlapse.cli.{_FILES.get(cmd_name, cmd_name)}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        verb = args[0]
        if verb not in VERBS and not verb.startswith("-"):
            fits = _fitting(args)
            if fits is None:
                if os.path.lexists(verb):
                    raise click.UsageError(f"{verb} is no recording, and there is no verb of that name", ctx)
                if os.sep in verb:
                    raise click.UsageError(f"there is nothing at {verb}, and no verb of that name", ctx)
                raise click.UsageError(f"there is no verb {verb!r}; {closest(verb, VERBS)}", ctx)
            click.echo(f"weightlapse {fits} {' '.join(args)}", err=True)
            args = [fits, *args]
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Verbs, without importing them; then options; then paths, since a recording may stand where a verb does."""
        found = [CompletionItem(verb, help=line) for verb, line in VERBS.items() if verb.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete) or [CompletionItem(incomplete, type="file")]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


def _fitting(args: list[str]) -> str | None:
    """The verb that opens what stands where a verb should: a recording or a pattern of them, or a folder that holds some; None when it is neither."""
    from weightlapse.cli.recordings import below, is_pattern, is_recording

    word = args[0]
    if is_pattern(word) or is_recording(word):
        seen = "--json" not in args and "--wiring" not in args and sys.stdout.isatty()
        return (
            "view" if seen and importlib.util.find_spec("starlette") and importlib.util.find_spec("uvicorn") else "info"
        )
    return "ls" if os.path.isdir(word) and next(below(word), None) is not None else None


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        from weightlapse import __version__

        click.echo(f"weightlapse {__version__}")
        ctx.exit()


@click.group(cls=_LazyVerbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
def program() -> None:
    """A time-lapse camera and a workbench for the weights of neural networks.

    `weightlapse RUN` opens a recording: in the browser, or as `info` where the output is no terminal. RUN may be a pattern ("runs/*") wherever
    several make sense.
    """


def _asked(arguments: Sequence[str] | None) -> str:
    """The words that a sentence about them begins with."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    return " ".join(["`weightlapse", *words[:1]]) + "`"


def _print_any_name() -> None:
    """Where the output cannot hold a letter of a name (a Windows code page, LANG=C) it is written as ``\\u03bb`` and is no error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def _losses_in_a_line() -> Iterator[None]:
    """What a recording has lost is said as a line of ours, without the line of code that found it."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *more: Any, **named: Any) -> None:
            if issubclass(category, RecordingIncomplete):
                click.echo(f"weightlapse: {message}", err=True)
            else:
                usual(message, category, *more, **named)

        warnings.simplefilter("always", RecordingIncomplete)
        warnings.showwarning = show
        yield


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program and exit: 0 done, 1 the answer is "no" or the data is bad, 2 wrong usage."""
    _print_any_name()
    try:
        with optional(_asked(arguments)), _losses_in_a_line():
            result = program.main(args=arguments, prog_name="weightlapse", standalone_mode=False)
        sys.exit(result if isinstance(result, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.Abort:
        click.echo("stopped", err=True)
        sys.exit(130)
    except WeightlapseError as error:
        click.echo(f"weightlapse: {error}", err=True)
        sys.exit(2 if isinstance(error, InvalidArgument) else 1)
    except BrokenPipeError:
        # the reader of our output went away (`| head`): point stdout at nothing so that Python's exit is silent
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except MemoryError:
        click.echo("weightlapse: there is not enough memory for this; nothing that exists was changed", err=True)
        sys.exit(1)
    except RecursionError:
        click.echo("weightlapse: this is nested too deeply to be read", err=True)
        sys.exit(1)
    except OSError as error:
        click.echo(f"weightlapse: {error.strerror or error}: {error.filename or ''}".rstrip(": "), err=True)
        sys.exit(1)
