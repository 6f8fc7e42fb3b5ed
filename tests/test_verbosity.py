"""What every command has in common: the form of its help, `--quiet`, `--verbose`, NO_COLOR, and what help loads."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fima.cli import main
from fima.commands import COMMANDS
from fima.commands.completion import completion_script
from fima.commands.flag_errors import one_line_error
from tests.small_runs import SMALL_FLAGS

Capture = pytest.CaptureFixture[str]
HEAVY = ("torch", "torchvision", "sklearn", "matplotlib", "av", "tyro", "numpy", "huggingface_hub")
NEED_NO_WORDS = ("benchmark", "demo")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_what_all_commands_take(command: str, capsys: Capture) -> None:
    assert main([command, "--help"]) == 0
    page = capsys.readouterr().out
    assert page.startswith(f"usage: fima {command} [-h] ")
    assert f"`fima {command} " in " ".join(page.split()).partition("or example: ")[2]
    assert "--quiet" in page
    assert "Exit codes: 0 done" in page
    # A usage of a few flags shows them; what stands without a flag has a name of its own.
    without_flags = re.sub(r"\[-.*?\]", "", page.splitlines()[0])
    assert " STR" not in without_flags
    assert " PATH" not in without_flags


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in NEED_NO_WORDS])
def test_every_command_refuses_in_one_line_with_the_same_code(command: str, tmp_path: Path, capsys: Capture) -> None:
    for words, message in (
        (["--xyzzy"], "--xyzzy: unknown flag"),
        (["--quiet", "--verbose"], "--quiet and --verbose exclude each other"),
        ([], f"(missing: .*|no run given; )`fima {command} "),
    ):
        assert main([command, *words]) == 2
        captured = capsys.readouterr()
        assert re.match(f"fima: error: {message}", captured.err), captured.err
        assert (captured.out, captured.err.count("\n")) == ("", 1)


def test_a_flag_in_the_place_of_a_word(capsys: Capture) -> None:
    assert main(["prepare", "-x"]) == 2
    assert "missing argument: fima prepare [OPTIONS] VIDEOS OUT (" in capsys.readouterr().err


def test_what_machines_read_is_named_in_the_documentation() -> None:
    """Each command that prints JSON, or writes it into a file, as its help says, is in the tables of docs/use.md."""
    page = (Path(__file__).parents[1] / "docs" / "use.md").read_text(encoding="utf-8")
    printed = re.search(r"JSON on stdout: `--json` \| (.*) \|", page)
    written = re.search(r"a JSON file \| (.*) \|", page)
    assert printed is not None
    assert written is not None
    script = completion_script("bash")
    for command in COMMANDS:
        offered = re.search(rf"^ +{command}\) words=.* --json( |\")", script, re.MULTILINE)
        is_file = f"`{command} --json FILE`" in written[1]
        assert (offered is not None) == (f"`{command}`" in printed[1] or is_file), command


def test_help_loads_neither_pytorch_nor_for_all_commands_anything_heavy() -> None:
    code = (
        "import sys; from fima.commands import COMMANDS; from fima.cli import main\n"
        "assert main(['--help']) == 0\n"
        f"assert not sys.modules.keys() & {set(HEAVY)!r}\n"
        "for name in COMMANDS:\n"
        "    assert main([name, '--help']) == 0\n"
        "    assert 'torch' not in sys.modules, name\n"
        "assert main(['pretrain', 'VIDEOS', '--out', 'x', '--lr', '1']) == 2\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_quiet_leaves_notes_out_but_no_result(videos: Path, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    assert main(["pretrain", str(videos), "--out", str(run), "--quiet", *SMALL_FLAGS, "--optim.epochs", "1"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert all(line.startswith("fima: warning: ") for line in captured.err.splitlines())
    index = str(tmp_path / "index.npz")
    embed = ["embed", str(run), str(videos), "-o", index, "--device", "cpu", "--workers", "0", "--quiet", "--json"]
    assert main(embed) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["num_videos"] == 10
    assert captured.err == ""
    query = str(next(videos.rglob("*.avi")))
    assert main(["search", index, query, "-k", "2", "--quiet", "--device", "cpu"]) == 0
    assert "similarity" in capsys.readouterr().out
    assert main(["search", index, "none.avi", "--quiet"]) == 2
    assert capsys.readouterr().err.startswith("fima: error: none.avi")


def test_verbose_says_versions_time_and_where_an_error_comes_from(tmp_path: Path, capsys: Capture) -> None:
    argv = ["contact-sheet", str(tmp_path / "none"), "--out", str(tmp_path / "x.png")]
    assert main(argv) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([*argv, "--verbose"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("fima: fima ")
    assert ", torch " in lines[0]
    assert "Traceback (most recent call last):" in lines
    assert any(line.startswith("fima: took ") for line in lines)
    assert lines[-1].startswith("fima: error: ")


def test_no_color(tmp_path: Path) -> None:
    """On a terminal, help and tables are coloured; with NO_COLOR they are not."""
    pty = pytest.importorskip("pty")
    code = "import sys; from fima.cli import main; sys.exit(main(['embed', '--help']))"
    for no_color, coloured in (("", True), ("1", False)):
        environment = {**os.environ, "TERM": "xterm", "NO_COLOR": no_color}
        master, slave = pty.openpty()
        process = subprocess.Popen([sys.executable, "-c", code], stdout=slave, env=environment, cwd=tmp_path)
        os.close(slave)
        seen = b""
        try:
            while part := os.read(master, 4096):
                seen += part
        except OSError:  # the other end is closed
            pass
        os.close(master)
        assert process.wait() == 0
        assert b"Exit codes" in seen
        assert (b"\x1b[" in seen) is coloured


def test_a_message_that_is_not_known_is_passed_on_without_its_frame() -> None:
    frame = "╭─ News ──╮\n│ First line,  │\n│ and second. │\n│ ─────────── │\n│ For help, … │\n╰─────────────╯\n"
    assert one_line_error(frame, words=[], flags=[]) == "First line, and second."
    assert one_line_error("no frame", words=[], flags=[]) == "no frame"
    blank = " Required options \n -------- \n  Missing from fima x:  \n      A  \n          What it is. (required)  \n"
    assert one_line_error(blank, words=[], flags=[]) == "missing: A: What it is"
