"""The training criterion: a weighted sum of terms."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from s2s import registry
from s2s.config.schema import components, option
from s2s.criterions.former import MOVED
from s2s.criterions.forward import Run
from s2s.criterions.positions import Rows, losses
from s2s.criterions.term import COUNT, PositionTerm, Term, Value
from s2s.criterions.terms.cross_entropy import CrossEntropy
from s2s.data.batch import Batch
from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder

TOKENS = "tokens"  # key of `counts`: target tokens, EOS included
# The parts of a model that some term must train, and what to do if no term does.
TRAINED = {
    "decoder": "the decoder: add cross_entropy, or leave the decoder out (model.decoder.layers=0)",
    "ctc": "the CTC of model.ctc=true: add ctc (criterion=ctc_attention, or criterion=ctc without a decoder), or "
    "model.ctc=false",
    "ctc_layers": "model.encoder.ctc_layers: add intermediate_ctc (criterion=intermediate_ctc without a decoder), or "
    "leave them out",
    "auxiliary_heads": "model.auxiliary_heads: add auxiliary (criterion=auxiliary), or leave them out",
}


@dataclasses.dataclass
class CriterionConfig:
    """Options of the loss."""

    MOVED: ClassVar[dict[str, str]] = MOVED
    type: str = option("terms", "component")
    terms: dict[str, Any] = components(
        "term", ["cross_entropy"], "terms of the loss, which are added up; each has a weight and options of its own"
    )


@dataclasses.dataclass
class Loss:
    """The value of a criterion on a batch.

    Attributes:
        sum: Scalar tensor with a gradient. Divided by the target tokens of the update, it is the share of the batch in
            the loss.
        count: Number of target tokens, EOS included.
        metrics: Detached scalar tensors, summed over the batch, by the names of `Criterion.names`.
    """

    sum: Tensor
    count: int
    metrics: dict[str, Tensor]


class Criterion:
    """The sum over terms of weight * sum / count, with the sums and counts of all batches of an update.

    The validation loss is the weighted mean of the terms that are not `only_in_training`. So it has the same scale with
    and without those terms.

    Args:
        config: Its options.
    """

    Config = CriterionConfig

    def __init__(self, config: CriterionConfig):
        self.config = config
        self.terms: list[Term] = []
        for name, options in config.terms.items():
            self.terms.append(registry.find("term", options.type)(options))
            self.terms[-1].name = name

    def check(self, model: EncoderDecoder) -> None:
        """Check that the model has what the terms need, and that they train all parts of it. Raises UserError."""
        if not any(term.config.weight for term in self.terms):
            raise UserError("criterion.terms: no term has a weight above 0; add one, such as cross_entropy")
        writing = [term.name for term in self.terms if term.writings()]
        if writing and all(term.only_in_training for term in self.terms):
            raise UserError(f"criterion.terms=[{','.join(term.name for term in self.terms)}]: in validation there is "
                            f"nothing written for {writing[0]}; add cross_entropy, perhaps with weight 0")  # fmt: skip
        owners: dict[str, str] = {}
        for term in self.terms:
            term.check(model)
            for name in term.metrics(model):
                if owners.setdefault(name, term.name) != term.name:
                    raise UserError(f"criterion.terms: {owners[name]} and {term.name} both report {name}")
        trained = {part for term in self.terms if term.config.weight for part in term.trains}
        present = {"decoder": model.has_decoder, "ctc": model.has_ctc, "ctc_layers": model.exits,
                   "auxiliary_heads": model.auxiliary_heads}  # fmt: skip
        for part, remedy in TRAINED.items():
            if present[part] and part not in trained:
                names = ",".join(term.name for term in self.terms)
                raise UserError(f"criterion.terms=[{names}]: no term with a weight trains {remedy}")

    @property
    def couples_examples(self) -> str | None:
        """The name of a term that compares the examples of a batch, so that batches must not be split; or None."""
        return next((term.name for term in self.terms if term.couples_examples), None)

    @property
    def columns(self) -> list[str]:
        """Columns of the store that the terms read."""
        return [name for term in self.terms for name in term.columns]

    @property
    def checkpoints(self) -> list[str]:
        """The checkpoints of the terms' teachers."""
        return [path for term in self.terms for path in term.checkpoints]

    # --- metrics -----------------------------------------------------------------------------------------------------

    @property
    def count_names(self) -> list[str]:
        """The keys of `counts`, in order."""
        return [TOKENS, *(_count(term) for term in self.terms)]

    def counts(self, batch: Batch) -> dict[str, int]:
        """The divisors of the terms' sums over a batch (on the host), and its number of target tokens."""
        return {TOKENS: batch.counts.target, **{_count(term): term.count(batch) for term in self.terms}}

    def divisors(self, model: EncoderDecoder) -> dict[str, str | None]:
        """Name of each metric -> the name of its divisor: a key of `counts`, another metric, or None. The metrics
        depend on whether the model is in training mode."""
        return {
            name: _count(term) if divisor == COUNT else divisor
            for term in self.terms
            for name, divisor in term.metrics(model).items()
        }

    def names(self, model: EncoderDecoder) -> list[str]:
        """Names of the metrics of a Loss; they depend on whether the model is in training mode."""
        divisors = self.divisors(model)
        names = [*divisors, *(name for name in divisors.values() if name not in (None, *self.count_names))]
        if not model.training:
            names += [_sum(term) for term in self._counting(model)]
        return list(dict.fromkeys(names))

    def valid_loss(self, sums: dict[str, float]) -> float:
        """The validation loss, from the sums of `names` and `counts` over all batches."""
        terms = [term for term in self.terms if _sum(term) in sums]
        weights = [term.config.weight for term in terms]
        weights = weights if any(weights) else [1.0] * len(terms)
        means = [sums[_sum(term)] / sums[_count(term)] if sums[_count(term)] else 0.0 for term in terms]
        return sum(weight * mean for weight, mean in zip(weights, means, strict=True)) / sum(weights)

    # --- value -------------------------------------------------------------------------------------------------------

    def __call__(self, model: EncoderDecoder, batch: Batch, totals: dict[str, int] | None = None) -> Loss:
        """Run the model on a batch, and compute all terms.

        Args:
            model: In training or evaluation mode.
            batch: On the model's device.
            totals: `counts` of all batches of the update; None: this batch is the only one.
        """
        totals = totals or self.counts(batch)
        counting, divisors = self._counting(model), self.divisors(model)
        terms = [term for term in self.terms if term in counting or term.metrics(model)]
        passes = Run.several(model, batch, max(term.passes for term in terms) if model.training else 1)
        scales = {term: term.weight * _ratio(totals, term) for term in terms}
        loss, metrics, together = None, {}, _together(terms) if model.training else []
        for term in terms:
            if term in together:
                if term is not together[0]:
                    continue
                value, scale = _positions(together, passes, scales), 1.0
            else:
                value, scale = _mean(term, passes), scales[term]
                metrics |= {term.name: value.sum.detach()} if term.name in divisors else {}
            metrics |= value.metrics
            if term in counting:
                loss = scale * value.sum if loss is None else loss + scale * value.sum
                metrics[_sum(term)] = value.sum.detach()  # only in validation, where terms are not combined
        return Loss(loss, batch.counts.target, {name: metrics[name] for name in self.names(model)})

    def _counting(self, model: EncoderDecoder) -> list[Term]:
        """The terms that add to the loss: in evaluation mode without those that are `only_in_training`."""
        lasting = [term for term in self.terms if not term.only_in_training]
        return self.terms if model.training or not lasting else lasting

    # --- state -------------------------------------------------------------------------------------------------------

    @property
    def learning(self) -> list[Term]:
        """The terms that override `updated`."""
        return [term for term in self.terms if type(term).updated is not Term.updated]

    def updated(self, model: EncoderDecoder, update: int, sums: dict[str, float]) -> None:
        """Tell the terms the metrics of an update.

        Args:
            model: In training mode.
            update: Number of the update.
            sums: Sums of `names` and `counts` over all batches and processes.
        """
        for term in self.learning:
            values = {}
            for name, divisor in term.metrics(model).items():
                by = 1 if divisor is None else sums[_count(term) if divisor == COUNT else divisor]
                if by:
                    values[name] = sums[name] / by
            term.updated(update, values)

    def state_dict(self) -> dict[str, Tensor]:
        """The state of the terms, by `TERM.NAME`."""
        return {f"{term.name}.{key}": value for term in self.terms for key, value in term.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor], where: str) -> None:
        """Restore a saved state.

        Args:
            state: As `state_dict` returned it.
            where: Name of the file, for the message.

        Raises:
            UserError: the state of a term is missing, or is there for a term that has none.
        """
        for term in self.terms:
            own = {key.partition(".")[2]: value for key, value in state.items() if key.startswith(f"{term.name}.")}
            if bool(own) != bool(term.state_dict()):
                problem = "has no" if not own else "has an unexpected"
                raise UserError(f"{where}: {problem} state of the term {term.name}; it is of another version")
            if own:
                term.load_state_dict(own)


def _count(term: Term) -> str:
    return f"{term.name}.count"


def _sum(term: Term) -> str:
    return f"{term.name}.sum"


def _ratio(totals: dict[str, int], term: Term) -> float:
    """The factor of a term's sum if the loss is then divided by target tokens: target tokens / count of the term."""
    total = totals[_count(term)]
    return totals[TOKENS] / total if total else 0.0


def _together(terms: Sequence[Term]) -> list[Term]:
    """The terms that share the logits of each position; none if only a cross-entropy reads them."""
    positional = [term for term in terms if isinstance(term, PositionTerm)]
    entropies = [term for term in positional if isinstance(term, CrossEntropy)]
    together = [term for term in positional if term not in entropies[1:]]
    return [] if together == entropies[:1] else together


def _positions(terms: Sequence[Term], passes: Sequence[Run], scales: dict[Term, float]) -> Value:
    """The value of terms that share the logits; their scales are applied already."""
    entropy = next((term for term in terms if isinstance(term, CrossEntropy)), None)
    others = [term for term in terms if term is not entropy]
    rows = Rows(passes, [run.output for run in passes])
    smoothing, share = (entropy.config.label_smoothing, scales[entropy]) if entropy else (0.0, 0.0)
    chunked = [term.chunked(passes, scales[term]) for term in others]
    loss, nll, correct, *values = losses(rows, passes[0].target, smoothing, share, chunked)
    metrics = {term.name: value for term, value in zip(others, values, strict=True)}
    return Value(loss, metrics | ({"nll": nll, "correct": correct} if entropy else {}))


def _mean(term: Term, passes: Sequence[Run]) -> Value:
    """A term's value; for a term that reads a single pass, the mean over all passes."""
    if term.passes > 1 or len(passes) == 1:
        return term(passes[0])
    values = [term(run) for run in passes]
    number = len(passes)
    metrics = {name: sum(value.metrics[name] for value in values) / number for name in values[0].metrics}
    return Value(sum(value.sum for value in values) / number, metrics)
