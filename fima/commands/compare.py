"""`fima compare`: several encoders, of any program, on the same labelled videos."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fima.commands.figures import choices, comparison_table, provenance
from fima.commands.labelled import (
    LabelledArguments,
    free_or_own,
    is_same_measurement,
    measure_labelled,
    say_what_was_left_out,
)
from fima.commands.parse import OUT, one_or_more
from fima.config.checks import require
from fima.console import Console
from fima.errors import ConfigError
from fima.files.atomic import write_file
from fima.files.output import OutputFile, check_writable

if TYPE_CHECKING:
    from fima.evaluate.evaluate import Collected

PROTOCOLS = ("linear", "knn", "retrieval")
DEFAULT_OUT = Path("comparison.json")


@dataclass(frozen=True, kw_only=True)
class CompareArguments(LabelledArguments):
    """Measure several encoders on the same labelled videos: one table, and intervals of their differences.

    Takes every encoder that `fima evaluate` takes; `NAME=ENCODER` says what the table calls it.
    For example: `fima compare FIMA=runs/fima MoCo=runs/moco torchvision:r3d_18 --on LABELLED --cross-validation group`.
    """

    encoders: Annotated[tyro.conf.Positional[tuple[str, ...]], one_or_more("ENCODER")]
    """Encoders, as `fima evaluate` takes one; each can have a name before it, such as `FIMA=runs/fima`."""
    on: Path
    """Folder or table of videos with classes and a train/test split."""
    out: Annotated[OutputFile | None, OUT] = None
    """The JSON to write. None: `comparison.json`, with a number where it is of other encoders, protocols, clips,
    features or videos."""

    def __post_init__(self) -> None:
        require(self.out is None or self.out.suffix == ".json", "out", self.out, "must end in .json")


def main(arguments: CompareArguments) -> None:
    """Run the command."""
    sources = _named(arguments.encoders)
    if arguments.out is None:
        check_writable(DEFAULT_OUT, is_file=True)
    config = replace(arguments.config, protocols=arguments.config.protocols or PROTOCOLS)
    arguments = replace(arguments, config=config)
    measured = measure_labelled(arguments, arguments.on, list(sources.values()))
    if measured:
        _write(arguments, dict(zip(sources, measured, strict=True)))


def _named(given: Sequence[str]) -> dict[str, str]:
    """The encoders by what the table calls them: the name before `=`, else the encoder as it was given."""
    sources: dict[str, str] = {}
    for words in given:
        name, equals, source = words.partition("=")
        if not equals or not name or Path(words).exists():
            name, source = words, words
        if name in sources:
            raise ConfigError(f"two encoders are called {name}; give them names, such as A={source} B={source}")
        sources[name] = source
    if len(sources) < 2:
        raise ConfigError("give two encoders or more; `fima evaluate` measures one")
    return sources


def _write(arguments: CompareArguments, measured: dict[str, Collected]) -> None:
    from fima.evaluate.intervals import differences

    found = {name: collected.result() for name, collected in measured.items()}
    results = {name: result for name, (result, _) in found.items()}
    apart = differences({name: tested for name, (_, tested) in found.items()}, arguments.config.seed)
    content = {
        "provenance": provenance(results),
        "encoders": {name: asdict(result) for name, result in results.items()},
        "differences": [asdict(difference) for difference in apart],
    }
    text = json.dumps(content, indent=2) + "\n"
    encoders = json.loads(text)["encoders"]

    def is_own(earlier: Mapping[str, Any]) -> bool:
        before = earlier.get("encoders", {})
        return before.keys() == measured.keys() and all(
            before[name]["encoder"] == encoders[name]["encoder"] and is_same_measurement(before[name], collected)
            for name, collected in measured.items()
        )

    out = arguments.out or free_or_own(DEFAULT_OUT, is_own)
    write_file(out, text)
    say_what_was_left_out(*results.values())
    if arguments.json:
        print(text, end="")
        return
    Console().print(comparison_table(results, str(arguments.on)))
    for name, collected in measured.items():
        encoder = collected.subject.encoder
        print(f"{name}: {encoder.name}, {encoder.preprocessing(collected.subject.clips)}")
    print(*(str(difference) for difference in apart if difference.is_main), sep="\n")
    for name, result in results.items():
        for sentence in filter(None, (*choices(result), result.verdict)):
            print(f"{name}: {sentence}")
    groups = next(iter(results.values())).num_groups
    if groups is None:
        print("intervals: bootstrap over videos, as no groups are known; --group-by makes them honest with people")
    print(f"wrote {out}")
