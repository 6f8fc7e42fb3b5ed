"""How long each recipe would run at measured speeds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fima.benchmark.steps import StepFigures
from fima.config import FinetuneConfig
from fima.recipe import RECIPES, read_recipe, read_yaml

NUM_VIDEOS: Mapping[str, int] = {"ucf101": 9_537, "hmdb51": 3_570, "k400": 240_000}
"""Training videos: split 1 of UCF101 and HMDB51, and Kinetics-400 in round numbers."""
FINETUNED_BACKBONE = "i3d"


@dataclass(frozen=True, kw_only=True)
class RecipeHours:
    """One recipe."""

    recipe: str
    videos: int
    epochs: int
    videos_per_second: float
    """At which it would train, if its batches are there in time."""

    @property
    def hours(self) -> float:
        """Training, without tests and checkpoints."""
        return self.videos * self.epochs / self.videos_per_second / 3600


def recipe_hours(figures: Sequence[StepFigures]) -> Iterator[RecipeHours]:
    """The recipes whose encoder and method were measured, at the highest speed.

    Fine-tuning is taken as one forward and backward pass of the encoder, linear probing as one forward pass. Speeds at
    another crop size are scaled by its area.
    """
    for path in sorted(RECIPES.glob("*.yaml")):
        content = read_yaml(path)
        if content.get("data", {}).get("dataset") not in NUM_VIDEOS:
            continue
        videos = NUM_VIDEOS[content["data"]["dataset"]]
        if "classifier" in content:
            config = read_recipe(path, FinetuneConfig)
            epochs, crop_px = config.optim.epochs, config.data.crop_size
            which = "key_pass_seconds" if config.classifier.freeze else "query_pass_seconds"
            rates = _rates(figures, FINETUNED_BACKBONE, None, which, crop_px)
        else:
            pretraining = read_recipe(path)
            epochs, crop_px = pretraining.optim.epochs, pretraining.data.crop_size
            rates = _rates(figures, pretraining.model.backbone, pretraining.method.name, "step_seconds", crop_px)
        if rates:
            yield RecipeHours(recipe=path.stem, videos=videos, epochs=epochs, videos_per_second=max(rates))


def _rates(figures: Sequence[StepFigures], backbone: str, method: str | None, which: str, crop_px: int) -> list[float]:
    """Videos a second at another crop size, for each case of a backbone and a method (None: any)."""
    found = []
    for each in figures:
        seconds: float | None = getattr(each, which)
        if seconds and each.case.backbone == backbone and method in (None, each.case.method):
            found.append(each.case.batch_size / seconds * (each.case.crop_size / crop_px) ** 2)
    return found
