"""`fima motion`: the method's own view of a video."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fima.commands.parse import OUT, Device
from fima.config import PretrainConfig
from fima.config.checks import require, require_least
from fima.data.layouts.files import mark_picture
from fima.files.output import check_writable


@dataclass(frozen=True, kw_only=True)
class MotionArguments:
    """Show what the losses align in a video, in one picture: two random clips, their frame differences, the foreground
    cells, and the cells of both crops that show the same place and are positives of each other.

    For example: `fima motion clip.mp4 --checkpoint runs/mine/checkpoints/last.pt --out motion.png`.
    """

    video: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="VIDEO")]
    """The video file."""
    out: Annotated[Path | None, OUT] = None
    """The PNG to write. None: NAME_motion.png in the current folder."""
    checkpoint: Path | None = None
    """Its encoder determines the foreground, its settings the clips. None: the paper's settings, and the cells with the
    largest frame differences as the foreground."""
    seed: int = 0
    """Seed of the two windows and their crops."""
    device: Device = "auto"

    def __post_init__(self) -> None:
        require_least(self, seed=0)
        require(self.out is None or self.out.suffix == ".png", "out", self.out, "must end in .png")


def main(arguments: MotionArguments) -> None:
    """Run the command."""
    out = arguments.out or Path(f"{arguments.video.stem}_motion.png")
    check_writable(out, flag="out", is_file=True)
    from fima.checkpoints.pretrained import load_pretrained
    from fima.evaluate.activation import ViewEncoders, with_batch_statistics
    from fima.torch_tools.device import choose_device
    from fima.visual.motion_picture import draw_motion, motion_view

    device = choose_device(arguments.device)
    config, encoders, by = PretrainConfig(), None, "frame difference (no --checkpoint given)"
    if arguments.checkpoint is not None:
        loaded = load_pretrained(arguments.checkpoint, device=device)
        config, by = loaded.config, loaded.description
        encoders = ViewEncoders(rgb=loaded.encoder, difference=with_batch_statistics(loaded.encoder))
    view = motion_view(arguments.video, config, encoders=encoders, device=device, seed=arguments.seed)
    mark_picture(out)
    draw_motion(view, out, title=f"{arguments.video.name} · foreground by {by}")
    print(f"foreground by {by}; wrote {out}")
