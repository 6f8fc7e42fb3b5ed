"""The protocols that look at features of a frozen encoder: linear probe, neighbours, retrieval, clusters."""

from collections.abc import Callable
from dataclasses import asdict, replace
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from fima.data.clip_overrides import timed
from fima.data.eval_clips import ClipSettings
from fima.evaluate.clustering import NUM_SEEDS, NUM_STARTS, clustering
from fima.evaluate.features import Features
from fima.evaluate.linear import inner_folds
from fima.evaluate.linear_protocols import measure_linear, measure_low_shot, measure_low_shot_curve
from fima.evaluate.measured import FeatureSets, Measured, averaged, described, figure_name
from fima.evaluate.metrics import percent, top_k_accuracy, top_k_hits
from fima.evaluate.protocols import PROTOCOL_VERSIONS, EvaluationConfig, all_parts_of
from fima.evaluate.retrieval import NUM_NEIGHBOURS, RANKS, TEMPERATURE, knn_scores, retrieve, same_video_share


def measure(name: str, sets: FeatureSets, clips: ClipSettings, config: EvaluationConfig) -> dict[str, Measured]:
    """Run one of `ALL_FEATURE_PROTOCOLS`; `linear` comes with `linear_low_shot` where that was asked for.

    Of several candidates, each is measured as `<protocol>@<features>`; the protocol itself is the one that does best on
    training videos held out of the fit, so that the test videos decide nothing. Clips are for the record. Raises
    DataError for too few training videos or classes for the linear probe, or too few classes for clustering.
    """
    found: dict[str, Measured] = {}
    chosen = config.candidates[0]
    if name == "same_video":
        found[name] = _same_video(sets.train, all_parts_of(config.features), clips)
    else:
        views = {features: replace(sets, features=features) for features in config.candidates}
        each = {features: _MEASURES[name](view, config) for features, view in views.items()}
        if len(views) > 1:
            held_out = {features: _held_out(name, view, config, each[features]) for features, view in views.items()}
            chosen = max(held_out, key=lambda features: held_out[features])
            found = {f"{name}@{features}": measured for features, measured in each.items()}
            each[chosen].notes.update(features=chosen, held_out_accuracies_by_features=held_out)
        found = {name: each[chosen], **found}
        if name == "linear" and config.low_shot is not None:
            found["linear_low_shot"] = measure_low_shot(views[chosen], config, config.low_shot)
    records = {key: _record(key, chosen, clips) for key in found}
    return {key: replace(each, settings={**records[key], **each.settings}) for key, each in found.items()}


def _record(key: str, chosen: str, clips: ClipSettings) -> dict[str, Any]:
    """What the result says of a protocol beside its own settings: version, and clips as it looked at them."""
    name, _, features = key.partition("@")
    _, _, window = (features or chosen).partition("@")
    return {"version": PROTOCOL_VERSIONS[name], "clips": asdict(timed(clips, window) if window else clips)}


def _held_out(name: str, sets: FeatureSets, config: EvaluationConfig, measured: Measured) -> float:
    """Top-1, R@1 of retrieval or NMI of clustering, in percent, on training videos held out, a fifth at a time."""
    if name == "low_shot_curve":
        # By the probe on all training videos: a few of them would choose by chance.
        measured = measure_linear(sets, config)
    if name in ("linear", "low_shot_curve"):
        return float(max(measured.notes["held_out_accuracies"].values()))
    rows, labels = sets.train_rows, sets.train.labels
    if name == "clustering":  # fits nothing to labels
        return mean(each["NMI"] for each in clustering(rows, labels, config.seed)[0])
    folds = torch.from_numpy(inner_folds(labels.numpy(), sets.train_groups, config.seed))
    hits = []
    for fold in sorted(set(folds.tolist())):
        seen, unseen = folds != fold, folds == fold
        if name == "knn":
            scores = knn_scores(rows[seen], labels[seen], rows[unseen], num_classes=sets.num_classes)
            hits.append(top_k_hits(scores, labels[unseen], 1))
        else:
            hits.append(retrieve(rows[seen], labels[seen], rows[unseen], labels[unseen], is_fold=True)[0][1])
    return percent(torch.cat(hits))


def _knn(sets: FeatureSets, config: EvaluationConfig) -> Measured:
    train, labels = sets.train_rows, sets.train.labels
    scores = {
        name: (knn_scores(train, labels, rows, num_classes=sets.num_classes), own_labels)
        for name, rows, own_labels in sets.test_rows()
    }
    figures = {figure_name(name, "top1"): top_k_accuracy(*found, 1) for name, found in scores.items()}
    return Measured(
        figures=figures,
        chance={name: sets.chance[name] for name in figures},
        settings={
            "features": described(sets),
            "num_neighbours": NUM_NEIGHBOURS,
            "temperature": TEMPERATURE,
            "similarity": "cosine of features averaged over clips and crops",
        },
        scores=scores,
        hits={"top1": top_k_hits(*scores["test"], 1)},
    )


def _retrieval(sets: FeatureSets, config: EvaluationConfig) -> Measured:
    train, labels = sets.train_rows, sets.train.labels
    figures: dict[str, float] = {}
    chance: dict[str, float] = {}
    hits: dict[str, Tensor] = {}
    for name, rows, own_labels in sets.test_rows():
        found, guessed = retrieve(train, labels, rows, own_labels, is_fold=sets.is_fold)
        figures |= {figure_name(name, f"R@{k}"): percent(value) for k, value in found.items()}
        chance |= {figure_name(name, f"R@{k}"): value for k, value in guessed.items()}
        if name == "test":
            hits = {f"R@{k}": value for k, value in found.items()}
    mean = "the training videos' mean" if sets.is_fold else "each list's own mean"
    similarity = f"cosine of features averaged over clips and crops, after subtracting {mean}"
    settings = {"features": described(sets), "ranks": list(RANKS), "similarity": similarity}
    return Measured(figures=figures, chance=chance, settings=settings, hits=hits)


def _clustering(sets: FeatureSets, config: EvaluationConfig) -> Measured:
    seeds: list[dict[str, float]] = [{} for _ in range(NUM_SEEDS)]
    chance: dict[str, float] = {}
    for name, rows, labels in sets.test_rows():
        found, guessed = clustering(rows, labels, config.seed)
        chance |= {figure_name(name, key): value for key, value in guessed.items()}
        for figures, agreed in zip(seeds, found, strict=True):
            figures |= {figure_name(name, key): value for key, value in agreed.items()}
    return averaged(
        seeds,
        chance=chance,
        settings={
            "features": described(sets),
            "clusters": "k-means on L2-normalised features averaged over clips and crops, as many as classes",
            "num_starts": NUM_STARTS,
            "num_seeds": NUM_SEEDS,
            "seed": config.seed,
        },
    )


def _same_video(train: Features, parts: tuple[str, ...], clips: ClipSettings) -> Measured:
    # Other crops of a clip show the same frames, so only the middle one takes part.
    pooled = train.columns_of(parts)[:, clips.num_crops // 2 :: clips.num_crops]
    found = same_video_share(pooled)
    return Measured(
        figures={} if found is None else {"train": found.share},
        chance={} if found is None else {"train": found.chance},
        settings={
            "features": f"of the frozen encoder in eval mode: {', '.join(parts)}",
            "similarity": "cosine between different clips after subtracting their mean, centre crops",
        },
        notes={"videos_without_two_different_clips": len(pooled) if found is None else found.num_left_out},
    )


_MEASURES: dict[str, Callable[[FeatureSets, EvaluationConfig], Measured]] = {
    "linear": measure_linear,
    "low_shot_curve": measure_low_shot_curve,
    "knn": _knn,
    "retrieval": _retrieval,
    "clustering": _clustering,
}
