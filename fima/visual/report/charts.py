"""Interactive charts, as the plain JSON that Plotly's script draws; the page adds the colours of its theme."""

import html
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fima.evaluate.report import ClassReport
from fima.visual.report.runs import RunRecord, is_number

RUN_COLOURS = ("#2f7ed8", "#e07b1f", "#2e9e6b", "#c0449a", "#8a63d2", "#b8860b", "#d64545", "#4aa3b5")
"""Distinguishable for most colour-blind people, and of enough contrast on white and on black."""
MOST_POINTS = 800
NUM_BINS = 60
MOST_IN_LEGEND = 16
LABEL_CHARACTERS = 15
LEGEND_CHARACTERS, TICK_CHARACTERS = 40, 28
MOST_TICKS = 45
"""Of a confusion matrix at its largest; more would overlap."""
NOT_CURVES = frozenset({"kind", "epoch", "step", "seconds", "num_videos", "collapsed", "uniform_std"})
MARKS = {"best": "dot", "collapse": "solid", "rollback": "dash"}
"""What a vertical line in the curves of a run stands for."""
LINES: dict[str, dict[str, Any]] = {
    "step": {"width": 1},
    "epoch": {"width": 2},
    "health": {"width": 2, "dash": "dash"},
    "validation": {"width": 2, "dash": "dash"},
    "test": {"width": 2, "dash": "dot"},
}
"""Kinds of lines of the metrics that are drawn, and how."""

CURVE_TITLES = {
    "loss": "Loss (weighted sum)",
    "instance": "Instance loss",
    "frame": "Frame-level motion loss",
    "cell": "Pixel-level (cell) motion loss",
    "lr": "Learning rate",
    "videos_per_second": "Speed (videos per second)",
    "data_wait_share": "Share of the time spent waiting for data",
    "knn_accuracy": "kNN accuracy (health check)",
    "probe_accuracy": "Probe: kNN accuracy",
    "effective_rank": "Effective rank of the embeddings",
    "embedding_std": "Standard deviation of the embeddings",
    "positive_similarity": "Similarity of two clips of one video",
    "negative_similarity": "Similarity of clips of different videos",
    "instance_top1": "Queries closest to their own key",
    "foreground_share": "Share of cells that are foreground",
    "cells_with_positives": "Share of cells with a positive",
    "top1": "Top-1 accuracy (%)",
    "top5": "Top-5 accuracy (%)",
}
"""In the order of the page; other numbers of the metrics follow under their own names."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One chart."""

    title: str
    summary: str
    """What it shows, in words, for those who cannot see it."""
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    """Plotly's layout, without colours of the theme."""
    tall: bool = False
    """Whether it needs the whole width of the page."""


def run_colour(number: int) -> str:
    """The colour of a run, by its place on the page."""
    return RUN_COLOURS[number % len(RUN_COLOURS)]


def curve_charts(runs: Sequence[RunRecord]) -> list[Chart]:
    """A chart for each number that the metrics of any run hold."""
    lines = [line for run in runs for line in run.lines if line.get("kind") in LINES]
    found = {key for line in lines for key, value in line.items() if is_number(value)}
    names = [name for name in CURVE_TITLES if name in found]
    names += sorted(name for name in found - CURVE_TITLES.keys() if name.split("/")[0] not in NOT_CURVES)
    return [_curve_chart(name, runs) for name in names]


def _curve_chart(name: str, runs: Sequence[RunRecord]) -> Chart:
    traces: list[dict[str, Any]] = []
    summaries = []
    marks: list[tuple[RunRecord, str, int, str]] = []
    for number, run in enumerate(runs):
        points = {kind: [line for line in run.of_kind(kind) if is_number(line.get(name))] for kind in LINES}
        kinds = [kind for kind in LINES if points[kind]]
        settled = [kind for kind in kinds if kind != "step"] or kinds
        marks += [(run, mark, step, run_colour(number)) for mark, step in run.marks if kinds]
        for kind in kinds:
            label = run.name if kind in settled[:1] else f"{run.name}, {'health check' if kind == 'health' else kind}"
            shown = points[kind][:: max(1, math.ceil(len(points[kind]) / MOST_POINTS))]
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines" if kind == "step" else "lines+markers",
                    "name": _plain(_shortened(label, LEGEND_CHARACTERS)),
                    "showlegend": kind in settled,
                    "legendgroup": str(number),
                    "x": [line["step"] for line in shown],
                    "y": [_rounded(line[name]) for line in shown],
                    "text": [f"epoch {line['epoch']}" for line in shown],
                    "hovertemplate": "step %{x} (%{text}): %{y}<extra>" + _plain(label) + "</extra>",
                    "line": {"color": run_colour(number), **LINES[kind]},
                    "marker": {"size": 5},
                    "opacity": 0.45 if kind == "step" and settled != ["step"] else 1,
                }
            )
            if kind in settled:
                first, last = _rounded(points[kind][0][name]), _rounded(points[kind][-1][name])
                summaries.append(f"{label} from {first} to {last}")
    measure, _, of_set = name.partition("/")  # of one of several sets
    title = CURVE_TITLES.get(measure, measure.replace("_", " ")) + (f", {of_set}" if of_set else "")
    named = sum(trace["showlegend"] for trace in traces)
    # Of the run, not of this number.
    summaries += [f"mark of {run.name}: {mark} at step {step}" for run, mark, step, _ in marks]
    layout = {"xaxis": {"title": {"text": "step"}}, "showlegend": named > 1 or len(runs) > 1}
    if marks:
        lines, words = zip(*(_mark(mark, step, colour) for _, mark, step, colour in marks), strict=True)
        layout |= {"shapes": lines, "annotations": words}
    return Chart(title=title, summary=f"By step: {'; '.join(summaries)}.", data=traces, layout=layout)


def _mark(mark: str, step: int, colour: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A vertical line through a chart, and the word at its upper end, as Plotly draws them."""
    style = {"color": colour, "width": 1, "dash": MARKS[mark]}
    line = {"type": "line", "x0": step, "x1": step, "yref": "paper", "y0": 0, "y1": 1, "line": style}
    word = {"x": step, "yref": "paper", "y": 1, "yanchor": "bottom", "text": mark, "showarrow": False}
    return line, word | {"font": {"color": colour, "size": 10}}


def figure_bars(names: Sequence[str], columns: Mapping[str, Mapping[str, float]], chance: Mapping[str, float]) -> Chart:
    """Bars of the main figures in percent, of every run that has any in its colour, and the chance level."""
    labels = ["<br>".join(_plain(line) for line in textwrap.wrap(name, LABEL_CHARACTERS)) for name in names]
    data: list[dict[str, Any]] = [
        {
            "type": "bar",
            "name": _plain(_shortened(run, LEGEND_CHARACTERS)),
            "x": labels,
            "y": [_rounded(figures[name]) if name in figures else None for name in names],
            "marker": {"color": run_colour(number)},
            "hovertemplate": "%{x}: %{y:.1f} %<extra>" + _plain(run) + "</extra>",
        }
        for number, (run, figures) in enumerate(columns.items())
        if figures
    ]
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "chance",
            "x": labels,
            "y": [_rounded(chance[name]) if name in chance else None for name in names],
            "marker": {"symbol": "line-ew-open", "size": 26, "line": {"width": 2}, "color": "#888888"},
            "hovertemplate": "%{x}: %{y:.1f} %<extra>chance</extra>",
        }
    )
    parts = [f"{run}: " + ", ".join(f"{n} {figures[n]:.1f}" for n in names if n in figures)
             for run, figures in columns.items() if figures]  # fmt: skip
    layout = {"barmode": "group", "yaxis": {"range": [0, 100], "title": {"text": "%"}}, "showlegend": True}
    return Chart(title="Main figures", summary=f"{'; '.join(parts)} percent.", data=data, layout=layout, tall=True)


def confusion_chart(report: ClassReport) -> Chart:
    """The confusion matrix as a map of colours, each row in percent of its class."""
    counts = np.array(report.counts, dtype=float)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(100 * counts, totals, out=np.zeros_like(counts), where=totals > 0)
    labels = [_plain(name) for name in report.classes]
    right = 100 * float(np.trace(counts)) / max(1.0, float(counts.sum()))
    axis = {"type": "category", "automargin": True, "tickfont": {"size": 10}, "constrain": "domain"}
    if max(map(len, report.classes), default=0) > TICK_CHARACTERS:
        # Whole, the names would leave the matrix no room.
        some = slice(None, None, math.ceil(len(labels) / MOST_TICKS))
        words = [_plain(_shortened(name, TICK_CHARACTERS)) for name in report.classes[some]]
        axis |= {"tickmode": "array", "tickvals": labels[some], "ticktext": words}
    trace = {
        "type": "heatmap",
        "x": labels,
        "y": labels,
        "z": shares.round(1).tolist(),
        "customdata": report.counts,
        "colorscale": "Viridis",
        "zmin": 0,
        "zmax": 100,
        "colorbar": {"title": {"text": "%"}, "thickness": 12},
        "hovertemplate": "%{y} predicted as %{x}: %{customdata} videos (%{z} %)<extra></extra>",
    }
    layout = {
        "xaxis": {**axis, "title": {"text": "predicted"}},
        "yaxis": {**axis, "title": {"text": "true"}, "autorange": "reversed", "scaleanchor": "x"},
        "height": min(900, 200 + 18 * len(labels)),
    }
    summary = f"Confusion matrix of {len(labels)} classes; {right:.1f} percent of the videos are on its diagonal."
    return Chart(title="Confusion matrix", summary=summary, data=[trace], layout=layout, tall=True)


def similarity_chart(groups: Mapping[str, NDArray[np.floating[Any]]]) -> Chart:
    """Histograms of cosine similarities by kind of pair, each scaled to its own highest bar."""
    edges = np.linspace(-1, 1, NUM_BINS + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    data: list[dict[str, Any]] = []
    parts = []
    for number, (name, values) in enumerate(groups.items()):
        # Rounding takes the cosine of equal clips beyond 1, where no bar is.
        counts, _ = np.histogram(np.clip(values, -1, 1), bins=edges)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "fill": "tozeroy",
                "name": _plain(name),
                "x": middles.round(3).tolist(),
                "y": (counts / max(1, counts.max())).round(4).tolist(),
                "line": {"color": run_colour(number), "shape": "hvh"},
                "hovertemplate": "cosine %{x}<extra>" + _plain(name) + "</extra>",
            }
        )
        parts.append(f"{name}: mean {float(np.mean(values)):.2f}")
    layout = {
        "xaxis": {"title": {"text": "cosine similarity"}, "range": [-1, 1]},
        "yaxis": {"title": {"text": "pairs, of the highest bar"}, "range": [0, 1.05]},
        "showlegend": True,
    }
    return Chart(title="Similarity of clips", summary=f"Histograms; {'; '.join(parts)}.", data=data, layout=layout)


def embedding_chart(
    name: str, points: NDArray[np.floating[Any]], labels: Sequence[int], classes: Sequence[str]
) -> Chart:
    """Videos as points (V, 2) of a projection, coloured by class (V,), -1 if unknown; `customdata` is their place."""
    data: list[dict[str, Any]] = []
    for label in sorted(set(labels)):
        members = [place for place, value in enumerate(labels) if value == label]
        shade = f"hsl({round(360 * label / max(1, len(classes)))},62%,{(48, 60, 38)[label % 3]}%)"
        data.append(
            {
                "type": "scattergl" if len(points) > 2000 else "scatter",
                "mode": "markers",
                "name": _plain(classes[label]) if label >= 0 else "videos",
                "x": [_rounded(float(points[place, 0])) for place in members],
                "y": [_rounded(float(points[place, 1])) for place in members],
                "customdata": members,
                "marker": {"size": 7, "opacity": 0.85, "color": shade, "symbol": label % 8 if label >= 0 else 0},
                "hovertemplate": "%{fullData.name}<extra></extra>",
            }
        )
    bare = {"showticklabels": False, "zeroline": False, "title": {"text": ""}}
    layout = {
        "xaxis": bare,
        "yaxis": bare,
        "showlegend": 1 < len(data) <= MOST_IN_LEGEND,
        "legend": {"orientation": "h", "x": 0, "y": -0.02, "yanchor": "top", "font": {"size": 11}},
        "height": 480,
        "hovermode": "closest",
    }
    summary = f"{name} of the pooled features of {len(points)} videos, a colour and a shape for each class."
    return Chart(title=name, summary=summary, data=data, layout=layout, tall=True)


def _plain(text: str) -> str:
    """Text as Plotly shows it, which knows the entities of markup, but not those of quotation marks."""
    return html.escape(text, quote=False)


def _shortened(text: str, most: int) -> str:
    """Text without its middle where it has more than `most` characters: names often differ at their ends."""
    head, tail = most // 2, most - most // 2 - 1
    return text if len(text) <= most else f"{text[:head]}…{text[-tail:]}"


def _rounded(value: float) -> float:
    """Five significant digits: more are of no use on a screen, and the page stays small."""
    return float(f"{value:.5g}")
