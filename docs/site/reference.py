"""The reference pages, made from the package: every name of ``weightlapse.__all__``, every verb of the command line."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import click

import weightlapse as wl
from weightlapse.cli import VERBS, program

# folder of the package -> (file, title): the order of the pages
STAGES = {
    "capture": ("record", "Record"),
    "callbacks": ("callbacks", "Callbacks for trainers"),
    "recording": ("read", "Read"),
    "film": ("film", "Films and figures"),
    "view": ("view", "Viewer and pages"),
    "measures": ("measure", "Measure"),
    "wiring": ("wiring", "Wiring"),
    "symmetry": ("symmetry", "Compare and align"),
    "differences": ("diff", "Differences"),
    "growth": ("grow", "Grow"),
    "lift": ("lift", "Lift"),
    "ensembles": ("ensembles", "Ensembles"),
    "errors": ("errors", "Errors"),
}


def title_of(markdown: str) -> str:
    return markdown.strip().split("\n")[0].lstrip("# ").strip()


def stage_of(name: str) -> str:
    """The folder of the package that a public name lives in."""
    return (wl._HOME.get(name) or wl._MODULES[name]).split(".")[0]


def by_stage() -> dict[str, list[str]]:
    """Folder -> its public names; functions before classes, as they were declared. A folder that is new here comes last."""
    found: dict[str, list[str]] = {stage: [] for stage in STAGES}
    for name in (*wl._MODULES, *wl._HOME):
        found.setdefault(stage_of(name), []).append(name)
    return {stage: sorted(names, key=lambda n: n[0].isupper()) for stage, names in found.items() if names}


def place(stage: str) -> tuple[str, str]:
    return STAGES.get(stage, (stage, stage.capitalize()))


def first_sentence(thing: Any) -> str:
    text = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    return re.split(r"(?<=[a-z)`\"\]0-9])\.(?= [A-Z`])", text)[0].replace("``", "`").replace("|", "\\|")


def pages() -> dict[str, str]:
    """The API reference: a page per stage, and one that lists every name."""
    index = [
        "# API",
        "",
        "`import weightlapse as wl`; every name below is `wl.NAME`. Each is fetched from its module when it is first used.",
        "",
    ]
    made = {}
    for stage, names in by_stage().items():
        file, title = place(stage)
        index += [f"## [{title}]({file}.md)", "", "| name | |", "|---|---|"]
        index += [
            f"| [`{name}`]({file}.md#weightlapse.{name}) | {first_sentence(getattr(wl, name))} |" for name in names
        ]
        index += [""]
        made[f"api/{file}.md"] = "\n".join([f"# {title}", "", *(entry(name) for name in names)])
    return {"api/index.md": "\n".join(index)} | made


def entry(name: str) -> str:
    """The directive that mkdocstrings replaces by a name's signature, docstring and members."""
    if name not in wl._MODULES:
        return f"::: weightlapse.{name}\n"
    module = f"weightlapse.{wl._MODULES[name]}"
    intro = [f"## wl.{name} {{ #weightlapse.{name} }}", "", inspect.getdoc(getattr(wl, name)) or "", ""]
    shown = [
        f"::: {module}.{member}\n    options: {{ heading_level: 3, heading: {member}, members: false }}\n"
        for member, _ in members_of(getattr(wl, name))
    ]
    return "\n".join([*intro, *shown])


def members_of(thing: Any) -> Iterator[tuple[str, Any]]:
    """Public functions of a module, or public methods and properties of a class that are its own, by name."""
    if inspect.ismodule(thing):
        if "__all__" in vars(thing):  # modules that are imported when they are named
            yield from ((f"{m}.WatchCallback", None) for m in thing.__all__)
            return
        for name, value in vars(thing).items():
            if inspect.isfunction(value) and not name.startswith("_") and exported(thing, value):
                yield name, value
    elif inspect.isclass(thing):
        for name, value in vars(thing).items():
            if name.startswith("_"):
                continue
            if isinstance(value, property):
                yield name, value.fget
            elif isinstance(value, cached_property):
                yield name, value.func
            elif isinstance(value, (staticmethod, classmethod)):
                yield name, value.__func__
            elif inspect.isfunction(value):
                yield name, value


def exported(module: Any, function: Any) -> bool:
    """Whether a module's function is its own, or one that it hands on by name (``from x import f as f``)."""
    if function.__module__ == module.__name__:
        return True
    return re.search(rf"import {function.__name__} as {function.__name__}\b", inspect.getsource(module)) is not None


def undocumented() -> list[str]:
    """Public names, and public methods of public classes, that say nothing about themselves."""
    silent = []
    for name in wl.__all__:
        thing = getattr(wl, name)
        own = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
        if not own or own.startswith(f"{name}("):  # what a dataclass writes when nobody did
            silent.append(name)
        silent += [
            f"{name}.{member}" for member, value in members_of(thing) if value is not None and not inspect.getdoc(value)
        ]
    return silent


def command_line() -> str:
    """Every verb with its usage, words, arguments and options, asked of the program itself."""
    lines = ["# Command line", "", "`weightlapse VERB ...`, or `python -m weightlapse VERB ...`. Exit codes: 0 done, 1 the answer is \"no\" or the data is "
             "bad, 2 wrong usage. `--json` prints one JSON object on standard output and nothing else there.", "", "| verb | |", "|---|---|"]  # fmt: skip
    top = click.Context(program, info_name="weightlapse")
    lines += [f"| [`{verb}`](#{verb}) | {line} |" for verb, line in VERBS.items()]
    for verb in VERBS:
        command = program.get_command(top, verb)
        assert command is not None
        with click.Context(command, info_name=verb, parent=top) as ctx:
            usage = " ".join(command.get_usage(ctx).split()).removeprefix("Usage: ")
            lines += [
                "",
                f"## {verb} {{ #{verb} }}",
                "",
                "```",
                usage,
                "```",
                "",
                prose(command.help or VERBS[verb]),
                "",
            ]
            lines += ["| option | |", "|---|---|"]
            for parameter in command.get_params(ctx):
                if record := parameter.get_help_record(ctx):
                    flags, text = (part.replace("|", "\\|").replace("<", "&lt;") for part in record)
                    lines.append(f"| `{flags}` | {text} |")
    return "\n".join(lines) + "\n"


def prose(text: str) -> str:
    """A verb's help as Markdown: paragraphs that click was told to leave alone stay as they are."""
    parts = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        plain = paragraph.startswith("\b")
        parts.append("```\n" + paragraph.lstrip("\b\n") + "\n```" if plain else paragraph)
    return "\n\n".join(parts)
