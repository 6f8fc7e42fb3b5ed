"""What stands in for a `fima` command that takes long, in a module that loads nothing."""

import os
import time
from collections.abc import Sequence


def wait_long(words: Sequence[str]) -> None:
    """Print the number of this process and the last word, and wait."""
    print(os.getpid(), words[-1])
    time.sleep(600)
