"""The Tab key, in the shells themselves."""

import os
import pty
import re
import select
import shutil
import time
from pathlib import Path
from typing import Literal

import pytest

from fima.cli import main
from fima.commands import COMMANDS
from fima.commands.completion import completion_script

SHELLS = {"bash": ("bash", "--norc", "--noprofile", "-i"), "zsh": ("zsh", "-f", "-i")}
PATIENCE_SECONDS = 60
READY = "the script is read"


class Shell:
    """An interactive shell on a terminal of its own, in which `fima` shows the words that it gets."""

    def __init__(self, name: str, folder: Path) -> None:
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "ZDOTDIR": str(folder), "TERM": "dumb"}
        self.said = ""
        self.process, self.terminal = pty.fork()
        if self.process == 0:
            os.chdir(folder)
            os.execvpe(SHELLS[name][0], SHELLS[name], environment)

    def types(self, keys: str, until: str) -> str:
        """Press keys, and return what is said from then on, up to and with some text."""
        self.said = ""
        os.write(self.terminal, keys.encode())
        deadline = time.monotonic() + PATIENCE_SECONDS
        while until not in self.said:
            assert select.select([self.terminal], [], [], deadline - time.monotonic())[0], f"it said {self.said!r}"
            self.said += os.read(self.terminal, 65536).decode(errors="replace")
        return self.said

    def ends(self) -> None:
        """Hang up."""
        os.close(self.terminal)
        os.waitpid(self.process, 0)


@pytest.mark.parametrize("name", SHELLS)
def test_the_tab_key(name: Literal["bash", "zsh"], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"no {name} (apt-get install {name})")
    assert main(["completion", name]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "a clip.mp4").touch()
    (tmp_path / "videos").mkdir()
    shell = Shell(name, tmp_path)
    try:
        shell.types("fima() { printf '<%s>' \"$@\"; echo; }; source ./script; echo the script 'is read'\n", READY)
        for keys, words in (
            ("emb\tvid\ta.mp4 --pe\tcl\t", "<embed><videos/a.mp4><--per><clip>"),
            ("predict runs a\t --to\t", "<predict><runs><a clip.mp4><--top>"),
            ("pretrain --model.back\t", "<pretrain><--model.backbone>"),
            ("export --format torch\t", "<export><--format><torch-export>"),
            ("completion z\t", "<completion><zsh>"),
            ("doctor vid\ta --dee\t", "<doctor><videos/a><--deep>"),
        ):
            assert words in shell.types(f"fima {keys}\n", words)
    finally:
        shell.ends()


def test_only_options_of_the_command_itself_are_offered() -> None:
    script = completion_script("bash")
    offered = dict(re.findall(r'^ +([\w-]+)\) words="(.*)" ;;$', script, re.MULTILINE))
    assert offered.keys() == COMMANDS.keys()
    assert "--data.exclude" in offered["pretrain"].split()
    assert "--data.exclude" not in offered["doctor"].split(), "its help only speaks of it"
    assert all({"--help", "--quiet", "--verbose"} <= set(words.split()) for words in offered.values())
