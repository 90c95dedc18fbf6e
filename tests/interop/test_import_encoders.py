"""BERT, RoBERTa and XLM-R come in as encoders with the same states, and models begin with them."""

import json

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file

from s2s.checkpoint.loading import load_model
from tests.interop.taught import words

transformers = pytest.importorskip("transformers")

SYMBOLS = ["das", "haus", "ist", "klein", "ein", "hund", "und", "der", "alte", "baum"]
SIZE = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, initializer_range=0.2,
            max_position_embeddings=34)  # fmt: skip
CLASSES = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta"}


def tokenizer(kind, path):
    """Write the tokenizer's files. Returns a function from lines to ids, and the number of symbols."""
    import tokenizers

    if kind == "xlm-roberta":
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(words(60, SYMBOLS)), model_prefix=str(path / "sentencepiece.bpe"), vocab_size=45,
            minloglevel=4, hard_vocab_limit=False, unk_id=0, bos_id=1, eos_id=2)  # fmt: skip
        spm = sentencepiece.SentencePieceProcessor(model_file=str(path / "sentencepiece.bpe.model"))
        return lambda line: [0, *(i + 1 for i in spm.encode(line)), 2], len(spm) + 2
    if kind == "roberta":
        made = tokenizers.ByteLevelBPETokenizer()
        made.train_from_iterator(words(60, SYMBOLS), vocab_size=290, show_progress=False,
                                 special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])  # fmt: skip
        made.save_model(str(path))
        return lambda line: [0, *made.encode(line).ids, 2], made.get_vocab_size()
    made = tokenizers.BertWordPieceTokenizer()
    made.train_from_iterator(words(60, SYMBOLS), vocab_size=60, show_progress=False)
    made.save(str(path / "tokenizer.json"))
    begin, end = map(made.token_to_id, ("[CLS]", "[SEP]"))
    return lambda line: [begin, *made.encode(line, add_special_tokens=False).ids, end], made.get_vocab_size()


def model_in(kind, path):
    """Write a model of transformers with its tokenizer. Returns the model and the function to ids."""
    path.mkdir()
    encode, size = tokenizer(kind, path)
    torch.manual_seed(1)
    name = CLASSES[kind]
    theirs = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(vocab_size=size, **SIZE))
    with torch.no_grad():
        for each in theirs.parameters():
            each.add_(0.1 * torch.randn_like(each))
    theirs.save_pretrained(path)
    return theirs.eval(), encode


@pytest.mark.parametrize("kind", CLASSES)
@torch.no_grad()
def test_states_are_those_of_transformers(kind, tmp_path, s2s, capsys):
    theirs, encode = model_in(kind, tmp_path / "theirs")
    run = tmp_path / "run"
    assert s2s("importing", f"from={tmp_path / 'theirs'}", f"output={run}") == 0
    printed = capsys.readouterr().err
    assert f"{kind} (Hugging Face), an encoder" in printed
    assert "for the same lines as before" not in printed
    model, task, config = load_model(str(run))
    assert config["model"]["type"] == "transformer_encoder"
    lines = words(20, SYMBOLS)
    sources = task.tagged(task.encode(lines), {})
    (source,) = task.collate_sources(sources).sources
    states = model.encode((source,)).top
    for line, ours, row in zip(lines, sources, states, strict=True):
        expected = theirs(input_ids=torch.tensor([encode(line)])).last_hidden_state[0]
        assert len(ours) + 1 == len(expected)
        torch.testing.assert_close(row[: len(expected)], expected, rtol=1e-4, atol=1e-4)
    (tmp_path / "in").write_text("das haus\n")
    assert s2s("generate", f"checkpoint={run}", f"input={tmp_path / 'in'}") == 2
    assert "is an encoder alone, which writes nothing" in capsys.readouterr().err


def test_a_model_begins_with_the_encoder_and_its_embeddings(tmp_path, s2s, capsys):
    """In two stages, as SixT+: first the decoder alone is trained; one layer has no residual connection."""
    model_in("xlm-roberta", tmp_path / "theirs")
    xlm = tmp_path / "xlm"
    assert s2s("importing", f"from={tmp_path / 'theirs'}", f"output={xlm}") == 0
    for name in ("train", "valid"):
        for ending in ("a", "b"):
            (tmp_path / f"{name}.{ending}").write_text("\n".join(words(20, SYMBOLS)) + "\n")
    assert s2s("preprocess", "source=a", "target=b", f"train={tmp_path}/train", f"valid={tmp_path}/valid", "workers=1",
               "tags=[begin=begin]", f"tokenizer_from={xlm}", f"store={tmp_path}/store") == 0  # fmt: skip
    size = [f"model.{side}.{key}" for side in ("encoder", "decoder")
            for key in ("layers=2", "width=16", "heads=2", "ffn_width=24")]  # fmt: skip
    options = ["model.norm=post", "model.norm_epsilon=1e-12", "model.positions=learned", "model.max_positions=32",
               "model.activation=gelu", "model.embedding_norm=true", "model.scale_embeddings=false",
               "model.output.bias=true", "model.encoder=no_residual",
               "task.source_tags=[begin]", f"store={tmp_path}/store", "device=cpu",
               "train.samples=0", "data.batch_tokens=200", "optim.lr=1e-2", "optim.warmup_updates=1"]  # fmt: skip
    start = [f"train.init.encoder={xlm}", f"train.init.embeddings={xlm}"]
    stages = "train.stages=[{updates:2,freeze:[encoder,embeddings]},{}]"
    for updates in (2, 4):
        assert s2s("train", f"run={tmp_path}/run{updates}", *size, *options, *start, stages,
                   f"train.max_updates={updates}") == 0  # fmt: skip
    assert f"init: encoder, embeddings from {xlm}" in capsys.readouterr().err.replace(
        "embeddings, encoder", "encoder, embeddings"
    )
    before, first, second = (load_file(folder / "model.safetensors") for folder in
                             (xlm, tmp_path / "run2/last", tmp_path / "run4/last"))  # fmt: skip
    for name, value in before.items():
        assert first[name].equal(value), name
        assert not second[name].equal(value), name
        lent = f"decoder.{name.removeprefix('frontend.')}"
        if name.startswith("frontend.embedding.") and lent in first:
            assert first[lent].equal(value), lent
    assert "decoder.embedding.positions.weight" in first
    # An encoder has nothing for a decoder.
    assert s2s("train", f"run={tmp_path}/wrong", *size, *options, f"train.init.checkpoint={xlm}") == 2
    assert "decoder.layers.0" in capsys.readouterr().err


def test_what_is_no_such_encoder_is_refused(tmp_path, s2s, capsys):
    model_in("bert", tmp_path / "theirs")
    file = tmp_path / "theirs/config.json"
    config = json.loads(file.read_text())
    for change, message in (
        ({"is_decoder": True}, "is_decoder=True: not read; False is needed"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type=relative_key: not read"),
        ({"hidden_act": "tanh"}, "activation function tanh: not known"),
        ({"num_hidden_layers": 3}, "encoder.layer.2.attention.self.query.weight missing"),
    ):
        file.write_text(json.dumps(config | change))
        assert s2s("importing", f"from={tmp_path / 'theirs'}", f"output={tmp_path / 'run'}") == 2
        assert message in capsys.readouterr().err
