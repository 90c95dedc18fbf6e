"""Writes a Transformer as three ONNX graphs, whose files, inputs and outputs have the names of Hugging Face Optimum.

    encoder_model.onnx            input_ids, attention_mask -> last_hidden_state
    decoder_model.onnx            input_ids, encoder_hidden_states, encoder_attention_mask -> logits, present.*
    decoder_with_past_model.onnx  input_ids, encoder_attention_mask, past_key_values.* -> logits, present.*

The first step calls decoder_model.onnx, and each further one decoder_with_past_model.onnx. `present.N.decoder.key` of a
step is `past_key_values.N.decoder.key` of the next; `present.N.encoder.key`, of the first step only, is
`past_key_values.N.encoder.key` of all steps. Where the model fits a layout of transformers, the other files and the ids
are those of format=huggingface; otherwise they are our tokenizers and ids.

Shapes: B sentences, S source positions, T target positions of a call, P earlier ones, D width, G key/value heads, d
head width, V symbols.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from s2s.errors import UserError, install
from s2s.files import naming, whole_folder
from s2s.interop import huggingface
from s2s.interop.places import Place
from s2s.models.claims import departure
from s2s.nn.attention import attend, merged
from s2s.nn.log_length import log_length
from s2s.nn.positions import SINUSOIDAL, sinusoidal
from s2s.nn.relative_bias import RelativeBias
from s2s.text.vocabulary import BOS

FURTHER = (nn.RMSNorm, RelativeBias)  # blocks that a graph computes as the model does, and the kernels do not
LARGEST = 1 << 30  # bytes of weights in a .onnx file, which cannot have 2 GiB; more are beside it
BATCH, SOURCE, TARGET, PAST = "batch_size", "encoder_sequence_length", "decoder_sequence_length", "past_sequence_length"
OWN: dict[str, Tensor | None] = {"source": None, "target": None}  # our own ids
KINDS = ("decoder.key", "decoder.value", "encoder.key", "encoder.value")  # of a layer, in this order


def write(model: nn.Module, task, folder: Path, decode: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Write a model's folder. It appears, or replaces an existing one, when it is complete.

    Args:
        model: A model of `task`.
        task: Owns the tokenizers.
        folder: Where to write.
        decode: Options of decoding, for generation_config.json; those that are missing have our defaults.

    Raises:
        UserError: a package is missing, or the graphs cannot hold what the model does; all reasons are named.
        OSError: for instance, the disk is full; nothing is left behind.
    """
    try:
        import onnxscript  # noqa: F401  PyTorch requires it
    except ImportError as error:
        raise UserError(f"format=onnx requires the packages onnx and onnxscript: {install('onnx')}") from error
    layout, misfits = huggingface.nearest(model, task)
    if misfits and (wrong := [*_wrong_model(model), *_wrong_task(task)]):
        raise UserError(f"format=onnx has no {', and no '.join(wrong)}")
    rows, _ = (OWN, BOS) if misfits else huggingface.rows_of(layout, model, task)
    with whole_folder(folder) as partial, naming(partial / "decoder_model.onnx"):
        if misfits:
            huggingface.write_files(partial, _own_files(model, task, decode))
            task.save(partial)
        else:
            huggingface.write_files(partial, huggingface.files_of(layout, model, task, decode))
        _write_graphs(partial, EncoderGraph(model, rows["source"]), DecoderGraph(model, rows["target"]))


def _wrong_model(model: nn.Module) -> list[str]:
    """What no graph computes, in words."""
    if wrong := huggingface.wrong_parts(model):
        return wrong
    departs = departure(model, FURTHER)
    return [f"model of type {type(model).__name__} ({departs})"] if departs else []


def _wrong_task(task) -> list[str]:
    """Options of a task that need more than ids in and logits out, in words."""
    wrong = [f"task={task.config.type}"] if task.config.type != "translation" else []
    if not task.target_transform.is_none:
        wrong.append(f"data.target_transform={task.target_transform.kind}, which decoding would have to undo")
    if task.tags:
        wrong.append(f"tags ({', '.join(task.tags)})")
    return wrong


def _own_files(model: nn.Module, task, decode: Mapping[str, Any]) -> dict[str, Any]:
    """The configurations of a model that no layout of transformers has, by the name of the file."""
    config = model.config
    stacks = {f"{side}_{name}": getattr(stack, key) for side, stack in
              (("encoder", config.encoder), ("decoder", config.decoder)) for name, key in
              {"layers": "layers", "attention_heads": "heads", "ffn_dim": "ffn_width"}.items()}  # fmt: skip
    sizes = {"d_model": config.decoder.width, **stacks, "vocab_size": len(task.source_tokenizer.vocabulary),
             "decoder_vocab_size": len(task.target_tokenizer.vocabulary)}  # fmt: skip
    generation = huggingface.generation_config(OWN, BOS, decode)
    return {"config.json": {"is_encoder_decoder": True, **sizes, **huggingface.ids_of(OWN, BOS)},
            "generation_config.json": generation}  # fmt: skip


def _write_graphs(folder: Path, encoder: "EncoderGraph", decoder: "DecoderGraph") -> None:
    """Write the three graphs into a folder."""
    source = {"input_ids": (BATCH, SOURCE), "attention_mask": (BATCH, SOURCE)}
    # Two dimensions of one size in the examples would be one in the graph, and so would one tensor given twice.
    seen, ids = torch.ones(2, 5, dtype=torch.long), torch.ones(2, 3, dtype=torch.long)
    _write_graph(folder / "encoder_model.onnx", encoder, source, (seen, seen.clone()), ["last_hidden_state"])
    memory = torch.zeros(2, 5, decoder.memory_width)
    mask = {"encoder_attention_mask": (BATCH, SOURCE)}
    targets = {"input_ids": (BATCH, TARGET)}
    present = [f"present.{n}.{kind}" for n in range(len(decoder.decoder.layers)) for kind in KINDS]
    first = {**targets, **mask, "encoder_hidden_states": (BATCH, SOURCE)}
    _write_graph(folder / "decoder_model.onnx", decoder, first, (ids, seen, memory), ["logits", *present])
    past = {name.replace("present", "past_key_values"): (BATCH, None, PAST if "decoder" in name else SOURCE)
            for name in present}  # fmt: skip
    keys = [torch.zeros(2, decoder.kv_heads, 7 if "decoder" in name else 5, decoder.head) for name in present]
    further = [name for name in present if "decoder" in name]
    _write_graph(folder / "decoder_with_past_model.onnx", decoder, {**targets, **mask, **past},
                 (ids, seen, *keys), ["logits", *further])  # fmt: skip


def _write_graph(path: Path, graph: nn.Module, inputs: Mapping[str, tuple], examples: tuple,
                 outputs: list[str]) -> None:  # fmt: skip
    """Write a graph.

    Args:
        path: The file.
        graph: A module whose `forward` has two arguments, and perhaps any number of others (`*`).
        inputs: Names of the dimensions of each input that may vary, by its name; None: a dimension that does not.
        examples: Arguments of `graph`.
        outputs: Names of what it returns.
    """
    dynamic = [{place: name for place, name in enumerate(names) if name} for names in inputs.values()]
    shape = (*dynamic[:2], tuple(dynamic[2:])) if len(dynamic) > 2 else tuple(dynamic)
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            graph, examples, input_names=list(inputs), output_names=outputs, dynamic_shapes=shape, dynamo=True,
            verbose=False,
        )  # fmt: skip
    size = sum(weight.numel() * weight.element_size() for weight in graph.state_dict().values())
    program.save(str(path), external_data=size > LARGEST)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks of PyTorch's exporter."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _rows(weight: Tensor, rows: Tensor | None) -> Tensor:
    """A matrix [V, D] with the rows in the order of the exported ids; rows: as `huggingface.rows_of` gives them."""
    (written,) = Place(("weight",), rows).write(weight.detach().float()).values()
    return written


def _embedded(embedding: nn.Module, table: Tensor, ids: Tensor, places: Tensor) -> Tensor:
    """What an Embedding makes of ids [B, T], for sequences of any length.

    Args:
        embedding: The Embedding.
        table: Its matrix, [V, D].
        ids: Int64 [B, T].
        places: Int64 [T], the positions.
    """
    x, positions = functional.embedding(ids, table) * embedding.scale, embedding.positions
    if positions.kind == "learned":
        x = x + functional.embedding(places, positions.weight)
    elif positions.kind in SINUSOIDAL:
        x = x + sinusoidal(places, positions.width, positions.kind)
    return x if embedding.norm is None else embedding.norm(x)


def _block(layer: nn.Module, x: Tensor, norm: nn.Module, block, *args) -> Tensor:
    """A residual connection around `block`, with the norm of `layer` before or after it."""
    if layer.pre_norm:
        return x + block(norm(x), *args)
    return norm(x + block(x, *args))


class EncoderGraph(nn.Module):
    """Front-end and encoder.

    Args:
        model: The model.
        rows: The exported id of each source symbol; None: its own.
    """

    def __init__(self, model: nn.Module, rows: Tensor | None):
        super().__init__()
        self.embedding, self.encoder = model.frontend.embedding, model.encoder
        self.register_buffer("table", _rows(self.embedding.tokens.weight, rows))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids, attention_mask: int64 [B, S]. Returns states [B, S, D]."""
        size, encoder = input_ids.size(1), self.encoder
        places, mask = torch.arange(size), (attention_mask != 0)[:, None, None]
        x = _embedded(self.embedding, self.table, input_ids, places)
        mask = mask if encoder.relative is None else encoder.relative.step(places[None], size, mask)
        for layer in encoder.layers:
            x = _block(layer, x, layer.attention_norm, layer.attention, mask)
            x = _block(layer, x, layer.feedforward_norm, layer.feedforward)
        return encoder.norm(x)


class DecoderGraph(nn.Module):
    """Decoder and output.

    Args:
        model: The model.
        rows: The exported id of each target symbol; None: its own.
    """

    def __init__(self, model: nn.Module, rows: Tensor | None):
        super().__init__()
        self.decoder, stack = model.decoder, model.config.decoder
        self.memory_width, self.kv_heads, self.head = model.encoder.width, stack.kv_heads or stack.heads, stack.head
        self.register_buffer("table", _rows(model.decoder.embedding.tokens.weight, rows))
        tied = model.output.weight is model.decoder.embedding.tokens.weight
        self.register_buffer("matrix", self.table if tied else _rows(model.output.weight, rows))
        bias = model.output.bias
        self.register_buffer("bias", None if bias is None else _rows(bias, rows))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *seen: Tensor) -> tuple[Tensor, ...]:
        """Advance every sentence by T tokens.

        Args:
            input_ids: Int64 [B, T].
            attention_mask: Int64 [B, S], 0 at padding of the source.
            seen: In the first step, the states of the encoder, [B, S, D]. Afterwards, keys and values of each layer,
                [B, G, P or S, d], in the order of KINDS.

        Returns:
            Logits [B, T, V], and keys and values of each layer, in the order of KINDS: after the first step, those of
            self-attention only.
        """
        past = seen if len(seen) > 1 else ()
        decoder, size, before = self.decoder, input_ids.size(1), past[0].size(2) if past else 0
        places, mask = torch.arange(size) + before, (attention_mask != 0)[:, None, None]
        causal = (torch.arange(size + before) <= places[:, None])[None, None]
        own = causal if decoder.relative is None else decoder.relative.step(places[None], size + before, causal)
        x, present = _embedded(decoder.embedding, self.table, input_ids, places), []
        for n, layer in enumerate(decoder.layers):
            earlier, source = past[4 * n : 4 * n + 2], past[4 * n + 2 : 4 * n + 4]
            source = source or tuple(layer.cross.project(seen[0]))
            x = _block(layer, x, layer.attention_norm, _self_attention, layer.attention, own, places, earlier, present)
            x = _block(layer, x, layer.cross_norm, layer.cross, source, mask)
            x = _block(layer, x, layer.feedforward_norm, layer.feedforward)
            present += () if past else source
        x = decoder.norm(x)
        x = x if decoder.scale is None else x * decoder.scale
        return functional.linear(x, self.matrix, self.bias), *present


def _self_attention(x: Tensor, attention: nn.Module, mask: Tensor, places: Tensor, earlier: tuple[Tensor, ...],
                    present: list[Tensor]) -> Tensor:  # fmt: skip
    """Self-attention of some positions to earlier ones and to themselves.

    Args:
        x: [B, T, D].
        attention: The SelfAttention.
        mask: Bool [1, 1, T, P + T], or float [1, H, T, P + T], added to the logits.
        places: Int64 [T], the positions.
        earlier: Keys and values [B, G, P, d]; empty: there are none.
        present: Gets the keys and values [B, G, P + T, d].
    """
    q, k, v = attention.split(attention.qkv(x), places[None])
    if earlier:
        k, v = torch.cat([earlier[0], k], 2), torch.cat([earlier[1], v], 2)
    present += [k, v]
    q = log_length(q, mask) if attention.log_length else q
    return attention.output(merged(attend(q, k, v, mask)))
