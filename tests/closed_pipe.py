"""A program whose output nobody reads."""

import os
import subprocess
from collections.abc import Sequence


def output_into_closed_pipe(command: Sequence[str]) -> tuple[int, str]:
    """Run a command whose standard output is a pipe without a reader; return its exit code and its errors."""
    reading, writing = os.pipe()
    os.close(reading)
    # Buffered, as output is by default: what is left in the buffer is written at the end.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    finally:
        os.close(writing)
    return done.returncode, done.stderr
