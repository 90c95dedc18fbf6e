"""What s2s-export format=huggingface writes is loaded by transformers, and gives the same logits and lines there."""

import pytest
import sentencepiece
import torch

from s2s.checkpoint.loading import load_model
from s2s.config import compose
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.setting import Sides
from s2s.errors import UserError
from s2s.interop import huggingface
from s2s.tasks.translation import TranslationConfig, TranslationTask
from s2s.text.bytes import ByteTokenizer
from s2s.text.sentencepiece import SentencePieceTokenizer
from s2s.text.subword_nmt import SubwordNmtTokenizer
from s2s.text.vocabulary import BOS, EOS, SPECIALS, Vocabulary
from s2s_cli import importing
from s2s_cli.train import TrainCommand
from tests.interop.taught import words

transformers = pytest.importorskip("transformers")

SYMBOLS = ["das", "haus", "ist", "klein", "ein", "hund", "und", "der", "alte", "baum"]
SIZE = ["model=transformer", *(f"model.{side}.{key}" for side in ("encoder", "decoder") for key in (
    "width=16", "heads=2", "ffn_width=24")), "model.encoder.layers=2", "model.decoder.layers=1"]  # fmt: skip
T5 = ["model.norm_type=rms", "model.positions=relative_bias", "model.activation=geglu", "model.bias=false",
      "model.scale_attention=false", "model.scale_embeddings=false"]  # fmt: skip
LAYOUTS = {
    "pegasus": [],
    "marian": ["model.norm=post", "model.activation=silu", "model.output.bias=true"],
    "marian untied": ["model.norm=post", "model.activation=gelu", "model.tie_embeddings=inputs"],
    "bart": ["model.norm=post", "model.positions=learned", "model.embedding_norm=true", "model.max_positions=40"],
    "mbart": ["model.positions=learned", "model.embedding_norm=true", "model.scale_embeddings=false"],
    "t5": [*T5, "model.scale_output=true", "model.encoder.head_width=10", "model.decoder.head_width=10"],
    "t5 untied": [*T5, "model.tie_embeddings=inputs"],
}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    path = tmp_path_factory.mktemp("pieces")
    made = []
    for name in ("one", "other"):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(line[:: 1 if name == "one" else -1] for line in words(60, SYMBOLS)),
            model_prefix=str(path / name), vocab_size=50, minloglevel=4, hard_vocab_limit=False, pad_id=0, unk_id=1,
            bos_id=2, eos_id=3)  # fmt: skip
        config = SentencePieceTokenizer.Config(model=str(path / f"{name}.model"))
        made.append(SentencePieceTokenizer.learn(config))
    return made


def subword_nmt():
    symbols = Vocabulary([*SPECIALS, "a", "b"])
    return SubwordNmtTokenizer(SubwordNmtTokenizer.Config(), b"#version: 0.2\na b</w>\n", symbols)


def model_of(task, *options):
    config = compose.compose(TrainCommand, [word.split("=") for word in [*SIZE, *options]]).model
    torch.manual_seed(1)
    model = task.model(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1 or "relative" in name:
                p.normal_(float("norm.weight" in name), 0.3)
    return model


@torch.no_grad()
@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name in ("pegasus", "t5") else pytest.mark.slow) for name in LAYOUTS])  # fmt: skip
def test_same_logits_in_transformers(name, tokenizers, tmp_path):
    task = TranslationTask(tokenizers[0], tokenizers[0])
    compare_logits(model_of(task, *LAYOUTS[name]), task, tmp_path / "out", name.split()[0])


@torch.no_grad()
def test_a_vocabulary_for_each_side(tokenizers, tmp_path):
    task = TranslationTask(*tokenizers)
    compare_logits(model_of(task, "model.norm=post"), task, tmp_path / "out", "marian")


def compare_logits(model, task, folder, kind):
    huggingface.write(model, task, folder)
    theirs, loading = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, output_loading_info=True)
    assert theirs.config.model_type == kind
    assert not [names for names in loading.values() if names], loading
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    lines = [*words(9, SYMBOLS), "xyz"]
    sources = task.encode(lines)
    batch = tokenizer(lines, padding=True, return_tensors="pt")
    for ids, real, ours in zip(batch["input_ids"], batch["attention_mask"], sources, strict=True):
        assert ids[real.bool()].tolist() == [*ours, EOS]
    target = torch.randint(4, len(task.target_tokenizer.vocabulary), (len(lines), 9))
    target[:, 0] = BOS
    end = theirs.generation_config.eos_token_id
    short = theirs.generate(**batch, max_new_tokens=3, sequence_bias=[[[end], 100.0]])
    assert (short[:, 1] != end).all()  # an output has a token before EOS, as by our own defaults
    assert (short[:, 2] == end).all()
    expected = theirs(**batch, decoder_input_ids=target).logits
    (source,) = task.collate_sources(sources).sources
    logits = model.decode(model.encode((source,)), target).logits()
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    importing.write(folder, "auto", folder.parent / "again")
    again, _, _ = load_model(str(folder.parent / "again"))
    torch.testing.assert_close(again.decode(again.encode((source,)), target).logits()[..., 3:], logits[..., 3:])
    row = target[0, 1:].tolist()
    assert tokenizer.decode(row, skip_special_tokens=True) == task.target_tokenizer.decode(row).strip()


@torch.no_grad()
@pytest.mark.parametrize("copied", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_languages_are_symbols_before_a_line_and_a_forced_first_token(copied, tokenizers, tmp_path):
    spoken = ["de", "en", "fr"]
    config = SentencePieceTokenizer.Config(model=tokenizers[0].config.model, reserved=[f"<{name}>" for name in spoken])
    made = SentencePieceTokenizer.learn(config)
    task = TranslationTask(made, made, config=TranslationConfig(source_tags=["source_language"],
                                                                target_tag="target_language"))  # fmt: skip
    task.tag_values = {"source_language": spoken[:2], "target_language": spoken}
    model = model_of(task, "model.positions=sinusoidal_fairseq", "model.output.bias=true")
    model.output.bias.zero_()
    if copied:  # the decoder begins with EOS, as in an imported model
        model.decoder.embedding.tokens.weight[BOS] = model.decoder.embedding.tokens.weight[EOS]
        model.output.bias[BOS] = -100
    folder = tmp_path / "out"
    huggingface.write(model, task, folder)
    theirs, loading = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, output_loading_info=True)
    assert theirs.config.model_type == "m2m_100"
    assert not [names for names in loading.values() if names], loading
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    number = [tokenizer.convert_tokens_to_ids(f">>{name}<<") for name in spoken]
    lines = words(6, SYMBOLS)
    sources = task.tagged(task.encode(lines), {"source_language": "en", "target_language": "fr"})
    (source,) = task.collate_sources(sources).sources
    batch = tokenizer([f">>en<< {line}" for line in lines], padding=True, return_tensors="pt")
    rows, begin = huggingface.rows_of("m2m_100", model, task)
    for ids, real, ours in zip(batch["input_ids"], batch["attention_mask"], sources, strict=True):
        assert ids[real.bool()].tolist() == rows["source"][[*ours, EOS]].tolist()
    options = DecodeConfig(beam_size=1, max_length_a=0, max_length_b=12)
    generator = Generator([model], options, Sides.of(task))
    for target in ("fr", "de"):
        sources = task.tagged(task.encode(lines), {"source_language": "en", "target_language": target})
        output = theirs.generate(**batch, num_beams=1, max_new_tokens=12,
                                 forced_bos_token_id=number[spoken.index(target)])  # fmt: skip
        for (ours,), ids in zip(generator.generate(sources), output, strict=True):
            wanted = [*rows["target"][list(ours.ids)].tolist()]
            assert ids[: 1 + len(wanted)].tolist() == [begin, *wanted]
        assert ">>" not in tokenizer.decode(output[0], skip_special_tokens=True)
    importing.write(folder, "auto", tmp_path / "again")
    again, back, _ = load_model(str(tmp_path / "again"))
    assert (back.source_tags, back.target_tag, back.tags) == (("source_language",), "target_language", task.tag_values)
    sources = back.tagged(back.encode(lines), {"source_language": "en", "target_language": "fr"})
    (other,) = back.collate_sources(sources).sources
    torch.testing.assert_close(again.encode((other,)).top[0, :2], model.encode((source,)).top[0, :2])
    task.source_tags, task.target_tag, task.first_tag, task.tags = (
        (),
        None,
        "target_language",
        {"target_language": ["fr"]},
    )
    huggingface.write(model, task, tmp_path / "one")
    alone = transformers.GenerationConfig.from_pretrained(tmp_path / "one")
    assert alone.decoder_start_token_id == rows["target"][task.first_symbols()[0]]


def test_what_no_layout_has_is_refused_by_its_options(tokenizers, tmp_path):
    def message(task, *options):
        with pytest.raises(UserError) as error:
            huggingface.write(model_of(task, *options), task, tmp_path / "refused")
        assert not (tmp_path / "refused").exists()
        return str(error.value)

    task = TranslationTask(tokenizers[0], tokenizers[0])
    text = message(task, "model.positions=rotary", "model.activation=swiglu", "model.decoder.kv_heads=1")
    assert "nearest layout" in text
    assert "no model.positions=rotary, and no model.activation=swiglu, and no model.decoder.kv_heads=1" in text
    assert "model.positions=rotary" in message(task, "model.positions=rotary", *T5[:1], *T5[2:])
    assert "LayeredEncoder" not in message(task, "model.encoder=gru", "model.decoder=transformer")
    assert "tokenizer=bytes" in message(TranslationTask(*[ByteTokenizer.learn(ByteTokenizer.Config())] * 2))
    assert "tokenizer=subword_nmt" in message(TranslationTask(*[subword_nmt()] * 2))  # it has a model of its own kind
    assert "marian, has no model.norm=pre" in message(TranslationTask(*tokenizers))
    assert "no tokenizer.joint=false" in message(TranslationTask(*tokenizers), *T5, "model.scale_output=true")
    told = TranslationTask(tokenizers[0], tokenizers[0])
    told.source_tags, told.tags = ("a", "b"), {"a": ["x"], "b": ["x"], "c": ["x"]}
    with pytest.raises(
        UserError, match=r"tags that the model reads \(c\), and no task.source_tags=\[a,b\]: one symbol"
    ):
        huggingface.write(model_of(task), told, tmp_path / "refused")
    tokenizers[1].config.lowercase = True
    assert "target tokenizer.lowercase=true" in message(TranslationTask(*tokenizers), "model.norm=post")
    tokenizers[1].config.lowercase = False
