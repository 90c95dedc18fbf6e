"""Speech translation through the commands: tones in, words of another language in the reverse order out, and BLEU."""

import json
import re

import pytest

from s2s.data.store import Store
from tests.conftest import _call
from tests.tones import write_tones

pytest.importorskip("soundfile")

WORDS = {"a": "eins", "b": "zwei", "c": "drei", "d": "vier"}
SIZES = ["model=speech_transformer_small", "model.encoder.layers=1", "model.decoder.layers=1", "model.dropout=0.0",
         "model.frontend.factor=8", "model.frontend.channels=16", "data.batch_tokens=3000",
         *(f"model.{side}.{key}" for side in ("encoder", "decoder") for key in ("width=64", "ffn_width=128")),
         "optim.lr=6e-3", "optim.schedule=cosine", "optim.warmup_updates=20",
         "criterion.cross_entropy.label_smoothing=0", "train.max_updates=200", "train.valid_updates=200",
         "train.samples=1"]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder with a store of German words, and these of the test split, for what is said in tones."""
    folder = tmp_path_factory.mktemp("translation")
    counts = {"train": 200, "valid": 12, "test": 20}
    texts = write_tones(folder, counts, most=4, text_of=lambda said: " ".join(WORDS[one] for one in reversed(said)))
    manifests = [f"{name}={folder}/{name}.tsv" for name in counts]
    with pytest.MonkeyPatch.context() as patch:
        assert _call(patch, "s2s_cli.preprocess", "task=speech_to_text", *manifests, "source=tones", "target=de",
                     "tokenizer=words", "features.sample_rate=8000", "features.bins=20", "workers=1",
                     f"store={folder}/store") == 0  # fmt: skip
    return folder, texts["test"]


@pytest.mark.parametrize("kind", ["attention", pytest.param("joint", marks=pytest.mark.slow)])
def test_speech_is_translated_and_scored_by_bleu(s2s, corpus, tmp_path, capsys, kind):
    folder, references = corpus
    store, run = f"store={folder}/store", tmp_path / "run"
    languages = {key: Store(folder / "store").manifest[key] for key in ("source_language", "target_language")}
    assert languages == {"source_language": "tones", "target_language": "de"}
    without_ctc = ["model.ctc=false", "criterion=cross_entropy"] if kind == "attention" else []
    metrics = "train.valid_metrics=[loss,bleu]"
    assert s2s("train", "task=speech_to_text", *SIZES, *without_ctc, metrics, store, f"run={run}") == 0
    said = capsys.readouterr().err
    assert "200 pairs of tones-de" in said
    assert "bleu signature: nrefs:1|case:mixed" in said
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert next(event["bleu"] for event in events if event["kind"] == "valid") > 60
    assert s2s("generate", f"checkpoint={run}", store, f"output={tmp_path}/hyp") == 0
    assert s2s("generate", f"checkpoint={run}", f"input={folder}/test.tsv", f"output={tmp_path}/again") == 0
    assert (tmp_path / "again").read_text() == (tmp_path / "hyp").read_text()
    (tmp_path / "references").write_text("".join(f"{line}\n" for line in references))
    capsys.readouterr()
    for right in (store, f"reference={tmp_path}/references"):
        assert s2s("score", f"hypothesis={tmp_path}/hyp", right, "metrics=[bleu]") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert float(re.search(r"= ([\d.]+)", first)[1]) > 60  # in the order of the tones it is about 30, at most 50
