"""The parts of the page that come from the records of the runs: overview, curves, results, classes, settings."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fima.visual.report.charts import Chart, confusion_chart, curve_charts, figure_bars, run_colour
from fima.visual.report.markup import Markup, details, element, joined, script_json, table
from fima.visual.report.runs import ClassReport, Result, RunRecord

MAIN_FIGURES = (
    "finetune/top1",
    "linear_sgd/top1",
    "evaluate/top1",
    "linear/top1",
    "linear/swapped/top1",
    "linear/removed/top1",
    "knn/top1",
    "retrieval/R@1",
    "same_video/train",
    "foreground/share",
    "foreground/motion_share",
    "occlusion/share",
    "occlusion/motion_share",
)
FIGURE_NAMES = {
    "finetune/top1": "fine-tuned, top-1",
    "linear_sgd/top1": "linear probe by SGD, top-1",
    "evaluate/top1": "classifier, top-1",
    "linear/top1": "linear probe, top-1",
    "linear/swapped/top1": "linear probe, other backgrounds",
    "linear/removed/top1": "linear probe, no backgrounds",
    "knn/top1": "kNN, top-1",
    "retrieval/R@1": "retrieval, R@1",
    "same_video/train": "nearest clip is of the same video",
    "foreground/share": "activation on the moving object",
    "foreground/motion_share": "activation on what moves",
    "occlusion/share": "features depend on the moving object",
    "occlusion/motion_share": "features depend on what moves",
}
EPOCH_COLUMNS = ("loss", "instance", "frame", "cell", "lr", "videos_per_second", "data_wait_share", "seconds")
MOST_EPOCH_ROWS = 400
CLASS_ORDER = ("evaluate", "linear", "knn")


class Charts:
    """Gives each chart of the page its place and its data."""

    def __init__(self) -> None:
        self._number = 0

    def figure(self, chart: Chart) -> Markup:
        """A chart with its heading; the page's script draws it, and its summary is read aloud in its place."""
        self._number += 1
        name = f"chart-{self._number}"
        plot = element("div", class_="plot", id=name, role="img", aria_label=f"{chart.title}. {chart.summary}")
        return element(
            "figure",
            element("figcaption", chart.title),
            plot,
            script_json(f"{name}-data", {"data": chart.data, "layout": chart.layout}),
            class_="chart tall" if chart.tall else "chart",
        )


def swatch(number: int) -> Markup:
    """The colour of a run."""
    return element("span", class_="swatch", style=f"background:{run_colour(number)}", aria_hidden="true")


def overview(runs: Sequence[RunRecord]) -> Markup:
    """A card for each run: what was trained on what, how far, with which versions."""
    cards = []
    for number, run in enumerate(runs):
        facts = {
            "what": f"{run.method} · {run.backbone}",
            "data": _data_line(run),
            "clips": _clips_line(run),
            "progress": _progress_line(run),
            "time": _time_line(run),
            "last loss": _last(run, "loss"),
            "results": _results_list(run),
            "seed": run.setting("run", "seed"),
            "versions": ", ".join(f"{name} {value}" for name, value in (run.record.get("versions") or {}).items()),
            "skipped videos": len({line.get("path") for line in run.skipped}) or None,
            "folder": element("code", str(run.root)),
        }
        rows = joined(
            joined([element("dt", name), element("dd", value)])
            for name, value in facts.items()
            if value not in (None, "")
        )
        title = element("h3", swatch(number), run.name)
        cards.append(element("article", title, element("dl", rows), class_="card"))
    return element("div", *cards, class_="cards")


def _results_list(run: RunRecord) -> Markup | str:
    found = _main_figures(run, MAIN_FIGURES)
    lines = [
        element("li", FIGURE_NAMES[name], " ", element("strong", f"{value:.1f} %")) for name, value in found.items()
    ]
    return element("ul", *lines, class_="figures") if lines else ""


def _data_line(run: RunRecord) -> Markup | str:
    record = run.record
    if "root" not in record:
        return ""
    classes = f", {record['num_classes']} classes" if record.get("num_classes") else ", no labels"
    count = f"{record.get('num_videos', '?')} videos ({record.get('layout', '?')}{classes}) in "
    return joined([count, element("code", record["root"])])


def _clips_line(run: RunRecord) -> str:
    frames, size = run.setting("data", "frames"), run.setting("data", "crop_size")
    return f"{frames} frames of {size} px" if frames and size else ""


def _progress_line(run: RunRecord) -> str:
    epochs = [line["epoch"] for line in run.of_kind("epoch")]
    planned = run.setting("optim", "epochs")
    steps = max((line.get("step", 0) for line in run.lines), default=0)
    done = max(epochs, default=0)
    return f"{done} of {planned} epochs, {steps:,} steps of {run.setting('optim', 'batch_size')} videos"


def _time_line(run: RunRecord) -> str:
    seconds = sum(line.get("seconds") or 0 for line in run.of_kind("epoch"))
    hours, rest = divmod(round(seconds), 3600)
    parts = [f"{hours} h"] if hours else []
    parts += [f"{rest // 60} min"] if seconds >= 60 else []
    return " ".join([*parts, f"{rest % 60} s of training"]) if seconds else ""


def _last(run: RunRecord, name: str) -> str:
    values = [line[name] for line in run.of_kind("epoch") if isinstance(line.get(name), int | float)]
    return f"{values[-1]:.4g}" if values else ""


def curves(runs: Sequence[RunRecord], charts: Charts) -> Markup:
    """Charts of everything that was measured while training, and the epochs as a table."""
    found = curve_charts(runs)
    if not found:
        return element("p", "No metrics yet: a run writes them as it goes on.")
    tables = []
    for run in runs:
        lines = run.of_kind("epoch")[-MOST_EPOCH_ROWS:]
        columns = [name for name in EPOCH_COLUMNS if any(name in line for line in lines)]
        rows = [[line["epoch"], *(_number(line.get(name)) for name in columns)] for line in lines]
        if rows:
            shown = table(["epoch", *columns], rows, caption=f"Means of each epoch of {run.name}")
            tables.append(details(f"{run.name}: the epochs as a table", shown))
    hint = element("p", "With a mouse: drag in a chart to zoom, double-click to go back.", class_="note")
    return joined([hint, element("div", *(charts.figure(chart) for chart in found), class_="grid"), *tables])


def results(runs: Sequence[RunRecord], charts: Charts) -> Markup:
    """Figures of all evaluations side by side, and the protocols behind them."""
    columns = {_column(run, result): result for run in runs for result in run.results}
    if not columns:
        return element("p", "Not evaluated yet: ", element("code", "fima evaluate RUN/checkpoints/last.pt DATA"))
    names = list(dict.fromkeys(name for result in columns.values() for name in result.content["figures"]))
    chance = {name: value for result in columns.values() for name, value in result.content["chance"].items()}
    rows = []
    for name in names:
        cells = [_figure_cell(result, name) for result in columns.values()]
        rows.append([_figure_name(name), *cells, f"{chance[name]:.1f}" if name in chance else ""])
    main = [name for name in MAIN_FIGURES if name in names]
    latest = {run.name: _main_figures(run, main) for run in runs if run.results}
    readable = {column: {FIGURE_NAMES[n]: value for n, value in found.items()} for column, found in latest.items()}
    parts: list[Markup] = []
    if main:
        named_chance = {FIGURE_NAMES[name]: chance[name] for name in main if name in chance}
        parts.append(charts.figure(figure_bars([FIGURE_NAMES[name] for name in main], readable, named_chance)))
    parts.append(table(["figure (%)", *columns, "chance"], rows, caption="Results, in percent"))
    parts += [details(f"{column}: protocols and versions", _protocols(result)) for column, result in columns.items()]
    return joined(parts)


def _main_figures(run: RunRecord, names: Sequence[str]) -> dict[str, float]:
    """The main figures of a run: those of its last checkpoint go before those of others."""
    found: dict[str, float] = {}
    for result in sorted(run.results, key=lambda each: each.name.endswith("last.json")):
        found |= {name: result.content["figures"][name] for name in names if name in result.content["figures"]}
    return {name: found[name] for name in names if name in found}


def _column(run: RunRecord, result: Result) -> str:
    return run.name if len(run.results) == 1 else f"{run.name}: {result.name.removeprefix('evaluation/')}"


def _figure_name(name: str) -> Markup:
    readable = FIGURE_NAMES.get(name)
    code = element("code", name)
    return joined([readable, " ", code]) if readable else code


def _figure_cell(result: Result, name: str) -> str:
    value = result.content["figures"].get(name)
    spread = (result.content.get("sd") or {}).get(name)
    if not isinstance(value, int | float):
        return ""
    return f"{value:.1f}" + (f" ± {spread:.1f}" if isinstance(spread, int | float) else "")


def _protocols(result: Result) -> Markup:
    rows = [
        [key, value]
        for section in ("encoder", "protocols", "data", "versions", "notes")
        for key, value in _flat(result.content.get(section) or {}, section)
        if not key.startswith("encoder.config.")
    ]
    return table(["setting", "value"], rows, caption="How the figures were measured")


def _flat(value: object, name: str) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [pair for key, inner in value.items() for pair in _flat(inner, f"{name}.{key}")]
    return [(name, value if isinstance(value, str) else json.dumps(value))]


def classes(reports: Mapping[str, Sequence[ClassReport]], charts: Charts) -> Markup:
    """Accuracy by class of every report side by side, and the confusion matrices.

    Args:
        reports: by run.
        charts: of the page.
    """
    groups: dict[str, dict[str, ClassReport]] = {}
    for run, found in reports.items():
        for report in found:
            groups.setdefault(report.name, {})[run] = report
    if not groups:
        return element("p", "No labels, or not evaluated yet: nothing to tell by class.")
    first, *others = sorted(groups, key=_class_order)
    shown = element("section", element("h3", first), _class_group(first, groups[first], charts), class_="report")
    return joined([shown, *(details(name, _class_group(name, groups[name], charts)) for name in others)])


def _class_order(name: str) -> tuple[bool, int]:
    """The test list itself before its counterparts, and a classifier before a probe before neighbours."""
    protocol, _, counterpart = name.rsplit("/", 1)[-1].partition("-")
    return bool(counterpart), CLASS_ORDER.index(protocol) if protocol in CLASS_ORDER else len(CLASS_ORDER)


def _class_group(name: str, reports: Mapping[str, ClassReport], charts: Charts) -> Markup:
    """One kind of report: the confusion matrices of the runs side by side, and one table for all that share classes."""
    matrices = [
        charts.figure(replace(confusion_chart(report), title=f"{run}: confusion matrix"))
        for run, report in reports.items()
    ]
    by_classes: dict[tuple[str, ...], dict[str, ClassReport]] = {}
    for run, report in reports.items():
        by_classes.setdefault(tuple(report.classes), {})[run] = report
    tables = []
    for labels, shared in by_classes.items():
        columns = [(run, kind) for run in shared for kind in ("accuracy (%)", "most often taken for")]
        header = ["class", "test videos", *(f"{run}: {kind}" if len(shared) > 1 else kind for run, kind in columns)]
        rows = []
        for number, label in enumerate(labels):
            found = [(_number(report.accuracy(number)), report.taken_for(number)) for report in shared.values()]
            count = max(sum(report.counts[number]) for report in shared.values())
            rows.append([label, count, *(cell for pair in found for cell in pair)])
        tables.append(table(header, rows, caption=f"{', '.join(shared)}: accuracy by class, {name}"))
    return joined([element("div", *matrices, class_="pair"), *tables])


def skipped(runs: Sequence[RunRecord]) -> Markup:
    """Videos that could not be decoded, with the reasons."""
    rows = []
    for run in runs:
        seen: dict[str, list[Mapping[str, Any]]] = {}
        for line in run.skipped:
            seen.setdefault(str(line.get("path")), []).append(line)
        rows += [[path, run.name, lines[0].get("reason", ""), len(lines)] for path, lines in seen.items()]
    if not rows:
        return element("p", "No video was skipped while training.")
    return table(["video", "run", "reason", "times"], rows, caption="Skipped videos")


def settings(runs: Sequence[RunRecord]) -> Markup:
    """Every setting; those in which the runs differ are marked and come first."""
    flat = [{key: str(value) for key, value in _flat(run.settings, "")} for run in runs]
    keys = list(dict.fromkeys(key for each in flat for key in each))
    differ = [key for key in keys if len({each.get(key) for each in flat}) > 1]
    parts: list[Markup] = []
    header = ["setting", *(run.name for run in runs)]
    if len(runs) > 1:
        rows = [[key.lstrip("."), *(each.get(key, "—") for each in flat)] for key in differ]
        same = element("p", "All settings are the same.")
        parts.append(table(header, rows, caption="Settings that differ") if rows else same)
    rows = [[key.lstrip("."), *(each.get(key, "—") for each in flat)] for key in keys]
    parts.append(details("All settings", table(header, rows, caption="All settings")))
    return joined(parts)


def _number(value: object) -> str:
    if not isinstance(value, int | float):
        return ""
    return str(value) if isinstance(value, int) else f"{value:.4g}"
