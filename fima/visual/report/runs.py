"""What the folder of a run says about it: settings, metrics, results, skipped videos."""

import csv
import json
import math
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fima.checkpoints.run_folder import RunFolder
from fima.errors import ConfigError, near_path
from fima.evaluate.report import CONFUSION, ClassReport
from fima.files.jsonl import read_lines
from fima.recipe import RECORD_KEY, read_yaml

RESULT_SECTIONS = ("figures", "chance", "protocols")
PLACE = ("epoch", "step")
MOST_NAMED = 4
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
"""The main figures of evaluations, in the order of the page, and what it calls them."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One JSON of `fima evaluate` or of `fima finetune`."""

    name: str
    """Its file, from the folder of the run."""
    content: Mapping[str, Any]
    """What it holds; see `EvaluationResult`."""

    @property
    def roots(self) -> list[Path]:
        """The folders of videos of its lists."""
        data = self.content.get("data") or {}
        every = [each for found in data.values() for each in ([found] if "root" in found else found.values())]
        return [Path(str(each["root"])) for each in every if isinstance(each, dict) and "root" in each]

    @property
    def epoch(self) -> int | None:
        """Whole epochs behind the weights that `fima evaluate` measured; None where it does not say."""
        epoch = (self.content.get("encoder") or {}).get("epoch") if self.name.startswith("evaluation/") else None
        return epoch if isinstance(epoch, int) else None


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run, read from its folder."""

    name: str
    """What the page calls it; different for each run of a page."""
    root: Path
    settings: Mapping[str, Mapping[str, Any]]
    """By section and name."""
    record: Mapping[str, Any]
    """Facts that the run wrote about itself: data, versions."""
    lines: Sequence[Mapping[str, Any]]
    """Of `metrics.jsonl`, in order."""
    results: Sequence[Result] = field(default_factory=list)
    """Evaluations, in order of their names."""
    class_reports: Sequence[ClassReport] = field(default_factory=list)
    skipped: Sequence[Mapping[str, Any]] = field(default_factory=list)

    @property
    def method(self) -> str:
        """What was done, in a few words."""
        if "classifier" in self.settings:
            frozen = self.settings["classifier"].get("freeze")
            return "linear probe by SGD" if frozen else "fine-tuning"
        if self.setting("method", "cost") == "light":
            return "FIMA light"
        name = str(self.setting("method", "name") or "run")
        return {"fima": "FIMA", "moco": "MoCo"}.get(name, name)

    @property
    def checkpoint(self) -> Path | None:
        """The last checkpoint, where there is one."""
        last = RunFolder.of(self.root).last
        return last if last.exists() else None

    @property
    def main_figures(self) -> dict[str, float]:
        """The figures of `FIGURE_NAMES` on the same videos; those of the last checkpoint replace those of others."""
        return {name: result.content["figures"][name] for name, result in self.main_results.items()}

    @property
    def main_results(self) -> dict[str, Result]:
        """Where each of the main figures is from."""
        found: dict[str, Result] = {}
        ordered = sorted(self.results, key=lambda each: each.name.endswith("last.json"))
        lists = ""
        for result in reversed(ordered):
            # Tests of a fine-tuning run, and older results, do not say which lists they are of.
            lists = lists or result.content.get("lists_hash") or ""
            if (result.content.get("lists_hash") or lists) == lists:
                found = dict.fromkeys(result.content["figures"], result) | found
        return {name: found[name] for name in FIGURE_NAMES if name in found}

    @property
    def marks(self) -> list[tuple[str, int]]:
        """What the curves mark, and at which step: the best checkpoint, a collapse, and where the run went back to."""
        best = [("best", line["step"]) for line in self.of_kind("health") if line.get("best")][-1:]
        return best + [(kind, line["step"]) for kind in ("collapse", "rollback") for line in self.of_kind(kind)]

    @property
    def num_epochs(self) -> int:
        """Whole epochs that are done."""
        return max((line["epoch"] for line in self.of_kind("epoch")), default=0)

    @property
    def training_time(self) -> str:
        """Hours, minutes and seconds of all epochs; empty where there is none."""
        in_steps: dict[int, float] = defaultdict(float)
        for line in self.of_kind("step"):
            in_steps[line["epoch"]] += line.get("seconds") or 0
        # Of an epoch that was resumed, its own line has the seconds since then.
        epochs = self.of_kind("epoch")
        seconds = round(sum(max(line.get("seconds") or 0, in_steps[line["epoch"]]) for line in epochs))
        parts = [(seconds // 3600, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
        words = [f"{count} {unit}" for count, unit in parts if count]
        return f"{' '.join(words)} of training" if words else ""

    def setting(self, section: str, name: str) -> Any:  # noqa: ANN401
        """A setting; None where the run has none of that name."""
        return self.settings.get(section, {}).get(name)

    def of_kind(self, kind: str) -> list[Mapping[str, Any]]:
        """The lines of one kind."""
        return [line for line in self.lines if line.get("kind") == kind]


def read_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """Read the folders of runs. Raises ConfigError as `read_run`, or for one that is given twice."""
    resolved = [folder.resolve() for folder in folders]
    for position, folder in enumerate(resolved):
        if folder in resolved[:position]:
            raise ConfigError(f"{folders[position]}: given twice")
    choices = [folder.name for folder in resolved], ["/".join(folder.parts[-2:]) for folder in resolved]
    names = next((names for names in choices if len(set(names)) == len(names)), list(map(str, resolved)))
    return [read_run(folder, name) for folder, name in zip(folders, names, strict=True)]


def read_run(root: Path, name: str) -> RunRecord:
    """Read the folder of one run. Raises ConfigError where it is missing, holds none, or its record is damaged."""
    run = RunFolder(root)
    if root.is_file():
        raise ConfigError(f"{root}: is a file; give the folder of a run (its --out)")
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder{near_path(root) or '; give the folder of a run (its --out)'}")
    if not run.config.is_file():
        inside = sorted(path.parent for path in root.glob("*/config.yaml"))
        named = shlex.join(map(str, inside[:MOST_NAMED])) + (" …" if len(inside) > MOST_NAMED else "")
        remedy = f"give those in it: `fima report {named}`" if inside else "give the folder that was the --out of a run"
        raise ConfigError(f"{root}: holds no run (no config.yaml); {remedy}")
    content = read_yaml(run.config)
    # Whole lines say when they were written.
    lines = [line for line in read_lines(run.metrics) if all(isinstance(line.get(name), int) for name in PLACE)]
    return RunRecord(
        name=name,
        root=root,
        settings={key: value for key, value in content.items() if key != RECORD_KEY and isinstance(value, dict)},
        record=run.record(),
        lines=lines,
        results=read_results(root),
        class_reports=_read_class_reports(root),
        skipped=read_lines(run.skipped),
    )


def read_results(root: Path) -> list[Result]:
    """Read the evaluations in the folder of a run, in order of their names, without damaged files and figures."""
    results = []
    for path in sorted([*root.glob("*.json"), *root.glob("evaluation/*.json")]):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue
        if isinstance(content, dict) and all(isinstance(content.get(name), dict) for name in RESULT_SECTIONS):
            finite = {
                name: {figure: value for figure, value in content[name].items() if is_number(value)}
                for name in ("figures", "chance")
            }
            results.append(Result(name=path.relative_to(root).as_posix(), content=content | finite))
    return results


def is_number(value: object) -> bool:
    """Whether a value of a file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _read_class_reports(root: Path) -> list[ClassReport]:
    reports = []
    for path in sorted(root.rglob(CONFUSION)):
        try:
            with path.open(encoding="utf-8", newline="") as file:
                header, *rows = csv.reader(file)
            counts = [[int(cell) for cell in row[1:]] for row in rows]
        except (ValueError, csv.Error):  # damaged
            continue
        name = path.parent.relative_to(root).as_posix() if path.parent != root else "result of the run"
        reports.append(ClassReport(name=name, classes=header[1:], counts=counts))
    return reports
