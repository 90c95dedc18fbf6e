"""Models as the options of decoding want them: early exits, auxiliary heads, CTC's share, an ensemble."""

from torch import nn

from s2s.backends.native import mixing
from s2s.decoding.config import DecodeConfig
from s2s.decoding.scorers.ensemble import EnsembleScorer
from s2s.decoding.scorers.model import ModelScorer
from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder

WEIGHT = 0.3  # of CTC in a model that has both, where nothing else is said


def ctc_weight(config: DecodeConfig, models: list[EncoderDecoder]) -> float:
    """`decode.ctc_weight` of these models. Raises UserError where they do not go with it."""
    w, (first, *others) = config.ctc_weight, models
    if w is None:
        alone = not first.has_decoder or config.searcher().Config().type == "ctc"
        w = 1.0 if alone else WEIGHT if first.has_ctc and not others else 0.0
    said = f"decode.ctc_weight={w:g}"
    if w < 1 and not all(model.has_decoder for model in models):
        raise UserError(f"{said}: a model without a decoder has CTC alone: decode.ctc_weight=1")
    if w and not all(model.has_ctc for model in models):
        raise UserError(f"{said}: the model has no CTC; leave decode.ctc_weight out")
    return w


def exiting(model: EncoderDecoder, config: DecodeConfig) -> EncoderDecoder:
    """The model with the early exits that are asked for. Raises UserError where it has none."""
    if config.exit_layer is None and config.exit_confidence is None:
        return model
    said = "decode.exit_confidence" if config.exit_layer is None else f"decode.exit_layer={config.exit_layer}"
    if not model.exits or config.exit_layer not in (None, *model.exits):
        has = ", ".join(map(str, model.exits)) or "none"
        raise UserError(f"{said}: layers before the last with CTC (model.encoder.ctc_layers): {has}")
    return model.exiting(config.exit_layer, config.exit_confidence)


def mixed(model: EncoderDecoder, weights: list[float]) -> EncoderDecoder:
    """The model with its auxiliary heads in its logits. Raises UserError where it has not as many."""
    heads = model.auxiliary_heads
    if len(weights) != len(heads):
        raise UserError(f"decode.auxiliary_weights={weights}: one weight is needed for each of "
                        f"model.auxiliary_heads={heads}")  # fmt: skip
    return mixing(model, weights)


def rating(models: list[EncoderDecoder], config: DecodeConfig, whole: list[nn.Module] | None):
    """What rates tokens by the models; `whole`: as of `Setting`."""
    options = {"temperature": config.temperature if config.searcher().cooled else 1.0, "eos_scale": config.eos_scale}
    if len(models) == 1 and not config.ensemble_weights:
        return ModelScorer(models[0], whole and whole[0], **options)
    return EnsembleScorer(models, config.ensemble, config.ensemble_weights, whole, **options)
