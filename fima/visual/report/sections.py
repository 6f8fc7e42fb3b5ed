"""Tables and charts of the page that come from the records of the runs: epochs, results, classes, settings."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from markupsafe import Markup

from fima.evaluate.intervals import FEWEST_GROUPS
from fima.evaluate.protocols import chance_shown, is_trivial
from fima.evaluate.report import ClassReport
from fima.visual.report.charts import Chart, confusion_chart, figure_bars, run_colour
from fima.visual.report.runs import FIGURE_NAMES, Result, RunRecord

EPOCH_COLUMNS = ("loss", "instance", "frame", "cell", "lr", "videos_per_second", "data_wait_share", "seconds")
MOST_EPOCH_ROWS = 400
FOLD = re.compile(r"/fold-[^/]*/")
CLASS_ORDER = ("evaluate", "linear", "knn")
PROTOCOL_SECTIONS = ("encoder", "protocols", "data", "versions", "notes")
NUMBER = re.compile(r"-?\d[\d,.]*(e[+-]?\d+)?( (±|to) [\d.]+)?")
INPUTS = {
    "as_is": "the video as it is",
    "one_frame": "one frame, repeated",
    "shuffled": "frames shuffled",
    "reversed": "frames reversed",
    "median_subtracted": "median subtracted",
    "foreground": "foreground only",
    "background": "background only",
    "swapped": "other background",
    "half_speed": "half speed",
    "double_speed": "double speed",
}
"""In the order of the picture, and what it calls them."""
FLOORS = {
    "untrained": "untrained network",
    "untrained_one_frame": "untrained network, one frame",
    "frame_differences": "frame differences, no network",
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table whose first column heads the rows."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    """Cells; the first one of a row is its heading."""

    @cached_property
    def columns_of_numbers(self) -> set[int]:
        """Their cells are aligned as numbers."""
        columns = [[str(cell) for cell in column if str(cell)] for column in zip(*self.rows, strict=True)]
        return {place for place, texts in enumerate(columns) if texts and all(map(NUMBER.fullmatch, texts))}


def number(value: object) -> str:
    """A number as a cell, with four significant digits; nothing for anything else."""
    if not isinstance(value, int | float):
        return ""
    return str(value) if isinstance(value, int) else f"{value:.4g}"


class Bar(NamedTuple):
    """Top-1 in percent on one input, and its 95 % interval where groups of videos are known."""

    name: str
    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """One diagnosis."""

    title: str
    colour: str
    bars: list[Bar]
    floors: list[Bar]
    """Chance, and what is had without training."""
    verdict: str
    num_groups: int | None = None
    """Groups of the test videos; None where none is known."""

    @property
    def without_intervals(self) -> str:
        """Why the bars have no intervals; empty where they have."""
        if self.bars[0].interval:
            return ""
        if self.num_groups is None:
            return "it is not known which videos belong together (--group-by)"
        if self.num_groups >= FEWEST_GROUPS:
            return "not every test video was measured on every input"
        return f"the test videos are of {self.num_groups} groups, and intervals need {FEWEST_GROUPS}"


@dataclass(frozen=True, kw_only=True)
class Results:
    """The evaluations of all runs side by side."""

    bars: Chart | None
    figures: Table
    diagnoses: Sequence[Diagnosis]
    """What remains when something is taken away, of the evaluations that asked."""
    protocols: Mapping[str, Table]


def epochs(runs: Sequence[RunRecord]) -> dict[str, Table]:
    """The last epochs of each run as a table, by its name; nothing of a run that has not finished one."""
    tables = {}
    for run in runs:
        lines = run.of_kind("epoch")[-MOST_EPOCH_ROWS:]
        columns = [name for name in EPOCH_COLUMNS if any(name in line for line in lines)]
        rows = [[line["epoch"], *(number(line.get(name)) for name in columns)] for line in lines]
        if rows:
            caption = f"Means of each epoch of {run.name}"
            tables[run.name] = Table(caption=caption, header=["epoch", *columns], rows=rows)
    return tables


def results(runs: Sequence[RunRecord]) -> Results | None:
    """Figures of all evaluations side by side, and the protocols behind them; None where there is none."""
    columns = {_column(run, result): result for run in runs for result in run.results}
    if not columns:
        return None
    found = [(result.content["figures"], result.content["chance"]) for result in columns.values()]
    every = dict.fromkeys(name for figures, _ in found for name in figures)
    names = [name for name in every if not is_trivial(name, found)]
    chance = {name: chance_shown(name, [levels for _, levels in found]) for name in names}
    heading = Markup("{} <code>{}</code>").format
    rows = [
        [heading(FIGURE_NAMES.get(name, ""), name), *(_figure_cell(each, name) for each in columns.values()), level]
        for name, level in chance.items()
    ]
    # Figures of other videos than the main ones of their run are in the table alone.
    charted = {name for run in runs for name in run.main_figures}.intersection(names)
    main = {name: readable for name, readable in FIGURE_NAMES.items() if name in charted}
    bars = {run.name: {main[name]: value for name, value in run.main_figures.items() if name in main} for run in runs}
    # One mark would be wrong where results have chance levels of their own.
    levels = {name: chance[name] for name in main if " to " not in chance[name]}
    named_chance = {main[name]: float(level) for name, level in levels.items() if level}
    return Results(
        bars=figure_bars(list(main.values()), bars, named_chance) if main else None,
        figures=Table(caption="Results, in percent", header=["figure (%)", *columns, "chance"], rows=rows),
        diagnoses=[
            diagnosis
            for number, run in enumerate(runs)
            for result in run.results
            if (diagnosis := diagnosis_of(_column(run, result), run_colour(number), result.content)) is not None
        ],
        protocols={column: _protocols(result) for column, result in columns.items()},
    )


def _column(run: RunRecord, result: Result) -> str:
    folds = f", {len(result.content.get('splits') or ())} folds" if result.content.get("unit") == "fold" else ""
    return run.name if len(run.results) == 1 else f"{run.name}: {result.name.removeprefix('evaluation/')}{folds}"


def _figure_cell(result: Result, name: str) -> str:
    value = result.content["figures"].get(name)
    spread = (result.content.get("sd") or {}).get(name)
    if not isinstance(value, int | float):
        return ""
    return f"{value:.1f}" + (f" ± {spread:.1f}" if isinstance(spread, int | float) else "")


def _protocols(result: Result) -> Table:
    every = [pair for section in PROTOCOL_SECTIONS for pair in _flat(result.content.get(section) or {}, section)]
    rows = [pair for pair in every if not pair[0].startswith("encoder.config.")]
    return Table(caption="How the figures were measured", header=["setting", "value"], rows=rows)


def _flat(value: object, name: str) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [pair for key, inner in value.items() for pair in _flat(inner, f"{name}.{key}")]
    return [(name, value if isinstance(value, str) else json.dumps(value))]


def classes(
    runs: Sequence[RunRecord], votes: Mapping[str, ClassReport]
) -> dict[str, tuple[Sequence[Chart], Sequence[Table]]]:
    """Return confusion matrices and accuracy by class, a table for all runs that share classes, by the report's name.

    For runs without a report, they are of the `votes` of neighbours.
    """
    groups: dict[str, dict[str, ClassReport]] = {}
    for run in runs:
        fallback = [votes[run.name]] if run.name in votes else []
        for report in run.class_reports or fallback:
            groups.setdefault(report.name, {})[run.name] = report
    # Those of single folds say little where there are those of all folds together.
    names = [name for name in groups if (whole := FOLD.sub("/", name)) == name or whole not in groups]
    return {
        name: (
            [replace(confusion_chart(each), title=f"{run}: confusion matrix") for run, each in groups[name].items()],
            _accuracies(name, groups[name]),
        )
        for name in sorted(names, key=_class_order)
    }


def _class_order(name: str) -> tuple[bool, int]:
    """The test list itself before its counterparts, and a classifier before a probe before neighbours."""
    protocol, _, counterpart = name.rsplit("/", 1)[-1].partition("-")
    return bool(counterpart), CLASS_ORDER.index(protocol) if protocol in CLASS_ORDER else len(CLASS_ORDER)


def _accuracies(name: str, reports: Mapping[str, ClassReport]) -> list[Table]:
    by_classes: dict[tuple[str, ...], dict[str, ClassReport]] = {}
    for run, report in reports.items():
        by_classes.setdefault(tuple(report.classes), {})[run] = report
    tables = []
    for labels, shared in by_classes.items():
        columns = [(run, kind) for run in shared for kind in ("accuracy (%)", "most often taken for")]
        header = ["class", "test videos", *(f"{run}: {kind}" if len(shared) > 1 else kind for run, kind in columns)]
        rows = []
        for place, label in enumerate(labels):
            # Runs may be tested on other videos of the same classes.
            counts = sorted(sum(report.counts[place]) for report in shared.values())
            row = [label, " to ".join(dict.fromkeys(f"{end}" for end in (counts[0], counts[-1])))]
            for report in shared.values():
                accuracy = report.accuracy(place)
                row += ["" if accuracy is None else f"{accuracy:.1f}", report.taken_for(place)]
            rows.append(row)
        tables.append(Table(caption=f"{', '.join(shared)}: accuracy by class, {name}", header=header, rows=rows))
    return tables


def skipped(runs: Sequence[RunRecord]) -> Table:
    """Videos that could not be decoded, with the reasons."""
    rows = []
    for run in runs:
        counts = Counter(str(line.get("path")) for line in run.skipped)
        first = {str(line.get("path")): line.get("reason", "") for line in reversed(run.skipped)}
        rows += [[path, run.name, first[path], count] for path, count in counts.items()]
    return Table(caption="Skipped videos", header=["video", "run", "reason", "times"], rows=rows)


def all_settings(runs: Sequence[RunRecord]) -> Table:
    """Every setting, a column a run."""
    flat = [dict(pair for name, section in run.settings.items() for pair in _flat(section, name)) for run in runs]
    keys = dict.fromkeys(key for each in flat for key in each)
    rows = [[key, *(each.get(key, "—") for each in flat)] for key in keys]
    return Table(caption="All settings", header=["setting", *(run.name for run in runs)], rows=rows)


def differing_settings(runs: Sequence[RunRecord]) -> Table:
    """The settings in which the runs differ."""
    settings = all_settings(runs)
    differ = [row for row in settings.rows if len(set(row[1:])) > 1]
    return replace(settings, caption="Settings that differ", rows=differ)


def diagnosis_of(title: str, colour: str, content: Mapping[str, Any]) -> Diagnosis | None:
    """Return the diagnosis of an evaluation, whose content is as in `Result`; None where it has none."""
    figures, intervals = content["figures"], content.get("intervals") or {}
    if "diagnosis/as_is" not in figures.keys() & content["chance"].keys():
        return None

    def bars(names: Mapping[str, str]) -> list[Bar]:
        keys = {name: f"diagnosis/{key}" for key, name in names.items()}
        return [Bar(name, figures[key], intervals.get(key)) for name, key in keys.items() if key in figures]

    return Diagnosis(
        title=title,
        colour=colour,
        bars=bars(INPUTS),
        floors=[Bar("chance", content["chance"]["diagnosis/as_is"]), *bars(FLOORS)],
        verdict=content.get("verdict") or "",
        num_groups=content.get("num_groups"),
    )
