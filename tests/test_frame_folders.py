"""Folders of numbered pictures are read as videos."""

import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from fima.cli import main
from fima.data.clips import ClipTiming
from fima.data.datasets import list_videos
from fima.data.decode.frame_series import frame_series
from fima.data.decode.header import read_header
from fima.data.decode.video import VideoReader
from fima.errors import VideoError
from fima.evaluate.feature_store import FileState
from fima.library.transcode import TranscodeSettings, transcode
from tests.layout_files import labelled, write_lines, write_videos
from tests.test_datasets import names, touch


def pixels(number: int, width: int = 40, height: int = 32) -> npt.NDArray[np.uint8]:
    """A picture that tells which one it is, even after JPEG."""
    image = np.full((height, width, 3), 20 * number, np.uint8)
    image[: height // 2, :, 2] = 255 - 20 * number
    return image


def write_pictures(folder: Path, *numbers: int, name: str = "{:05d}.png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.fromarray(pixels(number)).save(folder / name.format(number), quality=95)
    return folder


@pytest.mark.parametrize("name", ["{:05d}.png", "{}.bmp", "img_%05d:{}.PNG", "v.1_{:03d}.tif", "frame-{}.ppm"])
def test_frames_come_in_the_order_of_their_numbers(name: str, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "clip.b", 10, 9, 2, 1, 4, name=name)
    with VideoReader(folder) as reader:
        assert (reader.num_frames, reader.width, reader.height, reader.fps) == (5, 40, 32, 0.0)
        expected = np.stack([pixels(number) for number in (1, 2, 4, 9, 10)])
        np.testing.assert_array_equal(reader.read([4, 0, 2, 0]), expected[[4, 0, 2, 0]])
        np.testing.assert_array_equal(np.stack(list(reader.stream())), expected)
        reader.verify()


def test_jpeg(tmp_path: Path) -> None:
    with VideoReader(write_pictures(tmp_path / "clip", *range(12), name="{}.jpg")) as reader:
        shown = reader.read(range(12)).astype(int)
    assert abs(shown - np.stack([pixels(number) for number in range(12)])).mean() < 2
    header = read_header(tmp_path / "clip")
    assert (header.num_frames, header.width, header.height, header.fps) == (12, 40, 32, 0)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_is_refused(progressive: bool, tmp_path: Path) -> None:
    """Also where a thumbnail inside has an end of its own. What follows the end is no harm: phones put videos there."""
    thumbnail, picture = (Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8))
                          for side in (16, 64))  # fmt: skip
    thumbnail.save(tmp_path / "small.jpg")
    file = tmp_path / "clip" / "3.jpg"
    write_pictures(file.parent, 1, 2, name="{}.jpg")
    picture.resize((40, 32)).save(file, progressive=progressive, comment=(tmp_path / "small.jpg").read_bytes())
    whole = file.read_bytes()
    file.write_bytes(whole + b"padding")
    with VideoReader(file.parent) as reader:
        right = reader.read([2])
    file.write_bytes(whole + np.random.default_rng(1).bytes(2**20) + b"\xff\xda")
    with VideoReader(file.parent) as reader:
        np.testing.assert_array_equal(reader.read([2]), right)
    for kept in (len(whole) - 1, len(whole) - 200, len(whole) // 2):
        file.write_bytes(whole[:kept])
        with VideoReader(file.parent) as reader, pytest.raises(VideoError, match=r"3\.jpg: (truncated|cannot be)"):
            reader.read([2])
    file.write_bytes(whole)
    with VideoReader(file.parent) as reader:
        np.testing.assert_array_equal(reader.read([2]), right)


def test_the_series_of_a_folder() -> None:
    flow = [f"flow_{axis}_{i}.jpg" for axis in "xy" for i in range(1, 30)]
    assert frame_series([*flow, "img_10.jpg", "img_9.jpg", "thumb.jpg", "notes1.txt"]) == ["img_9.jpg", "img_10.jpg"]
    assert frame_series(["cover.jpg", "poster.jpg"]) == []
    sides = [f"{side}_{number}.png" for side in ("right", "left") for number in range(3)]
    depth = [f"depth_{number}.png" for number in range(3)]
    left, rgb = ([f"{name}_{number}.png" for number in range(3)] for name in ("left", "rgb"))
    for order in (1, -1):  # whatever the order in which a disk lists them
        assert frame_series(sides[::order]) == left
        assert frame_series([*depth, *rgb][::order]) == rgb
    assert frame_series(["a1.jpg", "b2.jpg"]) == []
    times = ["99.98.png", "99.99.png", "100.01.png", "100.02.png", "100.10.png"]
    assert frame_series(times[::-1]) == times
    assert frame_series(["clip.9.png", "clip.10.png", "clip.8.png"]) == ["clip.8.png", "clip.9.png", "clip.10.png"]
    assert frame_series(["3.9.png", "3.10.png", "3.8.png"]) == ["3.8.png", "3.9.png", "3.10.png"], "frames of clip 3"


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="without numbered pictures, so not a video; name a video file"):
        VideoReader(tmp_path)
    folder = write_pictures(tmp_path / "clip", 1, 2, 3)
    (folder / "00003.png").write_bytes(b"no picture")
    with VideoReader(folder) as reader, pytest.raises(VideoError, match=r"00003\.png: cannot be decoded"):
        reader.read([0, 2])
    Image.fromarray(pixels(3, width=60)).save(folder / "00003.png")
    with VideoReader(folder) as reader, pytest.raises(VideoError, match="frame size changes from 40x32 to 60x32"):
        reader.verify()


def test_class_folders_of_them_beside_videos(tmp_path: Path) -> None:
    write_videos(tmp_path, *(f"run/{i}.avi" for i in range(5)))
    write_pictures(tmp_path / "jump/clip_a", 1, 2, 3)
    write_pictures(tmp_path / "thumbnails", 1, 2, 3)
    touch(tmp_path, "run/0.jpg", "run/1.jpg", "README")
    listed = list_videos(tmp_path, "all")
    assert labelled(listed) == {"jump/clip_a": "jump"} | {f"run/{i}.avi": "run" for i in range(5)}
    assert listed.warnings() == [
        "6 files passed over: 3 .png, 2 .jpg, 1 no extension",
        "1 folder of pictures read as videos, a frame each, such as jump/clip_a",
    ]


def test_frames_beside_their_video_are_not_there_twice(tmp_path: Path) -> None:
    """Of class folders, one of the two would be in training, and the other in the test split."""
    for number in range(5):
        write_videos(tmp_path, f"run/{number}.avi")
        write_pictures(tmp_path / f"run/{number}", 1, 2, 3)
        write_pictures(tmp_path / f"jump/{number}", 1, 2, 3)
    listed = list_videos(tmp_path, "all")
    assert set(labelled(listed)) == {f"run/{i}.avi" for i in range(5)} | {f"jump/{i}" for i in range(5)}
    assert listed.warnings()[0] == "15 files passed over: 15 .png"


def test_a_folder_of_frames_beside_one_of_videos_is_no_class(tmp_path: Path) -> None:
    """`videos/` and `frames/` were two classes of the same clips, and frames of test videos were trained on."""
    for place, frames in (("flat", "frames/{}"), ("set", "rawFrames/run/{}"), ("names", "jpegs_256/{}.avi")):
        names = [frames.format(name) for name in "ab"]
        rest = Path(names[0]).parent.relative_to(Path(names[0]).parts[0])
        write_videos(tmp_path / place, *(f"videos/{rest}/{name}.avi" for name in "ab"))
        for name in names:
            write_pictures(tmp_path / place / name, 1, 2, 3)
        listed = list_videos(tmp_path / place, "all")
        assert labelled(listed) == {(Path("videos") / rest / f"{name}.avi").as_posix(): None for name in "ab"}
        assert listed.warnings() == [
            "6 files passed over: 6 .png",
            f"2 folders of pictures passed over as frames of videos that are there, too, such as {names[0]}",
        ]
    write_pictures(tmp_path / "flat/frames/c", 1, 2, 3)
    assert "frames/c" in labelled(list_videos(tmp_path / "flat", "all"))


def test_a_folder_of_frames_beside_the_only_video_of_a_folder(tmp_path: Path) -> None:
    write_videos(tmp_path, "monday/cam.avi", "tuesday/cam.avi", "run/1.avi", "run/2.avi")
    for name in ("monday/frames", "tuesday/RGB", "run/frames", "run/3"):
        write_pictures(tmp_path / name, 1, 2, 3)
    assert set(labelled(list_videos(tmp_path, "all"))) == {
        *("monday/cam.avi", "tuesday/cam.avi", "run/1.avi", "run/2.avi"),
        *("run/frames", "run/3"),
    }


def test_flow_depth_and_masks_are_no_videos_beside_the_frames(tmp_path: Path) -> None:
    """Each was a video, or a class, of its own. Beside no frames they are what there is."""
    beside = {
        "clips": ("a/img", "a/flow_x", "a/flow_y", "a/depth", "b/rgb", "b/flow/x", "b/flow/y", "b/depth_images"),
        "signals": ("frames_256/a", "tvl1_flow/u/a", "tvl1_flow/v/a"),
        "davis": ("JPEGImages/480p/a", "Annotations/480p/a"),
    }
    for place, folders in beside.items():
        for name in folders:
            write_pictures(tmp_path / place / name, 1, 2, 3)
    listed = list_videos(tmp_path / "clips")
    assert names(listed) == ["a/img", "b/rgb"]
    assert listed.warnings()[2] == (
        "6 folders of flow, depth or masks passed over beside the frames of the same videos, such as a/depth"
    )
    assert names(list_videos(tmp_path / "signals")) == ["frames_256/a"]
    assert names(list_videos(tmp_path / "davis")) == ["JPEGImages/480p/a"]
    for name in ("depth_jump/1", "run/1", "flow/a", "flow/b"):
        write_pictures(tmp_path / "alone" / name, 1, 2, 3)
    assert names(list_videos(tmp_path / "alone")) == ["depth_jump/1", "flow/a", "flow/b", "run/1"]


def test_classes_with_names_as_of_flow_depth_or_masks_stay_classes(tmp_path: Path) -> None:
    """Beside one such as `video_games`, they were passed over, where the clips of each class are numbered."""
    clips = [f"{name}/{i}" for name in ("depth", "flow", "mask", "run", "video_games") for i in range(3)]
    for name in (*clips[:10], *clips[12:]):  # of `run`, one clip
        write_pictures(tmp_path / name, 1, 2)
    assert names(list_videos(tmp_path)) == [*clips[:10], *clips[12:]]


def test_frames_of_flow_alone_are_videos(tmp_path: Path) -> None:
    """They were taken for those beside themselves: there was no video."""
    for name in ("depth_images/a", "depth_images/b", "flow_frames/a"):
        write_pictures(tmp_path / name, 1, 2)
    assert names(list_videos(tmp_path)) == ["depth_images/a", "depth_images/b", "flow_frames/a"]


def test_a_stray_video_does_not_hide_folders_of_frames(tmp_path: Path) -> None:
    """A few videos at another depth were all that was read, as if the folders held previews of them."""
    write_videos(tmp_path, "intro.avi")
    for number in range(10):
        assert names(list_videos(tmp_path)) == ["intro.avi"]
        write_pictures(tmp_path / f"run/{number}", 1, 2)
    listed = list_videos(tmp_path)
    assert names(listed) == ["intro.avi", *(f"run/{number}" for number in range(10))]
    assert listed.warnings() == [
        "10 folders of pictures read as videos, a frame each, such as run/0",
        "1 video not in <class>/<video>, such as intro.avi: no video gets a label",
    ]


def test_splits_lists_and_tables_of_them(tmp_path: Path) -> None:
    for clip in ("train/run/1", "train/jump/2", "val/run/3", "val/jump/4"):
        write_pictures(tmp_path / "split" / clip, 1, 2)
    assert names(list_videos(tmp_path / "split", "test")) == ["val/jump/4", "val/run/3"]
    ucf101 = tmp_path / "ucf101"
    for clip in ("Swing/v_1", "Swing/v_2.b"):
        write_pictures(ucf101 / "data" / clip, 1, 2)
    write_lines(ucf101 / "anno/trainlist01.txt", "Swing/v_1.avi 1", "Swing/v_2.b.avi 1")
    assert names(list_videos(ucf101)) == ["data/Swing/v_1", "data/Swing/v_2.b"]
    table = write_lines(tmp_path / "t.csv", "path,label", "split/train/run/1,run")
    assert labelled(list_videos(table)) == {"split/train/run/1": "run"}
    assert names(list_videos(tmp_path / "split/train/run/1")) == ["."]


def test_doctor_and_prepare_take_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(tmp_path / "in/run/clip.v1", *range(12))
    shutil.copytree(tmp_path / "in/run", tmp_path / "in/jump")
    assert main(["doctor", str(tmp_path / "in"), "--deep", "--index", str(tmp_path / "index")]) == 0
    assert "2 folders of pictures read as videos" in capsys.readouterr().out
    out = tmp_path / "out"
    assert main(["prepare", str(tmp_path / "in"), str(out), "--index", str(tmp_path / "index"), "--crf", "0"]) == 0
    with VideoReader(out / "run/clip.v1.mp4") as reader:
        shown = reader.read(range(reader.num_frames)).astype(int)
    assert abs(shown - np.stack([pixels(number) for number in range(12)])).mean() < 4
    clip = tmp_path / "in/run/clip.v1"
    (clip / "link.png").symlink_to("nowhere")
    before = FileState.of(clip)
    (clip / "00003.png").write_bytes((clip / "00009.png").read_bytes())  # the time of the folder stays
    assert FileState.of(clip) != before
    capsys.readouterr()
    assert main(["prepare", str(tmp_path / "in"), str(out), "--index", str(tmp_path / "index"), "--crf", "0"]) == 0
    assert "videos written: 1, done before: 1" in capsys.readouterr().out


@pytest.mark.parametrize("extension", ["jpg", "png"])
def test_pictures_of_a_phone_are_turned_as_videos_are(extension: str, tmp_path: Path) -> None:
    """`fima prepare` failed with every JPEG that has EXIF data, turned or not: PyAV does not know this side data."""
    settings = TranscodeSettings(crf=1)
    for number in range(1, 9):
        folder = tmp_path / f"clip{number}"
        write_pictures(folder, 1, 2, 3, name=f"{{}}.{extension}")
        for path in folder.iterdir():
            picture = Image.open(path)
            exif = picture.getexif()
            exif[0x112] = number
            picture.save(path, exif=exif, quality=95)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(folder / f"2.{extension}"))).astype(int)
        assert transcode(folder, tmp_path / f"{number}.mp4", settings) == 3
        with VideoReader(tmp_path / f"{number}.mp4") as reader:
            assert abs(reader.read([1])[0].astype(int) - expected).mean() < 5
    header = read_header(tmp_path / "clip7")
    assert (header.rotation, header.mirrored, header.width, header.height) == (90, True, 40, 32)
    jpegs = tmp_path / "v.mjpeg"
    jpegs.write_bytes(b"".join(path.read_bytes() for path in sorted((tmp_path / "clip6").iterdir())))
    assert extension != "jpg" or read_header(jpegs).rotation == 90


def test_a_frame_rate_for_those_without_one(tmp_path: Path) -> None:
    with VideoReader(write_pictures(tmp_path / "clip", *range(1, 13))) as reader:
        with pytest.raises(VideoError, match=r"--data\.frame-rate"):
            ClipTiming(fps=5).window(reader, 3)
        # 5 frames a second of 20: every fourth frame, and two of a window's instants to each.
        window = ClipTiming(fps=5, frame_rate=20).window(reader, 3)
    assert window.indices(0) == [0, 2, 4, 6, 8, 10]
