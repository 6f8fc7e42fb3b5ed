"""What split batch norm (`--model.split-bn`) prevents on one device: keys that tell which batch they were made in.

MoCo is pre-trained on the motion-texture benchmark with and without it, and the leak is measured where it would show.
A key of another video of the query's own batch says nothing of the query's video, and neither does one of another
batch. The table has how often the former is the more similar of the two, as in training: 50 % where a batch leaves no
signature, 100 % where it tells all. Beside it stand the loss, and what the encoders are worth.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from fima.checkpoints.checkpoint import load_checkpoint, load_weights
from fima.checkpoints.run_folder import RunFolder
from fima.commands.study import Trial, make_data, pretrain_and_evaluate
from fima.data.augment import make_inputs
from fima.data.datasets import list_videos
from fima.data.loader import PretrainBatch, build_pretrain_loader
from fima.files.jsonl import read_lines
from fima.method.fima import FIMA
from fima.method.heads import pooled
from tables import markdown_table

RECIPE = "motion_textures_moco.yaml"
SHOWN = ("linear_top1", "knn_top1", "retrieval_r1", "swapped_background_top1")


@torch.no_grad()
def embeddings(method: FIMA, batch: PretrainBatch) -> tuple[Tensor, Tensor]:
    """Queries of clip a and keys of clip b as a training step computes them, (B, D) each."""
    a, b = (
        make_inputs(views, draws, ["full"]).full
        for views, draws in ((batch.a, batch.draws_a), (batch.b, batch.draws_b))
    )
    return method.projector(pooled(method.query_encoder(a))), method.key_projector(pooled(method.key_features(b)))


def signature(queries: list[Tensor], keys: list[Tensor]) -> float:
    """How often a query is nearer to a key of its own batch than to one of another, in percent; never its own video's.

    Args:
        queries: (B, D) for each batch, L2-normalised.
        keys: the same.
    """
    nearer = pairs = 0
    for number, query in enumerate(queries):
        others = query @ torch.cat([key for other, key in enumerate(keys) if other != number]).T
        similarity = query @ keys[number].T
        for row in range(len(query)):
            own = torch.cat([similarity[row, :row], similarity[row, row + 1 :]])
            nearer += int((own[:, None] > others[row]).sum())
            pairs += own.numel() * others.shape[1]
    return 100 * nearer / pairs


def leak(run: RunFolder, data: Path, num_batches: int) -> float:
    """The signature of batches in a run's training, on so many batches of an epoch that it has not seen."""
    saved = load_checkpoint(run.last)
    config = saved.config
    method = FIMA(config.model, config.method)
    load_weights(method, saved.model, source=run.last, what="model")
    assert isinstance(method, FIMA)
    method.train()
    loader = build_pretrain_loader(
        list_videos(data, "train"), config.data, batch_size=config.optim.batch_size, seed=config.run.seed
    )
    loader.set_epoch(config.optim.epochs)
    torch.manual_seed(config.run.seed)
    found = [embeddings(method, batch) for _, batch in zip(range(num_batches), loader, strict=False)]
    return signature([query for query, _ in found], [key for _, key in found])


def last_epoch(run: RunFolder) -> dict[str, float]:
    """Means over the last epoch."""
    return [line for line in read_lines(run.metrics) if line["kind"] == "epoch"][-1]


def main() -> None:
    """Train what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/split_bn"), help="folder of data and runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--parts", type=int, nargs="+", default=[1, 8], help="values of --model.split-bn; 1 is none")
    parser.add_argument("--batches", type=int, default=10, help="batches that the leak is measured on")
    arguments = parser.parse_args()
    rows = []
    for seed in arguments.seeds:
        data = make_data(arguments.out / f"data-{seed}", "--camera", "static", seed=seed)
        for parts in arguments.parts:
            run = RunFolder(arguments.out / f"parts-{parts}-{seed}")
            trial = Trial(recipe=RECIPE, settings={"model.split_bn": parts})
            figures = pretrain_and_evaluate(trial, data=data, out=run.root, seed=seed)
            epoch = last_epoch(run)
            rows.append(
                [
                    f"seed {seed}, {'whole batch' if parts == 1 else f'{parts} parts'}",
                    f"{leak(run, data, arguments.batches):.1f}",
                    f"{epoch['loss']:.3f}",
                    f"{100 * epoch['instance_top1']:.1f}",
                    *(f"{figures[column]:.1f}" for column in SHOWN),
                ]
            )
    header = ["MoCo", "own batch nearer", "loss", "top-1 among the keys", *(name.replace("_", " ") for name in SHOWN)]
    print(f"\n{markdown_table(header, rows)}\n")


if __name__ == "__main__":
    main()
