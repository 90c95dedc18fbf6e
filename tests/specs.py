"""Specs of models, and criterions, in tests."""

from s2s.config.compose import preset
from s2s.criterions.criterion import Criterion, CriterionConfig
from s2s.data.spec import FeatureSource, Spec, TokenSource
from s2s.models.encoders.speech import SpeechEncoderConfig
from s2s.models.frontends.subsampling import SubsamplingConfig


def text_spec(source: int, target: int | None = None, shared: bool = False) -> Spec:
    """Text to text, with vocabularies of these sizes, of which symbol 4 begins words; without `target` both sides share
    one."""
    size = source if target is None else target
    return Spec((TokenSource(source, (4,)),), size, shared or target is None, target_starts=(4,))


def speech_spec(features: int, target: int) -> Spec:
    """Recordings to text."""
    return Spec((FeatureSource(features),), target, target_starts=(4,))


def target_spec(size: int) -> Spec:
    """Text alone."""
    return Spec((), size, target_starts=(4,))


def criterion_of(*terms) -> Criterion:
    """The sum of some terms, by their options."""
    return Criterion(CriterionConfig(terms={term.type: term for term in terms}))


def speech_parts(layer: str = "conformer", kernel: int = 15, factor: int = 4, channels: int = 32, **encoder) -> dict:
    """The front-end and the encoder of a SpeechConfig: `encoder` are options of it."""
    kind = preset("layer", layer)
    if layer != "transformer":
        kind.kernel = kernel
    return {
        "frontend": SubsamplingConfig(factor=factor, channels=channels),
        "encoder": SpeechEncoderConfig(**encoder, layer=kind),
    }
