"""Frame-accurate decoding of one video file with PyAV."""

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from heapq import heappop, heappush
from itertools import pairwise
from pathlib import Path
from typing import Self
from zlib import crc32

import av
import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from fima.data.decode.bitstream import unreferenced_test
from fima.data.decode.container import frame_rate, open_video, pixel_aspect
from fima.data.decode.packets import FrameIndex, Packets, TimestampsDisagree
from fima.errors import VideoError

KEPT_FRAME_BYTES = 64 * 2**20
DEFAULT_TIME_BASE = Fraction(1, 1000)
SETS_BEFORE_KEYS = frozenset({"h264", "hevc"})
"""Codecs whose parameter sets come with key frames: where a recording begins before one, nothing can be decoded."""


class VideoReader:
    """Reads chosen frames of a video, by their number in display order.

    Where the timestamps of packets identify the frames (one frame a packet, every timestamp present and different),
    `read` decodes from the last key frame at or before the first wanted frame, in one pass, and jumps to a later key
    frame where that saves decoding; `Packets` tells where timestamps come from. Where the decoder finds that a packet
    which the container calls a key frame is none, and where there are no such timestamps, frames are counted by
    decoding from the beginning. Either way frame i is the i-th frame that a decoder gives when it decodes the whole
    file. Rotation and the aspect of pixels are not applied.

    Args:
        path: a file in any container and codec that FFmpeg reads; of several video streams the default one is taken,
            or else the largest. A folder of numbered pictures is read by `FrameFolderReader`.
        probe: whether the size of the frames is looked up in the stream; otherwise the word of an MP4 is taken for it,
            which is faster, and frames of another size are refused.

    Raises:
        VideoError: the file cannot be opened, has no video stream or no frame, or cannot be decoded.
    """

    _times: "array[int] | None" = None
    """Times of frames that were counted, where the decoder gives all of them, rising."""

    def __new__(cls, path: Path, *, probe: bool = False) -> Self:
        """Choose the class that reads it, as `pathlib.Path` does."""
        if cls is VideoReader and os.path.isdir(path):  # noqa: PTH112 - a third of the time of Path.is_dir
            from fima.data.decode.frame_folder import FrameFolderReader

            return super().__new__(FrameFolderReader)  # type: ignore[return-value]
        return super().__new__(cls)

    def __init__(self, path: Path, *, probe: bool = False) -> None:
        self.path = Path(path)
        self._container, self._stream = open_video(self.path, probe=probe)
        self._context = self._stream.codec_context
        self._reformatter = VideoReformatter()
        self._fresh = True
        self._counted = False
        self._frames: list[VideoFrame] | None = None
        self._packets = Packets(self.path, self._container, self._stream)
        try:
            self.width, self.height = self._context.width, self._context.height
            self.pixel_aspect = pixel_aspect(self._stream)
            self.time_base = self._stream.time_base or DEFAULT_TIME_BASE
            self._index = self._packets.index()
            self.fps = self._packets.fps
            if self._index is not None:
                self.num_frames = len(self._index)
            elif self._packets.num_packed is not None:
                self.num_frames = self._packets.num_packed
            else:
                self._count_frames()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._frames = None
        self._packets.clear()
        self._container.close()

    def read(self, indices: Sequence[int]) -> npt.NDArray[np.uint8]:
        """The frames with the given numbers, in the given order, which may repeat: RGB, uint8 (len(indices), H, W, 3).

        Raises IndexError for a number out of range, VideoError where a frame cannot be decoded or has another size than
        the first.
        """
        if any(not 0 <= index < self.num_frames for index in indices):
            raise IndexError(f"{self.path}: frames {min(indices)}..{max(indices)} of {self.num_frames}")
        rows: dict[int, list[int]] = {}
        for row, index in enumerate(indices):
            rows.setdefault(index, []).append(row)
        pixels = np.empty((len(indices), self.height, self.width, 3), dtype=np.uint8)
        if not rows:
            return pixels
        for index, frame in self.decode(sorted(rows)):
            first, *others = rows[index]
            pixels[first] = self._rgb(frame)
            for row in others:
                pixels[row] = pixels[first]
        return pixels

    def frame_times(self) -> npt.NDArray[np.float64] | None:
        """Seconds at which each frame is shown, rising, (num_frames,); None where timestamps do not tell."""
        if self._index is not None:
            return self._index.timestamps() * float(self.time_base)
        return None if self._times is None else np.array(self._times, dtype=np.float64) * float(self.time_base)

    def stream(self) -> Iterator[npt.NDArray[np.uint8]]:
        """All frames in order, one at a time, RGB uint8 (H, W, 3); nothing is kept. Raises VideoError as `read`."""
        following = 0
        for index, frame in self.decode(range(self.num_frames)):
            if index == following:  # all come once more where counting proves needed
                following += 1
                yield self._rgb(frame)

    def verify(self) -> bool:
        """Decodes the whole video from its beginning, and once more from each key frame, and compares the frames.

        Returns whether what the container says of key frames and times holds; if not, every `read` decodes the whole
        file. Raises VideoError where a frame cannot be decoded, is damaged, has another size or is another one the
        second time.
        """
        digests = array("L")
        for frame in self._decode_in_order():
            digests.append(crc32(self._rgb(frame).tobytes()))
        if len(digests) != self.num_frames:
            raise VideoError(self.path, f"damaged: {self.num_frames} frames announced, {len(digests)} decoded")
        if self._index is None:
            return True
        try:
            for run in self._index.all_runs():
                for number, frame in _chosen(self._decode_from_key_frame(self._index, run), run):
                    if crc32(self._rgb(frame).tobytes()) != digests[number]:
                        reason = f"damaged: frame {number} is another one when decoding begins at the last key frame"
                        raise VideoError(self.path, reason)
        except TimestampsDisagree:
            return False
        return True

    def frames(self) -> Iterator[VideoFrame]:
        """All frames in display order, as the decoder gives them, with their times. Raises VideoError as `verify`."""
        for frame in self._decode_in_order():
            self._check_size(frame)
            yield frame

    def decode(self, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """The wanted frames (rising numbers) as the decoder gives them, with their numbers.

        All of them come once more where it turns out that frames must be counted. Raises VideoError.
        """
        try:
            yield from self._numbered(wanted)
            return
        except TimestampsDisagree:
            if self._counted:
                raise VideoError(self.path, "the file changed while it was read") from None
        promised = self.num_frames
        self._count_frames()
        if self.num_frames != promised:
            raise VideoError(self.path, f"damaged: {promised} frames announced, {self.num_frames} decoded")
        yield from self._numbered(wanted)

    def _numbered(self, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        if self._index is None:
            yield from _chosen(enumerate(self._decode_in_order()), wanted)
            return
        for run in self._index.runs(wanted):
            yield from _chosen(self._decode_from_key_frame(self._index, run), run)

    def _check_size(self, frame: VideoFrame) -> None:
        if (frame.width, frame.height) != (self.width, self.height):
            change = f"from {self.width}x{self.height} to {frame.width}x{frame.height}"
            raise VideoError(self.path, f"frame size changes {change}, or is not what the header says")

    def _rgb(self, frame: VideoFrame) -> npt.NDArray[np.uint8]:
        self._check_size(frame)
        try:
            plane = self._reformatter.reformat(frame, format="rgb24", threads=1).planes[0]
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(self.path, f"cannot be converted to RGB ({error})") from error
        rows: npt.NDArray[np.uint8] = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(
            self.height, plane.line_size
        )
        return rows[:, : 3 * self.width].reshape(self.height, self.width, 3)

    def _count_frames(self) -> None:
        """Decodes the whole video; keeps its frames when they are small, so that `read` need not decode again."""
        self._index = self._frames = None
        self._counted = True
        self.num_frames = 0
        times = array("q")
        kept: list[VideoFrame] = []
        kept_bytes = 0
        for frame in self._decode_in_order():
            if frame.pts is not None:
                times.append(frame.pts)
            if self.num_frames == 0:
                self.width, self.height = frame.width, frame.height
            self.num_frames += 1
            kept_bytes += sum(plane.buffer_size for plane in frame.planes)
            if kept_bytes <= KEPT_FRAME_BYTES:
                kept.append(frame)
            else:
                kept.clear()
        if not self.num_frames:
            raise VideoError(self.path, "no frame")
        if kept_bytes <= KEPT_FRAME_BYTES:
            self._frames = kept
        if times:  # there may be two packets a frame, one for each field
            self.fps = frame_rate(self._stream, self.num_frames, times)
        is_rising = len(times) == self.num_frames and all(first < second for first, second in pairwise(times))
        self._times = times if is_rising else None

    def _decode_packets(self, packets: Iterable["Packet[VideoStream]"]) -> Iterator[VideoFrame]:
        """Decodes packets up to the end; frames come in display order."""
        if not self._fresh:
            self._context.flush_buffers()
        self._fresh = False
        undecodable = self._context.name in SETS_BEFORE_KEYS
        try:
            for packet in packets:
                undecodable = undecodable and not packet.is_keyframe
                try:
                    yield from self._context.decode(packet)
                except av.InvalidDataError:
                    if not undecodable:
                        raise
            yield from self._context.decode(None)
        except av.FFmpegError as error:
            raise VideoError(self.path, f"cannot be decoded ({error.strerror})") from error

    def _decode_from_key_frame(self, index: FrameIndex, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Frames with their numbers, which rise, from the last key frame at or before the first wanted frame on.

        The packet that begins must give a key frame by the decoder's word: a container may call any packet one. Every
        packet that is decoded must give its frame, in order of the timestamps: a frame that is lost on the way would
        leave wrong pixels in those that refer to it. Packets that no frame refers to are not decoded unless they are
        wanted.
        """
        start, start_timestamp = index.start_for(wanted[0])
        needed = wanted if isinstance(wanted, range) else frozenset(wanted)
        is_unreferenced = unreferenced_test(self._context.name, self._context.extradata)
        promised: list[int] = []

        def chosen() -> Iterator["Packet[VideoStream]"]:
            for packet in self._packets.starting_at(start):
                timestamp = packet.pts or 0
                if is_unreferenced and index.frame_at(timestamp) not in needed and is_unreferenced(bytes(packet)):
                    continue
                if timestamp >= start_timestamp and not packet.is_discard:
                    heappush(promised, timestamp)
                yield packet

        last = -1
        for frame in self._decode_packets(chosen()):
            timestamp = frame.pts
            if timestamp is not None and timestamp < start_timestamp:
                continue  # shown before the key frame but stored after it: its references were not decoded
            if frame.is_corrupt and self._context.name == "mpeg4":
                raise TimestampsDisagree  # its decoder adapts to the encoder by what it saw before: see it all
            if frame.is_corrupt:
                raise VideoError(self.path, "damaged: the decoder reports errors")
            if not promised or heappop(promised) != timestamp:
                raise TimestampsDisagree
            if start and timestamp == start_timestamp and not frame.key_frame:
                raise TimestampsDisagree
            number = index.frame_at(timestamp)
            if number <= last:
                raise TimestampsDisagree
            last = number
            yield number, frame

    def _decode_in_order(self) -> Iterator[VideoFrame]:
        """All frames from the beginning."""
        if self._frames is not None:
            yield from self._frames
            return
        seen_key_frame = False
        for frame in self._decode_packets(self._packets.all()):
            seen_key_frame = seen_key_frame or bool(frame.key_frame)
            if frame.is_corrupt:
                if seen_key_frame:
                    raise VideoError(self.path, "damaged: the decoder reports errors")
                continue
            yield frame


def _chosen(frames: Iterator[tuple[int, VideoFrame]], wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
    """Of numbered frames, numbers rising, those that are wanted. Raises TimestampsDisagree where one is missing."""
    following = iter(wanted)
    expected = next(following)
    for number, frame in frames:
        if number > expected:
            break
        if number == expected:
            yield number, frame
            expected = next(following, -1)
            if expected < 0:
                return
    raise TimestampsDisagree
