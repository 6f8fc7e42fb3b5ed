"""Frame-accurate decoding of one video file with PyAV."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from heapq import heappop, heappush
from itertools import islice
from pathlib import Path
from types import TracebackType

import av
import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from fima.data.bitstream import has_one_coded_vop, unpacked_display_numbers, unreferenced_test
from fima.data.container import open_video, video_packets
from fima.errors import VideoError

KEPT_PACKET_BYTES = 64 * 2**20
KEPT_FRAME_BYTES = 64 * 2**20
SHORTEST_JUMP_FRAMES = 4
DEFAULT_TIME_BASE = Fraction(1, 1000)
TIMESTAMPED_CODECS = frozenset({"av1", "h264", "hevc", "libdav1d", "mpeg4", "vp9"})


class _TimestampsDisagree(Exception):
    """The frames that came out of the decoder are not those that the packets' timestamps promised."""


class VideoReader:
    """Reads chosen frames of a video, by their number in display order.

    All packets are read once on opening, without decoding. Where their timestamps identify the frames (one frame a
    packet, every timestamp present and different), `read` decodes from the last key frame at or before the first
    wanted frame, in one pass, and jumps to a later key frame where that saves decoding. Packed B-frames, as in the AVI
    files of UCF101, are numbered by their picture types and decoded from the first packet. Otherwise (streams without
    timestamps, streams that start between key frames) frames are counted by decoding from the beginning. Either way
    frame i is the i-th frame that a decoder gives when it decodes the whole file. Rotation metadata is ignored.

    Args:
        path: a file in any container and codec that FFmpeg reads; the first video stream is taken.

    Raises:
        VideoError: the file cannot be opened, has no video stream or no frame, or cannot be decoded.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._container, self._stream = open_video(self.path)
        self._context = self._stream.codec_context
        self._reformatter = VideoReformatter()
        self._fresh = True
        self._frames: list[VideoFrame] | None = None
        try:
            self.width, self.height = self._context.width, self._context.height
            self.fps = float(self._stream.average_rate or 0)
            self.time_base = self._stream.time_base or DEFAULT_TIME_BASE
            self._index_packets()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._frames = None
        self._packets: list[Packet[VideoStream]] | None = None
        self._container.close()

    def read(self, indices: Sequence[int]) -> npt.NDArray[np.uint8]:
        """The frames with the given numbers, in the given order.

        Args:
            indices: frame numbers in [0, num_frames), in any order; repeats are allowed and decoded once.

        Returns:
            RGB pixels, uint8 (len(indices), H, W, 3).

        Raises:
            IndexError: a number is out of range.
            VideoError: a frame cannot be decoded, or its size differs from the first frame's.
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
            rgb = self._rgb(frame)
            for row in rows[index]:
                pixels[row] = rgb
        return pixels

    def stream(self) -> Iterator[npt.NDArray[np.uint8]]:
        """All frames in order, one at a time, RGB uint8 (H, W, 3); nothing is kept. Raises VideoError as `read`."""
        following = 0
        for index, frame in self.decode(range(self.num_frames)):
            if index == following:  # all come once more where counting proves needed
                following += 1
                yield self._rgb(frame)

    def verify(self) -> None:
        """Decodes the whole video without keeping its frames.

        Raises:
            VideoError: a frame cannot be decoded, is damaged, or its size differs from the first frame's.
        """
        for _, frame in self.decode(range(self.num_frames)):
            self._check_size(frame)

    def frames(self) -> Iterator[VideoFrame]:
        """All frames in display order, as the decoder gives them, with what the file says of their time.

        Raises:
            VideoError: as in `verify`.
        """
        for frame in self._decode_in_order():
            self._check_size(frame)
            yield frame

    def decode(self, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """The wanted frames as the decoder gives them, with their numbers.

        Args:
            wanted: frame numbers, rising.

        Yields:
            Rising numbers with their frames; all of them once more where it turns out that frames must be counted.

        Raises:
            VideoError: a frame cannot be decoded.
        """
        if self._timestamps is not None:
            try:
                for run in self._runs(wanted):
                    yield from self._chosen(self._decode_from_key_frame(run), run)
                return
            except _TimestampsDisagree:
                pass
            promised = self.num_frames
            self._count_frames()
            if self.num_frames != promised:
                raise VideoError(self.path, f"damaged: {promised} frames announced, {self.num_frames} decoded")
        try:
            yield from self._chosen(enumerate(self._decode_in_order()), wanted)
        except _TimestampsDisagree:
            raise VideoError(self.path, "the file changed while it was read") from None

    def _runs(self, wanted: Sequence[int]) -> Iterator[Sequence[int]]:
        """The wanted frames in parts, each to be decoded in one pass from a key frame of its own."""
        assert self._timestamps is not None
        begin = 0
        for position in range(1, len(wanted)):
            key_timestamp = self._packet_timestamps[self._key_packet_before(wanted[position])]
            if bisect_left(self._timestamps, key_timestamp) - wanted[position - 1] > SHORTEST_JUMP_FRAMES:
                yield wanted[begin:position]
                begin = position
        yield wanted[begin:]

    def _chosen(
        self, frames: Iterator[tuple[int, VideoFrame]], wanted: Sequence[int]
    ) -> Iterator[tuple[int, VideoFrame]]:
        missing = set(wanted)
        for index, frame in frames:
            if index in missing:
                yield index, frame
                missing.discard(index)
                if not missing:
                    return
        raise _TimestampsDisagree

    def _check_size(self, frame: VideoFrame) -> None:
        if (frame.width, frame.height) != (self.width, self.height):
            raise VideoError(
                self.path, f"frame size changes from {self.width}x{self.height} to {frame.width}x{frame.height}"
            )

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

    def _index_packets(self) -> None:
        """Reads all packets once; sets num_frames, and the timestamps by which frames are found, where they serve."""
        self._packets = []
        kept_bytes = 0
        timestamps: list[int | None] = []
        shown: list[bool] = []
        key_packets: list[int] = []
        one_frame_each = True
        for ordinal, packet in enumerate(video_packets(self.path, self._container, self._stream)):
            timestamps.append(packet.pts)
            shown.append(not packet.is_discard)
            if packet.is_keyframe:
                key_packets.append(ordinal)
            one_frame_each = one_frame_each and (self._context.name != "mpeg4" or has_one_coded_vop(bytes(packet)))
            kept_bytes += packet.size
            if self._packets is not None:
                self._packets.append(packet)
                if kept_bytes > KEPT_PACKET_BYTES:
                    self._packets = None
        if not timestamps:
            raise VideoError(self.path, "no frame")
        indexed = sum(entry.size > 0 for entry in self._stream.index_entries)
        if len(timestamps) < indexed:
            raise VideoError(self.path, f"truncated or damaged: {len(timestamps)} of {indexed} packets can be read")
        if not one_frame_each and self._packets is not None:
            numbers = unpacked_display_numbers(map(bytes, self._packets))
            if numbers is not None and all(shown):
                for packet, number in zip(self._packets, numbers, strict=True):
                    packet.pts = number
                timestamps, key_packets, one_frame_each = list(numbers), key_packets[:1], True
        known = [pts for pts in timestamps if pts is not None]
        self._timestamps: list[int] | None = None
        if (
            one_frame_each
            and self._context.name in TIMESTAMPED_CODECS
            and len(set(known)) == len(timestamps)
            and key_packets[:1] == [0]
            and known[0] == min(known)
            and any(shown)
        ):
            self._packet_timestamps = known
            self._key_packets = key_packets
            self._timestamps = sorted(pts for pts, visible in zip(known, shown, strict=True) if visible)
            self.num_frames = len(self._timestamps)
        else:
            self._count_frames()

    def _count_frames(self) -> None:
        """Decodes the whole video; keeps its frames when they are small, so that `read` need not decode again."""
        self._timestamps = None
        self._frames = None
        self.num_frames = 0
        kept: list[VideoFrame] = []
        kept_bytes = 0
        for frame in self._decode_in_order():
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

    def _packets_from(self, start: int) -> Iterator["Packet[VideoStream]"]:
        """The video packets from number `start` on, from memory or else from the file again."""
        if self._packets is not None:
            yield from self._packets[start:]
            return
        # Seeking is not exact in every container; counting packets is.
        container, stream = open_video(self.path)
        with container:
            yield from islice(video_packets(self.path, container, stream), start, None)

    def _decode_packets(self, packets: Iterable["Packet[VideoStream]"]) -> Iterator[VideoFrame]:
        """Decodes packets up to the end; frames come in display order."""
        if not self._fresh:
            self._context.flush_buffers()
        self._fresh = False
        try:
            for packet in packets:
                yield from self._context.decode(packet)
            yield from self._context.decode(None)
        except av.FFmpegError as error:
            raise VideoError(self.path, f"cannot be decoded ({error.strerror})") from error

    def _key_packet_before(self, index: int) -> int:
        """Number of the last key packet that is shown no later than a frame."""
        assert self._timestamps is not None
        return max(key for key in self._key_packets if self._packet_timestamps[key] <= self._timestamps[index])

    def _decode_from_key_frame(self, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Frames with their numbers, from the last key frame at or before the first wanted frame on.

        Every packet that is decoded must give its frame, in order of the timestamps: a frame that is lost on the way
        would leave wrong pixels in those that refer to it. Packets that no frame refers to are not decoded unless
        they are wanted.
        """
        assert self._timestamps is not None
        wanted_timestamps = {self._timestamps[index] for index in wanted}
        start = self._key_packet_before(wanted[0])
        start_timestamp = self._packet_timestamps[start]
        is_unreferenced = unreferenced_test(self._context.name, self._context.extradata)
        promised: list[int] = []

        def chosen() -> Iterator["Packet[VideoStream]"]:
            for packet in self._packets_from(start):
                timestamp = packet.pts or 0
                if timestamp not in wanted_timestamps and is_unreferenced(bytes(packet)):
                    continue
                if timestamp >= start_timestamp and not packet.is_discard:
                    heappush(promised, timestamp)
                yield packet

        for frame in self._decode_packets(chosen()):
            if frame.pts is not None and frame.pts < start_timestamp:
                continue  # shown before the key frame but stored after it: its references were not decoded
            if frame.is_corrupt and self._context.name == "mpeg4":
                raise _TimestampsDisagree  # its decoder adapts to the encoder by what it saw before: see it all
            if frame.is_corrupt:
                raise VideoError(self.path, "damaged: the decoder reports errors")
            if not promised or heappop(promised) != frame.pts:
                raise _TimestampsDisagree
            yield bisect_left(self._timestamps, frame.pts), frame

    def _decode_in_order(self) -> Iterator[VideoFrame]:
        """All frames from the beginning."""
        if self._frames is not None:
            yield from self._frames
            return
        seen_key_frame = False
        for frame in self._decode_packets(self._packets_from(0)):
            seen_key_frame = seen_key_frame or bool(frame.key_frame)
            if frame.is_corrupt:
                if seen_key_frame:
                    raise VideoError(self.path, "damaged: the decoder reports errors")
                continue
            yield frame
