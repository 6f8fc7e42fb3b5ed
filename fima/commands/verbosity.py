"""`--quiet` and `--verbose`, which every command takes."""

import contextlib
import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from fima.errors import ConfigError

QUIET = "--quiet"
VERBOSE = "--verbose"
EXIT_CODES = "Exit codes: 0 done; 1 had to stop; 2 wrong input; 3 collapsed; 128 + n ended by signal n (130: Ctrl-C)."
HELP = f"""\
Every command takes {QUIET} (only results, warnings and errors) and {VERBOSE} (also versions, messages of libraries, \
time, memory, and the traceback of an error). NO_COLOR=1 switches colours off.
{EXIT_CODES}"""

_quiet = False


def take_verbosity(words: Sequence[str]) -> tuple[list[str], str | None]:
    """Return the words without the two flags, and which of these was given. Raises ConfigError where both are."""
    given = [flag for flag in (QUIET, VERBOSE) if flag in words]
    if len(given) > 1:
        raise ConfigError(f"{QUIET} and {VERBOSE} exclude each other; give one of them")
    return [word for word in words if word not in given], given[0] if given else None


def is_quiet() -> bool:
    """Whether progress is left out."""
    return _quiet


def speaking(flag: str | None, *, result_on_stdout: bool) -> contextlib.AbstractContextManager[None]:
    """Let a command say as much as its flag asks for; a result on stdout is never left out."""
    if flag == VERBOSE:
        return _in_detail()
    return _quietly(result_on_stdout=result_on_stdout) if flag == QUIET else contextlib.nullcontext()


@contextlib.contextmanager
def _quietly(*, result_on_stdout: bool) -> Iterator[None]:
    global _quiet
    before, _quiet = _quiet, True
    try:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            out = sys.stdout if result_on_stdout else nowhere
            with contextlib.redirect_stdout(out):
                yield
    finally:
        _quiet = before


@contextlib.contextmanager
def _in_detail() -> Iterator[None]:
    # Imported here, since `--help` need not wait for it.
    from fima.commands.system import versions

    print(f"fima: {', '.join(versions())}, {os.cpu_count()} CPU cores", file=sys.stderr, flush=True)
    root, began = logging.getLogger(), time.monotonic()
    handler, level = logging.StreamHandler(), root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            yield
    except Exception:
        traceback.print_exc()
        raise
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        print(f"fima: took {time.monotonic() - began:.1f} s{_memory()}", file=sys.stderr, flush=True)


def _memory() -> str:
    """The most memory that this process held, if the system knows."""
    try:
        import resource
    except ImportError:
        return ""
    unit = 1 if sys.platform == "darwin" else 1024
    return f", at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20:.0f} MiB of memory"
