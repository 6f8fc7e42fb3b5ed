"""The encoder and the projection head, with the paper's values as defaults."""

from dataclasses import dataclass

from fima.config.checks import require, require_least


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The encoder and the projection head."""

    backbone: str = "i3d"
    """The network that is pre-trained: i3d, r2plus1d_18, r3d_18, mc3_18, s3d, swin3d_t, swin3d_s, swin3d_b, mvit_v2_s;
    one of another package (docs/extend.md); `small` (1 M parameters), for CPUs and a few hundred videos; `tiny`, for
    tests."""
    init_from: str | None = None
    """Encoder whose weights a new run starts from: a run, a file of any program that `fima evaluate` reads, an image
    network to be inflated, `torchvision:NAME` in PyTorch's cache, or the name of an encoder that comes with the
    package. Heads, queues and optimiser start anew; `--resume` continues a run."""
    projector_hidden: int = 1024
    """Hidden channels of the projector."""
    embedding_dim: int = 128
    """Size D of the embeddings that the losses compare."""
    split_bn: int = 1
    """Groups into which a device splits its batch at random for the key encoder, each with its own batch-norm
    statistics, as if each were on its own device; see docs/reliability.md."""
    decoder_dim: int = 512
    """Width of the motion decoder and of its feed-forward layers."""
    decoder_heads: int = 4
    """Attention heads of the motion decoder."""
    decoder_layers: int = 2
    """Layers of the motion decoder."""
    decoder_dropout: float = 0.1
    """Dropout in the motion decoder."""
    recompute: bool = False
    """Recompute the query encoder's activations in the backward pass: less memory, more time (docs/performance.md)."""
    compile: bool = False
    """Compile the encoders with `torch.compile`; needs a C++ compiler (docs/performance.md)."""

    def __post_init__(self) -> None:
        require_least(self, "model.", projector_hidden=1, embedding_dim=1, split_bn=1)
        require_least(self, "model.", decoder_dim=1, decoder_heads=1, decoder_layers=1)
        require(0 <= self.decoder_dropout < 1, "model.decoder_dropout", self.decoder_dropout, "must be in [0, 1)")
        dim, heads = self.decoder_dim, self.decoder_heads
        rule = f"must be a multiple of twice --model.decoder-heads ({heads})"
        require(dim % (2 * heads) == 0, "model.decoder_dim", dim, rule)
