"""What the commands of the documentation are run on: tiny videos in every layout, runs, and a file of vectors."""

import csv
import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

from fima.cli import main
from tests.evaluation_data import write_classifier, write_state_dict, write_three_splits
from tests.layout_files import write_lines, write_videos
from tests.test_frame_folders import write_pictures
from tests.video_files import write_h264_mp4, write_ucf101_avi

NUM_PEOPLE = 5
RUNS = ("mine", "small", "moco", "fima", "ucf101_i3d_fima", "demo/fima-0")
"""Of which the pages name the last checkpoint."""
CLASSES = ("jump", "wave")
SMALL_RUN = {"--data.frames": "4", "--data.crop-size": "32", "--data.workers": "0", "--optim.epochs": "1"}
SMALL_PRETRAIN = {
    **SMALL_RUN,
    "--model.backbone": "tiny",
    "--model.projector-hidden": "32",
    "--model.embedding-dim": "16",
    "--model.decoder-dim": "32",
}
SMALL_FINETUNE = {
    **SMALL_RUN,
    "--classifier.num-classes": "None",
    "--test.clips": "2",
    "--test.ori-resolution": "None",
}
NAMES = tuple(f"abcdefghij{letter}" for letter in "klmnop")
TRAIN, TEST = NAMES[:4], NAMES[4:]


INPUTS: Mapping[str, str] = {
    **dict.fromkeys(("VIDEOS", "LABELLED", "DATA", "OTHER_LABELLED", "FOLDER", "CLIPS", "/data/videos"), "people"),
    **{name: name for name in ("UCF101", "HMDB51", "K400", "Diving48", "SSv2", "FRAMES")},
    **{name: name for name in ("videos.csv", "kinetics400.csv", "bad.txt", "THEIRS.pth.tar", "CLASSIFIER")},
    **dict.fromkeys(("QUERY.mp4", "query.mp4", "clip.mp4", "VIDEO", "VIDEO…"), "query.mp4"),
    "runs/demo/data-0/data/Rotation/Rotation_test_00003.avi": "query.mp4",
    "other.mp4": "other.mp4",
    **{name: name for name in ("UCF101:0.5", "UCF101@stride=1")},
    **{f"OWN_CLIPS{end}": f"people{end}" for end in ("", ":2", ":2@fps=12.5")},
    **dict.fromkeys(("runs/mine", "runs/small", "runs/ucf101_i3d_fima", "RUN…"), "run"),
    **dict.fromkeys(("CKPT", "ANY", "OURS.pt", "runs/mine/checkpoints/best.pt"), "run/checkpoints/last.pt"),
    **{"A": "run", "B": "averaged", "C": "classifier"},
    **{f"runs/{name}/checkpoints/last.pt": "run/checkpoints/last.pt" for name in RUNS},
    "runs/classifier": "classifier",
    **dict.fromkeys(("r3d_18.pth", "googlenet.pth"), "weights.pth"),
    "runs/before": "run",
    "runs/mine/checkpoints/ema.safetensors": "averaged/checkpoints/ema.safetensors",
    **dict.fromkeys(("vectors.npz", "embeddings.npz", "seconds.npz"), "vectors.npz"),
}
"""What stands for an input in the documentation, and its path in the library."""


def write_library(root: Path) -> None:
    """Write all of `INPUTS` below an empty folder."""
    videos = _people(root / "people")
    run = root / "run"
    last = run / "checkpoints" / "last.pt"
    _command("pretrain", videos, "--out", run, *chain(*SMALL_PRETRAIN.items()))
    _command("finetune", last, videos, "--out", root / "classifier", *chain(*SMALL_FINETUNE.items()))
    _command("convert", last, root / "THEIRS.pth.tar", "--to", "official")
    _command("embed", run, videos, "-o", root / "vectors.npz", "--clips", 2, "--workers", 0)
    averaging = (*chain(*SMALL_PRETRAIN.items()), "--optim.ema-decay", 0.9)
    _command("pretrain", videos, "--out", root / "averaged", *averaging)
    write_classifier(root / "CLASSIFIER")
    write_state_dict(root / "weights.pth")
    write_h264_mp4(root / "query.mp4", num_frames=20)
    write_h264_mp4(root / "other.mp4", num_frames=20, seed=1)
    write_three_splits(root / "UCF101")
    _official_sets(root)
    for number in range(4):
        write_pictures(root / "FRAMES" / f"clip{number}", *range(1, 9), name="{:06d}.png")
    _table(videos, root / "videos.csv")
    write_lines(root / "bad.txt", "wave/person1.avi")


def _command(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


def _people(root: Path) -> Path:
    """Folders of two classes, with a video of each person in both."""
    for seed, name in enumerate(CLASSES):
        for person in range(1, NUM_PEOPLE + 1):
            path = root / name / f"person{person}.avi"
            write_ucf101_avi(path, num_frames=12, seed=seed * NUM_PEOPLE + person, side=40)
    return root


def _table(videos: Path, path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split", "group", "fold"])
        for video in sorted(videos.glob("*/*.avi")):
            person = int(video.stem.removeprefix("person"))
            writer.writerow([video, video.parent.name, "test" if person == 1 else "train", person, person % 2])


def _official_sets(root: Path) -> None:
    """The other data sets with list files of their own, as distributed."""
    hmdb51, kinetics, diving48, ssv2 = (root / name for name in ("HMDB51", "K400", "Diving48", "SSv2"))
    lines = [*(f"{name}.avi 1" for name in TRAIN), *(f"{name}.avi 2" for name in TEST)]
    for label in CLASSES:
        write_videos(hmdb51 / "data" / label, *(f"{name}.avi" for name in NAMES))
        for split in (1, 2, 3):
            write_lines(hmdb51 / "anno" / f"{label}_test_split{split}.txt", *lines)
    for part, names in (("train_256", TRAIN), ("val_256", TEST)):
        write_videos(kinetics / part / "abseiling", *(f"{name}_000010_000020.mp4" for name in names))
    rows = [
        *(f"abseiling,{name},10,20,train" for name in TRAIN),
        *(f"abseiling,{name},10,20,validate" for name in TEST),
    ]
    write_lines(root / "kinetics400.csv", "label,youtube_id,time_start,time_end,split", *rows)
    write_videos(diving48 / "rgb", *(f"{name}.mp4" for name in NAMES))
    write_videos(ssv2 / "20bn-something-something-v2", *(f"{number}.webm" for number in range(len(NAMES))))
    write_lines(ssv2 / "labels.json", json.dumps({"Holding something": "0"}))
    numbers = range(len(NAMES))
    for part, theirs, chosen in (("train", "train", numbers[:4]), ("test", "validation", numbers[4:])):
        clips = [{"vid_name": NAMES[number], "label": 0, "start_frame": 0, "end_frame": 4} for number in chosen]
        write_lines(diving48 / f"Diving48_V2_{part}.json", json.dumps(clips))
        labels = [{"id": str(number), "template": "Holding [something]"} for number in chosen]
        write_lines(ssv2 / f"{theirs}.json", json.dumps(labels))
