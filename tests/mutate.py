"""Mutation testing of the files that decide: each small change to one of them must fail a test of its own.

    python -m tests.mutate [FILE ...] [--minutes 10] [--most 60] [--seed 0] [--lines A:B]

For each file the named tests run once, traced: which test reaches which line. Then mutants are drawn (comparisons swapped, constants moved by one, conditions
turned round, operators exchanged, statements left out), and each meets the tests that reach its line, those of the first file first, in a process forked from one that
has imported the libraries already. What no test fails on is printed with its line and its change, and the exit status says whether there was one that nobody has
looked at: ``tests/mutants/`` lists those that were, a file for each room, with the reason why nothing can tell them from the original.

Why no ready tool: mutmut 3 leaves out what this package decides with (constants of modules, decorated functions, so every compiled kernel and every cached
property); cosmic-ray starts an interpreter for every mutant, and here an import of the libraries costs more than most tests.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import difflib
import importlib.abc
import importlib.util
import io
import itertools
import json
import os
import random
import resource
import select
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOOKED_AT = Path(__file__).resolve().parent / "mutants"

CODECS = "test_codec_decisions test_format_table test_format_numbers"
MATCH = "test_match_decisions test_symmetry_match"
SYMMETRY = "test_symmetry_decisions test_symmetry_fold"
DIMS = "test_wiring_decisions test_wiring_case_decisions test_wiring_rule_decisions"
GAUGES = "test_wiring_gauge_decisions"
RULES = "test_wiring_role_decisions test_wiring_rule_decisions"
CLAIMS = "test_wiring_claim_decisions"
MOVES = "test_wiring_move_decisions"
CELLS = "test_growth_cells test_growth_decisions"
#: file below weightlapse/ -> files of tests, those beside it first. Not the slowest: a mutant costs a run of them.
TARGETS = {
    **{f"store/codecs/{name}.py": CODECS for name in "predict patterns grid classes cutting form encode".split()},
    "store/codecs/entropy.py": "test_codec_decisions test_codec_refusals",
    "store/codecs/few.py": "test_codec_few test_codec_refusals",
    "store/codecs/decode.py": "test_codec_reading test_codec_pages test_codec_refusals test_codec_kernels",
    **{f"store/codecs/{name}.py": "test_codec_kernels" for name in "inverse unpack kernels".split()},
    "store/codecs/straight.py": "test_codec_rows",
    "store/codecs/decode_kernels.py": "test_codec_kernels test_codec_rows",
    "symmetry/match.py": MATCH,
    "symmetry/search.py": f"test_search_decisions test_symmetry_parts {MATCH}",
    "symmetry/elements.py": f"test_symmetry_decisions test_wiring_placement {MATCH}",
    **{f"symmetry/{name}.py": MATCH for name in "assign units nesting".split()},
    **{f"symmetry/{name}.py": "test_symmetry_parts" for name in "scale activations".split()},
    "symmetry/fold.py": "test_symmetry_fold",
    **{f"symmetry/{name}.py": SYMMETRY for name in "choose judge solvers checks problem widths".split()},
    "wiring/dims.py": DIMS,
    "wiring/groups.py": f"test_wiring_group_decisions {GAUGES}",
    **{f"wiring/{name}.py": GAUGES for name in "symmetries gauges homogeneity".split()},
    "wiring/products.py": f"test_wiring_product_decisions {GAUGES}",
    **{f"wiring/rules/{name}.py": RULES for name in "indexing linear norm opaque shape table".split()},
    "wiring/verify.py": f"{MOVES} {CLAIMS}",
    **{f"wiring/{name}.py": CLAIMS for name in ("complete", "experts", "lone_heads", "routes", "trials")},
    "wiring/equations.py": "test_wiring_equation_decisions",
    "wiring/infer.py": f"{RULES} {CLAIMS}",
    **{f"wiring/{name}.py": MOVES for name in "apply placement change".split()},
    **{f"wiring/{name}.py": f"test_wiring_product_decisions {MOVES}" for name in ("query_forms", "tensors")},
    **{f"wiring/{name}.py": "test_wiring_spec_decisions test_wiring_spec" for name in ("spec", "members")},
    "wiring/naming.py": "test_wiring_naming",
    **{f"growth/{name}.py": CELLS for name in "cells arrays families tensors".split()},
    **{f"growth/{name}.py": "test_growth_decisions" for name in "widen surplus narrow deepen".split()},
}  # fmt: skip

_COMPARED: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_OPERATED: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.Mod: ast.Mult,
}  # fmt: skip
_CALLED = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "minimum": "maximum",
    "maximum": "minimum",
    "argmin": "argmax",
    "argmax": "argmin",
}


@dataclass(frozen=True)
class Mutant:
    """One change: the text between two places of the source becomes another."""

    file: str
    line: int
    start: int
    stop: int
    text: str

    def source(self, original: str) -> str:
        """The whole file with the change."""
        data = original.encode()
        return (data[: self.start] + self.text.encode() + data[self.stop :]).decode()

    def diff(self, original: str) -> list[str]:
        """The lines that differ, with - and +."""
        lines = difflib.unified_diff(original.splitlines(), self.source(original).splitlines(), n=0, lineterm="")
        return [line for line in lines if line[:1] in "-+" and line[:3] not in ("---", "+++")]

    def key(self, original: str) -> str:
        """What it is called in the list of those that were looked at: stays when lines above are added."""
        return f"{self.file}: " + " ".join(" ".join(line.split()) for line in self.diff(original))


def mutants(file: str, source: str) -> list[Mutant]:
    """Every mutant of a source, in the order of its lines. What only words an error, types and docstrings are left alone."""
    tree = ast.parse(source)
    offsets = [0]
    for line in source.encode().splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))
    found: dict[tuple[int, int, str], Mutant] = {}

    def change(node: Any, new: ast.AST | str) -> None:
        start, stop = offsets[node.lineno - 1] + node.col_offset, offsets[node.end_lineno - 1] + node.end_col_offset
        text = (
            new if isinstance(new, str) else f"({ast.unparse(new)})" if isinstance(new, ast.expr) else ast.unparse(new)
        )
        mutant = Mutant(file, node.lineno, start, stop, text)
        with contextlib.suppress(SyntaxError):
            ast.parse(mutant.source(source))
            found[start, stop, text] = mutant

    for node in _deciding(tree):
        for new in _changes(node):
            change(node, new)
        if isinstance(node, ast.If) and not isinstance(node.test, (ast.Compare, ast.BoolOp, ast.UnaryOp)):
            change(node.test, ast.UnaryOp(ast.Not(), node.test))
    return sorted(found.values(), key=lambda m: (m.line, m.start, m.text))


def _deciding(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that decide something."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list", "exc", "cause", "msg", "args") and not isinstance(
            tree, ast.Call
        ):
            continue
        for node in value if isinstance(value, list) else [value]:
            if not isinstance(node, ast.AST) or isinstance(
                node, (ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Assert)
            ):
                continue
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                continue
            yield node
            yield from _deciding(node)


def _changes(node: ast.AST) -> Iterator[ast.AST | str]:
    if isinstance(node, ast.Compare):
        for k, op in enumerate(node.ops):
            new = copy.deepcopy(node)
            new.ops[k] = _COMPARED[type(op)]()
            yield new
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATED:
        new_op = copy.deepcopy(node)
        new_op.op = _OPERATED[type(node.op)]()
        yield new_op
    elif isinstance(node, ast.BoolOp):
        turned = copy.deepcopy(node)
        turned.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield turned
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield node.operand
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield ast.Constant(not node.value)
        elif isinstance(node.value, int):
            yield ast.Constant(node.value + 1)
            yield ast.UnaryOp(ast.USub(), ast.Constant(1)) if node.value == 0 else ast.Constant(node.value - 1)
        elif isinstance(node.value, float):
            yield ast.Constant(node.value * 2 if node.value else 1.0)
    elif isinstance(node, ast.Call):
        name = (
            node.func.id
            if isinstance(node.func, ast.Name)
            else node.func.attr
            if isinstance(node.func, ast.Attribute)
            else ""
        )
        if name in _CALLED:
            called = copy.deepcopy(node)
            if isinstance(called.func, ast.Name):
                called.func.id = _CALLED[name]
            elif isinstance(called.func, ast.Attribute):
                called.func.attr = _CALLED[name]
            yield called
    elif isinstance(node, ast.IfExp) and not isinstance(node.test, (ast.Compare, ast.BoolOp, ast.UnaryOp)):
        turned_if = copy.deepcopy(node)
        turned_if.body, turned_if.orelse = turned_if.orelse, turned_if.body
        yield turned_if
    if (
        isinstance(node, ast.Expr) and not isinstance(node.value, (ast.Constant, ast.Yield, ast.YieldFrom))
    ) or isinstance(node, (ast.AugAssign, ast.Raise)):
        yield "pass"
    elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield "return None"
    elif isinstance(node, ast.Continue):
        yield "break"
    elif isinstance(node, ast.Break):
        yield "continue"


# ---- running --------------------------------------------------------------------------------------------------------------


class _Mutated(importlib.abc.MetaPathFinder):
    """Gives the changed source in the place of one module. It has a file of its own, so that nothing compiled and kept before is taken for it."""

    def __init__(self, module: str, path: Path) -> None:
        self.module, self.path = module, path

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return importlib.util.spec_from_file_location(name, self.path) if name == self.module else None


class _Reach:
    """A plugin of pytest: which tests reach which lines of one file, and how long they take."""

    def __init__(self, path: Path) -> None:
        self.path, self.now = str(path), ""
        self.compiled = {
            d.lineno for node in _compiled(ast.parse(path.read_text("utf-8"))) for d in node.decorator_list
        }
        self.lines: dict[int, set[str]] = {}
        self.seconds: dict[str, float] = {}

    def trace(self, frame: Any, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != self.path or frame.f_code.co_firstlineno in self.compiled:
            return None
        self.lines.setdefault(frame.f_lineno, set()).add(self.now)
        return self.trace

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.now = nodeid

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.now = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration


def _pytest(args: Sequence[str], plugins: Sequence[Any] = ()) -> int:
    import pytest

    fixed = [
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "--no-header",
        "--tb=line",
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",
    ]
    return int(pytest.main([*fixed, *args], plugins=list(plugins)))


def _quiet(to: int) -> None:
    for stream in (1, 2):
        os.dup2(to, stream)


def _forked(work: Any, seconds: float) -> tuple[int | None, str]:
    """What ``work()`` wrote, done in a process of its own, and its exit status; None when it took longer."""
    read, write = os.pipe()
    with tempfile.TemporaryFile("w+") as noise:
        child = os.fork()
        if child == 0:
            status = 70
            try:
                os.setsid()
                os.close(read)
                _quiet(noise.fileno())
                resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
                status = work(write)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
            finally:
                os._exit(status)
        os.close(write)
        told = io.BytesIO()
        deadline = time.monotonic() + 4 * seconds  # the wall clock is others' as well
        done = False
        while time.monotonic() < deadline:
            ready, _, _ = select.select([read], [], [], 1.0)
            if ready:
                part = os.read(read, 1 << 16)
                if not part:
                    done = True
                    break
                told.write(part)
        os.close(read)
        if not done:
            os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        noise.seek(0)
        text = told.getvalue().decode() or noise.read()[-3000:]
        return (os.waitstatus_to_exitcode(status) if done else None), text


def reached(file: str, tests: Sequence[str], seconds: float) -> tuple[dict[int, set[str]], dict[str, float]]:
    """By line the tests that reach it (of what is done at import and of compiled functions: all of them), and what each costs."""
    path = ROOT / "weightlapse" / file

    def work(write: int) -> int:
        reach = _Reach(path)
        sys.settrace(reach.trace)
        status = _pytest(tests, [reach])
        sys.settrace(None)
        if status == 0:
            lines = {line: sorted(names) for line, names in reach.lines.items()}
            os.write(write, json.dumps([lines, reach.seconds]).encode())
        return status

    status, told = _forked(work, seconds)
    if status != 0:
        raise SystemExit(f"the tests of {file} do not pass as it stands ({status}):\n{told}")
    lines, costs = json.loads(told)
    return {int(line): set(names) for line, names in lines.items()}, costs


def _name(file: str) -> str:
    return "weightlapse." + file.removesuffix(".py").replace("/", ".")


def survives(mutant: Mutant, source: str, tests: Sequence[str], seconds: float) -> bool | None:
    """Whether every test passes with the change; None when they take more than ``seconds`` of processor time (a change that was noticed)."""
    module = _name(mutant.file)

    def work(_: int) -> int:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(mutant.file).name
            path.write_text(mutant.source(source), encoding="utf-8")
            sys.meta_path.insert(0, _Mutated(module, path))
            for _, ids in itertools.groupby(tests, key=lambda name: name.partition("::")[0]):  # a file at a time
                if status := _pytest(list(ids)):
                    return status
            return 0

    status, told = _forked(work, seconds)
    if status in (5, 70):
        raise SystemExit(f"no test ran for {mutant}: {told}")
    # 2 to 4: the module, or a test that imports it, cannot even be read
    return None if status is None or status < 0 else status == 0


def session(
    file: str, until: float, most: int, seed: int, lines: range | None, known: set[str]
) -> tuple[int, list[Mutant], int]:
    """(mutants tried, those that survive and are not among the known ones, known survivors) of one file."""
    source = (ROOT / "weightlapse" / file).read_text(encoding="utf-8")
    tests = [f"tests/{name}.py" for name in TARGETS[file].split()]
    if missing := [test for test in tests if not (ROOT / test).exists()]:
        raise SystemExit(f"{file} is said to be held by {', '.join(missing)}, which is not there")
    start = time.monotonic()
    reach, costs = reached(file, tests, 600)
    every = [m for m in mutants(file, source) if lines is None or m.line in lines]
    drawn = random.Random(seed).sample(every, min(most, len(every)))
    compiled, order = _whole(source), {test: k for k, test in enumerate(tests)}
    print(
        f"{file}: {len(every)} mutants, {len(drawn)} drawn, {len(costs)} tests ({time.monotonic() - start:.0f} s)",
        flush=True,
    )
    tried, alive, looked = 0, [], 0
    for mutant in sorted(drawn, key=lambda m: m.start):
        if time.monotonic() > until:
            print(f"  the time is over after {tried} of them", flush=True)
            break
        tried += 1
        names = (
            set(costs)
            if mutant.line in compiled or "" in reach.get(mutant.line, ())
            else reach.get(mutant.line, set()) - {""}
        )
        chosen = sorted(names, key=lambda name: (order[name.partition("::")[0]], costs[name]))
        if chosen and survives(mutant, source, chosen, 20 + sum(costs[n] for n in chosen)) is not True:
            continue
        if mutant.key(source) in known:
            looked += 1
            continue
        alive.append(mutant)
        what = "" if chosen else " (no test reaches it)"
        print(f"  weightlapse/{file}:{mutant.line} survives{what}", *mutant.diff(source), sep="\n      ", flush=True)
    print(f"{file}: {len(alive)} of {tried} survive, {looked} besides that were looked at", flush=True)
    return tried, alive, looked


def _compiled(tree: ast.AST) -> list[ast.FunctionDef]:
    """The functions that are compiled: they meet every test, and where a test runs them uncompiled, a trace would only take its time."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return [node for node in functions if any(ast.unparse(d) == "_compiled" for d in node.decorator_list)]


def _whole(source: str) -> set[int]:
    """Lines that a trace does not tell of: those outside of functions, which are done at the import, and those of compiled functions."""
    every = set(range(1, source.count("\n") + 2))
    inside: set[int] = set()
    tree = ast.parse(source)
    compiled = _compiled(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node not in compiled:
            inside |= set(range(node.body[0].lineno, (node.end_lineno or node.lineno) + 1))
    return every - inside


def looked_at() -> set[str]:
    """The mutants that somebody has looked at, by their keys."""
    lines = [line for file in sorted(LOOKED_AT.glob("*.txt")) for line in file.read_text(encoding="utf-8").splitlines()]
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make mutate", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("files", nargs="*", help="below weightlapse/; all that are named by default")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--most", type=int, default=60, help="mutants of each file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lines", default="", help="A:B")
    chosen = parser.parse_args(arguments)
    files = [f.removeprefix("weightlapse/") for f in chosen.files] or list(TARGETS)
    if unknown := [f for f in files if f not in TARGETS]:
        parser.error(f"no tests are named for {', '.join(unknown)}: choose from {', '.join(TARGETS)}")
    lines = range(*(int(n) for n in chosen.lines.split(":"))) if chosen.lines else None
    os.chdir(ROOT)
    os.environ |= {"OMP_NUM_THREADS": "1", "WEIGHTLAPSE_STRICT": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    sys.path.insert(0, str(ROOT))
    for name in (
        "numpy",
        "numba",
        "scipy.optimize",
        "torch",
        "pcodec",
        "pytest",
        "hypothesis.extra.numpy",
    ):  # before the fork, so once for all
        importlib.import_module(name)
    settings = importlib.import_module("hypothesis").settings
    settings.register_profile("mutate", derandomize=True, database=None)
    settings.load_profile("mutate")
    until, known = time.monotonic() + 60 * chosen.minutes, looked_at()
    tried, alive, looked = 0, 0, 0
    for file in files:
        if time.monotonic() < until:
            of_file = session(file, until, chosen.most, chosen.seed, lines, known)
            tried, alive, looked = tried + of_file[0], alive + len(of_file[1]), looked + of_file[2]
        else:
            print(f"{file}: no time left")
    print(
        f"{alive} of {tried} mutants survive ({100 * alive / max(tried, 1):.1f} %), {looked} besides that were looked at"
    )
    return 1 if alive or not tried else 0


if __name__ == "__main__":
    sys.exit(main())
