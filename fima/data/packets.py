"""The packets of a video: which frame comes out of each, and where decoding must begin for a frame."""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from fima.data.bitstream import has_one_coded_vop, unpacked_display_numbers
from fima.data.container import open_video, video_packets
from fima.errors import VideoError

KEPT_BYTES = 16 * 2**20
PACKET_OBJECT_BYTES = 512
"""About what a packet takes in memory besides its content."""
SHORTEST_JUMP_FRAMES = 4
TIMESTAMPED_CODECS = frozenset({"av1", "h264", "hevc", "libdav1d", "mpeg4", "vp9"})


class FrameIndex:
    """The frames of a video by the timestamps of its packets: one frame a packet, all timestamps different.

    A frame takes eight bytes, a key packet 24 more: an hour of video is less than a megabyte.

    Args:
        shown: timestamps of the packets whose frames are shown, in any order.
        keys: number and timestamp of each key packet; among them packet 0, with the first timestamp of all.
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

    def frame_at(self, timestamp: int) -> int:
        """Number of the frame with a timestamp, or of the first one after it."""
        return bisect_left(self._timestamps, timestamp)

    def start_for(self, frame: int) -> tuple[int, int]:
        """Number and timestamp of the last key packet that is shown no later than a frame."""
        place = bisect_right(self._key_times, self._timestamps[frame]) - 1
        return self._start_packets[place], self._start_times[place]

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
    """The packets of the video stream of a file, which are kept in memory where they are small.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: list[Packet[VideoStream]] | None = []

    def clear(self) -> None:
        """Keeps nothing any more."""
        self._kept = None

    def starting_at(self, number: int) -> Iterator["Packet[VideoStream]"]:
        """The packets from one on, from memory or else from the file again. Raises VideoError."""
        if self._kept is not None:
            yield from islice(self._kept, number, None)
            return
        # Seeking is not exact in every container; counting packets is.
        container, stream = open_video(self._path)
        with container:
            yield from islice(video_packets(self._path, container, stream), number, None)

    def read(self, container: InputContainer, stream: VideoStream) -> FrameIndex | None:
        """Read all packets once.

        Args:
            container: the file, opened.
            stream: its video stream.

        Returns:
            The frames by the packets' timestamps; None where these do not tell the frames apart.

        Raises:
            VideoError: there is no packet, one is incomplete, or the file cannot be read to its end.
        """
        codec = stream.codec_context.name
        timestamps, shown = array("q"), array("q")
        keys: list[tuple[int, int]] = []
        num_packets = kept_bytes = 0
        one_frame_each = True
        for packet in video_packets(self._path, container, stream):
            timestamp = packet.pts
            if timestamp is not None:
                timestamps.append(timestamp)
                if not packet.is_discard:
                    shown.append(timestamp)
                if packet.is_keyframe:
                    keys.append((num_packets, timestamp))
            num_packets += 1
            if codec == "mpeg4" and one_frame_each:
                one_frame_each = has_one_coded_vop(bytes(packet))
            if self._kept is not None:
                self._kept.append(packet)
                kept_bytes += packet.size + PACKET_OBJECT_BYTES
                if kept_bytes > KEPT_BYTES:
                    self._kept = None
        _check_number(self._path, num_packets, stream)
        if len(timestamps) < num_packets or codec not in TIMESTAMPED_CODECS:
            return None
        if one_frame_each:
            return _index(timestamps, shown, keys)
        return self._unpacked(keys) if len(shown) == num_packets else None

    def _unpacked(self, keys: Sequence[tuple[int, int]]) -> FrameIndex | None:
        """The index of a video with packed B-frames, whose packets get frame numbers for timestamps."""
        numbers = None if self._kept is None else unpacked_display_numbers(map(bytes, self._kept))
        if self._kept is None or numbers is None:
            return None
        for packet, number in zip(self._kept, numbers, strict=True):
            packet.pts = number
        timestamps = array("q", numbers)
        return _index(timestamps, timestamps, [(number, numbers[number]) for number, _ in keys[:1]])


def _index(timestamps: "array[int]", shown: "array[int]", keys: Sequence[tuple[int, int]]) -> FrameIndex | None:
    """The index, where every timestamp is there once and the video begins with a key frame that is shown first."""
    starts_with_key = bool(keys) and keys[0][0] == 0 and timestamps[0] == min(timestamps)
    if not shown or not starts_with_key or len(np.unique(timestamps)) < len(timestamps):
        return None
    return FrameIndex(shown, keys)


def _check_number(path: Path, num_packets: int, stream: VideoStream) -> None:
    if not num_packets:
        raise VideoError(path, "no frame")
    if num_packets < len(stream.index_entries):
        num_indexed = sum(entry.size > 0 for entry in stream.index_entries)
        if num_packets < num_indexed:
            raise VideoError(path, f"truncated or damaged: {num_packets} of {num_indexed} packets can be read")
