"""What train.profile finds, on made-up traces and in a run."""

import json

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from s2s.data.iterator import BatchIterator, DataConfig
from s2s.data.store import Store
from s2s.models.encoders.transformer import EncoderConfig
from s2s.models.stack import DecoderConfig
from s2s.models.transformer import TransformerConfig
from s2s.tasks.translation import TranslationTask
from s2s.training import profile
from s2s.training.profile import Span, breakdown, innermost
from tests.training.test_resume import same_bits, words


def mark(name: str, start: float, end: float) -> dict:
    return {"ph": "X", "cat": "user_annotation", "name": name, "ts": start, "dur": end - start, "tid": 1}


def test_nested_stretches_count_once_for_the_innermost():
    spans = [Span(0, 10, "a"), Span(2, 5, "b"), Span(2, 3, "c"), Span(5, 6, "b"), Span(12, 13, "a")]
    assert innermost(spans) == [(0, 2, "a"), (2, 3, "c"), (3, 5, "b"), (5, 6, "b"), (6, 10, "a"), (12, 13, "a")]


HOST = [mark("updates", 100, 200), mark("data", 100, 110), mark("loss", 110, 150), mark("encoder", 112, 122),
        mark("decoder", 122, 142), mark("backward", 150, 180), mark("optimizer", 185, 195),
        mark("data", 50, 90), mark("elsewhere", 160, 170)]  # fmt: skip


def test_host_time_is_shared_out_among_the_innermost_phases():
    products = [{"ph": "X", "cat": "cpu_op", "name": n, "ts": t, "dur": 5, "tid": tid}
                for n, t, tid in (("aten::addmm", 112, 1), ("aten::mm", 113, 1), ("aten::relu", 130, 1),
                                  ("aten::mm", 151, 2))]  # fmt: skip
    products[1]["dur"] = 2  # inside of the first: counts once
    found = breakdown([*HOST, *products, {"ph": "M", "name": "process_name"}])
    assert found["seconds"] == pytest.approx(100e-6)
    assert found["host"] == pytest.approx(
        {"data": 0.1, "encoder": 0.1, "decoder": 0.2, "loss": 0.1, "backward": 0.3, "optimizer": 0.1, "other": 0.1}
    )
    assert found["products"] == pytest.approx(0.1)
    assert "device" not in found


def test_kernels_count_for_the_phase_that_launched_them_and_the_rest_is_idle():
    def launched(number: int, at: float, start: float, seconds: float, tid: int = 1) -> list[dict]:
        return [
            {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": at, "dur": 1, "tid": tid,
             "args": {"correlation": number}},
            {"ph": "X", "cat": "kernel", "name": "k", "ts": start, "dur": seconds, "tid": 7,
             "args": {"correlation": number}},
        ]  # fmt: skip

    product = {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "ts": 160, "dur": 5, "tid": 2}
    # The encoder's kernel runs while the host is already in the loss; the backward one is of autograd's thread and
    # runs beside it for 10 of its 20.
    events = [*HOST, *launched(1, 115, 145, 30), *launched(2, 161, 165, 20, tid=2), *launched(3, 183, 190, 5), product]
    found = breakdown(events)
    assert found["device"] == pytest.approx({"encoder": 0.3, "backward": 0.2, "other": 0.05, "idle": 1 - 0.45})
    assert found["products"] == pytest.approx(0.2)


@pytest.mark.parametrize("batching", ["token_budget", "packed"])
def test_model_flops_are_those_that_pytorch_counts_without_padding(store, batching):
    """Of a batch with padding they are the sum over its examples, each counted alone."""
    data = Store(store)
    task = TranslationTask.setup(data)
    dataset = task.dataset(data.split("train"))
    encoder, decoder = EncoderConfig(2, 16, 2, 1, 48), DecoderConfig(1, 24, 3, None, 32)
    config = TransformerConfig(encoder=encoder, decoder=decoder, activation="swiglu")
    model = task.model(config)
    options = DataConfig(batching=batching, batch_tokens=100, row_tokens=30)
    batch = next(BatchIterator(dataset, options, 1, 0).rest_of_epoch())
    total = 0
    for example in batch.ids.tolist():
        alone = dataset.collate([example])
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            model.decode(model.encode(alone.sources), alone.decoder_input).logits().sum().backward()
        total += counter.get_total_flops()
    assert profile.training_flops(model, batch) == total


def test_a_profiled_run_says_where_time_went_and_has_the_same_bits(store, tmp_path, s2s, capsys, monkeypatch):
    monkeypatch.setattr(profile, "WARM_UP", 2)
    plain, profiled = tmp_path / "plain", tmp_path / "profiled"
    assert s2s("train", *words(store, plain, "train.max_updates=16")) == 0
    capsys.readouterr()
    assert s2s("train", *words(store, profiled, "train.max_updates=16", "train.profile=true")) == 0
    same_bits(plain, profiled)
    said = capsys.readouterr().err
    assert "profile of updates 8 to 12, traced in " in said
    assert "model FLOPs utilisation" in said
    names = {event["name"] for event in json.loads((profiled / "profile.json").read_text())["traceEvents"]}
    assert {"data", "encoder", "decoder", "loss", "backward", "optimizer", "aten::addmm"} <= names
    (found,) = [json.loads(line) for line in (profiled / "metrics.jsonl").open() if '"kind": "profile"' in line]
    assert sum(found["host"].values()) == pytest.approx(1)
    assert min(found["host"][phase] for phase in ("encoder", "decoder", "loss", "backward", "optimizer")) > 0.001
    assert 0 < found["utilisation"] < 1
    assert 0 < found["products"] < 1


def test_a_run_too_short_to_be_profiled_says_so(store, tmp_path, s2s, capsys):
    assert s2s("train", *words(store, tmp_path / "run", "train.max_updates=12", "train.profile=true")) == 0
    assert "note: train.profile requires 20 updates, and the run ended after 12" in capsys.readouterr().err
    assert not (tmp_path / "run/profile.json").exists()
