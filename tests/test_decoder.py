import math

import pytest
import torch

from fima.checkpoints.convert import official_to_fima
from fima.method.decoder import MotionDecoder, positional_code
from tests.reference import golden_parts


def test_agrees_with_the_recorded_numbers() -> None:
    parts = golden_parts()
    prefix = "decoder.param."
    decoder = MotionDecoder(32, 4, 2, 0.0).double()
    state = {f"transformer_decoder.{key.removeprefix(prefix)}": value for key, value in parts.items() if prefix in key}
    decoder.load_state_dict({key.removeprefix("decoder."): value for key, value in official_to_fima(state).items()})
    tokens, memory, expected = (parts[f"decoder.{name}"].transpose(0, 1) for name in ("tgt", "memory", "out"))
    torch.testing.assert_close(decoder(tokens, memory), expected, rtol=0, atol=1e-9)


def test_positional_code_is_bit_for_bit_the_recorded_one() -> None:
    code = positional_code(49, 512, torch.device("cpu"), torch.float32)
    assert torch.equal(code, golden_parts()["positional.table49x512"])


def test_positional_code_agrees_with_the_formula_beyond_a_hundred_tokens() -> None:
    code = positional_code(150, 8, torch.device("cpu"), torch.float64)
    for position in (0, 1, 149):
        for i in range(4):
            angle = position / 10000 ** (2 * i / 8)
            assert code[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=2e-5)
            assert code[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=2e-5)


def test_tokens_do_not_look_at_one_another() -> None:
    decoder = MotionDecoder(16, 2, 2, 0.0).double()
    tokens, memory = torch.randn(2, 5, 16).double(), torch.randn(2, 3, 16).double()
    torch.testing.assert_close(decoder(tokens[:, 1:3], memory), decoder(tokens, memory)[:, 1:3])


def test_dropout_acts_in_training_only() -> None:
    decoder = MotionDecoder(16, 2, 2, 0.5)
    tokens, memory = torch.randn(2, 5, 16), torch.randn(2, 3, 16)
    assert not torch.equal(decoder(tokens, memory), decoder(tokens, memory))
    decoder.eval()
    assert torch.equal(decoder(tokens, memory), decoder(tokens, memory))
