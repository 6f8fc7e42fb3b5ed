"""Frame-accurate decoding of one video file with PyAV."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import islice
from pathlib import Path
from types import TracebackType

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from fima.data.bitstream import has_one_coded_vop, unreferenced_test
from fima.errors import VideoError

KEPT_PACKET_BYTES = 64 * 2**20
KEPT_FRAME_BYTES = 64 * 2**20
TIMESTAMPED_CODECS = frozenset({"av1", "h264", "hevc", "libdav1d", "mpeg4", "vp9"})


class _TimestampsDisagree(Exception):
    """The frames that came out of the decoder are not those that the packets' timestamps promised."""


class VideoReader:
    """Reads chosen frames of a video, by their number in display order.

    All packets are read once on opening, without decoding. Where their timestamps identify the frames (one frame a
    packet, every timestamp present and different), `read` decodes from the last key frame at or before the first
    wanted frame. Otherwise (packed B-frames in AVI, streams without timestamps, streams that start between key
    frames) frames are counted by decoding from the beginning. Either way frame i is the i-th frame that a decoder
    gives when it decodes the whole file. Rotation metadata is ignored.

    Args:
        path: a file in any container and codec that FFmpeg reads; the first video stream is taken.

    Raises:
        VideoError: the file cannot be opened, has no video stream or no frame, or cannot be decoded.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._container, self._stream = _open(self.path)
        self._context = self._stream.codec_context
        self._reformatter = VideoReformatter()
        self._fresh = True
        self._frames: list[VideoFrame] | None = None
        try:
            self.width, self.height = self._context.width, self._context.height
            self.fps = float(self._stream.average_rate or 0)
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
        if self._timestamps is not None:
            try:
                if self._collect(self._decode_from_key_frame(sorted(rows)), rows, pixels):
                    return pixels
            except _TimestampsDisagree:
                pass
            promised = self.num_frames
            self._count_frames()
            if self.num_frames != promised:
                raise VideoError(self.path, f"damaged: {promised} frames announced, {self.num_frames} decoded")
        if not self._collect(enumerate(self._decode_in_order()), rows, pixels):
            raise VideoError(self.path, "the file changed while it was read")
        return pixels

    def _collect(
        self, frames: Iterator[tuple[int, VideoFrame]], rows: dict[int, list[int]], pixels: npt.NDArray[np.uint8]
    ) -> bool:
        """Writes the frames into their rows of `pixels`; False where the frames end before all are found."""
        missing = len(rows)
        for index, frame in frames:
            if index in rows:
                first, *repeats = rows[index]
                pixels[first] = self._rgb(frame)
                pixels[repeats] = pixels[first]
                missing -= 1
                if not missing:
                    return True
        return False

    def _rgb(self, frame: VideoFrame) -> npt.NDArray[np.uint8]:
        if (frame.width, frame.height) != (self.width, self.height):
            raise VideoError(
                self.path, f"frame size changes from {self.width}x{self.height} to {frame.width}x{frame.height}"
            )
        try:
            rgb = self._reformatter.reformat(frame, format="rgb24", threads=1)
            pixels: npt.NDArray[np.uint8] = rgb.to_ndarray().astype(np.uint8, copy=False)
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(self.path, f"cannot be converted to RGB ({error})") from error
        return pixels

    def _index_packets(self) -> None:
        """Reads all packets once; sets num_frames, and the timestamps by which frames are found, where they serve."""
        self._packets = []
        kept_bytes = 0
        timestamps: list[int | None] = []
        shown: list[bool] = []
        key_packets: list[int] = []
        one_frame_each = True
        for ordinal, packet in enumerate(_video_packets(self.path, self._container, self._stream)):
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
        container, stream = _open(self.path)
        with container:
            yield from islice(_video_packets(self.path, container, stream), start, None)

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

    def _decode_from_key_frame(self, wanted: list[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Frames with their numbers, from the last key frame at or before the first wanted frame on.

        Every packet that is decoded must give its frame, in order of the timestamps: a frame that is lost on the way
        would leave wrong pixels in those that refer to it. Packets that no frame refers to are not decoded unless
        they are wanted.
        """
        assert self._timestamps is not None
        wanted_timestamps = {self._timestamps[index] for index in wanted}
        start = max(key for key in self._key_packets if self._packet_timestamps[key] <= self._timestamps[wanted[0]])
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


def _open(path: Path) -> tuple[InputContainer, VideoStream]:
    try:
        if path.stat().st_size == 0:
            raise VideoError(path, "the file is empty")
        container = av.open(str(path))
    except (OSError, ValueError, av.FFmpegError) as error:
        if isinstance(error, VideoError):
            raise
        raise VideoError(path, f"cannot be opened ({getattr(error, 'strerror', None) or error})") from error
    if not container.streams.video:
        container.close()
        raise VideoError(path, "no video stream")
    stream = container.streams.video[0]
    if getattr(stream, "codec_context", None) is None:
        container.close()
        raise VideoError(path, "its codec is unknown")
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return container, stream


def _video_packets(path: Path, container: InputContainer, stream: VideoStream) -> Iterator["Packet[VideoStream]"]:
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise VideoError(path, "truncated or damaged: a packet is incomplete")
            if packet.size:
                yield packet
    except av.FFmpegError as error:
        raise VideoError(path, f"cannot be read ({error.strerror})") from error
