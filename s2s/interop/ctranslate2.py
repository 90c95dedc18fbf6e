"""Writes a Transformer as a model folder of CTranslate2, with that library's own specification classes.

The folder has the weights (model.bin, config.json) and the vocabularies, and also our tokenizers (source.*, target.*),
which `s2s.text.tokenizer.load_tokenizer` reads. CTranslate2 reads and returns symbols, without EOS:

    translator.translate_batch([[vocabulary.symbols[i] for i in tokenizer.encode(line)]], beam_size=5)
"""

from pathlib import Path

import numpy as np
from torch import Tensor, nn

from s2s.errors import UserError, install
from s2s.files import naming, whole_folder
from s2s.models.claims import departure
from s2s.models.stack import StackConfig
from s2s.nn.embedding import Embedding
from s2s.nn.layers import Layer
from s2s.nn.positions import SINUSOIDAL
from s2s.text.vocabulary import SPECIALS

POSITIONS = 4096  # length of the sinusoidal table, which CTranslate2 cannot extend
ACTIVATIONS = {"relu": "RELU", "gelu": "GELU", "swiglu": "SWISH", "silu": "SWISH"}


def write(model: nn.Module, task, folder: Path) -> None:
    """Write a model's folder. It appears, or replaces an existing one, when it is complete.

    Args:
        model: A model of `task`.
        task: Owns the tokenizers, which are saved too.
        folder: Where to write.

    Raises:
        UserError: CTranslate2 is not installed, or it cannot compute what the model does; all reasons are named.
        OSError: for instance, the disk is full; nothing is left behind.
    """
    spec = specification(model, task)
    with whole_folder(folder) as partial, naming(partial / "model.bin"):
        spec.save(str(partial))
        task.save(partial)


def specification(model: nn.Module, task):
    """The model as a validated `ctranslate2.specs.TransformerSpec`. Raises UserError as `write` does."""
    try:
        from ctranslate2 import specs
    except ImportError as error:
        raise UserError(f"format=ctranslate2 requires the package ctranslate2: {install('export')}") from error
    _check(model, task)
    config = model.config
    options = {
        "pre_norm": config.norm == "pre",
        "activation": specs.common_spec.Activation[ACTIVATIONS[config.activation]],
        "ffn_glu": config.activation == "swiglu",
        "layernorm_embedding": config.embedding_norm,
    }
    if config.positions == "rotary":
        options |= {"rotary_dim": 0, "rotary_interleave": False}  # 0: all dimensions of a head, in halves
    encoder = specs.TransformerEncoderSpec(**_size(config.encoder), **options)
    decoder = specs.TransformerDecoderSpec(**_size(config.decoder), **options)
    _embedding(encoder, encoder.embeddings[0], model.frontend.embedding)
    _embedding(decoder, decoder.embeddings, model.decoder.embedding)
    for to, layer in zip(encoder.layer, model.encoder.layers, strict=True):
        _layer(to, layer)
    for to, layer in zip(decoder.layer, model.decoder.layers, strict=True):
        _layer(to, layer)
        _linears(to.attention.linear, layer.cross.query, layer.cross.key_value, layer.cross.output)
        _norm(to.attention.layer_norm, layer.cross_norm)
    if config.norm == "pre":
        _norm(encoder.layer_norm, model.encoder.norm)
        _norm(decoder.layer_norm, model.decoder.norm)
    _linears([decoder.projection], model.output)
    spec = specs.TransformerSpec(encoder, decoder)
    spec.register_source_vocabulary(task.source_tokenizer.vocabulary.symbols)
    spec.register_target_vocabulary(task.target_tokenizer.vocabulary.symbols)
    _, spec.config.unk_token, spec.config.bos_token, spec.config.eos_token = SPECIALS
    spec.config.decoder_start_token, spec.config.add_source_eos = spec.config.bos_token, task.source_end
    spec.config.layer_norm_epsilon = model.decoder.layers[0].attention_norm.eps
    spec.validate()
    spec.optimize()
    return spec


def _check(model: nn.Module, task) -> None:
    """Raise UserError if CTranslate2 lacks parts of the model; the message names all of them."""
    missing = []
    if reason := departure(model):
        missing.append(f"model of type {type(model).__name__} ({reason})")
    else:
        config = model.config
        missing += ["model.log_length_scale"] if config.log_length_scale else []
        missing += ["model.bias=false"] if not config.bias else []
        sides = {"encoder": config.encoder, "decoder": config.decoder}
        missing += [f"model.{side}.head_width={stack.head_width}" for side, stack in sides.items()
                    if stack.head * stack.heads != stack.width]  # fmt: skip
    if not task.target_transform.is_none:
        missing.append(f"data.target_transform={task.target_transform.kind}, which decoding would have to undo")
    if task.first_tag is not None:
        missing.append(f"task.first_tag={task.first_tag}: its decoders begin with one symbol for all sentences")
    if task.source_tags:
        missing.append(f"task.source_tags=[{','.join(task.source_tags)}]: it adds no symbols before a source")
    if task.target_tag is not None:
        missing.append(f"task.target_tag={task.target_tag}: it adds no symbol before a target")
    if missing:
        raise UserError(f"CTranslate2 has no {', and no '.join(missing)}")


def _size(stack: StackConfig) -> dict:
    grouped = stack.kv_heads not in (None, stack.heads)
    return {"num_layers": stack.layers, "num_heads": stack.heads, "num_heads_kv": stack.kv_heads if grouped else None}


def _embedding(side, to, embedding: Embedding) -> None:
    """Fill in embeddings. `side`: specification of the encoder or decoder; `to`: that of its token embeddings."""
    to.weight, side.scale_embeddings = _array(embedding.tokens.weight), embedding.scale != 1
    if embedding.norm is not None:
        _norm(side.layernorm_embedding, embedding.norm)
    positions = embedding.positions
    if positions.kind in (*SINUSOIDAL, "none"):
        side.position_encodings.encodings = _array(positions.table_of(POSITIONS)[:POSITIONS])
    elif positions.kind == "learned":
        side.position_encodings.encodings = _array(positions.weight)


def _layer(to, layer: Layer) -> None:
    """Fill in the parts that encoder and decoder layers have in common."""
    _linears(to.self_attention.linear, layer.attention.qkv, layer.attention.output)
    _norm(to.self_attention.layer_norm, layer.attention_norm)
    block = layer.feedforward
    if block.activation == "swiglu":
        gate, value = to.ffn.linear_0, to.ffn.linear_0_noact
        gate.weight, value.weight = map(_array, block.inner.weight.chunk(2))
        gate.bias, value.bias = map(_array, block.inner.bias.chunk(2))
    else:
        _linears([to.ffn.linear_0], block.inner)
    _linears([to.ffn.linear_1], block.outer)
    _norm(to.ffn.layer_norm, layer.feedforward_norm)


def _linears(to: list, *layers: nn.Linear) -> None:
    for target, layer in zip(to, layers, strict=True):
        target.weight = _array(layer.weight)
        if layer.bias is not None:
            target.bias = _array(layer.bias)


def _norm(to, norm: nn.LayerNorm) -> None:
    to.gamma, to.beta = _array(norm.weight), _array(norm.bias)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().contiguous().numpy()
