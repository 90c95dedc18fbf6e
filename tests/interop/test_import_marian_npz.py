"""Marian's own files come in: their weights are those of a model of transformers under the names that Marian gives
them, and CTranslate2's converter of such files says what is right, too."""

import zipfile

import numpy as np
import pytest
import sentencepiece
import torch

from s2s.checkpoint.loading import load_model
from s2s.errors import UserError
from s2s.interop.importing.imported import read_tensors
from s2s_cli import importing
from tests.interop.taught import compare, teach, words, written

transformers = pytest.importorskip("transformers")

SYMBOLS = ["das", "haus", "ist", "klein", "1", "no", "~", "'s", '"', "a: b"]
NAMES = ["</s>", "<unk>", *(symbol.replace(" ", "") for symbol in SYMBOLS)]
SYMBOLS = NAMES[2:]
PARTS = {"self_attn.q_proj": "self_{}q", "self_attn.k_proj": "self_{}k", "self_attn.v_proj": "self_{}v",
         "self_attn.out_proj": "self_{}o", "encoder_attn.q_proj": "context_{}q", "encoder_attn.k_proj": "context_{}k",
         "encoder_attn.v_proj": "context_{}v", "encoder_attn.out_proj": "context_{}o", "fc1": "ffn_{}1",
         "fc2": "ffn_{}2"}  # fmt: skip
NORMS = {"self_attn_layer_norm": "self_Wo", "encoder_attn_layer_norm": "context_Wo", "final_layer_norm": "ffn_ffn"}
CONFIG = """type: transformer
enc-depth: 2
dec-depth: 1
dim-emb: 16
transformer-heads: 2
transformer-dim-ffn: 24
transformer-ffn-activation: swish
transformer-preprocess: ""
transformer-postprocess: dan
transformer-postprocess-emb: d
transformer-decoder-autoreg: self-attention
transformer-no-projection: false
transformer-guided-alignment-layer: last
"""


def arrays(model, config=CONFIG):
    """The weights of a model of transformers as Marian has them: the inverse of the published conversion."""
    state = {name.removeprefix("model."): value.numpy() for name, value in model.state_dict().items()}
    found = {"Wemb": state["shared.weight"][:-1],
             "decoder_ff_logit_out_b": model.final_logits_bias.numpy()[:, :-1]}  # fmt: skip
    for name, value in state.items():
        side, _, rest = name.partition(".layers.")
        if rest:
            number, part, kind = rest.partition(".")[0], rest.partition(".")[2].rpartition(".")[0], rest.split(".")[-1]
            layer = f"{side}_l{int(number) + 1}_"
            if part in PARTS:
                letter = "W" if kind == "weight" else "b"
                found[layer + PARTS[part].format(letter)] = value.T if kind == "weight" else value[None]
            else:
                found[f"{layer}{NORMS[part]}_ln_{'scale' if kind == 'weight' else 'bias'}"] = value[None]
    return found | {"special:model.yml": np.frombuffer(config.encode() + b"\0", np.int8)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A taught model of transformers, and the same in the format of Marian."""
    path, V = tmp_path_factory.mktemp("marian"), len(NAMES)
    torch.manual_seed(0)
    model = transformers.MarianMTModel(transformers.MarianConfig(
        vocab_size=V + 1, d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, pad_token_id=V,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, activation_function="swish", eos_token_id=0,
        scale_embedding=True, decoder_start_token_id=V, forced_eos_token_id=None, dropout=0.0, init_std=0.2,
        max_position_embeddings=64))  # fmt: skip
    with torch.no_grad():
        model.model.shared.weight[V] = 0
        model.final_logits_bias.normal_(0, 0.5)[0, V] = -1e4  # Marian has no padding symbol
    teach(model, range(2, V), 0)
    model.generation_config = transformers.GenerationConfig(
        bad_words_ids=[[V]], decoder_start_token_id=V, eos_token_id=0, pad_token_id=V)  # fmt: skip
    np.savez(path / "model.npz", **arrays(model))
    quoted = (symbol.replace("\\", "\\\\").replace('"', '\\"') for symbol in NAMES)
    (path / "vocab.yml").write_text("".join(f'"{symbol}": {n}\n' for n, symbol in enumerate(quoted)))
    return path, model


@pytest.fixture(scope="module")
def imported(folder):
    output = folder[0] / "imported"
    report = importing.write(folder[0] / "model.npz", "auto", output, {"vocabularies": [str(folder[0] / "vocab.yml")]})
    assert report[0].startswith("Marian")
    return output


def test_same_logits_and_lines_as_transformers(folder, imported, s2s, tmp_path):
    theirs, V = folder[1], len(NAMES)
    model, task, _ = load_model(str(imported))
    known = {name: number for number, name in enumerate(NAMES)}

    def encode(line):
        return [*(known.get(word, 1) for word in line.split()), 0]

    lines = words(30, SYMBOLS)
    row = [V, 1, V, 0, *map(known.get, task.target_tokenizer.vocabulary.symbols[4:])]
    keep = torch.tensor([i for i in range(len(row)) if i not in (0, 2)])
    sources = task.collate_sources(task.encode(lines)).sources
    target = torch.tensor([[2, 4, 5, 6]] * len(lines))
    numbers = torch.tensor(row)
    with torch.no_grad():
        found = model.decode(model.encode(sources), target).logits()
        wanted = theirs(input_ids=numbers[sources[0].values], decoder_input_ids=numbers[target],
                        attention_mask=(torch.arange(sources[0].values.size(1)) < sources[0].lengths[:, None]).long()
                        ).logits[..., numbers]  # fmt: skip
    torch.testing.assert_close(found[..., keep], wanted[..., keep], rtol=1e-4, atol=1e-4)
    for beams in (1, 5):
        expected = written(theirs, lines, encode, lambda ids: " ".join(NAMES[i] for i in ids if 0 < i < V), beams, 30)
        compare(s2s, tmp_path, imported, lines, expected, beams, "decode.allow_unknown=true")


def test_same_lines_as_ctranslate2(folder, imported, s2s, tmp_path):
    """CTranslate2 has a converter of its own for these files."""
    ctranslate2 = pytest.importorskip("ctranslate2")
    vocabulary = str(folder[0] / "vocab.yml")
    converter = ctranslate2.converters.MarianConverter(str(folder[0] / "model.npz"), [vocabulary, vocabulary])
    converter.convert(str(tmp_path / "converted"))
    translator = ctranslate2.Translator(str(tmp_path / "converted"), intra_threads=1)
    lines = words(30, SYMBOLS)
    results = translator.translate_batch([line.split() for line in lines], beam_size=1, max_decoding_length=29)
    expected = [" ".join(result.hypotheses[0]) if len(result.hypotheses[0]) < 29 else None for result in results]
    compare(s2s, tmp_path, imported, lines, expected, 1, "decode=ctranslate2", "decode.max_length_b=28")


def test_pre_norm_scores_as_in_ctranslate2(folder, tmp_path):
    ctranslate2 = pytest.importorskip("ctranslate2")
    vocabulary = str(folder[0] / "vocab.yml")
    found = arrays(folder[1], CONFIG.replace("dan", "da").replace('preprocess: ""', "preprocess: n") +
                   "transformer-postprocess-top: n\n")  # fmt: skip
    found = {f"{name}_pre" if "_ln_" in name else name: value for name, value in found.items()}
    random = np.random.default_rng(2)
    for side in ("encoder", "decoder"):
        found |= {f"{side}_top_ln_{kind}": random.normal(size=(1, 16)).astype("float32") for kind in ("scale", "bias")}
    np.savez(tmp_path / "model.npz", **found)
    converter = ctranslate2.converters.MarianConverter(str(tmp_path / "model.npz"), [vocabulary, vocabulary])
    converter.convert(str(tmp_path / "converted"))
    importing.write(tmp_path / "model.npz", "marian", tmp_path / "run", {"vocabularies": [vocabulary]})
    model, task, _ = load_model(str(tmp_path / "run"))
    source, target = SYMBOLS[:4], SYMBOLS[2:7]
    (result,) = ctranslate2.Translator(str(tmp_path / "converted")).score_batch([source], [target])
    ids = task.target_tokenizer.encode(" ".join(target))
    with torch.no_grad():
        logits = model.decode(model.encode(task.collate_sources(task.encode([" ".join(source)])).sources),
                              torch.tensor([[2, *ids]])).logits()[0]  # fmt: skip
    scores = logits.log_softmax(-1)[range(6), [*ids, 3]]
    np.testing.assert_allclose(scores.numpy(), result.log_probs, atol=1e-4)


def test_a_sentencepiece_model_is_vocabulary_and_tokenizer(folder, tmp_path):
    lines = ["das haus ist klein", "ein hund", "der alte baum"] * 9
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(tmp_path / "vocab"), vocab_size=30, minloglevel=4,
        hard_vocab_limit=False, bos_id=-1, pad_id=-1, eos_id=0, unk_id=1)  # fmt: skip
    file = (tmp_path / "vocab.model").rename(tmp_path / "vocab.spm")
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(file))
    found = arrays(folder[1]) | {"Wemb": np.random.default_rng(1).normal(size=(len(theirs), 16)).astype("float32")}
    np.savez(tmp_path / "model.npz", **found | {"decoder_ff_logit_out_b": np.zeros((1, len(theirs)), "float32")})
    report = importing.write(tmp_path / "model.npz", "auto", tmp_path / "run", {"vocabularies": [str(file)]})
    assert not any("already split" in line for line in report)
    model, task, _ = load_model(str(tmp_path / "run"))
    ids = task.source_tokenizer.encode("das alte haus")
    assert [task.source_tokenizer.vocabulary.symbols[i] for i in ids] == theirs.encode("das alte haus", out_type=str)
    rows = torch.from_numpy(found["Wemb"])[theirs.encode("das alte haus")]
    torch.testing.assert_close(model.frontend.tokens.weight[ids], rows)


def test_what_is_not_read_is_refused(folder, s2s, tmp_path, capsys):
    path, model = folder

    def refused(*words, change=None, config=CONFIG, vocabulary=None):
        found = arrays(model, config)
        if change:
            change(found)
        np.savez(tmp_path / "model.npz", **found)
        given = [] if vocabulary == "" else [f"vocabularies={vocabulary or path / 'vocab.yml'}"]
        output = tmp_path / "new" / "run"
        assert s2s("importing", f"from={tmp_path / 'model.npz'}", f"output={output}", *given, *words) == 2
        assert not output.parent.exists()
        return capsys.readouterr().err

    message = refused(config=CONFIG.replace("swish", "gelu").replace("self-attention", "rnn").replace("dan", "dn"))
    for part in ("transformer-ffn-activation=gelu", "transformer-decoder-autoreg=rnn", "postprocess='dn'"):
        assert part in message
    assert "enc-depth=1,000,000: 1 to 1,000" in refused(config=CONFIG.replace("enc-depth: 2", "enc-depth: 1000000"))
    assert "transformer-dropout='x': float is needed" in refused(config=f"{CONFIG}transformer-dropout: x\n")
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,)}\n"
    with zipfile.ZipFile(tmp_path / "large.npz", "w") as file:
        file.writestr("Wemb.npy", b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(UserError, match=r"large\.npz: damaged"):
        read_tensors(tmp_path / "large.npz")
    assert "encoder_l1_ffn_W1 missing" in refused(change=lambda found: found.pop("encoder_l1_ffn_W1"))
    assert "extra left over" in refused(change=lambda found: found.update(extra=np.zeros((2, 2))))
    assert "has no special:model.yml" in refused(change=lambda found: found.pop("special:model.yml"))
    assert "is required" in refused(vocabulary="")
    assert "no such vocabulary" in refused(vocabulary="nowhere.yml")
    (tmp_path / "own.spm").write_bytes(b"")
    assert "splits the text" in refused(f"sentencepiece={tmp_path / 'x.model'}", vocabulary=tmp_path / "own.spm")
    (tmp_path / "small.yml").write_text("</s>: 0\n<unk>: 1\n")
    assert "2 symbols" in refused(vocabulary=tmp_path / "small.yml")
