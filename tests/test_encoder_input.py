from pathlib import Path

import pytest
import torch

from fima.errors import ConfigError
from fima.evaluate.frozen import FrozenEncoder
from fima.use.encoder import VideoEncoder
from tests.encoder_files import small_encoder
from tests.video_files import write_ucf101_avi


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_ucf101_avi(tmp_path / "a.avi", num_frames=20)


def test_clips_that_would_give_wrong_vectors_are_refused() -> None:
    encoder = VideoEncoder(backbone="small", frames=4, crop_size=32)
    clips = torch.rand(2, 3, 4, 32, 32)
    frames_first, pixels = clips.transpose(1, 2), (255 * clips).byte()
    for call in (encoder, encoder.feature_map):
        for wrong in (frames_first, pixels, clips[0]):
            with pytest.raises(ConfigError, match=r"clips must be floating point of shape \(B, 3, T, H, W\)"):
                call(wrong)
    frozen = FrozenEncoder(name="small", network=encoder.encoder)
    assert torch.equal(frozen.vectors(pixels), encoder.vectors(pixels))
    with pytest.raises(ConfigError, match=r"clips must be uint8 of shape \(B, 3, F, S, S\)"):
        frozen.vectors(clips)
    for wrong in (clips, 255 * clips, pixels.transpose(1, 2)):
        with pytest.raises(ConfigError, match=r"clips must be uint8 of shape \(B, 3, T, H, W\)"):
            encoder.vectors(wrong)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("backbone", ["small", "tiny"])
def test_weights_may_be_of_any_precision(backbone: str, dtype: torch.dtype, video: Path) -> None:
    torch.manual_seed(0)
    encoder = VideoEncoder(backbone=backbone, frames=4, crop_size=32)
    clips, expected = torch.randn(2, 3, 4, 32, 32), encoder.embed(video, clips=2)
    with torch.no_grad():
        vectors = encoder(clips)
        found = encoder.to(dtype)(clips.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), vectors, atol=0.02, rtol=0.02)
    embedded = encoder.embed(video, clips=2)
    assert embedded.dtype == torch.float32
    torch.testing.assert_close(embedded, expected, atol=0.02, rtol=0.02)


def test_embed_refuses_numbers_that_it_does_not_take(video: Path) -> None:
    encoder = small_encoder()
    for given, said in (({"crops": 2}, "num-crops 2: choose 1 or 3"), ({"batch_size": 0}, "batch-size 0: must be")):
        with pytest.raises(ConfigError, match=said):
            encoder.embed(video, **given)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="workers -1: must be 0 or more"):
        encoder.embed(video, workers=-1)
