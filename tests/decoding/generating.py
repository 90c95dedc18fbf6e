"""What tests of s2s-generate by its command line share."""

SMALL = ["model=transformer_tiny", "model.encoder.layers=1", "model.decoder.layers=1", "model.encoder.width=32",
         "model.decoder.width=32", "model.encoder.ffn_width=64", "model.decoder.ffn_width=64", "device=cpu",
         "train.samples=0", "train.max_updates=60", "data.batch_tokens=400", "optim.lr=3e-3",
         "optim.warmup_updates=10"]  # fmt: skip


def fails(result, *parts):
    """Exit code 2, nothing on standard output, one line that says what was wrong."""
    code, printed, error = result
    assert (code, printed) == (2, "")
    assert error.startswith("s2s-generate: error: ")
    assert error.count("\n") == 1
    for part in parts:
        assert str(part) in error
