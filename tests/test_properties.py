"""Properties that hold for every input: index arithmetic, boxes, queues, schedules, list files, settings."""

import dataclasses
import json
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fima.config import ClassifierConfig, DataConfig, FinetuneConfig, MethodConfig, OptimConfig, PretrainConfig
from fima.data.clips import ClipTiming, FrameCount, evenly_spread_starts, window_starts
from fima.data.epoch_plan import EpochPlan, EpochSampler
from fima.data.eval_clips import square_crops
from fima.data.layouts.rows import read_rows
from fima.data.quarantine import read_quarantine, write_quarantine
from fima.data.views import Crop, random_crop
from fima.errors import ConfigError, DataError
from fima.files.jsonl import keep_lines, read_lines
from fima.recipe import config_from_mapping, config_to_mapping, read_recipe
from fima.train.schedule import learning_rate
from tests.small_runs import SMALL_CONFIG
from tests.test_recipe import EVERY_KIND

settings.register_profile("fima", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fima")

SEEDS = st.integers(0, 2**32 - 1)
SIDES = st.integers(1, 4000)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    num_frames=st.integers(1, 2000),
    frames=st.integers(1, 64),
    step=st.integers(1, 40),
    sampling=st.sampled_from(["random", "same", "near"]),
    seed=SEEDS,
)
def test_windows_lie_inside_the_video(num_frames: int, frames: int, step: int, sampling: Any, seed: int) -> None:  # noqa: ANN401
    draws = np.random.default_rng(seed)
    published, window = ClipTiming().window(FrameCount(num_frames), frames), 2 * frames
    assert published.length == window
    starts = window_starts(num_frames, window, draws, sampling=sampling, step_frames=step)
    for start in starts:
        assert start % step == 0
        assert 0 <= start <= max(0, num_frames - window)
        indices = published.indices(start)
        assert len(indices) == window
        assert all(0 <= index < num_frames for index in indices)
        assert all((after - before) % num_frames == 1 % num_frames for before, after in pairwise(indices))
    if sampling == "random" and num_frames - window >= step:
        assert starts[0] != starts[1]
    if sampling == "same":
        assert starts[0] == starts[1]


@given(num_frames=st.integers(1, 5000), window=st.integers(1, 200), num_clips=st.integers(1, 20))
def test_evaluation_windows_are_spread_from_end_to_end(num_frames: int, window: int, num_clips: int) -> None:
    starts, last = evenly_spread_starts(num_frames, window, num_clips), max(0, num_frames - window)
    assert starts == sorted(starts)
    assert len(starts) == num_clips
    if num_clips > 1:
        assert (starts[0], starts[-1]) == (0, last)
        gaps = np.diff(starts)
        assert gaps.max() - gaps.min() <= 1
    assert starts[0] >= 0
    assert starts[-1] <= last


@given(width=SIDES, height=SIDES, low=st.floats(0.01, 1), high=st.floats(0.01, 1), seed=SEEDS)
def test_crops_lie_inside_the_frame_and_boxes_inside_the_unit_square(
    width: int, height: int, low: float, high: float, seed: int
) -> None:
    data = DataConfig(min_area=min(low, high), max_area=max(low, high), flip=0.5)
    crop = random_crop(width, height, data, np.random.default_rng(seed))
    assert crop.left >= 0
    assert crop.top >= 0
    assert 1 <= crop.width <= width - crop.left
    assert 1 <= crop.height <= height - crop.top
    box = crop.box(width, height)
    assert ((box >= 0) & (box <= 1)).all()
    assert (box[0] >= box[2]) if crop.flipped else (box[0] <= box[2])
    mirrored = dataclasses.replace(crop, flipped=not crop.flipped).box(width, height)
    assert torch.equal(mirrored[[2, 1, 0, 3]], box)


@given(width=SIDES, height=SIDES, num_crops=st.sampled_from([1, 3]), size=st.none() | st.integers(8, 2000))
def test_evaluation_crops_are_squares_of_the_frame(width: int, height: int, num_crops: Any, size: int | None) -> None:  # noqa: ANN401
    crops = square_crops(width, height, num_crops, size)
    assert len(crops) == num_crops
    for crop in crops:
        assert crop.width == crop.height <= min(width, height)
        assert 0 <= crop.left <= width - crop.width
        assert 0 <= crop.top <= height - crop.height
    assert isinstance(crops[num_crops // 2], Crop)
    assert crops[num_crops // 2] == square_crops(width, height, 1, size)[0]


@given(
    epochs=st.integers(1, 300),
    warmup=st.integers(0, 300),
    schedule=st.sampled_from(["cosine", "step", "constant"]),
    milestones=st.lists(st.integers(1, 300), min_size=1, max_size=4, unique=True),
    lr=st.floats(1e-6, 10),
)
def test_schedules_are_positive_and_never_rise_after_the_warm_up(
    epochs: int,
    warmup: int,
    schedule: Any,  # noqa: ANN401
    milestones: list[int],
    lr: float,
) -> None:
    steps = tuple(sorted(milestones)) if schedule == "step" else ()
    try:
        optim = OptimConfig(epochs=epochs, warmup_epochs=warmup, schedule=schedule, milestones=steps, lr=lr)
    except ConfigError:
        assert warmup >= epochs or (steps and steps[0] < 1)
        return
    rates = [learning_rate(optim, epoch) for epoch in range(epochs)]
    assert all(0 <= rate <= lr * (1 + 1e-12) for rate in rates)
    assert all(rate > 0 for rate in rates)
    later = rates[warmup:]
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(later))
    assert sorted(rates[:warmup]) == rates[:warmup]


@given(
    num_videos=st.integers(1, 60),
    world_size=st.integers(1, 4),
    share=st.integers(1, 5),
    seed=SEEDS,
    epoch=st.integers(0, 50),
    data=st.data(),
)
def test_processes_share_an_epoch_and_a_resumed_one_goes_on(
    num_videos: int, world_size: int, share: int, seed: int, epoch: int, data: st.DataObject
) -> None:
    samplers = [
        EpochSampler(EpochPlan.plain(num_videos), share * world_size, seed, rank, world_size)
        for rank in range(world_size)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    batches = [list(sampler) for sampler in samplers]
    seen = [index for parts in zip(*batches, strict=True) for part in parts for _, index in part]
    assert set(seen) == set(range(num_videos))
    assert len(seen) - num_videos < world_size
    step = data.draw(st.integers(0, len(samplers[0])))
    samplers[-1].set_epoch(epoch, step)
    assert list(samplers[-1]) == batches[-1][step:]


@given(
    config=st.builds(
        PretrainConfig,
        method=st.builds(MethodConfig, queue_size=st.none() | st.integers(1, 10**6)),
        data=st.builds(DataConfig, workers=st.integers(0, 64), blur=st.floats(0, 1)),
        optim=st.builds(OptimConfig, lr=st.floats(1e-6, 10)),
    )
    | st.builds(
        FinetuneConfig,
        classifier=st.builds(ClassifierConfig, low_shot=st.none() | st.integers(2, 99)),
        optim=st.lists(st.integers(1, 99), min_size=1, unique=True).map(
            lambda epochs: OptimConfig(schedule="step", milestones=tuple(sorted(epochs)))
        ),
    )
)
@example(SMALL_CONFIG)
@example(EVERY_KIND)
def test_settings_survive_yaml(config: Any) -> None:  # noqa: ANN401
    text = yaml.safe_dump(config_to_mapping(config))
    assert config_from_mapping(yaml.safe_load(text), type(config), source="test") == config


@given(content=st.dictionaries(st.text(max_size=8), JSON_VALUES, max_size=4) | JSON_VALUES)
def test_any_recipe_is_read_or_refused_in_one_line(content: Any) -> None:  # noqa: ANN401
    with TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        try:
            assert isinstance(read_recipe(path), PretrainConfig)
        except ConfigError as error:
            refusal = str(error)
        else:
            return
        assert str(path) in refusal
        assert "\n" not in refusal


@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_table_or_refused(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        path.write_bytes(content)
        try:
            rows = read_rows(path)
        except DataError as error:
            refusal = str(error)
        else:
            assert all(list(row) == list(dict.fromkeys(rows.columns)) for _, row in rows.rows)
            return
        assert str(path) in refusal
        assert "\n" not in refusal


@given(paths=st.sets(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)))
def test_lists_of_excluded_videos_survive_a_file(paths: set[str]) -> None:
    with TemporaryDirectory() as folder:
        write_quarantine(Path(folder) / "list.txt", paths)
        assert read_quarantine(Path(folder) / "list.txt") == paths


@given(steps=st.lists(st.integers(0, 20), max_size=10), cut=st.integers(0, 40), until=st.integers(0, 20))
def test_records_cut_anywhere_keep_their_whole_lines(steps: list[int], cut: int, until: int) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "lines.jsonl"
        lines = [json.dumps({"step": step}) + "\n" for step in steps]
        content = "".join(lines)
        path.write_text(content[: max(0, len(content) - cut)])
        expected = [line["step"] for line in read_lines(path) if line["step"] <= until]
        keep_lines(path, lambda line: line["step"] <= until)
        assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == expected
        assert expected == [step for step in steps if step <= until][: len(expected)]


@pytest.mark.parametrize("text", ["!!python/object/apply:os.mkdir ['{}']", "a: !!python/name:os.system"])
def test_a_recipe_runs_no_code(text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text.format(tmp_path / "owned"))
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_recipe(tmp_path / "recipe.yaml")
    assert not (tmp_path / "owned").exists()
