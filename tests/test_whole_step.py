"""A whole step of FIMA on an encoder of one small convolution agrees with the paper's equations, written as loops."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, normalize

from fima.backbones.registry import BACKBONES, register_backbone
from fima.config import MethodConfig, ModelConfig
from fima.errors import ConfigError
from fima.method.cell import CellTerm
from fima.method.decoder import DecoderLayer, MotionDecoder, positional_code
from fima.method.fima import FIMA
from fima.method.heads import Projector
from fima.method.inputs import VIEWS, ClipInputs, View
from fima.method.registry import METHODS, method_builder, register_method
from tests.reference import cell_motion_loop, frame_motion_loop, info_nce_loop, noise, positive_pairs_loop

Weights = dict[str, Tensor]
BATCH, SLICES, HEIGHT, WIDTH = 3, 3, 2, 3
METHOD = MethodConfig(
    queue_size=5, cell_queue_size=7, key_momentum=0.75, temperature=0.2, cell_temperature=0.3, pos_ratio=0.9,
    instance_weight=0.5, frame_weight=2, cell_weight=3,
)  # fmt: skip
MODEL = ModelConfig(
    backbone="micro", projector_hidden=5, embedding_dim=4, decoder_dim=8, decoder_heads=2, decoder_layers=2,
    decoder_dropout=0,
)  # fmt: skip
VARIANTS = {
    "full": METHOD,
    "without decoder": replace(METHOD, decoder=False),
    "without foreground": replace(METHOD, foreground=False),
    "without a cell queue": replace(METHOD, cell_queue_size=0),
    "frame alone": replace(METHOD, instance_weight=0, cell_weight=0),
    "frame without decoder": replace(METHOD, cell_weight=0, decoder=False),
    "cell without decoder": replace(METHOD, frame_weight=0, decoder=False),
    "cell alone": replace(METHOD, instance_weight=0, frame_weight=0),
}


class Micro(nn.Module):
    """(B, 3, T, H, W) → (B, 6, T/2, H/2, W/2)."""

    num_features = 6

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(3, 6, 2, 2)

    def forward(self, clip: Tensor) -> Tensor:
        features: Tensor = self.convolution(clip)
        return features


@pytest.fixture(autouse=True)
def micro(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BACKBONES, "registered", {})
    register_backbone("micro", Micro)


def build(method: MethodConfig) -> FIMA:
    torch.manual_seed(0)
    network = FIMA(MODEL, method).double()
    with torch.no_grad():
        for parameter in network.query_encoder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def inputs(name: str) -> ClipInputs:
    shape = (BATCH, 3, 2 * SLICES, 2 * HEIGHT, 2 * WIDTH)
    r = (noise(f"{name}.box", (BATCH, 4)) + 1) / 2
    box = torch.stack([0.3 * r[:, 0], 0.3 * r[:, 1], 0.7 + 0.3 * r[:, 2], 0.7 + 0.3 * r[:, 3]], dim=1)
    return ClipInputs(views={view: noise(f"{name}.{view}", shape) for view in VIEWS}, box=box)


def encode(weights: Weights, side: str, clip: Tensor) -> Tensor:
    name = f"{side}_encoder.convolution"
    return nn.functional.conv3d(clip, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=2)


def affine(weights: Weights, name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def project(weights: Weights, name: str, x: Tensor) -> Tensor:
    return normalize(affine(weights, f"{name}.layers.2", affine(weights, f"{name}.layers.0", x).clamp(min=0)), dim=-1)


def attention_loop(weights: Weights, tokens: Tensor, memory: Tensor, heads: int) -> Tensor:
    """(N, D) that have looked at (M, D), head by head."""
    dim = tokens.shape[1]
    parts = zip(weights["in_proj_weight"].chunk(3), weights["in_proj_bias"].chunk(3), strict=True)
    query, key, value = (x @ w.T + b for x, (w, b) in zip((tokens, memory, memory), parts, strict=True))
    found = []
    for q, k, v in zip(query.chunk(heads, 1), key.chunk(heads, 1), value.chunk(heads, 1), strict=True):
        shares = torch.exp(q @ k.T / math.sqrt(dim // heads))
        found.append(shares / shares.sum(dim=1, keepdim=True) @ v)
    return affine(weights, "out_proj", torch.cat(found, dim=1))


def below(weights: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def decoder_loop(weights: Weights, tokens: Tensor, memory: Tensor, heads: int, layers: int) -> Tensor:
    for number in range(layers):
        layer = below(weights, f"layers.{number}.")
        norms = [(layer[f"{name}_norm.weight"], layer[f"{name}_norm.bias"]) for name in ("attention", "feed_forward")]
        looked = attention_loop(
            below(layer, "attention."), layer_norm(tokens, tokens.shape[-1:], *norms[0]), memory, heads
        )
        tokens = tokens + looked
        hidden = affine(layer, "feed_forward.0", layer_norm(tokens, tokens.shape[-1:], *norms[1])).clamp(min=0)
        tokens = tokens + affine(layer, "feed_forward.3", hidden)
    return tokens


def code_loop(length: int, dim: int) -> Tensor:
    rows = [
        [(math.cos if i % 2 else math.sin)(p / 10000 ** ((i - i % 2) / dim)) for i in range(dim)] for p in range(length)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def predictions_loop(weights: Weights, method: MethodConfig, own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Of each slice (B, t, D) and of each cell (B, t, N, D), from feature maps (B, C, t, h, w)."""
    slices, cells = [], []
    for sample in range(BATCH):
        for index in range(SLICES):
            tokens, memory = (clip[sample, :, index].flatten(1).T for clip in (own, other))
            if not method.decoder:
                slices.append(project(weights, "projector", tokens.mean(dim=0)))
                cells.append(project(weights, "projector", tokens))
                continue
            tokens, memory = (affine(weights, "reduce", x) + code_loop(len(x), 8) for x in (tokens, memory))
            cls = [weights["cls_token"][0]] if method.frame_loss else []
            wanted = torch.cat([*cls, tokens] if method.cell_loss else cls)
            decoded = decoder_loop(below(weights, "decoder."), wanted, memory, heads=2, layers=2)
            vectors = project(weights, "projector", affine(weights, "expand", decoded))
            slices.append(vectors[0])
            cells.append(vectors[len(cls) :])
    return torch.stack(slices).view(BATCH, SLICES, -1), torch.stack(cells).view(BATCH, SLICES, -1, 4)


def step_loop(weights: Weights, method: MethodConfig, a: ClipInputs, b: ClipInputs) -> tuple[Weights, Weights]:
    """The losses and the queues after the step."""
    clips, losses, queues = (a, b), {}, {}
    features = [encode(weights, "query", clip.full) for clip in clips]
    maps = [{view: encode(weights, "key", clip[view]) for view in VIEWS} for clip in clips]
    pooled = [
        {view: project(weights, "key_projector", x.mean(dim=(2, 3, 4))) for view, x in clip.items()} for clip in maps
    ]
    predicted = [predictions_loop(weights, method, features[i], features[1 - i]) for i in (0, 1)]
    if method.instance_loss:
        queries = [project(weights, "projector", x.mean(dim=(2, 3, 4))) for x in features]
        queue = weights["queue.keys"]
        first = info_nce_loop(queries[0], pooled[1]["full"], queue, method.temperature)
        queue = torch.cat([pooled[1]["full"], queue[BATCH:]])
        second = info_nce_loop(queries[1], pooled[0]["full"], queue, method.temperature)
        losses["instance"] = (first + second) / 2
        queues["queue"] = torch.cat([pooled[0]["full"][2:], queue[1:3], pooled[0]["full"][:2]])
    if method.frame_loss:
        # Of three slices, the middle one is both early and late.
        halves = [slices[:, half].mean(dim=1) for slices, _ in predicted for half in (slice(0, 2), slice(1, 3))]
        frames = normalize(torch.stack(halves), dim=-1)
        keys = torch.stack([pooled[i][view] for i in (1, 0) for view in ("early_difference", "late_difference")])
        losses["frame"] = torch.stack(
            frame_motion_loop(frames, keys, weights["motion_queue.keys"], method.temperature)
        ).mean()
        queues["motion_queue"] = torch.roll(keys.flatten(0, 1)[-5:], 12 % 5, dims=0)
    if method.cell_loss:
        cells = [project(weights, "key_projector", x["full_difference"].flatten(3).permute(0, 2, 3, 1)) for x in maps]
        activity = [(x["full"] + x["full_difference"]).mean(dim=(1, 2)) for x in maps]
        masks = [
            x > x.flatten(1).sort(dim=1).values[:, 2, None, None] if method.foreground else torch.ones_like(x) > 0
            for x in activity
        ]
        queue = weights.get("cell_queue.keys", torch.zeros(0, 4, dtype=torch.float64))
        each = []
        for i in (0, 1):
            pairs = positive_pairs_loop(clips[i].box, clips[1 - i].box, masks[i], masks[1 - i], method.pos_ratio)
            everything = torch.cat([cells[1 - i].flatten(0, 2), queue])
            each += [
                cell_motion_loop(
                    predicted[i][1][:, index], cells[1 - i][:, index], pairs, everything, method.cell_temperature
                )
                for index in range(SLICES)
            ]
        losses["cell"] = torch.stack(each).mean()
        newest = torch.cat([clip[:, index].flatten(0, 1) for clip in (cells[1], cells[0]) for index in range(SLICES)])
        if method.cell_queue_size:
            queues["cell_queue"] = torch.roll(newest[-7:], len(newest) % 7, dims=0)
    return losses, queues


@pytest.mark.parametrize("name", VARIANTS)
def test_losses_queues_and_gradients_are_those_of_the_equations(name: str) -> None:
    method = VARIANTS[name]
    network, a, b = build(method), inputs("a"), inputs("b")
    before = {key: value.detach().clone() for key, value in network.state_dict().items()}
    found = network(a, b)
    for key, value in before.items():
        if key.startswith("key_"):
            query = before[key.removeprefix("key_") if "projector" in key else key.replace("key_", "query_")]
            value.copy_(0.75 * value + 0.25 * query)
            torch.testing.assert_close(network.state_dict()[key], value, rtol=0, atol=1e-15)
    trained = {key: value.requires_grad_(not key.startswith("key_")) for key, value in before.items() if value.ndim}
    losses, queues = step_loop(trained, method, a, b)
    assert found.parts.keys() == losses.keys()
    for part, value in losses.items():
        assert found.parts[part].item() == pytest.approx(value.item(), abs=1e-6), part
    total = torch.stack([getattr(method, f"{part}_weight") * value for part, value in losses.items()]).sum()
    assert found.total.item() == pytest.approx(total.item(), abs=1e-6)
    assert {key.removesuffix(".keys") for key in before if key.endswith(".keys")} == queues.keys()
    for queue, keys in queues.items():
        torch.testing.assert_close(network.state_dict()[f"{queue}.keys"], keys.detach(), rtol=0, atol=1e-12)
    names = [key for key, value in network.named_parameters() if value.requires_grad]
    ours = torch.autograd.grad(found.total, [network.get_parameter(key) for key in names])
    expected = torch.autograd.grad(total, [trained[key] for key in names])
    for key, gradient, value in zip(names, ours, expected, strict=True):
        torch.testing.assert_close(gradient, value, rtol=1e-5, atol=1e-6, msg=key)


def test_the_statistics_of_a_step() -> None:
    network, a, b = build(METHOD), inputs("a"), inputs("j")
    queue = network.queues["instance"].keys.clone()
    found = network(a, b)
    query_a, query_b = (project(network.state_dict(), "projector", x.mean(dim=(2, 3, 4))) for x in (
        network.query_encoder(a.full), network.query_encoder(b.full)
    ))  # fmt: skip
    key_a, key_b = (network.key_pass(clip)["instance"] for clip in (a, b))
    positive = (query_a * key_b).sum(dim=1), (query_b * key_a).sum(dim=1)
    negative = query_a @ queue.T, query_b @ torch.cat([key_b, queue[BATCH:]]).T
    right = [p > n.amax(dim=1) for p, n in zip(positive, negative, strict=True)]
    assert [int(found.sum()) for found in right] == [3, 1]
    expected = {
        "positive_similarity": torch.cat(positive).mean(),
        "negative_similarity": (negative[0].mean() + negative[1].mean()) / 2,
        "instance_top1": torch.cat(right).double().mean(),
        "foreground_share": torch.tensor(0.5),
    }
    for name, value in expected.items():
        assert found.stats[name].item() == pytest.approx(value.item(), abs=1e-6), name
    mask_a, mask_b = (network.key_pass(clip)["cell"].mask for clip in (a, b))
    pairs = positive_pairs_loop(a.box, b.box, mask_a, mask_b, METHOD.pos_ratio)
    assert found.stats["cells_with_positives"].item() == pytest.approx(pairs.any(dim=2).double().mean().item())
    torch.testing.assert_close(found.query, query_a.detach())


@pytest.mark.parametrize(
    ("name", "views"),
    [("full", VIEWS), ("cell alone", VIEWS[:2]), ("frame alone", VIEWS[2:]), ("without foreground", VIEWS)],
)
def test_the_key_encoder_sees_what_the_terms_need(name: str, views: tuple[View, ...]) -> None:
    network, clip = build(VARIANTS[name]), inputs("a")
    seen: list[Tensor] = []
    network.key_encoder.register_forward_hook(lambda _, arguments, __: seen.append(arguments[0]))
    network.key_pass(clip)
    assert len(seen) == len(views)
    assert all(torch.equal(found, clip[view]) for found, view in zip(seen, views, strict=True))
    light = CellTerm(replace(METHOD, foreground=False), 4)
    assert light.views == ("full_difference",)


def test_everything_is_foreground_on_any_device() -> None:
    maps: dict[View, Tensor] = {"full_difference": torch.empty(2, 6, 2, 2, 3, device="meta")}
    keys = CellTerm(replace(METHOD, foreground=False), 4).keys(maps, Projector(6, 5, 4).to("meta"))
    assert (keys.mask.device.type, keys.mask.dtype, keys.mask.shape) == ("meta", torch.bool, (2, 2, 3))


@pytest.mark.parametrize(
    ("missing", "name"),
    [("queue_size", "instance alone"), ("queue_size", "frame alone"), ("cell_queue_size", "cell alone")],
)
def test_a_queue_without_a_size_is_named(missing: str, name: str) -> None:
    method = VARIANTS.get(name, replace(METHOD, frame_weight=0, cell_weight=0))
    with pytest.raises(ConfigError, match=rf"^--method\.{missing} None: must be a number by now; give"):
        FIMA(MODEL, MethodConfig(**{**vars(method), missing: None}))


def test_the_decoder_computes_in_the_precision_of_the_tokens() -> None:
    network = build(METHOD).float()
    assert network.decoder is not None
    seen: list[Tensor] = []
    network.decoder.register_forward_pre_hook(lambda _, arguments: seen.extend(arguments))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network.predict_motion(torch.randn(1, 6, 1, 2, 3), torch.randn(1, 6, 1, 2, 3))
    assert [x.dtype for x in seen] == [torch.bfloat16] * 2
    elsewhere = torch.empty(1, 6, 1, 2, 3, device="meta")
    assert network.to("meta").predict_motion(elsewhere, elsewhere).cells.device.type == "meta"


@pytest.mark.parametrize("decoder", [True, False])
def test_only_what_a_term_needs_is_predicted(decoder: bool) -> None:
    features = torch.randn(1, 6, 2, 2, 3, dtype=torch.float64)
    for name, wanted in (("frame alone", (1, 0)), ("cell alone", (0, 6)), ("full", (1, 6))):
        found = build(replace(VARIANTS[name], decoder=decoder)).predict_motion(features, features)
        assert (found.slices.shape[2], found.cells.shape[2]) == wanted


def test_recomputing_changes_no_gradient() -> None:
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        network = FIMA(replace(MODEL, recompute=recompute), VARIANTS["full"]).double()
        passes: list[int] = []
        network.query_encoder.get_submodule("convolution").register_forward_pre_hook(lambda *_, to=passes: to.append(1))
        torch.autograd.backward(network(inputs("a"), inputs("b")).total)
        assert len(passes) == (4 if recompute else 2)
        gradients.append(network.query_encoder.get_parameter("convolution.weight").grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_moving_averages_rest_in_the_later_parts_of_a_step() -> None:
    network = build(METHOD)
    before = [parameter.clone() for parameter in network.key_encoder.parameters()]
    network(inputs("a"), inputs("b"), update_keys=False)
    assert all(map(torch.equal, before, network.key_encoder.parameters()))


def test_the_positional_code_is_that_of_the_transformer() -> None:
    torch.testing.assert_close(
        positional_code(5, 6, torch.device("cpu"), torch.float64), code_loop(5, 6), rtol=0, atol=1e-6
    )


def test_dropout_acts_on_attention_and_activations() -> None:
    torch.manual_seed(0)
    decoder = MotionDecoder(8, heads=2, num_layers=1, dropout=0.5)
    (layer,) = decoder.layers
    assert isinstance(layer, DecoderLayer)
    assert layer.attention.dropout == layer.dropout.p == 0.5
    assert [module.p for module in layer.feed_forward if isinstance(module, nn.Dropout)] == [0.5]
    tokens, memory = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    expected = decoder_loop(decoder.state_dict(), tokens[1], memory[1], heads=2, layers=1)
    torch.testing.assert_close(decoder.eval()(tokens, memory)[1], expected)
    assert not torch.allclose(decoder.train()(tokens, memory), decoder(tokens, memory))


def test_a_method_that_is_registered_is_built_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "registered", {})
    register_method("mine", FIMA)
    built = method_builder(replace(VARIANTS["cell alone"], name="mine"))(MODEL)
    assert isinstance(built, FIMA)
    assert [*built.queues] == ["cell"]
