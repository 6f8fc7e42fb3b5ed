"""Folders of numbered pictures, one a frame, as data sets such as Something-Something store their videos."""

import re
from collections import defaultdict
from collections.abc import Iterable

IMAGE_EXTENSIONS = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
NUMBERED = re.compile(r"(?P<series>.*?)(?P<number>\d+)(?P<extension>\.\w+)", re.DOTALL)
SECONDS = re.compile(r"(?P<series>.*?)(?P<number>\d+)\.", re.DOTALL)
"""What comes before the decimals of a time."""
OTHER_SIGNALS = re.compile("annotation|depth|disparity|flow|mask|segmentation", re.IGNORECASE)
"""In the names of what lies beside the frames of a video, picture by picture."""
FEWEST_FRAMES = 2


def frame_series(names: Iterable[str]) -> list[str]:
    """Return the pictures that are the frames of a video, in the order of their numbers; nothing where there are none.

    Of several series in one folder, such as `img_00001.jpg` and `flow_x_00001.jpg`, the longest that is no optical
    flow, depth or mask is taken, of equals the first by name. Numbers may be times with equally many decimals, such as
    `1305031102.175304.png`.
    """
    series: dict[tuple[str, ...], list[tuple[int, int, str]]] = defaultdict(list)
    for name in sorted(names):
        match = NUMBERED.fullmatch(name)
        if match and match["extension"].lower() in IMAGE_EXTENSIONS and not name.startswith("."):
            number, extension = match["number"], match["extension"]
            series[match["series"], extension].append((0, int(number), name))
            if seconds := SECONDS.fullmatch(match["series"]):
                key = seconds["series"], extension, str(len(number))
                series[key].append((int(seconds["number"]), int(number), name))
    if not series:
        return []
    chosen = max(series, key=lambda key: (not OTHER_SIGNALS.search(key[0]), len(series[key])))
    return [name for *_, name in sorted(series[chosen])] if len(series[chosen]) >= FEWEST_FRAMES else []
