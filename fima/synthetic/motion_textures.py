"""The motion-texture benchmark: labelled videos in which only the motion of one object tells the class.

Backgrounds, shapes, colours and sizes are independent of the class, so an encoder that knows backgrounds is at chance
and one that knows motion is not. The videos come with the object's mask in every frame, and each test video has two
counterparts with the same object and motion: over another background, and over none.
"""

import json
import math
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fima.config.checks import require, require_least
from fima.data.datasets import Video, VideoList
from fima.data.workers.killable_pool import Failed, run_isolated
from fima.errors import DataError
from fima.synthetic import motion_scene as scene
from fima.synthetic.textured import encode

CLASSES = (
    "HorizontalDrift",
    "Up",
    "Down",
    "Rotation",
    "Growing",
    "Shrinking",
    "HorizontalOscillation",
    "VerticalOscillation",
    "Circling",
    "Jitter",
)
FORMAT_VERSION = 2
FRAMES_PER_SECOND = 12
MANIFEST = "motion_textures.json"
COUNTERPARTS = ("swapped", "removed")
"""Test videos again, with the same object and motion: over another background, and over an even grey."""
QUANTISER = "2"
EXAMPLE_SECONDS = 600.0
"""Longest time for one example, which takes a second."""
Split = Literal["train", "test"]


@dataclass(frozen=True, kw_only=True)
class MotionTextureSettings:
    """What decides every byte of the benchmark."""

    num_train: int = 600
    num_test: int = 400
    """Test videos, each with its counterparts."""
    camera: scene.Camera = "static"
    """`moving`: the background pans and shakes, and the frames carry sensor noise."""
    seed: int = 0
    """Every random choice follows from it."""
    size_px: int = 80
    """Height and width of the frames; even."""
    num_frames: int = 24

    def __post_init__(self) -> None:
        require_least(self, num_train=1, num_test=1, seed=0, size_px=32, num_frames=4)
        require(self.size_px % 2 == 0, "size_px", self.size_px, "must be even")
        require(self.camera in ("static", "moving"), "camera", self.camera, "must be `static` or `moving`")


def make_motion_textures(out: Path, settings: MotionTextureSettings, *, workers: int = 2) -> bool:
    """Write the benchmark in the UCF101 layout; return False where it already is there, and is reused.

    The same settings give the same bytes. Nothing is left behind when it is interrupted. 0 workers work in this
    process. Raises DataError where `out` holds something else.
    """
    if _holds(out, settings):
        return False
    place = out.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        folder.chmod(0o755)
        _write_all(folder, settings, workers)
        if place.is_dir():  # empty; it stays, since it may be the present one of this process or of a shell
            for part in sorted(folder.iterdir(), key=lambda part: part.name == MANIFEST):
                part.rename(place / part.name)
        else:
            folder.rename(place)
    except OSError:  # another process may have been faster
        if not _holds(out, settings):
            raise
        return False
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return True


def list_counterparts(root: Path) -> dict[str, VideoList]:
    """List the test videos' counterparts: the same objects and motions over other backgrounds, and over none.

    They are by the names of `COUNTERPARTS`, in the order of the test videos. Raises DataError where a list is missing.
    """
    found = {}
    for kind in COUNTERPARTS:
        path = root / "anno" / f"testlist01_{kind}.txt"
        if not path.is_file():
            raise DataError(
                f"{root}: no complete motion-texture benchmark of this version ({path.name} is missing); "
                "`fima make-data` writes one into a new folder"
            )
        names = path.read_text().split()
        found[kind] = VideoList(
            videos=[Video(path=root / "data" / name, label=CLASSES.index(name.split("/")[0])) for name in names],
            classes=list(CLASSES),
            root=root,
            split=f"test_{kind}",
            layout=f"UCF101, split 1, backgrounds {kind}",
        )
    return found


def has_masks(root: Path) -> bool:
    """Tell whether a folder of videos is one of this benchmark, with masks of the object."""
    return (root / MANIFEST).is_file() and (root / "masks").is_dir()


def load_mask(video: Path) -> NDArray[np.bool_]:
    """Load the true foreground of a video inside `data/<Class>/`: (T, H, W), true on the object.

    Raises DataError where there is no mask for it.
    """
    stem = video.stem
    for kind in COUNTERPARTS:
        stem = stem.removesuffix(f"_{kind}")
    path = video.parents[2] / "masks" / video.parent.name / f"{stem}.npz"
    if not path.is_file():
        raise DataError(f"{video}: no foreground mask at {path}")
    with np.load(path) as stored:
        shape = tuple(int(side) for side in stored["shape"])
        bits = np.unpackbits(stored["bits"], count=math.prod(shape))
    return np.asarray(bits.reshape(shape), dtype=np.bool_)


def _manifest(settings: MotionTextureSettings) -> dict[str, Any]:
    return {"format_version": FORMAT_VERSION, "settings": asdict(settings), "classes": list(CLASSES)}


def _holds(out: Path, settings: MotionTextureSettings) -> bool:
    """Whether `out` is this benchmark, complete; DataError if it is anything else than that or missing or empty."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        same = json.loads((out / MANIFEST).read_text()) == _manifest(settings)
    except (OSError, ValueError):
        same = False
    if not same:
        raise DataError(f"{out}: already holds something else; choose another folder or remove it")
    names = [_name("train", index) for index in range(settings.num_train)]
    names += [_name("test", index, kind) for index in range(settings.num_test) for kind in ("", *COUNTERPARTS)]
    missing = [name for name in names if not (out / "data" / name).is_file()]
    if missing:
        raise DataError(f"{out}: {len(missing)} videos are missing, data/{missing[0]} first; remove the folder")
    return True


def _name(split: Split, index: int, kind: str = "") -> str:
    label = CLASSES[index % len(CLASSES)]
    return f"{label}/{label}_{split}_{index:05d}{kind and '_'}{kind}.avi"


def _write_all(folder: Path, settings: MotionTextureSettings, workers: int) -> None:
    for label in CLASSES:
        (folder / "data" / label).mkdir(parents=True)
        (folder / "masks" / label).mkdir(parents=True)
    train = [_name("train", index) for index in range(settings.num_train)]
    labels = {label: number for number, label in enumerate(CLASSES, start=1)}
    anno = {
        "classInd.txt": [f"{number} {label}" for label, number in labels.items()],
        "trainlist01.txt": [f"{name} {labels[name.split('/')[0]]}" for name in sorted(train)],
    }
    for kind in ("", *COUNTERPARTS):
        names = sorted(_name("test", index, kind) for index in range(settings.num_test))
        anno[f"testlist01{kind and '_'}{kind}.txt"] = names
    (folder / "anno").mkdir()
    for file_name, lines in anno.items():
        (folder / "anno" / file_name).write_text("".join(f"{line}\n" for line in lines))
    splits: tuple[tuple[Split, int], ...] = (("train", settings.num_train), ("test", settings.num_test))
    jobs = [(folder, settings, split, index) for split, count in splits for index in range(count)]
    outcomes: Iterable[tuple[int, Failed | None]] = enumerate(map(_write_example, jobs))
    if workers:
        outcomes = run_isolated(
            _write_example, jobs, workers=workers, timeout_seconds=EXAMPLE_SECONDS, items_at_once=16
        )
    for _, outcome in outcomes:
        if isinstance(outcome, Failed):
            raise DataError(f"{folder.parent}: a video could not be written ({outcome.reason})")
    (folder / MANIFEST).write_text(json.dumps(_manifest(settings), indent=2) + "\n")


def _write_example(job: tuple[Path, MotionTextureSettings, Split, int]) -> None:
    """Write one example: its video, its mask and, for a test example, its counterparts."""
    folder, settings, split, index = job
    sequence = np.random.SeedSequence([settings.seed, 0 if split == "train" else 1, index])
    streams = ("background", "swapped", "thing", "motion", "camera", "noise", "swapped_noise", "removed_noise")
    rng = {
        name: np.random.default_rng(child) for name, child in zip(streams, sequence.spawn(len(streams)), strict=True)
    }
    side = math.ceil(scene.CANVAS_SIDE * settings.size_px) + 2
    backgrounds = {"": scene.draw_texture(rng["background"], side)}
    if split == "test":
        backgrounds["swapped"] = scene.draw_texture(rng["swapped"], side)
    thing = scene.draw_object(rng["thing"], list(backgrounds.values()))
    if split == "test":
        backgrounds["removed"] = np.full((side, side, 3), 0.5, dtype=np.float32)
    motion = CLASSES[index % len(CLASSES)]
    trajectory = scene.draw_trajectory(motion, rng["motion"], num_frames=settings.num_frames, radius=thing.radius)
    moving = settings.camera == "moving"
    camera = scene.draw_camera(rng["camera"], num_frames=settings.num_frames) if moving else None
    for kind, background in backgrounds.items():
        noise = rng[f"{kind}_noise" if kind else "noise"] if moving else None
        frames, mask = scene.render(thing, trajectory, background, size_px=settings.size_px, camera=camera, noise=noise)
        name = _name(split, index, kind)
        _write_video(folder / "data" / name, frames)
        if not kind:
            mask_path = (folder / "masks" / name).with_suffix(".npz")
            np.savez_compressed(mask_path, bits=np.packbits(mask), shape=np.array(mask.shape))


def _write_video(path: Path, frames: NDArray[np.uint8]) -> None:
    """Encode (T, H, W, 3) RGB frames as MPEG-4 in AVI, without a time stamp or a version in the file."""
    options = {"flags": "+bitexact", "qmin": QUANTISER, "qmax": QUANTISER, "sc_threshold": "0", "threads": "1"}
    bitexact = {"fflags": "+bitexact"}
    encode(path, frames, "mpeg4", options, fps=FRAMES_PER_SECOND, container_options=bitexact)
