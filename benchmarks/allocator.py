"""What it costs when freed memory goes back to the system: a forward pass of I3D with and without `keep_freed_memory`.

Each setting runs in a process of its own, several times in turn; the figures are the smallest seconds of processor time
per clip, which other programs on the machine disturb least.
"""

import argparse
import subprocess
import sys
import time

from tables import markdown_table


def seconds_per_clip(batch_size: int, keep: bool) -> float:
    """Return the processor time of one clip in a forward pass without gradient, in this process."""
    import torch

    from fima.backbones.registry import build_backbone
    from fima.torch_tools.allocator import keep_freed_memory

    if keep:
        keep_freed_memory()
    torch.set_num_threads(1)
    encoder = build_backbone("i3d").train().to(memory_format=torch.channels_last_3d)
    clips = torch.randn(batch_size, 3, 16, 112, 112)
    taken = []
    with torch.no_grad():
        for _ in range(max(2, 32 // batch_size)):
            start = time.process_time()
            encoder(clips)
            taken.append(time.process_time() - start)
    return min(taken) / batch_size


def main() -> None:
    """Print one row a batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("BATCH", "KEEP"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(seconds_per_clip(int(arguments.one[0]), arguments.one[1] == "True"))
        return
    rows = []
    for batch_size in arguments.batch_sizes:
        best = {False: float("inf"), True: float("inf")}
        for _ in range(arguments.rounds):
            for keep in best:
                command = [sys.executable, __file__, "--one", str(batch_size), str(keep)]
                found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                best[keep] = min(best[keep], float(found))
        rows.append(
            [str(batch_size), *(f"{1000 * best[keep]:.1f}" for keep in best), f"{best[True] / best[False]:.2f}"]
        )
    print(markdown_table(["batch", "ms a clip, as it was", "ms a clip, kept", "ratio"], rows))


if __name__ == "__main__":
    main()
