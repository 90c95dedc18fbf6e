"""Sets up models as the decode options say: early exits, auxiliary heads, the weight of CTC, ensembles."""

from torch import nn

from s2s.backends.native import mixing
from s2s.decoding.config import DecodeConfig
from s2s.decoding.scorers.ensemble import EnsembleScorer
from s2s.decoding.scorers.model import ModelScorer
from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder

WEIGHT = 0.3  # default weight of CTC for a model with CTC and a decoder


def ctc_weight(config: DecodeConfig, models: list[EncoderDecoder]) -> float:
    """`decode.ctc_weight`, or its default for these models. Raises UserError if a model does not support it."""
    w, (first, *others) = config.ctc_weight, models
    if not all(model.has_decoder or model.has_ctc for model in models):
        raise UserError(
            "the model is an encoder alone, which writes nothing; train.init.encoder begins a model with it"
        )
    if w is None:
        alone = not first.has_decoder or config.searcher().Config().type == "ctc"
        w = 1.0 if alone else WEIGHT if first.has_ctc and not others else 0.0
    setting = f"decode.ctc_weight={w:g}"
    if w < 1 and not all(model.has_decoder for model in models):
        raise UserError(f"{setting}: a model without a decoder has CTC alone: decode.ctc_weight=1")
    if w and not all(model.has_ctc for model in models):
        raise UserError(f"{setting}: the model has no CTC; leave decode.ctc_weight out")
    return w


def exiting(model: EncoderDecoder, config: DecodeConfig) -> EncoderDecoder:
    """The model with the early exits of the decode options. Raises UserError if it does not have them."""
    if config.exit_layer is None and config.exit_confidence is None:
        return model
    setting = "decode.exit_confidence" if config.exit_layer is None else f"decode.exit_layer={config.exit_layer}"
    if not model.exits or config.exit_layer not in (None, *model.exits):
        exits = ", ".join(map(str, model.exits)) or "none"
        raise UserError(f"{setting}: layers before the last with CTC (model.encoder.ctc_layers): {exits}")
    return model.exiting(config.exit_layer, config.exit_confidence)


def mixed(model: EncoderDecoder, weights: list[float]) -> EncoderDecoder:
    """The model with its auxiliary heads mixed into its logits. Raises UserError unless there is a weight for each."""
    heads = model.auxiliary_heads
    if len(weights) != len(heads):
        raise UserError(f"decode.auxiliary_weights={weights}: requires one weight for each of "
                        f"model.auxiliary_heads={heads}")  # fmt: skip
    return mixing(model, weights)


def rating(models: list[EncoderDecoder], config: DecodeConfig, raw_outputs: list[nn.Module] | None):
    """The scorer of the models: of one model or of an ensemble; `raw_outputs` as in `Setting`."""
    options = {"temperature": config.temperature if config.searcher().cooled else 1.0, "eos_scale": config.eos_scale}
    if len(models) == 1:
        for key, default in (("ensemble", "linear"), ("ensemble_weights", [])):
            if getattr(config, key) != default:
                raise UserError(f"decode.{key}={getattr(config, key)}: does nothing with one model")
        return ModelScorer(models[0], raw_outputs and raw_outputs[0], **options)
    return EnsembleScorer(models, config.ensemble, config.ensemble_weights, raw_outputs, **options)
