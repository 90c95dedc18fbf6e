"""Outputs that point at the source, or copy from it, against loops over single positions, and through the commands."""

import json

import pytest
import torch

from s2s.backends.prepare import prepare
from s2s.config import compose
from s2s.data.batch import Source
from s2s.data.spec import Spec, TokenSource
from s2s.errors import UserError
from s2s.models.transformer import Transformer
from s2s.text.vocabulary import BOS, EOS

V, D = 13, 16
SIZES = [f"{side}.{key}" for side in ("encoder", "decoder") for key in ("layers=1", "width=16", "heads=2",
                                                                       "ffn_width=24")]  # fmt: skip


def model_of(spec: Spec, *words: str) -> Transformer:
    torch.manual_seed(0)
    pairs = [compose.Override(*word.split("=")) for word in [*SIZES, "dropout=0", "positions=none", *words]]
    built = compose.build(Transformer.Config, compose.by_key(pairs))
    built.fill()
    return Transformer(built.config, spec).eval()


def pointer(attention="additive"):
    spec = Spec((TokenSource(V),), 54, positions=True)
    return model_of(spec, "output=pointer", f"output.attention={attention}", "tie_embeddings=none")


SOURCE = Source(torch.tensor([[7, 5, 11, 9, EOS], [6, 8, EOS, 0, 0]]), torch.tensor([5, 3]))
POINTED = torch.tensor([[BOS, 5, 4, 7], [BOS, 5, 4, 5]])  # positions 2, 1, 4 and 2, 1, 2


@pytest.mark.parametrize("attention", ["additive", "dot"])
def test_a_pointer_rates_the_positions_of_each_source(attention):
    model = pointer(attention)
    with torch.no_grad():
        memory = model.encode((SOURCE,))
        logits = model.decode(memory, POINTED).logits()
        assert logits.shape == (2, 4, 4 + 5)
        # What the decoder reads are the tokens that were pointed at.
        shown = torch.tensor([[BOS, 5, 7, 9], [BOS, 8, 6, 8]])
        states, _ = model.decoder.decode(model._seen(memory), memory.visible(), shown)
        scores = model.output.scores
        for row, length in enumerate(SOURCE.lengths.tolist()):
            for t in range(4):
                keys = [scores.key.weight @ place for place in memory.top[row, :length]]
                if attention == "additive":
                    query = scores.query.weight @ states[row, t]
                    each = [scores.sum.weight[0] @ torch.tanh(query + key + scores.key.bias) for key in keys]
                else:
                    each = [states[row, t] @ key for key in keys]
                nothing = float("-inf")
                expected = [nothing] * 3 + [each[-1], *each[:-1]] + [nothing] * (6 - length)
                torch.testing.assert_close(logits[row, t], torch.tensor(expected), rtol=1e-4, atol=1e-5)
        stepping = prepare(model, "fp32", "auto")
        state = stepping.start(stepping.encode((SOURCE,)), 1)
        for t in range(4):
            torch.testing.assert_close(stepping.step(POINTED[:, t].contiguous(), state), logits[:, t],
                                       rtol=1e-4, atol=1e-5)  # fmt: skip


def test_a_pointer_needs_positions():
    with pytest.raises(UserError, match="target_tokenizer=positions"):
        model_of(Spec((TokenSource(V),), V), "output=pointer", "tie_embeddings=none")


@pytest.mark.parametrize("shared", [True, False])
def test_a_copy_mixture_is_the_sum_of_both_ways(shared):
    # Without one vocabulary for both sides, source tokens 4 ... are target tokens 12, 11 ..., and the last is unknown.
    same = (0, 1, 2, 3, *range(V - 1, 4, -1), 1)
    model = model_of(Spec((TokenSource(V),), V, shared, same=None if shared else same), "output=copy")
    shown = torch.tensor([[BOS, 5, 4, 7], [BOS, 5, 4, 5]])
    with torch.no_grad():
        memory = model.encode((SOURCE,))
        logs = model.decode(memory, shown).logits()
        states, _ = model.decoder.decode(model._seen(memory), memory.visible(), shown)
        for row, length in enumerate(SOURCE.lengths.tolist()):
            for t in range(4):
                state, places = states[row, t], memory.top[row, :length]
                weights = torch.stack([state @ (model.output.scores.key.weight @ place) for place in places]).softmax(0)
                read = (weights[:, None] * places).sum(0)
                share = model.output.gate(torch.cat([state, read])).sigmoid()
                expected = share * (model.output.weight @ state).softmax(0)
                for weight, token in zip(weights, SOURCE.values[row, :length].tolist(), strict=True):
                    expected[token if shared else same[token]] += ((1 - share) * weight)[0]
                torch.testing.assert_close(logs[row, t], expected.log(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logs.exp().sum(2), torch.ones(2, 4))
        stepping = prepare(model, "fp32", "auto")
        state = stepping.start(stepping.encode((SOURCE,)), 1)
        for t in range(4):
            torch.testing.assert_close(stepping.step(shown[:, t].contiguous(), state), logs[:, t], rtol=1e-4, atol=1e-5)


def write(folder, name, count, wrong=False):
    random = torch.Generator().manual_seed(count)
    with open(folder / f"{name}.src", "w") as sources, open(folder / f"{name}.tgt", "w") as targets:
        for i in range(count):
            numbers = torch.randperm(20, generator=random)[: 2 + i % 4]
            print(*numbers.tolist(), file=sources)
            print(*((numbers.argsort() + 1).tolist() if not wrong else [9]), file=targets)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    from tests.conftest import _call

    folder = tmp_path_factory.mktemp("pointing")
    for name, count in (("train", 200), ("valid", 8), ("test", 6)):
        write(folder, name, count)
    (folder / "wrong").mkdir()
    write(folder / "wrong", "train", 5, wrong=True)
    with pytest.MonkeyPatch.context() as patch:
        for parts in (("train", "valid", "test"), ("wrong/train",)):
            words = [f"{part.rpartition('/')[2]}={folder}/{part}" for part in parts]
            made = folder / ("store" if len(parts) > 1 else "wrong_store")
            assert _call(patch, "s2s_cli.preprocess", "source=src", "target=tgt", *words, "workers=1",
                         "source_tokenizer=words", "target_tokenizer=positions", f"store={made}") == 0  # fmt: skip
    return folder / "store"


TRAIN = ["model=pointer_tiny", "model.encoder.width=16", "model.decoder.width=16", "device=cpu", "train.loggers=[]",
         "data.batch_tokens=200", "optim.lr=1e-2", "optim.warmup_updates=5"]  # fmt: skip


def test_a_pointer_network_goes_through_the_commands(store, tmp_path, s2s, capsys):
    run = tmp_path / "run"
    for updates in (3, 6):
        assert s2s("train", f"store={store}", f"run={run}", *TRAIN, f"train.max_updates={updates}",
                   "train.valid_updates=3") == 0  # fmt: skip
    for words in (["decode.batch_tokens=20"], ["decode.search=sample"]):
        capsys.readouterr()
        assert s2s("generate", f"checkpoint={run}", f"store={store}", "split=test", "device=cpu", "format=json",
                   "decode.no_repeat_ngram=1", *words) == 0  # fmt: skip
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        sources = (store.parent / "test.src").read_text().splitlines()
        for row, source in zip(rows, sources, strict=True):
            places = list(map(int, row["hypothesis"].split()))
            assert len(set(places)) == len(places)
            assert all(1 <= place <= len(source.split()) for place in places)


def test_a_target_beyond_its_source_is_named(store, tmp_path, s2s, capsys):
    assert s2s("train", f"store={store.parent}/wrong_store", f"run={tmp_path}/run", *TRAIN, "train.max_updates=1") == 2
    assert "example 0: the target holds what is no position of its source of 2 tokens" in capsys.readouterr().err


def test_a_pointer_and_packed_rows_are_refused(store, tmp_path, s2s, capsys):
    code = s2s("train", f"store={store}", f"run={tmp_path}/run", *TRAIN, "train.max_updates=1", "data.batching=packed",
               "data.row_tokens=40")  # fmt: skip
    assert code == 2
    assert "several sources of a row would share positions" in capsys.readouterr().err


def test_tokens_of_positions_that_an_encoder_put_together_are_not_copied():
    """Rows of other lengths, in a batch that is as long as it was."""
    model = model_of(Spec((TokenSource(V),), V, True), "output=copy")
    encode = model.encoder.forward

    def shorter(states):
        memory = encode(states)
        memory.lengths = torch.tensor([5, 2])
        return memory

    model.encoder.forward = shorter
    with torch.no_grad(), pytest.raises(UserError, match="keep its length"):
        model.decode(model.encode((SOURCE,)), POINTED)


def test_sources_of_an_output_that_reads_them_are_not_packed():
    from s2s.decoding.prepacking import prepacking

    with pytest.raises(UserError, match=r"decode.pack_source=true: the output, a Copy, reads the source"):
        prepacking(model_of(Spec((TokenSource(V),), V, True), "output=copy"))
