"""Recurrent models come in: fairseq's `lstm`, and that of the package g2p_en. References of a few lines, with PyTorch's
own cells or numpy, say what is right."""

import argparse
import types

import numpy as np
import pytest
import torch
from torch import nn

from s2s.checkpoint.loading import load_model
from s2s.decoding.config import DecodeConfig
from s2s.interop.importing.g2p_en import LETTERS, PHONEMES
from s2s.text.vocabulary import BOS, EOS
from s2s_cli import importing
from tests.decoding.slow_search import beam_search
from tests.interop.taught import teach, words

SYMBOLS = ["das", "haus", "ist", "klein", "ein", "hund", "und", "der", "alte", "baum"]
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
KINDS = {  # options of fairseq, beside those of SIZES
    "lstm": {},
    "lstm_wiseman_iwslt_de_en": {"encoder_bidirectional": True, "encoder_hidden_size": 9, "decoder_hidden_size": 20,
                                 "decoder_out_embed_dim": 14, "decoder_attention": "True"},
    "lstm_luong_wmt_en_de": {"encoder_bidirectional": True, "encoder_hidden_size": 8, "decoder_attention": "0",
                             "share_all_embeddings": True},
}  # fmt: skip
SIZES = {"encoder_embed_dim": 16, "encoder_hidden_size": 16, "encoder_layers": 2, "encoder_bidirectional": False,
         "decoder_embed_dim": 16, "decoder_hidden_size": 16, "decoder_layers": 2, "decoder_out_embed_dim": 16,
         "decoder_attention": "1", "share_decoder_input_output_embed": False, "share_all_embeddings": False,
         "dropout": 0.1, "encoder_dropout_in": 0.0, "adaptive_softmax_cutoff": None}  # fmt: skip


class Reference(nn.Module):
    """What fairseq's `lstm` computes, for sentences of one length; its weights have the names that they have there."""

    def __init__(self, size, o):
        super().__init__()
        M, D = o.encoder_hidden_size * (1 + o.encoder_bidirectional), o.decoder_hidden_size
        self.encoder, self.decoder, self.M, self.D = nn.Module(), nn.Module(), M, D
        self.encoder.embed_tokens = nn.Embedding(size, o.encoder_embed_dim)
        self.encoder.lstm = nn.LSTM(o.encoder_embed_dim, o.encoder_hidden_size, o.encoder_layers,
                                    bidirectional=o.encoder_bidirectional, batch_first=True)  # fmt: skip
        self.decoder.embed_tokens = nn.Embedding(size, o.decoder_embed_dim)
        if o.share_all_embeddings:
            self.decoder.embed_tokens = self.encoder.embed_tokens
        self.decoder.layers = nn.ModuleList(nn.LSTMCell(D if n else D + o.decoder_embed_dim, D)
                                            for n in range(o.decoder_layers))  # fmt: skip
        if M != D:
            self.decoder.encoder_hidden_proj, self.decoder.encoder_cell_proj = nn.Linear(M, D), nn.Linear(M, D)
        if o.decoder_attention in ("1", "True"):
            self.decoder.attention = nn.Module()
            self.decoder.attention.input_proj = nn.Linear(D, M, bias=False)
            self.decoder.attention.output_proj = nn.Linear(M + D, D, bias=False)
        if o.decoder_out_embed_dim != D:
            self.decoder.additional_fc = nn.Linear(D, o.decoder_out_embed_dim)
        if not (o.share_all_embeddings or o.share_decoder_input_output_embed):
            self.decoder.fc_out = nn.Linear(o.decoder_out_embed_dim, size)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)

    def logits(self, source, target):
        """source: [B, S] with the end; target: [B, T] with the beginning. Returns [B, T, V]."""
        part, B = self.decoder, len(source)
        memory, (hidden, cell) = self.encoder.lstm(self.encoder.embed_tokens(source))
        count = len(part.layers)
        states = [[x.view(count, -1, B, x.size(2))[n].transpose(0, 1).reshape(B, -1) for x in (hidden, cell)]
                  for n in range(count)]  # fmt: skip
        if self.M != self.D:
            states = [[part.encoder_hidden_proj(h), part.encoder_cell_proj(c)] for h, c in states]
        fed, outputs = torch.zeros(B, self.D), []
        for token in target.T:
            x = torch.cat([part.embed_tokens(token), fed], 1)
            for n, layer in enumerate(part.layers):
                states[n] = layer(x, states[n])
                x = states[n][0]
            if hasattr(part, "attention"):
                scores = (memory * part.attention.input_proj(x)[:, None]).sum(2).softmax(1)
                context = (scores[:, :, None] * memory).sum(1)
                x = torch.tanh(part.attention.output_proj(torch.cat([context, x], 1)))
            fed = x
            outputs.append(part.additional_fc(x) if hasattr(part, "additional_fc") else x)
        x = torch.stack(outputs, 1)
        return part.fc_out(x) if hasattr(part, "fc_out") else x @ part.embed_tokens.weight.T

    def forward(self, input_ids, labels):
        before = torch.cat([torch.full_like(labels[:, :1], 2), labels[:, :-1]], 1)
        logits = self.logits(input_ids, before)
        return types.SimpleNamespace(loss=nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()))


class InOurOrder:
    """A reference as the slow search takes a model; source, target: its id of each of our symbols."""

    def __init__(self, logits, source, target):
        self.logits, self.source, self.target = logits, torch.tensor(source), torch.tensor(target)

    def encode(self, sources, tags=None):
        return self.source[sources[0].values]

    def decode(self, memory, target):
        logits = self.logits(memory, self.target[target])[..., self.target]
        logits[..., BOS] = -torch.inf  # a copy of the end, which the decoder begins with
        return types.SimpleNamespace(logits=lambda: logits)


def save(kind, folder, change=None, steps=150, **more):
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    options = argparse.Namespace(arch=kind, source_lang="de", target_lang="en", task="translation",
                                 **SIZES | KINDS.get(kind, {}) | more)  # fmt: skip
    reference = teach(Reference(14, options), range(4, 14), 2, steps=steps)
    target = SYMBOLS if options.share_all_embeddings else SYMBOLS[::-1]
    for language, symbols in {"de": SYMBOLS, "en": target}.items():
        (folder / f"dict.{language}.txt").write_text("".join(f"{symbol} 5\n" for symbol in symbols))
    content = {"args": options, "model": reference.state_dict()}
    if change:
        change(content)
    torch.save(content, folder / "checkpoint_best.pt")
    return reference, [*SPECIALS, *target]


def slowly(model, task, lines, beam):
    """The lines of the slow search."""
    config = DecodeConfig(beam_size=beam, stopping="first_finished", length_normalization="power",
                          length_penalty=1.0, min_length_a=0.0, min_length_b=1, max_length_a=0.0, max_length_b=28,
                          allow_unknown=True)  # fmt: skip
    best = [beam_search([model], list(source), config)[0][0] for source in task.encode(lines)]
    return [task.target_tokenizer.decode(ids) for ids in best]


def check(kind, tmp_path, s2s, beams, count, **more):
    reference, symbols = save(kind, tmp_path / "theirs", **more)
    report = importing.write(tmp_path / "theirs" / "checkpoint_best.pt", "auto", tmp_path / "ours")
    assert report[0].startswith(f"fairseq {kind}: ")
    assert "decode=fairseq" in report[-1]
    model, task, _ = load_model(str(tmp_path / "ours"))
    rows = []
    for tokenizer, known in ((task.source_tokenizer, [*SPECIALS, *SYMBOLS]), (task.target_tokenizer, symbols)):
        places = {symbol: number for number, symbol in enumerate(known)} | {"<bos>": 0}
        rows.append([1, 3, 2, 2, *(places[symbol] for symbol in tokenizer.vocabulary.symbols[4:])])
    theirs, lines = InOurOrder(reference.logits, *rows), words(count, SYMBOLS)
    target = torch.randint(4, len(rows[1]), (1, 9))
    target[:, 0] = BOS
    keep = [i for i in range(len(rows[1])) if i != BOS]
    with torch.no_grad():
        for ids in task.encode(lines):
            (source,) = task.collate_sources([ids]).sources
            assert source.values[0, -1] == EOS
            found = model.decode(model.encode((source,)), target).logits()[..., keep]
            torch.testing.assert_close(found, theirs.decode(theirs.encode((source,)), target).logits()[..., keep],
                                       rtol=1e-4, atol=1e-4)  # fmt: skip
            assert found.std() > 0.3
        (tmp_path / "in").write_text("\n".join(lines) + "\n")
        for beam in beams:
            expected = slowly(theirs, task, lines, beam)
            assert len(set(expected)) > len(lines) / 2
            assert s2s("generate", f"checkpoint={tmp_path / 'ours'}", f"input={tmp_path / 'in'}", "decode=fairseq",
                       f"output={tmp_path / 'out'}", f"decode.beam_size={beam}", "decode.max_length_b=28",
                       "device=cpu") == 0  # fmt: skip
            assert (tmp_path / "out").read_text().splitlines() == expected


def test_an_lstm_of_fairseq(tmp_path, s2s):
    check("lstm", tmp_path, s2s, [3], 8, steps=60)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "more"), [*((kind, {}) for kind in KINDS),
                                            ("lstm", {"share_decoder_input_output_embed": True})])  # fmt: skip
def test_same_logits_and_lines_of_an_lstm(kind, more, tmp_path, s2s):
    check(kind, tmp_path, s2s, [1, 5], 50, **more)


def test_an_lstm_that_is_not_read_is_refused(tmp_path, s2s, capsys):
    number = iter(range(100))

    def refused(change=None, kind="lstm", **more):
        folder = tmp_path / str(next(number))
        save(kind, folder, change, steps=1, **more)
        assert s2s("importing", f"from={folder}", f"output={tmp_path / 'new'}") == 2
        assert not (tmp_path / "new").exists()
        return capsys.readouterr().err

    def unequal(content):
        content["args"].encoder_layers, content["args"].adaptive_softmax_cutoff = 3, "9,99"

    assert "lstm_lm: not read" in refused(kind="lstm_lm")
    message = refused(unequal)
    assert "encoder_layers=3 beside decoder_layers=2" in message
    assert "adaptive_softmax_cutoff=9,99" in message
    assert "decoder_attention='maybe': 1 or 0" in refused(lambda c: setattr(c["args"], "decoder_attention", "maybe"))
    lost = refused(lambda content: content["model"].pop("encoder.lstm.bias_hh_l1"))
    assert "encoder.lstm.bias_hh_l1 missing" in lost
    wide = refused(lambda content: content["model"].update({"decoder.attention.input_proj.weight": torch.ones(3, 16)}))
    assert "input_proj.weight [3, 16]: [16, 16] is needed" in wide


def spelling(folder, D=24, E=16):
    """A random file of g2p_en's format, and the package's way from a word to phonemes."""
    random = np.random.default_rng(2)
    arrays = {"enc_emb": (29, E), "dec_emb": (74, E), "fc_w": (74, D), "fc_b": (74,)}
    for side in ("enc", "dec"):
        arrays |= {f"{side}_w_ih": (3 * D, E), f"{side}_w_hh": (3 * D, D), f"{side}_b_ih": (3 * D,),
                   f"{side}_b_hh": (3 * D,)}  # fmt: skip
    z = {name: random.normal(0, 0.5, shape).astype(np.float32) for name, shape in arrays.items()}
    z["fc_b"][3] += 2  # the end
    z["fc_b"][:3] = -10
    np.savez(folder / "checkpoint20.npz", **z)

    def cell(x, h, side):
        given, kept = z[f"{side}_w_ih"] @ x + z[f"{side}_b_ih"], z[f"{side}_w_hh"] @ h + z[f"{side}_b_hh"]
        reset, update = (1 / (1 + np.exp(-given[part] - kept[part])) for part in (slice(D), slice(D, 2 * D)))
        return (1 - update) * np.tanh(given[2 * D :] + reset * kept[2 * D :]) + update * h

    def predict(word):
        h, token, result = np.zeros(D), 2, []
        for letter in [*word, "</s>"]:
            h = cell(z["enc_emb"][LETTERS.index(letter) if letter in LETTERS else 1], h, "enc")
        for _ in range(20):
            h = cell(z["dec_emb"][token], h, "dec")
            token = int((z["fc_w"] @ h + z["fc_b"]).argmax())
            if token == 3:
                break
            result.append(PHONEMES[token])
        return " ".join(result)

    return predict


def test_the_model_of_g2p_en(tmp_path, s2s, capsys):
    predict = spelling(tmp_path)
    report = importing.write(tmp_path / "checkpoint20.npz", "auto", tmp_path / "ours")
    assert report[0].startswith("g2p_en: ")
    random = np.random.default_rng(0)
    lines = ["".join(random.choice([*LETTERS[3:], "7"], 1 + n % 9)) for n in range(50)]
    (tmp_path / "in").write_text("\n".join(lines) + "\n")
    assert s2s("generate", f"checkpoint={tmp_path / 'ours'}", f"input={tmp_path / 'in'}", "device=cpu",
               f"output={tmp_path / 'out'}", *report[-1].partition("before: ")[2].split()) == 0  # fmt: skip
    expected = [predict(line) for line in lines]
    assert (tmp_path / "out").read_text().splitlines() == expected
    assert len(set(expected)) > 30
    assert any(len(line.split()) < 20 for line in expected)
    arrays = dict(np.load(tmp_path / "checkpoint20.npz"))
    np.savez(tmp_path / "other.npz", **arrays | {"fc_w": arrays["fc_w"][:9]})
    capsys.readouterr()
    assert s2s("importing", f"from={tmp_path / 'other.npz'}", f"output={tmp_path / 'new'}") == 2
    assert "29 letters and 74 phonemes: fc_w [9, 24]" in capsys.readouterr().err
