"""fairseq's `lstm`: recurrent layers in encoder and decoder, whose decoder begins with the last states of the encoder.

Shapes: D width of the decoder, M width of the memory.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from s2s.errors import UserError
from s2s.interop.importing.imported import checked
from s2s.interop.places import Place, Table

# The names of the weights of a layer there, below ours.
PARTS = {"input": "ih", "hidden": "hh"}


class Sizes:
    """The options of a model.

    Args:
        settings: Those of the checkpoint, the Settings of fairseq.py.

    Raises:
        UserError: what stands against the model; lists all of it.
    """

    def __init__(self, settings: Any):
        get = self.get = settings.get
        self.where, self.layers = settings.where, get("decoder_layers", 1)
        self.embedded = {side: get(f"{side}_embed_dim", 512) for side in ("encoder", "decoder")}
        self.width = {side: get(f"{side}_hidden_size", width) for side, width in self.embedded.items()}
        self.output = get("decoder_out_embed_dim", 512)
        self.both = get("encoder_bidirectional", False)
        self.width["encoder"] *= 1 + self.both
        self.attends = _truth(get("decoder_attention", None), self.where)
        self.tie = ("all" if get("share_all_embeddings", False) else
                    "decoder" if get("share_decoder_input_output_embed", False) else "none")  # fmt: skip
        wrong = [f"{name}={value}" for name in ("adaptive_softmax_cutoff",) if (value := get(name, None))]
        if (layers := get("encoder_layers", 1)) != self.layers:
            wrong.append(f"encoder_layers={layers} beside decoder_layers={self.layers}")
        if settings.task_name != "translation":
            wrong.append(f"task={settings.task_name}")
        if wrong:
            raise UserError(f"{self.where}: {settings.arch} is not read with {', '.join(wrong)}")

    def options(self) -> dict[str, Any]:
        """Our options."""
        rates = {name: self._rate(f"decoder_{theirs}") for name, theirs in
                 (("dropout", "dropout_out"), ("embedding_dropout", "dropout_in"))}  # fmt: skip
        options: dict[str, Any] = {"positions": "none", "scale_embeddings": False, "output.bias": True,
                                   "tie_embeddings": self.tie, **rates}  # fmt: skip
        for side, width in self.width.items():
            options |= {side: "lstm", f"{side}.layers": self.layers, f"{side}.width": width,
                        f"{side}.input_width": self.embedded[side]}  # fmt: skip
        options["encoder.bidirectional"] = "all" if self.both else "none"
        options |= {"decoder.start": "encoder", "decoder.attention": "dot" if self.attends else "none"}
        return options | ({} if self.output == self.width["decoder"] else {"decoder.output_width": self.output})

    def notes(self) -> list[str]:
        """What is not taken over."""
        given = {name: (self._rate(f"encoder_{name}"), self._rate(f"decoder_{name}")) for name in
                 ("dropout_in", "dropout_out")}  # fmt: skip
        return [f"encoder_{name}={first}: both sides have decoder_{name}={second} in training"
                for name, (first, second) in given.items() if first != second]  # fmt: skip

    def _rate(self, name: str) -> float:
        return float(checked(name, self.get(name, self.get("dropout", 0.1)), 0.1, self.where))

    def arranged(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights with the two matrices of the attention as ours are: from the memory, and of [state; context].

        Raises:
            UserError: a matrix of another shape.
        """
        D, M = self.width["decoder"], self.width["encoder"]
        result = dict(tensors)
        shapes = {"decoder.attention.input_proj.weight": (M, D), "decoder.attention.output_proj.weight": (D, M + D)}
        for name, shape in shapes.items():
            if name in result and result[name].shape != shape:
                raise UserError(f"{self.where}: {name} {list(result[name].shape)}: {list(shape)} is needed")
        for name in filter(result.__contains__, shapes):
            value = result[name]
            result[name] = value.T if "input" in name else torch.cat([value[:, M:], value[:, :M]], dim=1)
        return result

    def table(self, source: Tensor, target: Tensor) -> Table:
        """The place of each weight; source, target: rows of our symbols."""
        table: Table = {"frontend.embedding.tokens.weight": Place(("encoder.embed_tokens.weight",), source)}
        if self.tie != "all":
            table["decoder.embedding.tokens.weight"] = Place(("decoder.embed_tokens.weight",), target)
        for n in range(self.layers):
            for direction, end in (("ahead.", ""), ("back.", "_reverse")) if self.both else (("", ""),):
                for ours, theirs in PARTS.items():
                    for kind in ("weight", "bias"):
                        table[f"encoder.layers.{n}.recurrence.{direction}{ours}.{kind}"] = Place(
                            (f"encoder.lstm.{kind}_{theirs}_l{n}{end}",)
                        )
            for ours, theirs in PARTS.items():
                for kind in ("weight", "bias"):
                    table[f"decoder.layers.{n}.{ours}.{kind}"] = Place((f"decoder.layers.{n}.{kind}_{theirs}",))
        if self.width["encoder"] != self.width["decoder"]:
            table |= _linear("decoder.first.0", "decoder.encoder_hidden_proj")
            table |= _linear("decoder.first.1", "decoder.encoder_cell_proj")
        if self.attends:
            table["decoder.scores.key.weight"] = Place(("decoder.attention.input_proj.weight",))
            table["decoder.joined.weight"] = Place(("decoder.attention.output_proj.weight",))
        if self.output != self.width["decoder"]:
            table |= _linear("decoder.outer", "decoder.additional_fc")
        if self.tie == "none":
            table |= _linear("output", "decoder.fc_out", target)
        return table

    def copies(self) -> dict[str, str]:
        """Names of copies of shared matrices, and what they are copies of."""
        return {"decoder.embed_tokens.weight": "encoder.embed_tokens.weight"} if self.tie == "all" else {}


def _linear(ours: str, theirs: str, rows: Tensor | None = None) -> Table:
    return {f"{ours}.{kind}": Place((f"{theirs}.{kind}",), rows) for kind in ("weight", "bias")}


def _truth(value: Any, where: Any) -> bool:
    """The value of `--decoder-attention`, which is a word there. Raises UserError: it is another one."""
    words = {"none": True, "1": True, "true": True, "0": False, "false": False}
    if str(value).lower() not in words:
        raise UserError(f"{where}: decoder_attention={value!r}: 1 or 0 is needed")
    return words[str(value).lower()]
