"""The multi-label output against loops over words, trigrams and rows; and a run with its own loss."""

import math
import zlib

import pytest
import torch

from s2s.criterions.criterion import Criterion, CriterionConfig
from s2s.criterions.terms.multilabel import MultilabelTermConfig
from s2s.data.batch import Batch, Counts, Source
from s2s.data.spec import Spec, TokenSource
from s2s.errors import UserError
from s2s.models.outputs.multilabel import Multilabel, MultilabelConfig
from s2s.models.transformer import Transformer
from s2s.nn.trigrams import trigram_rows
from s2s.text.vocabulary import BOS, SPECIALS

WORDS = (*SPECIALS, "tea", "sea", "a", "teatime", "")
ROWS, HASHES = 50, 2


def pattern(word):
    """The rows of a word, by hand."""
    text = f"\0{word}\0" if word else "\0\0\0"
    return {zlib.crc32(f"{n} {text[i : i + 3]}".encode()) % ROWS for i in range(len(text) - 2) for n in range(HASHES)}


def output():
    torch.manual_seed(0)
    made = Multilabel(MultilabelConfig(rows=ROWS, hashes=HASHES), 8, len(WORDS))
    made.see(Spec((), len(WORDS), target_symbols=WORDS))
    return made


def test_a_word_is_scored_by_its_rows_and_trained_by_all():
    made, states = output(), torch.randn(3, 8)
    scores = (states @ made.row_weight.T + made.row_bias).tolist()
    for logits, row in zip(made(states).tolist(), scores, strict=True):
        assert logits == pytest.approx([sum(row[i] for i in pattern(word)) for word in WORDS], abs=1e-4)
    target, expected = torch.tensor([4, 7, 3]), 0.0
    for word, row in zip(target.tolist(), scores, strict=True):
        for i, score in enumerate(row):
            probability = 1 / (1 + math.exp(-score))
            expected -= math.log(probability if i in pattern(WORDS[word]) else 1 - probability)
    assert made.loss(states, target).item() == pytest.approx(expected, rel=1e-5)
    # The softmax over words compares the likelihoods of their patterns: the loss of each differs by its logit.
    losses = torch.stack([made.loss(states[:1], torch.tensor([word])) for word in range(len(WORDS))])
    torch.testing.assert_close((-losses).softmax(0), made(states[:1])[0].softmax(0))


def test_words_of_like_spelling_share_rows_and_each_row_counts_once():
    table = trigram_rows(WORDS, ROWS, HASHES)
    assert [set(row.tolist()) - {ROWS} for row in table] == [pattern(word) for word in WORDS]
    tea, teatime = (set(trigram_rows([word], 10**6, 4)[0].tolist()) for word in ("tea", "teatime"))
    assert len(tea) == 12
    assert len(tea & teatime) == 8  # "\0te" and "tea"


def test_the_term_is_the_loss_for_each_target_token_without_padding():
    torch.manual_seed(0)
    config = Transformer.Config(output=MultilabelConfig(rows=ROWS, hashes=HASHES), tie_embeddings="none", dropout=0.0)
    for stack in (config.encoder, config.decoder):
        stack.layers, stack.width, stack.heads, stack.ffn_width = 1, 8, 2, 8
    model = Transformer(config, Spec((TokenSource(9),), len(WORDS), target_symbols=WORDS))
    target = torch.tensor([[4, 5, 3], [6, 3, 0]])
    batch = Batch(ids=torch.arange(2), sources=(Source(torch.tensor([[5, 6], [7, 3]]), torch.tensor([2, 2])),),
                  decoder_input=torch.tensor([[BOS, 4, 5], [BOS, 6, 0]]), target=target,
                  target_lengths=torch.tensor([3, 2]), counts=Counts(2, 4, 5, 0, 1))  # fmt: skip
    criterion = Criterion(CriterionConfig(terms={"multilabel": MultilabelTermConfig()}))
    criterion.check(model)
    states = model.decode(model.encode(batch.sources), batch.decoder_input).states
    loss = criterion(model, batch).sum
    torch.testing.assert_close(loss, model.output.loss(states[target != 0], target[target != 0]))
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    plain = Transformer(Transformer.Config(encoder=config.encoder, decoder=config.decoder), Spec((TokenSource(9),), 9))
    with pytest.raises(UserError, match=r"multilabel requires model\.output=multilabel"):
        criterion.check(plain)


def test_a_run_with_its_loss_decodes(s2s, capsys, store, tmp_path):
    size = [f"model.{side}.{key}" for side in ("encoder", "decoder") for key in ("layers=1", "width=16", "heads=2",
                                                                                "ffn_width=16")]  # fmt: skip
    run = tmp_path / "run"
    words = [f"store={store}", f"run={run}", "model=transformer_tiny", *size, "model.output=multilabel",
             "model.output.rows=200", "model.tie_embeddings=none", "criterion=multilabel", "train.max_updates=4",
             "train.valid_metrics=[loss]", "train.valid_updates=2", "data.batch_tokens=200", "device=cpu"]  # fmt: skip
    assert s2s("train", *words) == 0, capsys.readouterr().err
    assert s2s("generate", f"checkpoint={run}", f"store={store}", f"output={tmp_path / 'out'}", "device=cpu") == 0
    assert (tmp_path / "out").read_text().count("\n") == 10
