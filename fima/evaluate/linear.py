"""Linear probe: logistic regression on frozen, pooled features."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from fima.errors import DataError
from fima.evaluate.splits import grouped_folds

INVERSE_REGULARISATIONS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
NUM_FOLDS = 5
MAX_ITERATIONS = 2000


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """A fitted classifier of pooled features."""

    inverse_regularisation: float
    """The chosen C of scikit-learn's `LogisticRegression`."""
    held_out_accuracies: dict[float, float]
    """Accuracy in percent on the held-out training videos, by C; empty where there was nothing to choose."""
    selection: str
    """How training videos were held out."""
    mean: Tensor
    """(C,) of the training features."""
    std: Tensor
    """(C,) of the training features."""
    weight: Tensor
    """(classes, C)."""
    bias: Tensor
    """(classes,); -inf for a class without training video."""
    l2_normalise: bool

    def scores(self, features: Tensor) -> Tensor:
        """Return log-odds (V, classes) of features (V, C)."""
        prepared = (_normalise(features) if self.l2_normalise else features.double()) - self.mean
        return prepared / self.std @ self.weight.T + self.bias


def fit_linear_probe(
    features: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    seed: int = 0,
    l2_normalise: bool = False,
    candidates: Sequence[float] = INVERSE_REGULARISATIONS,
    groups: Sequence[str] | None = None,
) -> LinearProbe:
    """Fit logistic regression on standardised features (V, C), one row a training video, of class numbers (V,).

    Of the candidates for C, in rising order, the one is taken that does best on training videos held out of the fit,
    each fifth of them in turn; ties go to the stronger regularisation. The probe is then fitted on all training videos.
    Where there is one candidate, none is held out.

    Classes may have no training video. The seed decides what is held out; the videos of a group are held out together.
    `l2_normalise` is for each row, before it is standardised. Raises DataError for fewer than two classes, or no class
    with two videos to choose C with.
    """
    check_classes(labels, num_classes, "linear", least=min(2, len(candidates)))
    prepared = _normalise(features) if l2_normalise else features.double()
    rows, targets = prepared.numpy(), labels.numpy()
    hits = np.zeros(len(candidates))
    parts, selection = held_out_parts(targets, groups, seed) if len(candidates) > 1 else ([], "none")
    num_held_out = sum(int(held_out.sum()) for held_out in parts)
    for held_out in parts:
        mean, std = _statistics(rows[~held_out])
        # Single precision tells the strengths apart as well, in half the time.
        seen, unseen = (((rows[part] - mean) / std).astype(np.float32) for part in (~held_out, held_out))
        model = LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True)
        for position, candidate in enumerate(candidates):
            model.set_params(C=candidate)
            _fit(model, seen, targets[~held_out])
            hits[position] += (model.predict(unseen) == targets[held_out]).sum()
    accuracies = {c: float(100 * n / num_held_out) for c, n in zip(candidates, hits, strict=True) if num_held_out}
    chosen = candidates[int(hits.argmax())]
    mean, std = _statistics(rows)
    model = LogisticRegression(C=chosen, max_iter=MAX_ITERATIONS)
    _fit(model, (rows - mean) / std, targets)
    weight, bias = _weights(model, num_classes)
    return LinearProbe(
        inverse_regularisation=chosen,
        held_out_accuracies=accuracies,
        selection=selection,
        mean=torch.from_numpy(mean),
        std=torch.from_numpy(std),
        weight=weight,
        bias=bias,
        l2_normalise=l2_normalise,
    )


def _normalise(features: Tensor) -> Tensor:
    return functional.normalize(features.double(), dim=1)


def _statistics(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of the columns; a constant column gets 1, so that it stays at zero."""
    std = rows.std(axis=0)
    return rows.mean(axis=0), np.where(std > 1e-12, std, 1.0)


def check_classes(labels: Tensor, num_classes: int, probe: str, *, least: int = 2, where: str = "") -> None:
    """Raise DataError, which begins with `where`, for fewer than two classes, or no class of `least` videos."""
    counts = np.bincount(labels.numpy(), minlength=num_classes)
    if (counts > 0).sum() < 2 or counts.max() < least:
        needs = "two classes" if least < 2 else "two classes and two videos of a class"
        raise DataError(
            f"{where}the {probe} probe needs {needs} to train on; give more videos, or --protocols without it"
        )


def held_out_parts(
    labels: NDArray[np.int64], groups: Sequence[str] | None, seed: int, count: int = NUM_FOLDS
) -> tuple[list[NDArray[np.bool_]], str]:
    """Return which training videos are held out in each inner fold, where two classes are left without them, and how.

    Each fold is bool (V,). Whole groups are held out, unless each of them is needed to have two classes. The labels
    (V,) have two classes, and two videos of one.
    """
    for whole in (groups, None):
        folds = inner_folds(labels, whole, seed, count)
        parts = [folds == number for number in range(count)]
        usable = [part for part in parts if part.any() and len(np.unique(labels[~part])) > 1]
        if usable:
            by_group = ", whole groups" if len(set(whole or ())) > 1 else ""
            return usable, f"{len(usable)}-fold cross-validation on the training videos{by_group}"
    raise AssertionError("two classes and two videos of one leave something to hold out")


def inner_folds(
    labels: NDArray[np.int64], groups: Sequence[str] | None, seed: int, count: int = NUM_FOLDS
) -> NDArray[np.int64]:
    """Return which of `count` parts of the training videos, decided by the seed, each is held out with, int64 (V,).

    A group is held out as a whole; without groups, or with one alone, each video is its own.
    """
    num_groups = len(set(groups or ()))
    if groups is None or num_groups < 2:
        return _stratified_folds(labels, seed, count)
    return grouped_folds(labels, groups, min(count, num_groups), seed)


def _stratified_folds(labels: NDArray[np.int64], seed: int, count: int) -> NDArray[np.int64]:
    """Fold number of each video; a class is spread evenly over the folds."""
    rng = np.random.default_rng(seed)
    folds = np.zeros(len(labels), dtype=np.int64)
    start = 0
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        # The start moves on from class to class: otherwise the first folds would get every class's remainder.
        folds[members] = (start + np.arange(len(members))) % count
        start += len(members)
    return folds


def _fit(model: LogisticRegression, rows: NDArray[np.float64 | np.float32], labels: NDArray[np.int64]) -> None:
    # Weak regularisation on separable features converges slowly; the held-out accuracy judges what it reached.
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        model.fit(rows, labels)


def _weights(model: LogisticRegression, num_classes: int) -> tuple[Tensor, Tensor]:
    """Weight (num_classes, C) and bias of a fitted model, also where it saw two classes or not all of them."""
    coefficients, intercept = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        coefficients, intercept = np.concatenate([-coefficients, coefficients]), np.concatenate([-intercept, intercept])
    weight = torch.zeros(num_classes, coefficients.shape[1], dtype=torch.float64)
    bias = torch.full((num_classes,), -torch.inf, dtype=torch.float64)
    seen = torch.from_numpy(model.classes_)
    weight[seen], bias[seen] = torch.from_numpy(coefficients), torch.from_numpy(intercept)
    return weight, bias
