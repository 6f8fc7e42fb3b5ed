"""How long the measures of frozen features take: linear probe, kNN and retrieval, on features of the size of UCF101's.

The features are made: a random centre for each class, noise, and a ReLU, as pooled features of I3D are never negative.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from fima.evaluate.linear import fit_linear_probe
from fima.evaluate.metrics import top_k_accuracy
from fima.evaluate.retrieval import knn_scores, retrieve
from tables import markdown_table

NOISE = 6.0


def features(num_videos: int, size: int, centres: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return features (V, C) and labels (V,)."""
    labels = torch.arange(num_videos) % len(centres)
    noise = torch.randn(num_videos, size, generator=generator)
    return (centres[labels] + NOISE * noise).relu(), labels


def main() -> None:
    """Print one row a measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=10_000)
    parser.add_argument("--test", type=int, default=4_000)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--classes", type=int, default=101)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(arguments.classes, arguments.size, generator=generator)
    train, train_labels = features(arguments.train, arguments.size, centres, generator)
    test, test_labels = features(arguments.test, arguments.size, centres, generator)

    def knn() -> float:
        scores = knn_scores(train, train_labels, test, num_classes=arguments.classes)
        return top_k_accuracy(scores, test_labels, 1)

    def linear() -> float:
        probe = fit_linear_probe(train, train_labels, num_classes=arguments.classes)
        print(probe.inverse_regularisation, probe.held_out_accuracies)
        return top_k_accuracy(probe.scores(test), test_labels, 1)

    def retrieval() -> float:
        return retrieve(train, train_labels, test, test_labels).recall[1]

    measures: dict[str, Callable[[], float]] = {"retrieval": retrieval, "kNN": knn, "linear probe": linear}
    rows = []
    for name, measure in measures.items():
        start, start_cpu = time.perf_counter(), time.process_time()
        accuracy = measure()
        taken, taken_cpu = time.perf_counter() - start, time.process_time() - start_cpu
        rows.append([name, f"{taken:.1f}", f"{taken_cpu:.1f}", f"{accuracy:.1f}"])
    print(markdown_table(["measure", "seconds", "of processor time", "top-1 %"], rows))


if __name__ == "__main__":
    main()
