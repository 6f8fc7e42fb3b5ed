"""`fima search`: the videos or moments that are nearest to a video."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.table import Table

from fima.commands.parse import UNBROKEN, Device
from fima.config.checks import require_least
from fima.console import Console
from fima.data.layouts.video_list import counted
from fima.errors import CheckpointError, DataError, warn
from fima.files.atomic import write_file
from fima.files.output import OutputFile

if TYPE_CHECKING:
    from fima.use.search import SearchIndex
    from fima.use.table import Embeddings, Floats


@dataclass(frozen=True, kw_only=True)
class SearchArguments:
    """Find the videos or moments that are nearest to a video, among vectors of `fima embed`.

    Every vector is compared, by the cosine after the mean of the index is subtracted.
    For example: `fima search vectors.npz clip.mp4 -k 5 --html found.html`.
    """

    index: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="INDEX")]
    """A file that `fima embed` wrote."""
    query: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="VIDEO")]
    """The video to look for: the mean of its clips."""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10
    """Number of results."""
    centre: bool = True
    """Subtract the mean of the index; without it, vectors are compared as they are."""
    encoder: str | None = None
    """Encoder for the query, if the one recorded in the index has moved."""
    html: OutputFile | None = None
    """A page with players to write."""
    json: bool = False
    """Print what was found as JSON."""
    device: Device = "auto"

    def __post_init__(self) -> None:
        require_least(self, k=1)


def main(arguments: SearchArguments) -> None:
    """Run the command."""
    from fima.use.table import read_embeddings

    began = time.monotonic()
    stored = read_embeddings(arguments.index)
    if not stored.about.keys() >= {"encoder", "clips"}:
        raise DataError(f"{arguments.index}: does not say which encoder made it; write it again with `fima embed`")
    index = _index(arguments, stored)
    opened = time.monotonic()
    vector = _known_vector(arguments, stored)
    is_known = vector is not None
    if vector is None:
        vector = _new_vector(arguments, stored)
    asked = time.monotonic()
    hits = index.search(vector, arguments.k)
    searched = time.monotonic()
    records = [
        {
            "rank": rank,
            "similarity": round(hit.similarity, 6),
            "path": stored.path(hit.row),
            "start_seconds": _known(stored.seconds[hit.row, 0]),
            "end_seconds": _known(stored.seconds[hit.row, 1]),
        }
        for rank, hit in enumerate(hits, start=1)
    ]
    if arguments.html is not None:
        # Encoders of video are only needed for the page.
        from fima.use.page import search_page

        title = f"Nearest to {arguments.query.name} in {arguments.index.name}"
        frame_rate = stored.about["clips"].get("frame_rate", 0.0)
        write_file(arguments.html, search_page(arguments.query, records, title=title, frame_rate=frame_rate))
    if arguments.json:
        print(json.dumps(records, indent=1))
        return
    _print_table(records)
    print(
        f"{counted(len(index), 'vector')}: read in {opened - began:.2f} s, searched in {searched - asked:.3f} s"
        + ("; the query is one of its videos" if is_known else "")
        + ("" if arguments.html is None else f"; wrote {arguments.html}")
    )


def _index(arguments: SearchArguments, stored: Embeddings) -> SearchIndex:
    from fima.use.search import SearchIndex

    try:
        index = SearchIndex(stored.vectors, centre=arguments.centre)
    except DataError as error:
        raise DataError(f"{arguments.index}: {error}") from None
    if index.all_equal:
        said = "has one vector" if len(index) == 1 else f"all {len(index):,} vectors are equal"
        warn(f"{arguments.index}: {said}, so similarities and their order say nothing")
    elif arguments.centre and len(index) == 2:
        warn(f"{arguments.index}: two vectors less their mean are opposite, whatever is in them; try --no-centre")
    return index


def _known_vector(arguments: SearchArguments, stored: Embeddings) -> Floats | None:
    """The vector of a video of the index; None for another one, and where the index is older, or of seconds."""
    if arguments.encoder is not None or stored.about.get("per") not in ("video", "clip"):
        return None
    if arguments.query.exists() and arguments.query.stat().st_mtime > arguments.index.stat().st_mtime:
        return None  # another file by that name
    for path in {str(arguments.query.absolute()), str(arguments.query.resolve())}:
        if path in stored.paths:
            rows = stored.vectors[stored.video == stored.paths.index(path)]
            vector: Floats = rows.mean(axis=0)
            return vector
    return None


def _new_vector(arguments: SearchArguments, stored: Embeddings) -> Floats:
    # Loading PyTorch takes seconds, which a video of the index need not wait for.
    from fima.data.eval_clips import ClipSettings
    from fima.evaluate.extract import Resources
    from fima.torch_tools.device import choose_device
    from fima.use.encoder import open_encoder, rows_of

    device = choose_device(arguments.device)
    source = arguments.encoder or str(stored.about.get("source"))
    try:
        encoder = open_encoder(source, device)
    except CheckpointError as error:
        if arguments.encoder is None:
            raise CheckpointError(f"{error}; name the encoder of {arguments.index} with --encoder") from None
        raise
    if encoder.fingerprint != stored.about["encoder"]["fingerprint"]:
        raise CheckpointError(
            f"{source}: its weights are not those that {arguments.index} was made with "
            f"({stored.about['encoder']['description']}); name that one with --encoder, or embed the videos again"
        )
    settings = ClipSettings(**stored.about["clips"])
    (found,) = rows_of([arguments.query], encoder.vectors, settings, Resources(device=device))
    vector: Floats = found.whole.rows[0, 0].numpy()
    return vector


def _known(seconds: float) -> float | None:
    return None if math.isnan(seconds) else round(float(seconds), 3)


def _print_table(records: Sequence[dict[str, Any]]) -> None:
    table = Table("", "similarity", "seconds")
    table.add_column("video", overflow="fold")
    for record in records:
        start, end = record["start_seconds"], record["end_seconds"]
        when = "" if start is None else f"{start:.1f}-{end:.1f}"
        table.add_row(str(record["rank"]), f"{record['similarity']:.3f}", when, record["path"])
    console = Console()
    if not console.is_terminal:
        # A file or another program gets each name whole, on one line.
        console.width = UNBROKEN
    console.print(table)
