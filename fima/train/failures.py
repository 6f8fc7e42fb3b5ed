"""What can go wrong in a run, in one line for people: the cause, the checkpoint that is left, and what to try."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from fima.checkpoints.checkpoint import Progress
from fima.checkpoints.run_folder import RunFolder
from fima.errors import TrainingError, UserError, VideoError
from fima.files.jsonl import read_lines
from fima.torch_tools import distributed

NAMED_VIDEOS = 8
FEWEST_SKIPPED = 5
REMEDIES = {
    "out of memory": (
        "Pre-training goes on with --resume --model.recompute, where that is off; a new run may have a larger "
        "--optim.accumulate, or a smaller --optim.batch-size, --data.crop-size or --data.frames"
    ),
    "Expected more than 1 value per channel": (
        "Batch norm needs more than one number a channel: in a step of one video, --data.frames and --data.crop-size "
        "must leave more than one cell; or give another --optim.batch-size"
    ),
    "Expected to have finished reduction": (
        "A method has weights that no loss reaches; several processes need requires_grad_(False) for these"
    ),
    "DataLoader worker (pid": "A process that decodes has died; try fewer --data.workers, they may lack memory",
}
SIGNS_OF_A_LOST_PROCESS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")


class NotFiniteError(TrainingError):
    """A loss that is not finite; the message names the parts, with their values, and the videos of the batch."""

    def __init__(self, parts: str, paths: Sequence[str]) -> None:
        more = len(paths) - NAMED_VIDEOS
        names = ", ".join(paths[:NAMED_VIDEOS]) + (f" and {more} more, listed in metrics.jsonl" if more > 0 else "")
        super().__init__(f"the loss is not finite ({parts}); videos of the batch: {names}")


@contextmanager
def errors_in_one_line(run: RunFolder) -> Iterator[None]:
    """Say what goes wrong in one line, with the checkpoint that is left; at the end, leave the process group.

    Raises TrainingError for a video that nothing can replace, exhausted memory, and a dead process of loader or run.
    """
    try:
        yield
    except VideoError as error:
        raise TrainingError(f"{error}; {run.last_good()}") from None
    except UserError:
        raise
    except (RuntimeError, ValueError) as error:
        text = str(error)
        if distributed.world_size() > 1 and any(sign in text for sign in SIGNS_OF_A_LOST_PROCESS):
            raise TrainingError(
                f"another process of the run has ended or does not answer within --run.timeout-minutes "
                f"({text.splitlines()[0].strip()}); what it says itself is the cause; {run.last_good()}"
            ) from None
        remedy = next((remedy for sign, remedy in REMEDIES.items() if sign in text), None)
        if remedy is None:
            raise
        raise TrainingError(f"{text.splitlines()[0].strip(' .')}. {remedy}; {run.last_good()}") from None
    finally:
        distributed.shutdown()


def check_skipped(progress: Progress, allowed_share: float, epoch_size: float, run: RunFolder) -> None:
    """Raise TrainingError where more than the allowed share of the videos cannot be decoded, and five or more of them.

    The share is that of as many whole epochs, of `epoch_size` videos in this process, as were begun: of the first few
    videos alone, a set with fewer bad ones would have more by chance. Where none is allowed, the first one stops it.
    """
    if progress.videos_skipped <= allowed_share * epoch_size * math.ceil(progress.videos_tried / epoch_size):
        return
    different = {line["path"] for line in read_lines(run.skipped)}
    if len(different) >= (FEWEST_SKIPPED if allowed_share else 1):
        raise TrainingError(
            f"{len(different)} videos cannot be decoded, more than --data.max-skipped-share {allowed_share} of an "
            f"epoch; {run.skipped} says which and why; {run.last_good()}; leave them out in a new "
            "run (--data.exclude), or go on with --resume and a larger share"
        )


def finite_state(networks: nn.Module, progress: Progress, run: RunFolder) -> dict[str, Tensor]:
    """Return the state of networks. Raises TrainingError where a weight is not finite."""
    state: dict[str, Tensor] = networks.state_dict()
    broken = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        what = f"step {progress.step}: weights are not finite ({', '.join(broken[:3])})"
        raise TrainingError(f"{what}; {run.last_good()}; try a lower --optim.lr")
    return state


def require_saved(saved: bool, run: RunFolder) -> None:
    """Raise TrainingError, unless `saved`, instead of calling a run finished whose end is in no checkpoint."""
    if not saved:
        what = f"the end of the run is in no checkpoint, since it could not be written; {run.last_good()}"
        raise TrainingError(f"{what}; make room, and repeat the command with --resume")
