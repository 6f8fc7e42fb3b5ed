"""What tells the present content of a file, or of a folder of pictures, from an earlier one."""

import os
from pathlib import Path


def file_state(path: Path) -> tuple[int, int]:
    """Return the size in bytes and the time of the last change in ns; of a folder, of all that lies in it.

    The time of a folder alone does not change when a picture in it is written again. Raises OSError.
    """
    status = path.stat()
    if not path.is_dir():
        return status.st_size, status.st_mtime_ns
    inside = [entry.stat(follow_symlinks=entry.is_file()) for entry in os.scandir(path)]
    return sum(each.st_size for each in inside), max(each.st_mtime_ns for each in (status, *inside))
