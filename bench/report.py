"""Turns measurements into tables: a pure function of the raw run, so an old run can be reported again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from measurements import median
from rows import OURS, ROWS, STDLIB, Figure, Row, rust_figure

_SHORT = {
    "wrong": "WRONG",
    "hangs": "hangs",
    "slow": "too slow",
    "unsupported": "n/a",
    "missing": "not installed",
    "error": "error",
    "died": "died",
}
NOT_MEASURED = "–"


def _library(contestant: str) -> str:
    return contestant.partition(":")[0]


def number(value: float) -> str:
    """Three significant digits, thousands apart."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        digits = len(str(int(abs(value))))
        return f"{round(value, 3 - digits):,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    if abs(value) >= 0.995:
        return f"{value:.2f}"
    return f"{value:.3g}"


def times(ratio: float) -> str:
    """A ratio as it is printed."""
    return "∞" if ratio == float("inf") else f"{number(ratio)} ×"


@dataclass(frozen=True)
class Cell:
    """What all rounds together say about one figure of one contestant."""

    by_round: Mapping[int, float]
    trouble: str | None
    """Why there is no number, in a word or two."""
    detail: str = ""

    @property
    def value(self) -> float | None:
        return median(list(self.by_round.values())) if self.by_round and self.trouble is None else None

    def text(self, unit: str, with_range: bool = True) -> str:
        if self.trouble is not None:
            return self.trouble
        if self.value is None:
            return NOT_MEASURED
        text = f"{number(self.value)} {unit}"
        least, most = min(self.by_round.values()), max(self.by_round.values())
        if with_range and len(self.by_round) > 1 and number(least) != number(most):
            text += f" ({number(least)}–{number(most)})"
        return text


class Results:
    """The measurements of a run, by row, contestant and figure."""

    def __init__(self, run: Mapping[str, Any]) -> None:
        self.run = run
        self._measurements: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for measurement in run["measurements"]:
            key = (measurement["row"], measurement["contestant"])
            self._measurements.setdefault(key, []).append(measurement)

    def of(self, row: Row, contestant: str) -> list[Mapping[str, Any]]:
        return self._measurements.get((row.name, contestant), [])

    def contestants(self, row: Row) -> list[str]:
        return [contestant for contestant in row.contestants if self.of(row, contestant)]

    def cell(self, row: Row, contestant: str, figure: Figure) -> Cell:
        by_round: dict[int, float] = {}
        trouble: str | None = None
        detail = ""
        for measurement in self.of(row, contestant):
            if measurement["end"] == "wrong":
                return Cell({}, _SHORT["wrong"], measurement["detail"])
            found = measurement["figures"].get(figure.key)
            if found is None:
                if measurement["end"] != "done":
                    trouble, detail = _SHORT[measurement["end"]], measurement["detail"]
            elif found["value"] is None:
                trouble, detail = found["status"], found.get("detail", "")
            else:
                by_round[measurement["round"]] = found["value"]
        if trouble is not None and by_round:
            # A figure that comes in some rounds only is worse than none: say so rather than report the lucky ones.
            failed = len(self.of(row, contestant)) - len(by_round)
            trouble = f"{trouble} ({failed} of {len(self.of(row, contestant))} rounds)"
        return Cell(by_round, trouble, detail)

    def ratio(self, row: Row, figure: Figure, contestant: str, other: str) -> list[float]:
        """How many times better the contestant is than the other, in each round that has both."""
        ours, theirs = self.cell(row, contestant, figure), self.cell(row, other, figure)
        if ours.value is None or theirs.value is None:
            return []
        rounds = [number for number in ours.by_round if number in theirs.by_round]
        return [better(ours.by_round[number], theirs.by_round[number], figure) for number in rounds]


def better(value: float, than: float, figure: Figure) -> float:
    """How many times better a value is: above 1 is better, whichever direction that is."""
    if figure.higher_is_better:
        value, than = than, value
    return than / value if value else (1.0 if not than else float("inf"))


def stdlib_counterpart(row: Row, contestant: str) -> str | None:
    """The ``multiprocessing`` contestant of the same start method, else the row's first."""
    method = contestant.partition(":")[2]
    same = f"{STDLIB}:{method}"
    if same in row.contestants:
        return same
    return next((name for name in row.contestants if _library(name) == STDLIB), None)


def headline_contestant(row: Row) -> str:
    return next(name for name in row.contestants if _library(name) == OURS)


@dataclass(frozen=True)
class Verdict:
    figure: Figure
    ours: Cell
    stdlib: Cell | None
    ratios: list[float]
    outcome: str
    best_other: str
    best_other_ratio: str


def verdict(results: Results, row: Row, figure: Figure, ours: str) -> Verdict:
    """Compares one figure of ours with the standard library, with the target, and with the best of the others."""
    cell = results.cell(row, ours, figure)
    counterpart = stdlib_counterpart(row, ours)
    stdlib = results.cell(row, counterpart, figure) if counterpart and results.of(row, counterpart) else None
    ratios = results.ratio(row, figure, ours, counterpart) if counterpart else []
    reach = figure.reach
    if reach is None:
        outcome = ""
    elif cell.value is None:
        outcome = "missed" if cell.trouble else NOT_MEASURED
    elif reach.at_most is not None:
        outcome = "reached" if cell.value <= reach.at_most else "missed"
    elif ratios:
        outcome = "reached" if median(ratios) >= (reach.ratio or 0) else "missed"
    else:
        outcome = NOT_MEASURED

    best_name, best_ratio = NOT_MEASURED, NOT_MEASURED
    others: list[tuple[float, str]] = []
    for name in results.contestants(row):
        value = results.cell(row, name, figure).value
        if _library(name) in (OURS, STDLIB) or value is None:
            continue
        required = next((other for other in row.figures if other.key == figure.only_with), None)
        if required is None or results.cell(row, name, required).value is not None:
            others.append((value, name))
    if others:
        value, best_name = (max if figure.higher_is_better else min)(others)
        pairs = results.ratio(row, figure, ours, best_name)
        best_name = f"{best_name} {number(value)}"
        if pairs:
            best_ratio = times(median(pairs))
    return Verdict(figure, cell, stdlib, ratios, outcome, best_name, best_ratio)


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up in a terminal."""
    cells = [list(header), *(list(line) for line in lines)]
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in cells]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |"
        for line in [cells[0], rule, *cells[1:]]
    )


def _spread(ratios: Sequence[float]) -> str:
    if not ratios:
        return NOT_MEASURED
    text = times(median(ratios))
    if len(ratios) > 1:
        text += f" ({number(min(ratios))}–{number(max(ratios))})"
    return text


def targets_table(results: Results, method: str | None = None) -> str:
    """Ours against the standard library and the targets; ``method`` picks another start method than each row's first."""
    lines: list[Sequence[str]] = []
    for row in ROWS:
        ours = headline_contestant(row) if method is None else f"{OURS}:{method}"
        if not results.of(row, ours) or (method is not None and ours == headline_contestant(row)):
            continue
        for figure in row.figures:
            if figure.context:
                continue
            found = verdict(results, row, figure, ours)
            lines.append(
                (
                    figure.title,
                    found.ours.text(figure.unit, with_range=False),
                    found.stdlib.text(figure.unit, with_range=False) if found.stdlib else NOT_MEASURED,
                    _spread(found.ratios),
                    str(figure.reach) if figure.reach else "",
                    found.outcome,
                    found.best_other,
                    found.best_other_ratio,
                )
            )
    if method is None:
        lines.extend(_rust_lines(results.run))
    if not lines:
        return ""
    return table(
        (
            "measure (2 workers)",
            "procession",
            "multiprocessing",
            "times better",
            "reach",
            "",
            "best of the others",
            "times better",
        ),
        lines,
    )


_FRONT_PAGE = {
    "apply-async": ("rate",),
    "map-one": ("rate",),
    "map-default": ("rate",),
    "round-trip": ("tight", "apart"),
    "array-both-ways": ("steady",),
    "start-fork": ("again",),
    "killed-worker": ("error",),
    "queued-memory": ("bytes_per_task",),
}


def front_page_table(run: Mapping[str, Any]) -> str:
    """The few rows that say most, for a page that has room for a few."""
    results = Results(run)
    lines = []
    for row in ROWS:
        for figure in row.figures:
            if figure.key in _FRONT_PAGE.get(row.name, ()):
                found = verdict(results, row, figure, headline_contestant(row))
                stdlib = found.stdlib.text(figure.unit, with_range=False) if found.stdlib else NOT_MEASURED
                ratio = times(median(found.ratios)) if found.ratios else ""
                lines.append((figure.title, stdlib, found.ours.text(figure.unit, with_range=False), ratio))
    return table(("measure, 2 workers", "`multiprocessing`", "Procession", "ratio"), lines)


def _rust_lines(run: Mapping[str, Any]) -> list[Sequence[str]]:
    by_name: dict[str, list[float]] = {}
    for line in run.get("rust", {}).get("lines", []):
        by_name.setdefault(line["name"], []).append(line["per_second"])
    lines: list[Sequence[str]] = []
    for name, rates in by_name.items():
        figure = rust_figure(name)
        value = median(rates)
        lines.append(
            (
                f"{figure.title} ({name})" if figure else f"Rust: {name}",
                f"{number(value)} /s",
                "",
                "",
                f"≥ {number(figure.at_least_per_second)} /s" if figure else "",
                "" if figure is None else "reached" if value >= figure.at_least_per_second else "missed",
                "",
                "",
            )
        )
    return lines


def row_table(results: Results, row: Row) -> str:
    """All contestants of a row, each beside the standard library under the same start method."""
    lines = []
    for contestant in results.contestants(row):
        line = [contestant]
        counterpart = stdlib_counterpart(row, contestant)
        for figure in row.figures:
            text = results.cell(row, contestant, figure).text(figure.unit)
            if counterpart and counterpart != contestant and not figure.context:
                ratios = results.ratio(row, figure, contestant, counterpart)
                if ratios:
                    text += f" [{times(median(ratios))}]"
            line.append(text)
        lines.append(line)
    return table(("", *(figure.title for figure in row.figures)), lines)


def notes(results: Results, row: Row) -> list[str]:
    """Why contestants of a row have no number, and what errors they raised."""
    texts: list[str] = []
    for contestant in results.contestants(row):
        seen: set[str] = set()
        for measurement in results.of(row, contestant):
            if measurement["detail"] and measurement["end"] != "missing":
                seen.add(f"{_SHORT.get(measurement['end'], measurement['end'])}: {measurement['detail']}")
            for key, found in measurement["figures"].items():
                words = [found[name] for name in ("detail", "error") if found.get(name)]
                if words:
                    seen.add(f"{key}: " + "; ".join(words))
        # Messages differ by pid from round to round; one of a kind is enough.
        shortest: dict[str, str] = {}
        for text in sorted(seen):
            shortest.setdefault("".join(letter for letter in text if not letter.isdigit()), text)
        texts.extend(f"{contestant}: {' '.join(text.split())}" for text in shortest.values())
    smaller = {
        contestant: row.smaller[_library(contestant)]
        for contestant in results.contestants(row)
        if _library(contestant) in row.smaller
    }
    if smaller and not results.run["options"]["quick"]:
        parts = (
            f"{name} with {', '.join(f'{key} = {value:,}' for key, value in parameters.items())}"
            for name, parameters in smaller.items()
        )
        texts.append("smaller runs: " + "; ".join(parts))
    return texts


def machine_table(run: Mapping[str, Any]) -> str:
    """The machine and versions of a run."""
    found = run["environment"]
    libraries = {name: version for name, version in found["libraries"].items() if version}
    missing = [name for name, version in found["libraries"].items() if not version]
    probes = run["processor_probe_ms"]
    lines = [
        ("date, commit", f"{found['date']}, {found['commit']}"),
        (
            "processor",
            f"{found['cpu']} ({found['architecture']}{', virtual machine' if found['virtual'] else ''}), "
            f"{found['cpus_usable']} CPUs usable",
        ),
        ("memory", f"{found['memory_gib']} GiB"),
        ("system", f"Linux {found['kernel']}, {found['libc']}"),
        ("Python", found["python"]),
        ("libraries", ", ".join(f"{name} {version}" for name, version in libraries.items())),
        ("rounds", f"{run['options']['rounds']} ({run['options']['rival_rounds']} for the other libraries)"),
        (
            "steadiness",
            f"a fixed loop took {number(min(probes))}–{number(max(probes))} ms; "
            f"{number(run['stolen_percent'])} % of CPU time went to other guests; "
            f"load average {run['load_average_before']} before, {run['load_average_after']} after",
        ),
    ]
    if missing:
        lines.insert(6, ("not installed", ", ".join(missing)))
    return table(("", ""), lines)


def markdown(run: Mapping[str, Any]) -> str:
    """The whole report."""
    results = Results(run)
    parts = [
        "# procession and its rivals, measured",
        "Written by `bench/run.py`; do not edit. How to read it: [README.md](README.md).",
        machine_table(run),
    ]
    parts.extend(f"**Beware:** {complaint}." for complaint in run["complaints"])
    targets = targets_table(results)
    if targets:
        parts += ["## Against the standard library, and the targets", targets]
        for method in ("forkserver", "spawn"):
            other = targets_table(results, method)
            if other:
                parts += [f"### The same under `{method}`", other]
    parts.append("## Every contestant")
    parts.append("In brackets: how many times better than `multiprocessing` under the same start method.")
    for row in ROWS:
        if results.contestants(row):
            parts += [f"### {row.title}", row_table(results, row)]
            parts.append("\n".join(f"- {note}" for note in notes(results, row)))
    if run.get("rust", {}).get("note"):
        parts.append(f"Rust example: {run['rust']['note']}.")
    return "\n\n".join(part for part in parts if part) + "\n"


def terminal(run: Mapping[str, Any]) -> str:
    """What a run prints at its end."""
    results = Results(run)
    targets = targets_table(results)
    if targets:
        return "\n\n".join([targets, *(f"Beware: {complaint}." for complaint in run["complaints"])])
    return "\n\n".join(f"{row.title}\n{row_table(results, row)}" for row in ROWS if results.contestants(row))


def failures(run: Mapping[str, Any]) -> list[str]:
    """Where procession gave a wrong answer, failed or hung: what makes a run fail."""
    return [
        f"{measurement['row']} {measurement['contestant']}: {measurement['end']}: {measurement['detail']}"
        for measurement in run["measurements"]
        if _library(measurement["contestant"]) == OURS and measurement["end"] not in ("done", "unsupported", "missing")
    ]
