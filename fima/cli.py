"""The `fima` command: picks a subcommand, and turns errors into one line and an exit code."""

import errno
import io
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from fima import errors
from fima.commands import COMMANDS
from fima.commands.output import discard_output, reader_is_gone
from fima.commands.verbosity import EXIT_CODES, HELP, speaking, take_verbosity
from fima.console import Console, wrapped
from fima.torch_tools.allocator import keep_freed_memory
from fima.train.signals import sigterm_leaves_in_order

PLACE_ERRORS = ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "ENOTDIR", "ENAMETOOLONG")
"""What the system says of a place that cannot be written: nobody needs a traceback for it."""
GRACE_SECONDS = 4.0
"""Time after SIGTERM; a training run has a setting for its own."""
LIMITS = "too little memory, or a limit of the system, which `ulimit -a` shows"
LOST = "another process of this command has ended; what it says itself is the cause"
SIGNS = {
    "failed to map segment": f": {LIMITS}",
    "can't allocate memory": f": {LIMITS}",
    "can't start new thread": f": {LIMITS}",
    "Connection closed by peer": f": {LOST}",
    "Connection reset by peer": f": {LOST}",
    "Could not determine home directory": ": set HOME to a folder",
    "out of memory": "; try a smaller --batch-size, --num-clips or --crop-size, where the command has it",
    "DataLoader worker (pid": "; a process that decodes has died: fewer --workers need less memory",
}
"""What libraries say of a machine that lacks something, and what it means."""
LOST_TERMINAL = 128 + getattr(signal, "SIGHUP", 0)
"""Exit code of a run that stopped, and saved, since its terminal was gone."""
RESULT_ON_STDOUT = ("search", "predict", "doctor", "completion")
"""Commands whose result is what they print; that of the others is what they write, unless they are asked for JSON."""


def main(argv: Sequence[str] | None = None, *, reword: Callable[[str], str] = str) -> int:
    """Run `fima` with the given arguments (those of the process when None) and return its exit code.

    0: done; 2: wrong input; 1: a run that had to stop; 3: one that collapsed; 128 + n: ended by signal n. `reword` is
    applied to an error's message before it is printed.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may have letters that a terminal lacks
    try:
        with sigterm_leaves_in_order(GRACE_SECONDS):
            code = _run(arguments)
        # What is still in the buffer is written here, where it is known what to do when nobody reads it.
        try:
            print(end="", flush=True)
        except OSError:
            if code != LOST_TERMINAL:
                raise
            discard_output()
        return code
    except errors.UserError as error:
        return _fail(reword(str(error)), errors.EXIT_USER_ERROR)
    except errors.TrainingError as error:
        return _fail(reword(str(error)), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", errors.EXIT_INTERRUPTED)
    except BrokenPipeError:
        if not reader_is_gone():
            raise
        discard_output()
        return errors.EXIT_READER_GONE
    except OSError as error:
        if error.errno is None or errno.errorcode.get(error.errno) not in PLACE_ERRORS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        what = f"{where}{error.strerror}; make room, change the permissions, or choose another place"
        return _fail(what, errors.EXIT_USER_ERROR)
    except (MemoryError, ImportError, RuntimeError) as error:
        meaning = next((meaning for sign, meaning in SIGNS.items() if sign in str(error)), None)
        if meaning is None and not isinstance(error, MemoryError):
            raise
        return _fail(f"{errors.first_line(error)}{meaning or f': {LIMITS}'}", errors.EXIT_TRAINING_ERROR)
    except SystemExit as exit_request:
        # The parser prints its own message and leaves with a code; callers of main() get that code.
        return exit_request.code if isinstance(exit_request.code, int) else errors.EXIT_USER_ERROR


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else errors.EXIT_USER_ERROR
    if arguments[0] in ("-V", "--version"):
        # Its device is known to PyTorch alone, which `--help` need not wait for.
        from fima.commands.system import version_text

        print(version_text())
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        raise errors.ConfigError(f"unknown command `{name}`{errors.suggestion(name, COMMANDS)}")
    try:
        Path.cwd()
    except FileNotFoundError:
        raise errors.ConfigError("the working directory is gone; change to one that exists") from None
    try:
        tempfile.gettempdir()  # without one, processes that decode cannot be reached, and would be waited for
    except FileNotFoundError:
        raise errors.ConfigError("no folder for temporary files can be written; set TMPDIR to one that can") from None
    keep_freed_memory()
    words, verbosity = take_verbosity(arguments[1:])
    asks_for_help = bool({"-h", "--help"} & set(words))
    asks_for_result = name in RESULT_ON_STDOUT or bool({"--json", "--list-protocols"} & set(words))
    if os.environ.get("NO_COLOR"):
        # The parser of the flags, which knows another name for it.
        os.environ.setdefault("PYTHON_TYRO_ANSI_CODES", "False")
    with speaking(verbosity, result_on_stdout=asks_for_help or asks_for_result):
        # Imported here so that `--help` and a mistyped command answer without loading PyTorch.
        from fima.commands.parse import run_command

        if name == "evaluate" and "--list-protocols" in words:  # which needs none of the other arguments
            from fima.commands.figures import protocols_table

            Console().print(protocols_table())
            return 0
        try:
            return run_command(name, words)
        except SystemExit as leaving:
            if not asks_for_help or leaving.code:
                raise
            print(wrapped(HELP))
            return 0


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
    rows = wrapped(lines, indent=" " * (width + 4))
    return wrapped(
        "usage: fima COMMAND [OPTIONS]\n\n"
        "Self-supervised pre-training of video encoders that learn motion, not background.\n\n"
        f"commands:\n{rows}\n\n"
        "First steps: `fima doctor VIDEOS`; or, without videos, `fima demo --quick`.\n"
        "`fima COMMAND --help` lists the options of a command; `fima --version` prints the version.\n"
        "`fima COMMAND --quiet` prints less, `fima COMMAND --verbose` more. NO_COLOR=1 switches colours off.\n"
        f"{EXIT_CODES}"
    )


def _fail(message: str, code: int) -> int:
    num_processes = int(os.environ.get("WORLD_SIZE") or "1")
    which = f" (process {os.environ.get('RANK')} of {num_processes})" if num_processes > 1 else ""
    print(f"fima: error{which}: {errors.one_line(message)}", file=sys.stderr)
    return code
