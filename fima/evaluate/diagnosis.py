"""What remains of an encoder's knowledge of classes when order, motion, foreground or background are taken away."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fima.data.datasets import VideoList
from fima.data.eval_clips import ClipSettings
from fima.errors import DataError
from fima.evaluate.cam import evenly_spread
from fima.evaluate.extract import Resources, decoded_clips
from fima.evaluate.features import Features, FeatureSource, feature_map, normalised, raw_difference_features
from fima.evaluate.frozen import FrozenEncoder
from fima.evaluate.intervals import FEWEST_GROUPS, Tested, drawn_means, interval, split_weights
from fima.evaluate.linear import LinearProbe, fit_linear_probe
from fima.evaluate.measured import FeatureSets, Measured
from fima.evaluate.metrics import most_frequent, percent, top_k_hits
from fima.evaluate.protocols import PROTOCOL_VERSIONS, EvaluationConfig
from fima.method.heads import pooled

BACKGROUNDS = 64
"""Videos whose backgrounds are put behind the foregrounds of others."""
UNTRAINED = {"as_is": "untrained", "one_frame": "untrained_one_frame"}
"""Floors of the same network with random weights, by what it is shown."""
FLOORS = (*UNTRAINED.values(), "frame_differences")
GREY = 128
HASH_FACTOR = 2654435761
STILL_ALIKE = 1e-3
"""Features of still clips that vary less than so much of what those of videos do are the same."""
MOVING = 12
"""Mean absolute distance to the median, over the colours, that a pixel of the foreground and its neighbours exceed."""
INPUTS = (
    "as_is",
    "one_frame",
    "shuffled",
    "reversed",
    "median_subtracted",
    "foreground",
    "background",
    "half_speed",
    "double_speed",
    "swapped",
)


def read_backgrounds(videos: VideoList, clips: ClipSettings, resources: Resources) -> tuple[Tensor, Tensor]:
    """Return the medians over time of the middle clips of up to 64 videos of a labelled list, and their classes.

    They are uint8 (K, 3, S, S) and int64 (K,). Raises DataError where none of them can be decoded.
    """
    chosen = evenly_spread(videos.videos, BACKGROUNDS)
    found = decoded_clips([video.path for video in chosen], replace(clips, num_clips=1, num_crops=1), resources)
    medians = {index: median_frame(own[0])[0, :, 0] for index, own in found}
    if not medians:
        raise DataError(f"{videos.root}: none of the videos for backgrounds can be decoded")
    return torch.stack(list(medians.values())), torch.tensor([chosen[index].label for index in medians])


def diagnosis_source(encoder: FrozenEncoder, backgrounds: Tensor, background_labels: Tensor) -> FeatureSource:
    """Return features of all inputs and floors of a clip, and its background's class, so that videos are decoded once.

    The untrained floors of an encoder whose architecture cannot be built anew are left out. Backgrounds are uint8 (K,
    3, S, S) of classes (K,), as `read_backgrounds` gives.
    """
    untrained = encoder.floor
    parts = (*INPUTS, *FLOORS) if untrained is not None else (*INPUTS, FLOORS[-1])

    def pool(clips: Tensor) -> Tensor:
        chosen = background_places(clips, len(backgrounds))
        rows = {"frame_differences": raw_difference_features(clips)}
        for name, shown in shown_inputs(clips, backgrounds.to(clips.device)[chosen]):
            rows[name] = pooled(feature_map(encoder.module, shown))
            if untrained is not None and name in UNTRAINED:
                rows[UNTRAINED[name]] = pooled(feature_map(untrained.to(clips.device), shown))
        behind = background_labels.to(clips.device)[chosen, None].float()
        return torch.cat([*(rows[part] for part in parts), behind], dim=1)

    content = hashlib.sha256(backgrounds.numpy().tobytes() + background_labels.numpy().tobytes()).hexdigest()[:16]
    name = f"{encoder.fingerprint}, diagnosis {PROTOCOL_VERSIONS['diagnosis']}, backgrounds {content}"
    return FeatureSource(name=name, pool=pool, parts=parts)


def measure_diagnosis(sets: FeatureSets, clips: ClipSettings, config: EvaluationConfig) -> Measured:
    """Run the protocol `diagnosis` on features of `diagnosis_source`; raises as `fit_linear_probe`."""
    train, test = (_by_input(features, clips) for features in (sets.train, sets.tests["test"]))
    labels, test_labels = sets.train.labels, sets.tests["test"].labels

    def fit(rows: Tensor) -> LinearProbe:
        return fit_linear_probe(
            rows.mean(dim=1), labels, num_classes=sets.num_classes, seed=config.seed, groups=sets.train_groups
        )

    whole = fit(train["as_is"])
    hits: dict[str, Tensor] = {}
    for name in sets.train.parts:
        own = whole if name == "as_is" else fit(train[name])
        hits[name] = top_k_hits(own.scores(test[name].mean(dim=1)), test_labels, 1)
        if name in INPUTS and name != "as_is":
            hits[f"{name}/same_probe"] = top_k_hits(whole.scores(test[name].mean(dim=1)), test_labels, 1)
    still, moving = (train[name].mean(dim=1).std(dim=0).max() for name in ("one_frame", "as_is"))
    figures = {name: percent(values) for name, values in hits.items()}
    figures |= _fooled(whole, test, test_labels)
    return Measured(
        figures=figures,
        chance=dict.fromkeys(figures, most_frequent(labels, test_labels)),
        settings={
            "version": PROTOCOL_VERSIONS["diagnosis"],
            "clips": vars(clips),
            "probe": "as linear, for each input",
            "foreground": f"pixels that are, with their neighbours, more than {MOVING} of 255 from the clip's median",
            "untrained": "the same architecture with random weights, seed 0",
            "seed": config.seed,
        },
        notes={
            "inverse_regularisation": whole.inverse_regularisation,
            "still_clips_alike": bool(still < STILL_ALIKE * moving),
        },
        hits=hits,
    )


def _by_input(features: Features, clips: ClipSettings) -> dict[str, Tensor]:
    """The columns of `diagnosis_source` by name, (V, n, C) each."""
    differences = raw_difference_features(torch.zeros(1, 3, clips.frames, 8, 8, dtype=torch.uint8)).shape[1]
    num_encoded = len(features.parts) - 1
    size = (features.pooled.shape[-1] - differences - 1) // num_encoded
    columns = torch.split(features.pooled, [size] * num_encoded + [differences, 1], dim=-1)
    return dict(zip((*features.parts, "background_class"), columns, strict=True))


def _fooled(probe: LinearProbe, test: Mapping[str, Tensor], labels: Tensor) -> dict[str, float]:
    """How often clips with the background of another class are taken for their own class, and for the background's."""
    rows, behind = test["swapped"].flatten(0, 1), test["background_class"].flatten()
    own = labels.repeat_interleave(test["swapped"].shape[1])
    other = own != behind
    if not other.any():
        return {}
    predicted = probe.scores(rows).argmax(dim=1)
    return {
        "swapped/clips_of_foreground": percent((predicted == own)[other]),
        "swapped/clips_of_background": percent((predicted == behind)[other]),
    }


def verdict(tested: Tested, chance: float, seed: int, *, is_blind: bool = False) -> str:
    """Return in words how much of what the encoder knows about the classes remains of each input, with intervals.

    What it knows is the top-1 of the probe above chance, in percent; what remains is the same of a probe of the input.
    Intervals are by bootstrap over the groups of the test videos; none of fewer than six. `is_blind`: the encoder makes
    no difference between still clips.
    """
    hits, groups, weights = tested.hits(), tested.groups, split_weights(tested.splits)
    above, draws = {}, {}
    for name in INPUTS:
        own = hits[f"diagnosis/{name}"]
        above[name] = 100 * float(np.average(own, weights=weights)) - chance
        draws[name] = 100 * drawn_means(own, groups, weights=weights, seed=seed) - chance
    num_groups = tested.num_groups or 0
    has_intervals = num_groups >= FEWEST_GROUPS
    if above["as_is"] <= 0:
        return "The encoder does not tell these classes better than guessing does, so there is nothing to divide."
    if has_intervals and (ends := interval(draws["as_is"], num_groups))[0] <= 0:
        low, high = (chance + end for end in ends)
        return (
            "Too few test videos to show that the encoder tells these classes better than guessing does "
            f"({chance:.1f} %): as they are, {chance + above['as_is']:.1f} % (95 %: {low:.1f} to {high:.1f}), so "
            "there is nothing to divide."
        )

    def share(name: str) -> float:
        return min(1.0, max(0.0, above[name] / above["as_is"]))

    def bounds(name: str) -> tuple[float, float]:
        return interval(np.clip(draws[name] / np.maximum(draws["as_is"], 1e-9), 0, 1), num_groups)

    def said(name: str) -> str:
        if not has_intervals:
            return f"{100 * share(name):.0f} %"
        low, high = bounds(name)
        return f"{100 * share(name):.0f} % ({100 * low:.0f} to {100 * high:.0f})"

    has_background, has_foreground = share("background") >= 0.5, share("swapped") >= 0.5
    decides = {
        (True, False): "The background decides",
        (False, True): "Motion decides",
        (True, True): "Background and motion both tell the classes",
        (False, False): "Neither background nor motion tells the classes alone",
    }[has_background, has_foreground]
    is_sure = has_intervals and not any(low < 0.5 <= high for low, high in map(bounds, ("background", "swapped")))
    unsure = "" if is_sure else "Too few test videos to be sure, but perhaps: "
    return (
        f"{unsure}{decides}: of what this encoder knows about the classes, {said('one_frame')} is in a single frame, "
        f"{said('background')} in the background alone, {said('swapped')} in what moves, before other backgrounds."
        f"{' It gives all still clips the same features, so the first two could be no more.' if is_blind else ''}"
    )


def shown_inputs(clips: Tensor, backgrounds: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield each of `INPUTS` by name, as encoders take it: float32 (B, 3, F, S, S), which the next one overwrites.

    New memory for each would cost several times what its content does. Frames are normalised once, before they are put
    into another order or in front of another background. Clips are uint8 (B, 3, F, S, S), and the backgrounds of
    `swapped` uint8 (B, 3, S, S).
    """
    num_frames = clips.shape[2]
    shown = torch.empty(clips.shape, device=clips.device)
    pixels = _normalised(clips)
    median = median_frame(clips)
    moving = _moving(clips, median).float()
    still, behind = _normalised(median), _normalised(backgrounds[:, :, None])
    grey = _normalised(torch.full_like(median[:1, :, :, :1, :1], GREY))
    frames = torch.arange(num_frames, device=clips.device)
    order = torch.randperm(num_frames, generator=torch.Generator().manual_seed(0)).to(clips.device)

    def ordered(places: Tensor) -> Tensor:
        return torch.index_select(pixels, 2, places, out=shown)

    def before(background: Tensor) -> Tensor:
        # As `torch.where`, in half the time.
        return torch.mul(pixels, moving, out=shown).addcmul_(background, 1 - moving)

    yield "as_is", shown.copy_(pixels)
    yield "one_frame", shown.copy_(pixels[:, :, num_frames // 2, None])
    yield "shuffled", ordered(order)
    yield "reversed", ordered(frames.flip(0))
    # Half the distance to the median, around grey, in whole numbers.
    half_distance = clips.short().sub_(median).add_(2 * GREY).bitwise_right_shift_(1)
    yield "median_subtracted", normalised(shown.copy_(half_distance).div_(255))
    yield "foreground", before(grey)
    yield "background", shown.copy_(still)
    yield "half_speed", ordered(frames // 2)
    yield "double_speed", ordered(frames % ((num_frames + 1) // 2) * 2)
    yield "swapped", before(behind)


def background_places(clips: Tensor, count: int) -> Tensor:
    """Return which of so many backgrounds each clip of `swapped` has, int64 (B,).

    It follows from the pixels of clips, uint8 (B, 3, F, S, S), so that neither batches nor processes change it.
    """
    # Multiplicative hashing: the sum alone says something of the picture, and so of its class.
    total = clips[:, :, 0].sum(dim=(1, 2, 3), dtype=torch.int64)
    return (total * HASH_FACTOR >> 16) % count


def median_frame(clips: Tensor) -> Tensor:
    """Return the median over time, the lower one of an even number, uint8 (B, 3, 1, S, S) of uint8 (B, 3, F, S, S)."""
    # Sorting whole frames by exchanges takes a tenth of the time of `Tensor.median` over frames.
    frames = list(clips.unbind(dim=2))
    for number in range(len(frames)):
        for place in range(number % 2, len(frames) - 1, 2):
            low, high = frames[place], frames[place + 1]
            frames[place], frames[place + 1] = torch.minimum(low, high), torch.maximum(low, high)
    return frames[(len(frames) - 1) // 2][:, :, None]


def _normalised(clips: Tensor) -> Tensor:
    return normalised(clips.float().div_(255))


def _moving(clips: Tensor, median: Tensor) -> Tensor:
    """Where the foreground is, without its rim, whose pixels are mixed with the background: bool (B, 1, F, S, S)."""
    red, green, blue = (torch.maximum(clips, median) - torch.minimum(clips, median)).short().unbind(dim=1)
    moving = red + green + blue > 3 * MOVING
    # All of 3 x 3 pixels: first of the three in a row, then of three rows.
    for dim in (-1, -2):
        inner, size = moving.clone(), moving.shape[dim] - 1
        inner.narrow(dim, 1, size).logical_and_(moving.narrow(dim, 0, size))
        inner.narrow(dim, 0, size).logical_and_(moving.narrow(dim, 1, size))
        moving = inner
    return moving[:, None]
