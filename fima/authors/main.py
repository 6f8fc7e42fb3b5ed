"""What `train.py` and `eval.py` do."""

import os
import shlex
import sys
from collections.abc import Sequence

from fima.authors.flags import Program, parse_flags
from fima.errors import EXIT_USER_ERROR, UserError, warn


def main(program: Program, argv: Sequence[str] | None = None) -> int:
    """Run a command line of one of the authors' programs, that of the process when None, and return its exit code."""
    try:
        return _run(program, list(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        from fima.authors.translate import reworded

        message = reworded(program, str(error))
    except ModuleNotFoundError as error:
        where = f"install this project into the Python that runs {program}.py: {sys.executable} -m pip install -e ."
        message = f"the Python package `{error.name}` is missing; {where}"
    except SystemExit as exit_request:
        return exit_request.code if isinstance(exit_request.code, int) else EXIT_USER_ERROR
    print(f"fima: error: {message}", file=sys.stderr)
    return EXIT_USER_ERROR


def _run(program: Program, argv: list[str]) -> int:
    given = parse_flags(program, argv)
    # Imported here so that `--help` and a mistyped flag answer without loading PyTorch.
    import torch

    from fima.authors.launch import check_port, plan_launch, run_processes
    from fima.authors.translate import translate

    launch = plan_launch(given, gpus=torch.cuda.device_count(), environment=os.environ)
    translation = translate(program, given, processes=launch.local)
    for remark in translation.remarks:
        warn(remark)
    print(f"{program}.py: {shlex.join([*launch.prefix, *translation.words])}", flush=True)
    check_port(launch)
    if launch.local > 1:
        return run_processes([sys.executable, "-m", "fima.authors.main", *translation.words], launch)
    if launch.total > 1:
        os.environ.update(launch.environment)
    return run_words(translation.words)


def run_words(words: Sequence[str]) -> int:
    """Run a `fima` command whose errors name the flags as the authors do, and return its exit code."""
    from fima import cli
    from fima.authors.translate import reworded

    program: Program = "train" if words[:1] == ["pretrain"] else "eval"
    return cli.main(words, reword=lambda message: reworded(program, message))


if __name__ == "__main__":  # one of several processes that a command line has started
    sys.exit(run_words(sys.argv[1:]))
