"""Time of a random clip as RGB against the floor, before and after `fima prepare`, and what the rewriting loses.

The floor is one pass of PyAV over the same packets, from the key frame on, with the same conversion: once with the file
open and its packets read, and once with both counted. All of it runs in one thread on files in memory, so CPU time is
measured, which a busy machine disturbs less. Every clip is read in all ways in turn; figures are medians over clips.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from fima.data.decode.container import open_video, video_packets
from fima.data.decode.video import VideoReader
from fima.library.transcode import TranscodeSettings, transcode
from sample_videos import sample_videos

CLIP_FRAMES = 32


@dataclass(frozen=True, kw_only=True)
class ClipTimes:
    """Milliseconds of CPU time for one clip."""

    reader: float
    """Opening a `VideoReader` and reading the clip."""
    floor: float
    """Decoding and converting alone."""
    floor_with_open: float
    """The same, with opening the file and reading its packets up to the clip's last."""


def clip_times(path: Path, start: int, length: int) -> ClipTimes:
    """Times of the frames from `start` on, read by `VideoReader` and by a plain loop."""
    begin = time.process_time()
    with VideoReader(path) as reader:
        reader.read(range(start, start + length))
    read = time.process_time()
    container, stream = open_video(path)
    with container:
        packets = list(video_packets(path, container, stream))
        opened = time.process_time()
        # The last key frame that is shown no later than the clip, and how many frames are shown before it.
        times = [packet.pts for packet in packets if packet.pts is not None]
        first = 0
        if len(set(times)) == len(packets) and path.suffix != ".avi":
            wanted = sorted(times)[start]
            first = max(place for place, packet in enumerate(packets) if packet.is_keyframe and times[place] <= wanted)
        number = sorted(times).index(times[first]) if first else 0
        pixels = np.empty((length, stream.height, stream.width, 3), dtype=np.uint8)
        converter = VideoReformatter()
        ready = time.process_time()
        for packet in [*packets[first:], None]:
            for frame in stream.codec_context.decode(packet):
                if first and frame.pts is not None and frame.pts < times[first]:
                    continue
                if start <= number < start + length:
                    pixels[number - start] = converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
                number += 1
            if number >= start + length:
                break
        done = time.process_time()
    return ClipTimes(
        reader=1e3 * (read - begin), floor=1e3 * (done - ready), floor_with_open=1e3 * (done - ready + opened - read)
    )


def measure(path: Path, prepared: Path, num_clips: int) -> str:
    """One row of the table: medians over random clips, each read from the file and from the rewritten one in turn."""
    with VideoReader(path) as reader:
        num_frames = reader.num_frames
    length = min(CLIP_FRAMES, num_frames)
    starts = np.random.default_rng(0).integers(num_frames - length + 1, size=num_clips).tolist()
    pairs = [(clip_times(path, start, length), clip_times(prepared, start, length)) for start in starts]
    before, after = ([pair[which] for pair in pairs] for which in (0, 1))
    return (
        f"{path.name:<28}{median(clip.reader for clip in before):7.1f} ms"
        f"{_ratio(before, 'floor'):9.2f}{_ratio(before, 'floor_with_open'):9.2f}  |"
        f"{median(clip.reader for clip in after):7.1f} ms"
        f"{_ratio(after, 'floor'):9.2f}{_ratio(after, 'floor_with_open'):9.2f}  |"
        f"{sum(clip.reader for clip in before) / sum(clip.reader for clip in after):7.1f} x"
    )


def _ratio(clips: list[ClipTimes], floor: str) -> float:
    return float(median(clip.reader / getattr(clip, floor) for clip in clips))


def quality(path: Path, prepared: Path) -> tuple[float, float]:
    """Mean PSNR in dB and SSIM, by FFmpeg's filters, of a rewritten video against its source scaled alike."""
    psnr, ssim = [], []
    with VideoReader(path) as source, VideoReader(prepared) as result:
        for original, rewritten in zip(source.frames(), result.frames(), strict=True):
            scaled = original.reformat(rewritten.width, rewritten.height, "yuv420p", interpolation="BICUBIC")
            psnr.append(float(_compare("psnr", scaled, rewritten)["lavfi.psnr.psnr_avg"]))
            ssim.append(float(_compare("ssim", scaled, rewritten)["lavfi.ssim.All"]))
    return float(np.mean(psnr)), float(np.mean(ssim))


def _compare(name: str, first: VideoFrame, second: VideoFrame) -> dict[str, str]:
    graph = Graph()
    compare, sink = graph.add(name), graph.add("buffersink")
    sources = [graph.add_buffer(template=None, width=frame.width, height=frame.height, format=frame.format,
                                time_base=second.time_base) for frame in (first, second)]  # fmt: skip
    for place, source in enumerate(sources):
        source.link_to(compare, 0, place)
    compare.link_to(sink)
    graph.configure()
    for source, frame in zip(sources, (first, second), strict=True):
        frame.pts = 0
        source.push(frame)
        source.push(None)
    return dict(graph.vpull().metadata)


def main() -> None:
    """Print a row a video."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", type=Path, help="videos to measure on, besides two made ones")
    parser.add_argument("--clips", type=int, default=12, help="random clips of each video")
    parser.add_argument("--crf", type=int, default=TranscodeSettings().crf, help="quality of the rewritten videos")
    arguments = parser.parse_args()
    print(f"{'':<28}{'clip':>10}{'/ floor':>9}{'+ open':>9}  |{'prepared':>10}{'/ floor':>9}{'+ open':>9}  |{'gain':>9}"
          f"{'PSNR':>9}{'SSIM':>8}{'bytes':>8}")  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        for path in sample_videos(Path(name), arguments.videos):
            prepared = Path(name, f"{path.name}.prepared.mp4")
            transcode(path, prepared, TranscodeSettings(crf=arguments.crf))
            row = measure(path, prepared, arguments.clips)
            psnr, ssim = quality(path, prepared)
            growth = prepared.stat().st_size / path.stat().st_size
            print(f"{row}{psnr:6.1f} dB{ssim:8.4f}{growth:6.2f} x", flush=True)


if __name__ == "__main__":
    main()
