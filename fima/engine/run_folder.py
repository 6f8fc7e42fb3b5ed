"""The folder of a run: what lies where, and when a run may write into it."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from fima.config import FinetuneConfig, PretrainConfig
from fima.errors import CheckpointError, ConfigError
from fima.recipe import RECORD_KEY, RunSettings, config_from_mapping, config_to_mapping, flatten, read_yaml

MAY_CHANGE_ON_RESUME = frozenset(
    {
        "data.workers",
        "data.max_skipped_share",
        "optim.epochs",
        "run.device",
        "run.checkpoint_epochs",
        "run.health_epochs",
        "run.health_videos",
        "run.log_steps",
    }
)


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    root: Path
    """The folder that `--out` names."""
    checkpoints: Path | None = None
    """The folder that `--checkpoints` names. None: `checkpoints` in the folder of the run."""

    @property
    def checkpoint_folder(self) -> Path:
        """Where the checkpoints lie."""
        return self.root / "checkpoints" if self.checkpoints is None else self.checkpoints

    @property
    def config(self) -> Path:
        """Every setting of the run, and a record of its data and versions."""
        return self.root / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON object a line: steps, epochs and health checks."""
        return self.root / "metrics.jsonl"

    @property
    def skipped(self) -> Path:
        """One JSON object a line: each video that could not be decoded; absent when there was none."""
        return self.root / "skipped.jsonl"

    @property
    def last(self) -> Path:
        """The checkpoint that `--resume` continues from."""
        return self.checkpoint_folder / "last.pt"

    def numbered(self, epoch: int) -> Path:
        """Path of the checkpoint that is kept after `epoch` whole epochs."""
        return self.checkpoint_folder / f"epoch-{epoch:03d}.pt"

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch, where a run chooses one."""
        return self.checkpoint_folder / "best.pt"

    @property
    def result(self) -> Path:
        """What a fine-tuning run has measured."""
        return self.root / "result.json"

    def last_good(self) -> str:
        """Say which checkpoint a stopped run has left."""
        return f"the last good checkpoint is {self.last}" if self.last.exists() else "no checkpoint is written yet"

    def require_new(self) -> None:
        """Refuse a folder that already holds something.

        Raises:
            ConfigError: with the remedy.
        """
        remedy = "choose another --out"
        if self.checkpoints is not None and self.last.exists():
            raise ConfigError(f"--checkpoints {self.checkpoints}: already holds those of a run; choose another one")
        if self.config.exists() or self.last.exists():
            raise ConfigError(f"--out {self.root}: already holds a run; continue it with --resume, or {remedy}")
        if self.root.exists() and not self.root.is_dir():
            raise ConfigError(f"--out {self.root}: is a file; {remedy}")
        if self.root.is_dir() and any(self.root.iterdir()):
            raise ConfigError(f"--out {self.root}: is not empty and holds no run; {remedy}")

    def require_resumable(self) -> None:
        """Refuse to resume where there is no run, or where its `last.pt` is gone.

        A run that was ended before its first checkpoint can be resumed: it begins again.

        Raises:
            ConfigError: the folder holds no run, or its run writes its checkpoints elsewhere.
            CheckpointError: there are checkpoints, but not the last one.
        """
        if not self.config.exists():
            raise ConfigError(f"--resume: {self.root} holds no run; check --out, or leave --resume out to start one")
        record = read_yaml(self.config).get(RECORD_KEY) or {}
        recorded = record.get("checkpoints", str(self.root.resolve() / "checkpoints"))
        if str(self.checkpoint_folder.resolve()) != recorded:
            raise ConfigError(f"--resume: the run in {self.root} has its checkpoints in {recorded}; give --checkpoints")
        others = sorted(self.checkpoint_folder.glob("epoch-*.pt"))
        if others and not self.last.exists():
            raise CheckpointError(
                f"{self.last}: missing; to continue from an older checkpoint, copy {others[-1]} to it"
            )

    def read_config(self, kind: type[RunSettings]) -> RunSettings:
        """Return the settings that the run was started with.

        Args:
            kind: `PretrainConfig` or `FinetuneConfig`.

        Raises:
            ConfigError: the run is of another kind, or its `config.yaml` cannot be read.
        """
        content = read_yaml(self.config)
        if content.keys() - {RECORD_KEY}.union(field.name for field in fields(kind)):
            raise ConfigError(f"--out {self.root}: holds a run of another command; choose another --out")
        return config_from_mapping(content, kind, source=str(self.config))

    def write_config(self, config: PretrainConfig | FinetuneConfig, record: dict[str, Any]) -> None:
        """Write the settings in the form of a recipe, with a record of the data and the versions."""
        if self.checkpoints is not None:
            record = {**record, "checkpoints": str(self.checkpoints.resolve())}
        content = {**config_to_mapping(config), RECORD_KEY: record}
        _replace(self.config, yaml.safe_dump(content, sort_keys=False))

    def forget_after(self, step: int) -> None:
        """Drop the lines of steps after `step`, which a resumed run does again."""
        for path in (self.metrics, self.skipped):
            _filter_lines(path, lambda line: line["step"] <= step)


def check_resumed_config(given: RunSettings, saved: RunSettings, run: RunFolder) -> None:
    """Refuse settings that would make the rest of a run something else than its beginning.

    Raises:
        ConfigError: names the flag, both values and the remedy.
    """
    old = flatten(saved)
    for flag, value in flatten(given).items():
        if value != old[flag] and flag not in MAY_CHANGE_ON_RESUME:
            raise ConfigError(
                f"--{flag} {value}: the run in {run.root} has {old[flag]}; drop the flag to continue it, "
                "or start a new run in another --out"
            )


def _filter_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Keep the lines that pass; a last line that was cut off by a crash goes too."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if keep(json.loads(line)):
                kept.append(line)
        except json.JSONDecodeError:
            continue
    _replace(path, "".join(kept))


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
