"""Run the figures of `figures.toml` and print asked beside measured: `python -m bench.figures
[ID...] [--json]`.

An ID is a row's id or the part before one of its dots (`relu` is all of `relu.*`). Each distinct
command runs once. The exit status is 1 when a figure is missed, absent, or its command failed.
"""

import json
import operator
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.command import command_line
from bench.machine import ROOT
from bench.schema import SchemaError, check_row

TABLE = Path(__file__).with_name("figures.toml")
TIMEOUT_SECONDS = 3600

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
    "report": lambda measured, _bound: True,
}


@dataclass(frozen=True)
class Figure:
    """One row of the table: what is asked, and the command that measures it."""

    id: str
    command: str
    key: str
    comparison: str
    unit: str
    machine: str
    issue: int
    bound: float | None = None

    def __post_init__(self) -> None:
        if self.comparison not in COMPARISONS:
            known = ", ".join(COMPARISONS)
            raise ValueError(f"figure {self.id}: {self.comparison!r} is not one of {known}")
        if (self.bound is None) != (self.comparison == "report"):
            raise ValueError(f"figure {self.id}: a bound is needed, except with `report`")

    @property
    def asked(self) -> str:
        """The bound as text."""
        return "report" if self.bound is None else f"{self.comparison} {self.bound:,}"


@dataclass(frozen=True)
class Result:
    """A figure with what was measured; `fault` says why there is no number."""

    figure: Figure
    measured: float | None
    fault: str = ""

    @property
    def met(self) -> bool:
        """Whether the measured number keeps the bound."""
        holds = COMPARISONS[self.figure.comparison]
        return self.measured is not None and holds(self.measured, self.figure.bound)

    @property
    def verdict(self) -> str:
        """The verdict as one word, or the fault."""
        if self.fault:
            return self.fault
        return ("reported" if self.figure.bound is None else "met") if self.met else "MISSED"


def read_table(path: Path = TABLE) -> list[Figure]:
    """All rows of a table, with ids that occur once."""
    figures = [Figure(**entry) for entry in tomllib.loads(path.read_text())["figure"]]
    ids = [figure.id for figure in figures]
    if repeated := sorted({name for name in ids if ids.count(name) > 1}):
        raise ValueError(f"{path.name}: these ids occur twice: {', '.join(repeated)}")
    return figures


def select(figures: Sequence[Figure], ids: Sequence[str]) -> list[Figure]:
    """The rows named by `ids`, in the table's order; all rows when there are none."""
    names = [figure.id for figure in figures]
    for wanted in ids:
        if not any(f"{name}.".startswith(f"{wanted}.") for name in names):
            raise ValueError(f"no figure '{wanted}'; there are {', '.join(names)}")
    starts = tuple(f"{wanted}." for wanted in ids)
    return [figure for figure in figures if not ids or f"{figure.id}.".startswith(starts)]


def last_json_object(text: str) -> dict[str, Any] | None:
    """The last top-level JSON object in a text that may hold anything else before it."""
    decoder, found, at = json.JSONDecoder(), None, text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            end = at + 1
        else:
            found = value
        at = text.find("{", end)
    return found


def look_up(output: dict[str, Any], key: str) -> float:
    """The number at a dotted path."""
    value: Any = output
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise KeyError(key)
        value = value[part]
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise TypeError(f"'{key}' is {value!r}, not a number")
    return value


def run_command(command: str) -> tuple[dict[str, Any] | None, str]:
    """The JSON object a command prints, or none and why."""
    gpumpc = str(Path(sys.executable).with_name("gpumpc"))
    programs = {"{python}": sys.executable, "{gpumpc}": gpumpc}
    words = [programs.get(word, word) for word in shlex.split(command)]
    try:
        done = subprocess.run(
            words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False, timeout=TIMEOUT_SECONDS
        )
    except OSError as error:
        return None, f"cannot start: {error.strerror}: {words[0]}"
    except subprocess.TimeoutExpired:
        return None, f"no end after {TIMEOUT_SECONDS} s"
    output = last_json_object(done.stdout)
    if done.returncode != 0:
        return None, f"exit status {done.returncode}"
    if output is None:
        return None, "no JSON object on stdout"
    try:
        check_row(output)
    except SchemaError as error:
        return None, f"off the schema: {error}"
    return output, ""


def measure(
    figures: Sequence[Figure], run: Callable[[str], tuple[dict[str, Any] | None, str]]
) -> list[Result]:
    """Run each distinct command once and judge every row."""
    outputs: dict[str, tuple[dict[str, Any] | None, str]] = {}
    results = []
    for figure in figures:
        if figure.command not in outputs:
            print(f"$ {figure.command}", file=sys.stderr, flush=True)
            outputs[figure.command] = run(figure.command)
        output, fault = outputs[figure.command]
        if output is None:
            results.append(Result(figure, None, fault))
            continue
        try:
            results.append(Result(figure, look_up(output, figure.key)))
        except KeyError:
            results.append(Result(figure, None, f"no key '{figure.key}' in the output"))
        except TypeError as error:
            results.append(Result(figure, None, str(error)))
    return results


def print_table(results: Sequence[Result]) -> None:
    """Asked beside measured beside verdict."""
    table = Table(title="Figures: asked beside measured")
    for title in ("id", "asked", "measured", "unit", "machine", "issue", "verdict"):
        side: Any = "right" if title in ("asked", "measured") else "left"
        table.add_column(title, justify=side, overflow="fold")
    for result in results:
        figure = result.figure
        measured = "" if result.measured is None else f"{result.measured:,}"
        cells = (figure.id, figure.asked, measured, figure.unit, figure.machine, str(figure.issue))
        table.add_row(*cells, result.verdict, style="" if result.met else "bold red")
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, print; 0 when every figure is met."""
    parser = command_line("figures", "Measure the figures issues ask for.")
    known = "a row's id, or the part before a dot; all when absent"
    parser.add_argument("ids", nargs="*", metavar="ID", help=known)
    options = parser.parse_args(arguments)
    try:
        figures = select(read_table(), options.ids)
    except ValueError as error:
        parser.error(str(error))
    results = measure(figures, run_command)
    if options.json:
        rows = [
            {**asdict(r.figure), "measured": r.measured, "met": r.met, "verdict": r.verdict}
            for r in results
        ]
        print(json.dumps({"all_met": all(r.met for r in results), "figures": rows}, indent=1))
    else:
        print_table(results)
    return int(not all(r.met for r in results))


if __name__ == "__main__":
    sys.exit(main())
