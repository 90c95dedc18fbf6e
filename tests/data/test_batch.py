"""A batch in two halves has the examples, and the loss, of the whole."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.criterions.terms.cross_entropy import CrossEntropyConfig
from s2s.data.store import Store
from s2s.models.encoders.transformer import EncoderConfig
from s2s.models.transformer import TransformerConfig
from s2s.tasks.translation import TranslationTask
from s2s.training.splitting import PIECE, pieces
from tests.specs import criterion_of


def to_single(batch) -> list:
    """The batch halved until it holds single examples."""
    halves = batch.halves()
    return [batch] if halves is None else [single for half in halves for single in to_single(half)]


@pytest.mark.parametrize("rows", [None, [3, 1, 5, 2], [11]])
def test_halves_of_halves_are_the_examples_one_by_one(store, rows):
    data = Store(store)
    task = TranslationTask.setup(data)
    dataset = task.dataset(data.split("train"))
    examples = [17, 3, 200, 4, 250, 6, 1, 99, 180, 21, 0]
    batch = dataset.collate(examples, rows and np.array(rows))
    batch.tags = {"number": torch.tensor(examples) % 3}
    first, second = batch.halves()
    assert abs(len(first.target) - len(second.target)) <= 1
    assert first.counts.sentences + second.counts.sentences == 11
    assert first.sources[0].values.size(1) == first.sources[0].lengths.max()  # no padding that the half does not need
    singles = to_single(batch)
    for example, single in zip(examples, singles, strict=True):
        alone = dataset.collate([example], rows and np.ones(1, np.int64))
        assert single.ids.tolist() == [example]
        assert single.tags["number"].tolist() == [example % 3]
        assert single.counts == alone.counts
        for mine, other in [(single.sources[0], alone.sources[0])]:
            assert mine.values.equal(other.values)
            assert mine.lengths.equal(other.lengths)
            assert rows is None or all(a.equal(b) for a, b in zip(mine.packing, other.packing, strict=True))
        for name in ("decoder_input", "target", "target_lengths"):
            assert getattr(single, name).equal(getattr(alone, name)), name
        assert rows is None or all(a.equal(b) for a, b in zip(single.target_packing, alone.target_packing, strict=True))

    torch.manual_seed(0)
    stack = EncoderConfig(1, 16, 2, None, 32)
    model = task.model(TransformerConfig(encoder=stack, decoder=stack, dropout=0.0)).double()
    loss = criterion_of(CrossEntropyConfig())
    parts = [loss(model, half) for half in (first, second)]
    torch.testing.assert_close(sum(part.sum for part in parts), loss(model, batch).sum, rtol=1e-12, atol=0)
    assert sum(part.count for part in parts) == batch.counts.target


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(10, 300), st.booleans())
@settings(max_examples=30)
def test_pieces_are_within_the_limit_and_together_the_batch(store, seed, count, most, packed):
    data = Store(store)
    dataset = TranslationTask.setup(data).dataset(data.split("train"))
    rng = np.random.default_rng(seed)
    examples = rng.choice(400, count, replace=False)
    rows = np.diff([0, *sorted(set(rng.integers(1, count, 5))), count]) if packed and count > 1 else None
    batch = dataset.collate(examples, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PIECE, "tokens", most)
        found = pieces(batch)
    assert [i for piece in found for i in piece.ids.tolist()] == examples.tolist()
    for piece in found:
        assert max(piece.counts.source, piece.counts.target) <= most or len(piece.ids) == 1
    assert sum(piece.counts.target for piece in found) == batch.counts.target
    if max(batch.counts.source, batch.counts.target) <= most:
        assert found == [batch]
