"""Specs of models, and criterions, in tests."""

from s2s.criterions.criterion import Criterion, CriterionConfig
from s2s.data.spec import FeatureSource, Spec, TokenSource


def text_spec(source: int, target: int | None = None, shared: bool = False) -> Spec:
    """Text to text, with vocabularies of these sizes; without `target` both sides share one."""
    return Spec((TokenSource(source),), source if target is None else target, shared or target is None)


def speech_spec(features: int, target: int) -> Spec:
    """Recordings to text."""
    return Spec((FeatureSource(features),), target)


def target_spec(size: int) -> Spec:
    """Text alone."""
    return Spec((), size)


def criterion_of(*terms) -> Criterion:
    """The sum of some terms, by their options."""
    return Criterion(CriterionConfig(terms={term.type: term for term in terms}))
