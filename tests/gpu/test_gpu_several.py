"""Two processes, each with its own GPU, on the stand-in: what DistributedDataParallel does with gradients is done by
`inside.Averaged`, and gloo exchanges what NCCL would.

Sharding (distributed.strategy=fsdp) reads the memory of weights, so it is not tried here.
"""

import concurrent.futures
import itertools
import multiprocessing

import pytest
import torch.distributed as dist

from tests.golden.cases import TEXT
from tests.gpu import work
from tests.gpu.conftest import merged
from tests.gpu.test_gpu_training import losses

ON_HOST, ON_GPU = "all_reduce cpu", "all_reduce cuda"
UPDATE = [ON_HOST, ON_GPU]
# Of a training with two updates and a validation, each kind once where several follow each other.
EXCHANGES = ["broadcast_object_list", ON_GPU, *UPDATE, *UPDATE, *UPDATE, ON_HOST, "all_gather_object",
             "broadcast_object_list"]  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(child):
    """two(command, word, ...) returns what each of two processes returns from `inside.process`."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:

        def run(name: str, *words: str) -> list:
            store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
            made = [pool.submit(work.call, "process", rank, store.port, name, *words) for rank in range(2)]
            ended = [future.result(timeout=120) for future in made]
            assert [one[0].code for one in ended] == [0, 0], [one[0].error[-3000:] for one in ended]
            return ended

        yield run


def test_two_train_as_one_does(gpu_runs, tmp_path, two):
    options = ["train.valid_metrics=[loss,chrf]", "decode.dtype=fp32", "train.max_updates=2", "decode.max_length_a=0",
               "decode.max_length_b=2", "data.group=2"]  # fmt: skip
    gpu_runs.train("text", tmp_path / "one", "cuda", *options, "train.accumulate=2")
    made = two("train", *gpu_runs.words("text", tmp_path / "two", *options))
    for rank, (ended, backend, exchanges, devices) in enumerate(made):
        assert backend == "cpu:gloo,cuda:nccl"
        assert devices == {f"cuda:{rank}"}
        assert not any(update.waits for update in ended.each)
        # Gradients and their norm are exchanged by the GPUs; counts, signals and texts by the hosts, which have them.
        assert [kind for kind, _ in itertools.groupby(exchanges)] == EXCHANGES
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


def test_two_decode_as_one_does(gpu_runs, tmp_path, two):
    words = merged([*gpu_runs.placed(TEXT), "decode.max_length_a=1", "decode.max_length_b=3", "decode.dtype=fp32"])
    gpu_runs.generate(words, tmp_path / "one", "cuda")
    made = two("generate", *words, f"output={tmp_path / 'two'}")
    for rank, (_, backend, exchanges, devices) in enumerate(made):
        assert backend == "cpu:gloo,cuda:nccl"
        assert devices <= {f"cuda:{rank}"}  # there may be too few sentences for both
        assert exchanges  # of texts and counts, by the hosts; nothing of a GPU is exchanged
        assert not any(kind.startswith("all_reduce") for kind in exchanges)
    assert set.union(*(devices for *_, devices in made))
    assert (tmp_path / "two").read_text() == (tmp_path / "one").read_text()
