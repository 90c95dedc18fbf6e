"""The term of `model.output=multilabel`: binary cross-entropy of the hashed trigrams of the target words.

Paper: Deiseroth, Brack, Schramowski, Kersting and Weinbach, "T-FREE: Subword Tokenizer-Free Generative LLMs via Sparse
Representations for Memory-Efficient Embeddings", EMNLP 2024, https://arxiv.org/abs/2406.19223.

The term is the sum over rows of the binary cross-entropy between the logits of a position and the pattern of its target
word, in nats for each target token: the negative log-likelihood of the pattern.

Use: tokenizer=words model.output=multilabel model.tie_embeddings=none criterion=multilabel

Left out: nothing. Uncertain: whether the paper takes the sum over rows, or their mean.
"""

import dataclasses

from s2s.config.schema import option
from s2s.criterions.forward import Run
from s2s.criterions.term import COUNT, Term, TermConfig, Value
from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder

CHUNK = 512  # positions whose logits exist at once


@dataclasses.dataclass
class MultilabelTermConfig(TermConfig):
    """Options of the term."""

    type: str = option("multilabel", "component")


class MultilabelTerm(Term):
    """The binary cross-entropy."""

    Config = MultilabelTermConfig
    trains = ("decoder",)

    def check(self, model: EncoderDecoder) -> None:
        """Check that the output has logits of rows. Raises UserError."""
        if not hasattr(model.output, "patterns"):
            raise UserError(f"criterion.terms: {self.name} requires model.output=multilabel")

    def metrics(self, model: EncoderDecoder) -> dict[str, str | None]:
        """As in Term."""
        return {self.name: COUNT}

    def __call__(self, run: Run) -> Value:
        """As in Term."""
        pairs = zip(run.states.split(CHUNK), run.target.split(CHUNK), strict=True)
        return Value(sum(run.output.output.loss(states, target) for states, target in pairs))
