"""A criterion: cross-entropy, and a price for each token that the model would write after the end."""

import dataclasses

from s2s.config.schema import option
from s2s.criterions.cross_entropy import CrossEntropy, CrossEntropyConfig, Loss
from s2s.data.batch import Batch
from s2s.text.vocabulary import EOS


@dataclasses.dataclass
class BriefConfig(CrossEntropyConfig):
    """Options of cross-entropy, and the price."""

    type: str = option("brief", "component")
    price: float = option(0.1, "nats taken for -log p(end) at the last token of each target", at_least=0)


class Brief(CrossEntropy):
    """Cross-entropy, in which the end of a target counts more."""

    Config = BriefConfig

    def names(self, model) -> list[str]:
        """Names of its metrics."""
        return [*super().names(model), "end"]

    def __call__(self, model, batch: Batch) -> Loss:
        """Run the model on a batch."""
        memory = model.encode(batch.sources, batch.tags)
        loss = self.of(model, batch, [memory])
        last = batch.target_lengths[:, None, None] - 1
        output = model.decode(memory, batch.decoder_input, batch.target_packing)
        states = output.states.gather(1, last.expand(-1, 1, output.states.size(2)))
        end = -output.output(states).log_softmax(-1)[:, 0, EOS].sum()
        total = loss.sum + self.config.price * end if model.training else loss.sum
        return Loss(total, loss.count, {**loss.metrics, "end": end.detach()})
