"""The folder of a run: what lies where, and when a run may write into it."""

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from fima.config import FinetuneConfig, PretrainConfig
from fima.config.checks import as_flag
from fima.errors import ConfigError
from fima.files.atomic import write_file
from fima.files.jsonl import keep_lines, read_lines
from fima.files.lock import LOCK
from fima.files.output import OUTPUT_MARKER
from fima.recipe import RECORD_KEY, RunSettings, config_from_mapping, config_to_mapping, flatten, read_yaml

MAY_CHANGE_ON_RESUME = frozenset(
    {
        "model.compile",
        "model.recompute",
        "data.annotations",  # the videos that they name are compared
        "data.exclude",
        "data.keep_mb",
        "data.workers",
        "data.max_skipped_share",
        "data.timeout_seconds",
        "optim.epochs",
        "run.memory_format",  # it changes rounding only
        "run.device",
        "run.checkpoint_epochs",
        "run.checkpoint_minutes",
        "run.keep_last",
        "run.timeout_minutes",
        "run.grace_seconds",
        "run.health_epochs",
        "run.health_videos",
        "run.on_collapse",
        "run.probe",
        "run.picture_epochs",
        "run.log_steps",
    }
)
PLACES = ("data.annotations", "data.exclude", "run.probe")
"""Settings that are paths: absolute in the record, so that they hold in any working directory."""
TESTS = ("test", "validation")
"""Kinds of lines in the metrics that a classifier's tests on the way write."""
FACTS = (("checkpoints", str), ("resume_from", str), ("start_epoch", int), ("processes", int), ("source", dict))
"""What of a record is used when the run is read or goes on."""


class RunFolder:
    """Paths of one run: `root` is the folder that `--out` names, `checkpoints` that of `--checkpoints`, or None."""

    def __init__(self, root: Path, checkpoints: Path | None = None) -> None:
        self.root, self.checkpoints = root, checkpoints
        self.config = root / "config.yaml"
        """Every setting of the run, and a record of its data and versions."""
        self.metrics = root / "metrics.jsonl"
        """One JSON object a line: steps, epochs and health checks."""
        self.skipped = root / "skipped.jsonl"
        """One JSON object a line: each video that could not be decoded; absent when there was none."""
        self.pictures = root / "pictures"
        """What TensorBoard shows of the run besides its curves."""
        self.result = root / "result.json"
        """What a fine-tuning run has measured."""
        self.checkpoint_folder = folder = root / "checkpoints" if checkpoints is None else checkpoints
        self.last = folder / "last.pt"
        """The checkpoint that `--resume` continues from."""
        self.best = folder / "best.pt"
        """The checkpoint of the best epoch, where a run chooses one."""
        self.healthy = folder / "healthy.pt"
        """The last checkpoint whose representation was measured and had not collapsed, where a run may go back."""
        self.ema = folder / "ema.safetensors"
        """The moving average of the encoder, where a run keeps one; a file that every command reads."""

    @classmethod
    def of(cls, root: Path) -> "RunFolder":
        """That of a run, with its checkpoints where `config.yaml` says that they are, or where they were moved to.

        Raises ConfigError.
        """
        run = cls(root)
        apart = run.record().get("checkpoints") if run.config.is_file() else None
        return run if apart is None or run.to_resume_from() else cls(root, Path(apart))

    @property
    def is_finetuned(self) -> bool:
        """Whether it is a run of `fima finetune`, by its settings."""
        return self.config.is_file() and "classifier" in read_yaml(self.config)

    def numbered(self, epoch: int) -> Path:
        """Path of the checkpoint that is kept after `epoch` whole epochs."""
        return self.checkpoint_folder / f"epoch-{epoch:03d}.pt"

    def before_last(self, count: int) -> list[Path]:
        """Paths of the `count` checkpoints that were `last` before it, the newest first."""
        return [self.checkpoint_folder / f"last-{number}.pt" for number in range(1, count + 1)]

    def to_resume_from(self) -> list[Path]:
        """Checkpoints that the run could go on from, those to be tried first at the beginning."""
        earlier, numbered = (
            sorted(self.checkpoint_folder.glob(names), key=lambda path: (len(path.name), path.name))
            for names in ("last-*.pt", "epoch-*.pt")
        )
        return [*([self.last] if self.last.exists() or earlier or numbered else []), *earlier, *reversed(numbered)]

    def last_good(self) -> str:
        """Say which checkpoint a stopped run has left."""
        return f"the last good checkpoint is {self.last}" if self.last.exists() else "no checkpoint is written yet"

    def require(self, *, resume: bool) -> None:
        """Raise ConfigError, with the remedy, for a folder without a run to resume, or for one that is not new."""
        if resume:
            if not self.config.exists():
                what = f"{self.root} holds no run; check --out, or leave --resume out to start one"
                raise ConfigError(f"--resume: {what}")
            recorded = Path(self.record().get("checkpoints", self.root / "checkpoints")).resolve()
            were_moved = self.to_resume_from() and not RunFolder(self.root, recorded).to_resume_from()
            if self.checkpoint_folder.resolve() != recorded and not were_moved:
                what = f"the run in {self.root} has its checkpoints in {recorded}; give --checkpoints"
                raise ConfigError(f"--resume: {what}{'' if recorded.is_dir() else ' with where they are now'}")
            return
        self.refuse_other_run()
        remedy = "choose another --out"
        if self.root.exists() and not self.root.is_dir():
            raise ConfigError(f"--out {self.root}: is a file; {remedy}")
        # A run that was ended as soon as it had the folder has left these two.
        if self.root.is_dir() and any(path.name not in (LOCK, OUTPUT_MARKER) for path in self.root.iterdir()):
            raise ConfigError(f"--out {self.root}: is not empty and holds no run; {remedy}")

    def refuse_other_run(self) -> None:
        """Raise ConfigError, with the remedy, for a new run where the folder, or that of its checkpoints, has one."""
        others = (self.best, self.healthy)
        if self.checkpoints is not None and (self.to_resume_from() or any(path.exists() for path in others)):
            raise ConfigError(f"--checkpoints {self.checkpoints}: already holds those of a run; choose another one")
        if self.config.exists() or self.last.exists():
            what = "already holds a run; continue it with --resume, or choose another --out"
            raise ConfigError(f"--out {self.root}: {what}")

    def read_config(self, kind: type[RunSettings]) -> RunSettings:
        """Return the settings that the run was started with. Raises ConfigError where it is of another kind."""
        content = read_yaml(self.config)
        if content.keys() - {RECORD_KEY}.union(field.name for field in fields(kind)):
            raise ConfigError(f"--out {self.root}: holds a run of another command; choose another --out")
        return config_from_mapping(content, kind, source=str(self.config))

    def settings(self) -> PretrainConfig | FinetuneConfig:
        """Return the settings of a run of either kind. Raises ConfigError."""
        return self.read_config(FinetuneConfig) if self.is_finetuned else self.read_config(PretrainConfig)

    def record(self) -> dict[str, Any]:
        """Return the facts in `config.yaml`. Raises ConfigError where it cannot be read, or was damaged by hand."""
        record = read_yaml(self.config).get(RECORD_KEY) or {}
        if not isinstance(record, dict) or any(type(record.get(name, kind())) is not kind for name, kind in FACTS):
            raise ConfigError(f"{self.config}: its `{RECORD_KEY}` is damaged; restore it, or take it out of the file")
        return record

    def write_config(self, config: PretrainConfig | FinetuneConfig, record: dict[str, Any]) -> None:
        """Write the settings in the form of a recipe, with a record of the data and the versions."""
        if self.checkpoints is not None:
            record = {**record, "checkpoints": str(self.checkpoints.resolve())}
        content = {
            section: {name: _absolute(f"{section}.{name}", value) for name, value in settings.items()}
            for section, settings in config_to_mapping(config).items()
        }
        content[RECORD_KEY] = record
        write_file(self.config, yaml.safe_dump(content, sort_keys=False), kind=None)

    def has_record(self, kind: str, epoch: int) -> bool:
        """Whether `metrics.jsonl` has a line of this kind for an epoch, counted from 1."""
        return any((line.get("kind"), line.get("epoch")) == (kind, epoch) for line in read_lines(self.metrics))

    def best_health(self) -> dict[str, Any]:
        """Return the line of the metrics on the health check whose weights are `best`; empty where there is none."""
        kept = [line for line in read_lines(self.metrics) if line.get("kind") == "health" and line.get("best")]
        return kept[-1] if kept else {}

    def forget_after(self, step: int, tested_epoch: int = 0) -> None:
        """Drop what a resumed run does again: lines after an optimiser step, tests after a whole epoch, the result."""

        def is_done(line: dict[str, Any]) -> bool:
            # A line that was edited by hand may lack either.
            tested = line.get("kind") not in TESTS or line.get("epoch", 0) <= tested_epoch
            return line.get("step", 0) <= step and tested and line.get("kind") != "result"

        self.result.unlink(missing_ok=True)  # of a run that goes on for more epochs: other weights are tested then
        for path in (self.metrics, self.skipped):
            keep_lines(path, is_done)


def _absolute(flag: str, value: Any) -> Any:  # noqa: ANN401
    """The value of a setting, as it is recorded."""
    return os.path.abspath(value) if flag in PLACES and value is not None else value  # noqa: PTH100 - links stay


def check_resumed_config(given: RunSettings, saved: RunSettings, run: RunFolder) -> list[str]:
    """Return the settings that have changed and may, each with both values.

    Raises ConfigError, with flags, values and remedy, for those that would make the rest of the run something else.
    """
    old, new = ({flag: _absolute(flag, value) for flag, value in flatten(each).items()} for each in (saved, given))
    changes = {flag: f"{as_flag(flag)} {value}" for flag, value in new.items() if value != old[flag]}
    wrong = [flag for flag in changes if flag not in MAY_CHANGE_ON_RESUME]
    if wrong:
        what = "; ".join(f"{changes[flag]}: the run in {run.root} has {old[flag]}" for flag in wrong)
        flags = "flag" if len(wrong) == 1 else "flags"
        raise ConfigError(f"{what}; drop the {flags} to continue it, or start a new run in another --out")
    return [f"{text} (before: {old[flag]})" for flag, text in changes.items()]
