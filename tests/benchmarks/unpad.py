"""An encoder of 3 layers, d256, forward and backward on real tokens only, in batches of 4096 positions.

The reference is the same encoder on padded rows. Ours puts the padding back for the attention alone, or leaves it out
there, too. Two other ways are measured on a CPU: attention over PyTorch's jagged tensors, and one attention for each
sentence.
(Flex attention has no backward on a CPU in PyTorch 2.13.) The batches have the text's own lengths.
"""

import contextlib
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from corpus import Corpus
from measure import Paired, Row, interleaved
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from trainers import has_bf16

from s2s.config.compose import compose
from s2s.data.batch import Source
from s2s.data.spec import Spec, TokenSource
from s2s.data.store import Store
from s2s.models.transformer import Transformer
from s2s.nn.attention import SelfAttention, attend
from s2s.nn.unpad import RealTokens
from s2s_cli.train import TrainCommand

REFERENCE = "the same encoder on padded rows"
SHARES = (0.03, 0.1, 0.4)  # of padding


def run(corpus: Corpus, device: str, quick: bool) -> list[Row]:
    """Measure at each share of padding, in fp32, and in bf16 where the device computes in it."""
    lengths = np.sort(Store(corpus.store).split("train").lengths("source.tokens") + 1)  # with EOS
    preset, tokens, rounds = ("transformer_tiny", 512, 1) if quick else ("transformer_small", 4096, 5)
    rows = []
    for precision in ("fp32", "bf16") if has_bf16(device) else ("fp32",):
        for share in SHARES:
            rows += measure(preset, batch_of(lengths, share, tokens).to(device), precision, rounds)
    return rows


def batch_of(lengths: np.ndarray, share: float, tokens: int) -> Source:
    """Random tokens in rows with the lengths of random sentences, from so long a one on that `share` is padding.

    Args:
        lengths: Of the whole text, sorted.
        share: 0 to 1; the most that the text has where that is less.
        tokens: Padded positions of the batch, or a little less.
    """
    rng = np.random.default_rng(0)
    longest = int(np.quantile(lengths, 0.95))
    lengths = lengths[lengths <= longest]
    means = np.cumsum(lengths[::-1])[::-1] / np.arange(len(lengths), 0, -1)  # of the sentences from here on
    chosen = rng.choice(lengths[np.argmax(means >= (1 - share) * longest) :], tokens // longest)
    chosen[0] = longest
    return Source(torch.from_numpy(rng.integers(4, 100, (len(chosen), longest))), torch.from_numpy(chosen).long())


def measure(preset: str, source: Source, precision: str, rounds: int) -> list[Row]:
    """Every way beside the padded one."""
    device = source.values.device.type
    works = {"padded": work(preset, source, precision, False), "": work(preset, source, precision, True)}
    works[", attention too"] = work(preset, source, precision, True, attention_too=True)
    if device == "cpu":
        for name, attention in (("jagged", jagged), ("by sentence", by_sentence)):
            works[f", {name}"] = work(preset, source, precision, True, attention)
    speeds = interleaved(list(works.values()), rounds, torch.cuda.synchronize if device == "cuda" else lambda: None)
    padding = 1 - int(source.lengths.sum()) / source.values.numel()
    return [
        Paired(ours, speeds[0]).row(f"{precision}, {padding:.0%} padding{name}", "real tokens/s")
        for name, ours in list(zip(works, speeds, strict=True))[1:]
    ]


def work(preset: str, source: Source, precision: str, unpad: bool, attention: Callable | None = None,
         attention_too: bool = False):  # fmt: skip
    """Forward and backward of a fresh encoder, as a Work of real source tokens; `attention` in place of its own."""
    options = {"unpad": unpad, "unpad_attention": attention_too}
    words = [("model", preset), *((f"model.encoder.{key}", str(on).lower()) for key, on in options.items())]
    config = compose(TrainCommand, words).model
    torch.manual_seed(0)
    model = Transformer(config, Spec((TokenSource(100),), 100)).to(source.values.device).train()
    if attention is not None:
        for layer in model.encoder.layers:
            layer.attention.forward = partial(attention, layer.attention)
    gradient: Tensor | None = None

    def one_round(number: int) -> int:
        nonlocal gradient
        model.zero_grad()
        bf16 = torch.autocast(source.values.device.type, torch.bfloat16)
        with bf16 if precision == "bf16" else contextlib.nullcontext():
            memory = model.encode((source,))
        if gradient is None:
            gradient = torch.randn_like(memory.top) * memory.mask[:, 0, 0, :, None]
        memory.top.backward(gradient)
        return int(source.lengths.sum())

    return one_round


def jagged(attention: SelfAttention, x: Tensor, mask: Tensor, real: RealTokens) -> Tensor:
    """Self-attention over jagged tensors, in fp32, for which it is faster than in bf16 as ours is. x: [P, D]."""
    lengths = mask.sum((1, 2, 3))
    offsets = nn.functional.pad(lengths.cumsum(0), (1, 0))
    sizes = {"min_seqlen": int(lengths.min()), "max_seqlen": int(lengths.max())}
    qkv = attention.qkv(x).float()
    with torch.autocast("cpu", enabled=False):
        q, k, v = (
            torch.nested.nested_tensor_from_jagged(part.unflatten(1, (attention.heads, -1)), offsets, **sizes)
            for part in (part.contiguous() for part in qkv.split(attention.sizes, 1))
        )
        attended = scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return attention.output(attended.transpose(1, 2).values().flatten(1))


def by_sentence(attention: SelfAttention, x: Tensor, mask: Tensor, real: RealTokens) -> Tensor:
    """Self-attention of one sentence after the other. x: [P, D]."""
    q, k, v = (
        part.unflatten(1, (attention.heads, -1)).transpose(0, 1)[None]
        for part in attention.qkv(x).split(attention.sizes, 1)
    )  # each [1, H, P, d]
    lengths = mask.sum((1, 2, 3)).tolist()
    parts = zip(*(side.split(lengths, 2) for side in (q, k, v)), strict=True)
    attended = torch.cat([attend(*part, None) for part in parts], 2)
    return attention.output(attended[0].transpose(0, 1).flatten(1))
