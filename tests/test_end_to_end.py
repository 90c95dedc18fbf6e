"""The four real commands on a made-up task: copy and reverse, learned to 100%."""

import json

from tests.conftest import write_corpus


def test_reversing_is_learned_to_the_last_token_through_all_four_commands(tmp_path, s2s, capsys):
    write_corpus(tmp_path, {"train": 4000, "valid": 50, "test": 100})
    store, run, output = tmp_path / "store", tmp_path / "run", tmp_path / "hyp.tgt"
    assert s2s("preprocess", "source=src", "target=tgt", f"train={tmp_path}/train", f"valid={tmp_path}/valid",
               f"test={tmp_path}/test", "tokenizer=words", f"store={store}", "workers=1") == 0  # fmt: skip
    assert s2s("train", f"store={store}", f"run={run}", "model=transformer_tiny", "model.encoder.width=64",
               "model.decoder.width=64", "model.encoder.ffn_width=128", "model.decoder.ffn_width=128",
               "model.dropout=0", "criterion=likelihood", "optim.lr=3e-3", "optim.warmup_updates=100",
               "optim.schedule=cosine", "data.batch_tokens=512", "train.max_updates=700", "train.valid_updates=350",
               "train.valid_metrics=[loss,exact_match]", "decode.beam_size=1", "device=cpu") == 0  # fmt: skip
    said = capsys.readouterr().err  # what it is going to do, and samples after each validation
    for part in (
        "parameters (embeddings",
        "vocabulary: ",
        "updates an epoch; padding ",
        "cpu with ",
        "fp32",
    ):
        assert part in said
    assert said.count("  hypothesis: ") == 2 * 3
    assert s2s("generate", f"checkpoint={run}", f"store={store}", "split=test", f"output={output}", "device=cpu") == 0
    capsys.readouterr()
    assert s2s("score", f"hypothesis={output}", f"reference={tmp_path}/test.tgt", "metrics=[exact_match,wer]",
               "format=json") == 0  # fmt: skip
    scores = json.loads(capsys.readouterr().out)
    assert {name: score["value"] for name, score in scores.items()} == {"exact_match": 100.0, "wer": 0.0}
    # Without the store, and from a file, the lines are the same.
    again = tmp_path / "again.tgt"
    assert s2s("generate", f"checkpoint={run}", f"input={tmp_path}/test.src", f"output={again}", "device=cpu") == 0
    assert again.read_bytes() == output.read_bytes() == (tmp_path / "test.tgt").read_bytes()
