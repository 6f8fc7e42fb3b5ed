"""The table that the commands print of a result."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from fima.data.layouts.video_list import counted
from fima.evaluate.protocols import PROTOCOL_TABLE, chance_shown, is_trivial

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fima.evaluate.protocols import EvaluationResult


def protocols_table() -> Table:
    """Return a row a protocol of `fima evaluate`: name, version, what it measures, what it needs."""
    table = Table("protocol", "version", "what it measures", "what it needs")
    for name, (version, measures, needs) in PROTOCOL_TABLE.items():
        table.add_row(name, str(version), measures, needs)
    return table


def figures_table(result: EvaluationResult, title: str) -> Group:
    """Return a row a figure, in percent, with its interval; of several splits, a column each before that."""
    table = Table(Column("figure", overflow="fold"))
    # Folds may be many; those of each are in the JSON.
    shown = {} if result.unit == "fold" else result.splits
    splits = [f"split {number}" for number in shown]
    value_column, interval_column = "mean ± sd" if result.splits else "%", ["95 %"] if result.intervals else []
    for name in (*splits, value_column, *interval_column, "chance"):
        table.add_column(name, justify="right")
    for name, value in result.figures.items():
        if is_trivial(name, [(result.figures, result.chance)]):
            continue
        spread = f" ± {result.sd[name]:.1f}" if name in result.sd else ""
        by_split = (f"{figures[name]:.1f}" for figures in shown.values())
        interval = [" to ".join(f"{end:.1f}" for end in result.intervals.get(name, ()))] if result.intervals else []
        table.add_row(name, *by_split, f"{value:.1f}{spread}", *interval, f"{result.chance[name]:.1f}")
    return _described(title, table, {"": result})


def _described(title: str, table: Table, results: Mapping[str, EvaluationResult]) -> Group:
    # Title and caption of the table itself would be broken to its width, which may be narrow.
    return Group(Text(title, style="table.title"), table, Text(provenance(results), style="table.caption"))


def provenance(results: Mapping[str, EvaluationResult]) -> str:
    """Return what figures depend on: lists, seed, clips (by encoder where these differ), versions of the protocols."""
    first = next(iter(results.values()))
    count = max(1, len(first.splits))
    sampling = {name: _sampling(result) for name, result in results.items()}
    clips = [f"clips of {name}: {words}" for name, words in sampling.items()]
    if len(set(sampling.values())) == 1:
        clips = [f"clips: {sampling.popitem()[1]}"]
    versions = {name: found["version"] for result in results.values() for name, found in result.protocols.items()}
    protocols = ", ".join(f"{name} {version}" for name, version in versions.items() if "@" not in name)
    unit = first.unit if count == 1 else f"{first.unit}s"
    lists = f"{count} {unit} ({first.lists_hash})" if first.lists_hash else f"{count} {unit}"
    has_intervals = any(result.intervals for result in results.values())
    drawn = [f"95 %: bootstrap over {first.num_groups} groups of test videos"] if has_intervals else []
    return " · ".join([lists, *_videos(first), *drawn, f"seed {first.seed}", *clips, f"protocols: {protocols}"])


def _videos(result: EvaluationResult) -> list[str]:
    """How many videos the figures of folds or of a single split are of, and how those were told apart."""
    if result.unit == "fold":
        tested = sum(fold.get("test", {}).get("num_evaluated", 0) for fold in result.data.values())
        return [counted(tested, "test video")] if tested else []
    train, test = (result.data.get(name, {}) for name in ("train", "test"))
    if "num_evaluated" not in train or "num_evaluated" not in test:
        return []
    numbers = f"{train['num_evaluated']:,} training and {counted(test['num_evaluated'], 'test video')}"
    return [f"{numbers} ({test['layout']})"]


def _sampling(result: EvaluationResult) -> str:
    every: dict[str, dict[str, Any]] = {
        name: found["clips"] for name, found in result.protocols.items() if "clips" in found
    }
    # What was chosen may be of another window, and differ between folds; candidates in the usual one have one @.
    clips = next((own for name, own in every.items() if name.count("@") == 1), next(iter(every.values()), {}))
    # One of the three says how frames are spread; a clip that has a span or a rate does not use its stride.
    unused = "stride" if clips.get("span") or clips.get("fps") else ""
    words = ", ".join(f"{name} {value}" for name, value in clips.items() if value and name != unused)
    return " or ".join(dict.fromkeys([words, *(name.split("@")[2] for name in every if name.count("@") == 2)]))


def choices(result: EvaluationResult) -> list[str]:
    """Return a sentence for each protocol that chose among several features or windows on training videos."""
    every = list(result.notes.values()) if result.splits else [result.notes]
    sentences = []
    for name in (name for name in result.protocols if "@" not in name):
        chosen = Counter(found[name]["features"] for found in every if "features" in found.get(name, {}))
        of = f" of {len(every)} {result.unit}s"
        counts = (features + (f" in {count}{of}" if result.splits else "") for features, count in chosen.most_common())
        if chosen:
            sentences.append(f"{name}: chose {', '.join(counts)}, on held-out training videos")
    return sentences


def comparison_table(results: Mapping[str, EvaluationResult], title: str) -> Group:
    """Return a row a figure, in percent, and a column an encoder, with intervals or deviations where there are any."""
    table = Table(Column("figure", overflow="fold"))
    for name in (*results, "chance"):
        table.add_column(name, justify="right", overflow="fold")
    everything = list(results.values())
    found = [(result.figures, result.chance) for result in everything]
    for figure in everything[0].figures:
        if all(figure in result.figures for result in everything) and not is_trivial(figure, found):
            cells = (_with_interval(result, figure) for result in everything)
            table.add_row(figure, *cells, chance_shown(figure, [result.chance for result in everything]))
    return _described(title, table, results)


def _with_interval(result: EvaluationResult, figure: str) -> str:
    value = f"{result.figures[figure]:.1f}"
    if figure in result.intervals:
        return f"{value} ({' to '.join(f'{end:.1f}' for end in result.intervals[figure])})"
    return f"{value} ± {result.sd[figure]:.1f}" if figure in result.sd else value
