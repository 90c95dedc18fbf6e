"""Where the weights of a model are in another toolkit's files: one table serves both ways, in and out.

A table maps each of our names to a `Place`. Parts that we keep in one matrix, such as queries, keys and values, are
several weights there.

Shapes: D width, V our symbols, W their rows.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor

from s2s.errors import UserError

IMPOSSIBLE = -100.0  # bias of a symbol that is only read: its probability is 0, and finite in a smoothed loss


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one of our weights is.

    Attributes:
        names: Their names of equal parts, one below the other in our weight.
        rows: Int64 [V], their row of each of our rows; None: all, in their order.
        skip: Rows at the beginning of theirs that are not used, such as those of padding.
        flat: Whether theirs has a first dimension of 1 that ours lacks.
    """

    names: tuple[str, ...]
    rows: Tensor | None = None
    skip: int = 0
    flat: bool = False

    def read(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Our weight."""
        parts = [tensors[name].float() for name in self.names]
        value = torch.cat(parts) if len(parts) > 1 else parts[0]
        value = value[0] if self.flat else value
        value = value[self.skip :] if self.skip else value
        return value if self.rows is None else value[self.rows]

    def write(self, value: Tensor) -> dict[str, Tensor]:
        """Their weights. Where several of our rows are one of theirs, the last one counts."""
        if self.rows is not None:
            theirs = value.new_zeros(int(self.rows.max()) + 1, *value.shape[1:])
            theirs[self.rows] = value
            value = theirs
        if self.skip:
            value = torch.cat([value.new_zeros(self.skip, *value.shape[1:]), value])
        value = value[None] if self.flat else value
        return dict(zip(self.names, value.chunk(len(self.names)), strict=True))


Table = dict[str, Place]


def read_table(
    table: Table, tensors: dict[str, Tensor], where: Path, ignored: Iterable[str] = (),
    same: Mapping[str, str] | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Our weights by name.

    Args:
        table: The place of each of our weights.
        tensors: Their weights by name.
        where: Their folder or file, for the message.
        ignored: Patterns of their names that carry nothing, such as computed positions.
        same: Name of a copy -> name of the weight that it has to be equal to, where both are there.

    Raises:
        UserError: weights are missing or left over, or do not have the rows that the table names; lists all of them.
    """
    tensors, wrong = dict(tensors), []
    for copy, name in (same or {}).items():
        if copy in tensors and (name not in tensors or torch.equal(tensors[copy], tensors[name])):
            tensors.setdefault(name, tensors[copy])
            del tensors[copy]
    used = [name for place in table.values() for name in place.names]
    wrong += [f"{name} missing" for name in dict.fromkeys(used) if name not in tensors]
    left = sorted(tensors.keys() - set(used))
    wrong += [f"{name} left over" for name in left if not any(fnmatchcase(name, pattern) for pattern in ignored)]
    weights = {}
    for name, place in table.items():
        if all(part in tensors for part in place.names):
            try:
                weights[name] = place.read(tensors)
            except (IndexError, RuntimeError):
                shapes = ", ".join(f"{part} {list(tensors[part].shape)}" for part in place.names)
                wrong.append(f"{shapes}: of another shape than the rest")
    if wrong:
        raise UserError(f"{where}: {len(wrong)} weights do not fit this family: {'; '.join(wrong)}")
    return weights


def fused(ours: str, theirs: str, parts: Iterable[str]) -> Table:
    """The places of a linear map with a bias that joins several of theirs.

    Args:
        ours: Name of our map.
        theirs: What their names begin with.
        parts: Names of their maps.
    """
    return {f"{ours}.{kind}": Place(tuple(f"{theirs}.{part}.{kind}" for part in parts)) for kind in ("weight", "bias")}


def bart_stack(side: str, layers: int, prefix: str = "model.") -> Table:
    """The layers of an encoder or decoder as fairseq names them, and after it BART, Marian, M2M-100, FSMT and Pegasus.

    Args:
        side: `encoder` or `decoder`.
        layers: Number of layers.
        prefix: What all of their names begin with.
    """
    table: Table = {}
    for n in range(layers):
        ours, theirs = f"{side}.layers.{n}", f"{prefix}{side}.layers.{n}"
        table |= fused(f"{ours}.attention.qkv", f"{theirs}.self_attn", ("q_proj", "k_proj", "v_proj"))
        table |= fused(f"{ours}.attention.output", f"{theirs}.self_attn", ("out_proj",))
        table |= fused(f"{ours}.attention_norm", theirs, ("self_attn_layer_norm",))
        if side == "decoder":
            table |= fused(f"{ours}.cross.query", f"{theirs}.encoder_attn", ("q_proj",))
            table |= fused(f"{ours}.cross.key_value", f"{theirs}.encoder_attn", ("k_proj", "v_proj"))
            table |= fused(f"{ours}.cross.output", f"{theirs}.encoder_attn", ("out_proj",))
            table |= fused(f"{ours}.cross_norm", theirs, ("encoder_attn_layer_norm",))
        table |= fused(f"{ours}.feedforward.inner", theirs, ("fc1",))
        table |= fused(f"{ours}.feedforward.outer", theirs, ("fc2",))
        table |= fused(f"{ours}.feedforward_norm", theirs, ("final_layer_norm",))
    return table


@dataclasses.dataclass(frozen=True)
class Names:
    """Names of the parts of layers in a toolkit, below the name of a layer.

    Attributes:
        layers: For `encoder` and `decoder`, the name of a layer; `{}` stands for its number.
        attention: For each side, that of self-attention.
        cross: That of the attention to the source.
        maps: Those of the queries, keys, values and output of an attention.
        norms: For each side, those of the norms of self-attention, of cross-attention (decoder) and of the feed-forward
            block.
        inner: Those of the first map of a feed-forward block and, in gated blocks, of the one that is multiplied.
        outer: That of its last map.
    """

    layers: Mapping[str, str]
    attention: Mapping[str, str]
    cross: str
    maps: tuple[str, str, str, str]
    norms: Mapping[str, tuple[str, ...]]
    inner: tuple[str, ...]
    outer: str


def named_stack(side: str, layers: int, names: Names, gated: bool = False) -> Table:
    """The layers of an encoder or decoder.

    Args:
        side: `encoder` or `decoder`.
        layers: Number of layers.
        names: Those of the toolkit.
        gated: Whether the feed-forward blocks have a gate.
    """
    table: Table = {}
    query, key, value, output = names.maps
    for n in range(layers):
        ours, theirs = f"{side}.layers.{n}", names.layers[side].format(n)
        attention, cross = f"{theirs}.{names.attention[side]}", f"{theirs}.{names.cross}"
        table |= fused(f"{ours}.attention.qkv", attention, (query, key, value))
        table |= fused(f"{ours}.attention.output", attention, (output,))
        if side == "decoder":
            table |= fused(f"{ours}.cross.query", cross, (query,))
            table |= fused(f"{ours}.cross.key_value", cross, (key, value))
            table |= fused(f"{ours}.cross.output", cross, (output,))
            table |= fused(f"{ours}.cross_norm", theirs, (names.norms[side][1],))
        table |= fused(f"{ours}.attention_norm", theirs, names.norms[side][:1])
        table |= fused(f"{ours}.feedforward_norm", theirs, names.norms[side][-1:])
        table |= fused(f"{ours}.feedforward.inner", theirs, names.inner if gated else names.inner[:1])
        table |= fused(f"{ours}.feedforward.outer", theirs, (names.outer,))
    return table


def t5_stack(side: str, layers: int, gated: bool) -> Table:
    """The layers of T5's encoder or decoder, with its last norm and its relative bias.

    Args:
        side: `encoder` or `decoder`.
        layers: Number of layers.
        gated: Whether the feed-forward blocks have a gate.
    """

    def linear(ours: str, *names: str) -> Table:
        return {f"{ours}.weight": Place(tuple(f"{name}.weight" for name in names))}

    table = linear(f"{side}.norm", f"{side}.final_layer_norm")
    table |= linear(f"{side}.relative", f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias")
    for n in range(layers):
        ours, theirs, last = f"{side}.layers.{n}", f"{side}.block.{n}.layer", 2 if side == "decoder" else 1
        own = f"{theirs}.0.SelfAttention"
        table |= linear(f"{ours}.attention.qkv", *(f"{own}.{part}" for part in "qkv"))
        table |= linear(f"{ours}.attention.output", f"{own}.o")
        table |= linear(f"{ours}.attention_norm", f"{theirs}.0.layer_norm")
        if side == "decoder":
            cross = f"{theirs}.1.EncDecAttention"
            table |= linear(f"{ours}.cross.query", f"{cross}.q")
            table |= linear(f"{ours}.cross.key_value", f"{cross}.k", f"{cross}.v")
            table |= linear(f"{ours}.cross.output", f"{cross}.o")
            table |= linear(f"{ours}.cross_norm", f"{theirs}.1.layer_norm")
        block = f"{theirs}.{last}.DenseReluDense"
        table |= linear(
            f"{ours}.feedforward.inner", *((f"{block}.wi_0", f"{block}.wi_1") if gated else (f"{block}.wi",))
        )
        table |= linear(f"{ours}.feedforward.outer", f"{block}.wo")
        table |= linear(f"{ours}.feedforward_norm", f"{theirs}.{last}.layer_norm")
    return table
