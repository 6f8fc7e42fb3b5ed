"""The packets of a video: which frame comes out of each, and where decoding must begin for a frame."""

import contextlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from pathlib import Path
from zlib import crc32

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from fima.data.decode.bitstream import PackedFrames
from fima.data.decode.container import (
    MP4_FORMAT,
    NO_END,
    PROGRESSIVE,
    TRANSPORT_STREAM,
    frame_rate,
    listed_frames,
    open_video,
    video_packets,
)
from fima.errors import VideoError

KEPT_BYTES = 16 * 2**20
PACKET_OBJECT_BYTES = 512
"""About what a packet takes in memory besides its content."""
SHORTEST_JUMP_FRAMES = 4
NUM_BYTES_BEHIND = 64
WITHOUT_SIZES = (("h264", "h264"), ("hevc", "hevc"), ("hevc", TRANSPORT_STREAM))
"""Codecs and formats of which FFmpeg does not notice that the last picture is cut off."""
FIELD_CODEC, LOOKED_AT_FOR_FIELDS = "h264", 8
"""The codec of `TIMESTAMPED_CODECS` whose packets may be single fields, and how many packets tell."""
DV_FORMAT = "dv"
TIMESTAMPED_CODECS = frozenset({"av1", "h264", "hevc", "libdav1d", "mpeg4", "vp9"})


class TimestampsDisagree(Exception):
    """The packets of a file, or the frames that come out of its decoder, are not those that were promised."""


class FrameIndex:
    """The frames of a video by the timestamps of its packets: one frame a packet, all timestamps different.

    A frame takes eight bytes, a key packet 24 more: an hour of video is less than a megabyte. The timestamps of the
    packets whose frames are shown are in any order; keys are number and timestamp of each key packet, among them packet
    0, with the first timestamp of all.
    """

    def __init__(self, shown: "array[int]", keys: Sequence[tuple[int, int]]) -> None:
        self._timestamps = array("q", np.sort(np.frombuffer(shown, dtype=np.int64)).tobytes())
        by_time = sorted(keys, key=lambda key: key[1])
        # Where packets are not stored in the order of their times, the last one stored is the best to begin at.
        best = list(accumulate(by_time, max))
        self._key_times = array("q", (timestamp for _, timestamp in by_time))
        self._start_packets = array("q", (number for number, _ in best))
        self._start_times = array("q", (timestamp for _, timestamp in best))

    def __len__(self) -> int:
        """Number of frames."""
        return len(self._timestamps)

    def timestamps(self) -> "npt.NDArray[np.float64]":
        """Timestamps of the frames, in units of the stream's time base, rising, (num_frames,)."""
        return np.frombuffer(self._timestamps, dtype=np.int64).astype(np.float64)

    def frame_at(self, timestamp: int) -> int:
        """Number of the frame with a timestamp, or of the first one after it."""
        return bisect_left(self._timestamps, timestamp)

    def start_for(self, frame: int) -> tuple[int, int]:
        """Number and timestamp of the last key packet that is shown no later than a frame."""
        place = bisect_right(self._key_times, self._timestamps[frame]) - 1
        return self._start_packets[place], self._start_times[place]

    def all_runs(self) -> Iterator[range]:
        """All frames in parts that begin at the key packets."""
        begins = sorted({self.frame_at(timestamp) for timestamp in self._start_times} | {0})
        for begin, end in zip(begins, [*begins[1:], len(self)], strict=True):
            if begin < end:
                yield range(begin, end)

    def runs(self, wanted: Sequence[int]) -> Iterator[Sequence[int]]:
        """The wanted frames, rising, in parts, each to be decoded in one pass from a key frame of its own."""
        begin = 0
        for position in range(1, len(wanted)):
            last, following = wanted[position - 1], wanted[position]
            if following - last <= SHORTEST_JUMP_FRAMES:
                continue
            _, timestamp = self.start_for(following)
            if self.frame_at(timestamp) - last > SHORTEST_JUMP_FRAMES:
                yield wanted[begin:position]
                begin = position
        yield wanted[begin:]


class Packets:
    """The packets of the video stream of a file: read when they are needed, or all at once and kept where they are few.

    The first is for H.264 in MP4 without B-frames, whose header has all that an index needs; `fima prepare` writes it.
    """

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream) -> None:
        self._path, self._container, self._stream = path, container, stream
        self._listed: array[int] | None = None
        self._kept: list[Packet[VideoStream]] | None = None
        self.fps = 0.0
        """Frames per second; known from `index` on."""
        self.num_packed: int | None = None
        """Frames of a stream with packed B-frames, which have no timestamps; known from `index` on."""

    def clear(self) -> None:
        """Keeps nothing any more."""
        self._kept = self._listed = None

    def all(self) -> Iterator["Packet[VideoStream]"]:
        """All packets, from memory or else from the file. Raises VideoError."""
        if self._kept is not None:
            yield from self._kept
            return
        container, stream = open_video(self._path, probe=False)
        with container:
            yield from video_packets(self._path, container, stream)

    def starting_at(self, number: int) -> Iterator["Packet[VideoStream]"]:
        """The packets from a key packet on. Raises VideoError where one is incomplete, or cannot be read any more.

        Raises TimestampsDisagree for one that is not what the header promised, which is not believed from then on.
        """
        if self._listed is not None:
            yield from self._sought(self._listed, number)
        else:
            # Seeking is not exact in every container; counting packets is.
            yield from islice(self.all(), number, None)

    def index(self) -> FrameIndex | None:
        """The frames by the packets' timestamps, from the header where it has them, or else by reading all packets.

        None where timestamps do not tell the frames apart. Raises VideoError where there is no packet, or one is
        incomplete.
        """
        return self._from_header() or self._from_packets()

    def _sought(self, timestamps: "array[int]", number: int) -> Iterator["Packet[VideoStream]"]:
        """The packets from key packet `number` on, each compared with the timestamps of the header."""
        try:
            self._container.seek(timestamps[number], stream=self._stream)
        except av.FFmpegError as error:
            raise VideoError(self._path, f"cannot be read ({error.strerror})") from error
        for packet in video_packets(self._path, self._container, self._stream):
            if number == len(timestamps) or not packet.pts == packet.dts == timestamps[number]:
                break
            yield packet
            number += 1
        if number < len(timestamps):
            self._listed = None
            raise TimestampsDisagree

    def _from_header(self) -> FrameIndex | None:
        """The index by the table of an MP4 in whose H.264 frames are stored in the order in which they are shown."""
        if not _is_in_order(self._container, self._stream):
            return None
        listed = listed_frames(self._path, self._container, self._stream)
        if listed is None or len(self._stream.index_entries) != self._stream.frames:
            return None
        timestamps, keys = listed
        if (np.diff(timestamps) <= 0).any() or not keys or keys[0] != 0:
            return None
        self._listed = timestamps
        self.fps = frame_rate(self._stream, len(timestamps), timestamps)
        return FrameIndex(timestamps, [(number, timestamps[number]) for number in keys])

    def _from_packets(self) -> FrameIndex | None:
        codec = self._stream.codec_context.name
        timestamps, shown, keys = array("q"), array("q"), array("q")
        kept: list[Packet[VideoStream]] | None = []
        first: list[Packet[VideoStream]] = []
        num_packets = num_shown = kept_bytes = 0
        since_key: list[Packet[VideoStream]] = []
        has_no_sizes = (codec, self._container.format.name) in WITHOUT_SIZES
        packed = PackedFrames()
        for packet in video_packets(self._path, self._container, self._stream):
            timestamp = packet.pts
            if since_key and (packet.dts or 0) < (since_key[-1].dts or 0):  # the end of one of several recordings
                _check_last_picture(self._path, since_key, self._stream.codec_context)
            if packet.is_keyframe:
                keys.append(num_packets)
                since_key.clear()
            if has_no_sizes:
                since_key.append(packet)
            num_packets += 1
            num_shown += not packet.is_discard
            if timestamp is not None:
                timestamps.append(timestamp)
                if not packet.is_discard:
                    shown.append(timestamp)
            if num_packets <= LOOKED_AT_FOR_FIELDS:
                first.append(packet)
            if codec == "mpeg4":
                packed.add(bytes(packet))
            if kept is not None:
                kept.append(packet)
                kept_bytes += packet.size + PACKET_OBJECT_BYTES
                if kept_bytes > KEPT_BYTES:
                    kept = None
        self._kept = kept
        _check_number(self._path, num_packets, self._stream)
        if has_no_sizes:
            _check_last_picture(self._path, since_key, self._stream.codec_context)
        if self._container.format.name == DV_FORMAT and self._container.size % packet.size:
            raise VideoError(self._path, NO_END)
        self.fps = frame_rate(self._stream, num_shown, shown)
        if not packed.one_frame_each:
            self.num_packed = num_packets if packed.regular and num_shown == num_packets else None
            return None
        if len(timestamps) < num_packets or codec not in TIMESTAMPED_CODECS:
            return None
        # Every timestamp is there once, and the video begins with a key frame that is shown first.
        starts_with_key = bool(keys) and keys[0] == 0 and timestamps[0] == min(timestamps)
        if not shown or not starts_with_key or len(np.unique(timestamps)) < len(timestamps):
            return None
        if _are_fields(first, self._stream.codec_context):
            return None
        return FrameIndex(shown, [(number, timestamps[number]) for number in keys])


def _is_in_order(container: InputContainer, stream: VideoStream) -> bool:
    """Whether an MP4 has H.264 whose frames are stored in the order in which they are shown, by its table of times."""
    context = stream.codec_context
    if container.format.name != MP4_FORMAT or context.name != "h264" or context.has_b_frames:
        return False
    # Frames may all be shown later than they are decoded, as if there were B-frames.
    first = next((entry.timestamp for entry in stream.index_entries), None)
    return int(context.field_order) == PROGRESSIVE and stream.start_time in (None, first)


def _are_fields(packets: Sequence["Packet[VideoStream]"], stream: VideoCodecContext) -> bool:
    """Whether the first packets of a stream give fewer frames than they are: each is a field, and two make a frame."""
    if stream.name != FIELD_CODEC or int(stream.field_order) == PROGRESSIVE:
        return False
    num_frames = 0
    with contextlib.suppress(av.FFmpegError):
        context = _new_decoder(stream)
        for packet in (*packets, None):
            num_frames += len(context.decode(packet))
    return num_frames < len(packets)


def _new_decoder(stream: VideoCodecContext) -> VideoCodecContext:
    """Another decoder, in one thread, with the parameter sets of the stream."""
    context = VideoCodecContext.create(stream.name, "r")
    assert isinstance(context, VideoCodecContext)
    context.extradata, context.thread_count = stream.extradata, 1
    return context


def _check_last_picture(path: Path, since_key: Sequence["Packet[VideoStream]"], stream: VideoCodecContext) -> None:
    """Refuse a stream whose last picture is cut off: FFmpeg reads on behind its end, so what lies there changes pixels.

    It is decoded from the last key packet on, with the parameter sets of the stream.
    """
    checksums = []
    for byte_behind in (b"", b"\xaa"):
        context = _new_decoder(stream)
        *others, last = map(bytes, since_key)
        found = 0
        with contextlib.suppress(av.FFmpegError):
            for content in (*others, last + NUM_BYTES_BEHIND * byte_behind, None):
                for frame in context.decode(None if content is None else Packet(content)):
                    for plane in frame.planes:
                        found = crc32(plane, found)
        checksums.append(found)
    if checksums[0] != checksums[1]:
        raise VideoError(path, NO_END)


def _check_number(path: Path, num_packets: int, stream: VideoStream) -> None:
    if not num_packets:
        raise VideoError(path, "no frame")
    if num_packets < len(stream.index_entries):
        num_indexed = sum(entry.size > 0 for entry in stream.index_entries)
        if num_packets < num_indexed:
            raise VideoError(path, f"truncated or damaged: {num_packets} of {num_indexed} packets can be read")
