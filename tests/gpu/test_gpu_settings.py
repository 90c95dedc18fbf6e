"""How a GPU is set up: which kernels and types are used, by default and with options."""

import pytest

from tests.golden.cases import TEXT
from tests.gpu.conftest import merged

FP32 = {"TF32": False, "cuDNN's attention": False, "flash": True}
PLAIN = {"deterministic": False, "only warns": False, "cudnn": (False, False), "workspace": None}
DETERMINISTIC = {"deterministic": True, "only warns": False, "cudnn": (True, False), "workspace": ":4096:8"}


@pytest.mark.parametrize("option", [False, True])
def test_a_training_is_deterministic_from_its_first_operator_on_if_asked(gpu_runs, tmp_path, child, option):
    words = gpu_runs.words("text", tmp_path / "run", f"train.deterministic={str(option).lower()}")
    code, error, (before, first, after) = child("flags", "train", *words)
    assert code == 0, error
    assert {key: before[key] for key in PLAIN} == {key: after[key] for key in PLAIN} == PLAIN
    assert first == (DETERMINISTIC if option else PLAIN) | FP32


def test_decoding_uses_no_attention_of_cudnn_and_no_tf32(gpu_runs, tmp_path, child):
    words = merged([*gpu_runs.placed(TEXT), f"output={tmp_path / 'output'}"])
    code, error, (_, first, _) = child("flags", "generate", *words)
    assert code == 0, error
    assert first == PLAIN | FP32


def test_an_operator_without_a_deterministic_algorithm_is_named():
    from s2s.device import deterministic
    from s2s.errors import UserError

    with (
        pytest.raises(UserError, match=r"ctc_loss_backward_gpu has no"),
        deterministic(True),
    ):
        raise RuntimeError("ctc_loss_backward_gpu does not have a deterministic implementation, but you set 'torch."
                           "use_deterministic_algorithms(True)'.")  # fmt: skip
    with pytest.raises(RuntimeError, match="shapes"), deterministic(True):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize(
    ("options", "bf16", "types", "budget"),
    [
        ([], True, {"bfloat16"}, 32000),
        ([], False, {"float16"}, 32000),
        (["decode.dtype=fp32", "decode.batch_tokens=500"], True, {"float32"}, 500),
    ],
)
def test_weights_are_in_half_precision_by_default(gpu_runs, tmp_path, child, options, bf16, types, budget):
    words = merged([*gpu_runs.placed(TEXT), f"output={tmp_path / 'output'}", *options])
    code, error, *found = child("weight_types", ["generate", *words], bf16)
    assert code == 0, error
    assert found == [types, {budget}]


def test_so_are_those_of_validation_and_those_of_training_stay_in_fp32(gpu_runs, tmp_path, child):
    words = gpu_runs.words("text", tmp_path / "run", "train.valid_metrics=[chrf]")
    code, error, *found = child("weight_types", ["train", *words], True)
    assert code == 0, error
    assert found == [{"bfloat16"}, {32000}]
    from safetensors.torch import load_file

    assert {str(x.dtype) for x in load_file(tmp_path / "run/last/model.safetensors").values()} == {"torch.float32"}


def test_each_process_of_several_has_its_own_gpu_and_exchanges_gradients_by_nccl(child):
    assert child("process_of_several", 1, 2) == ("cuda", "cpu:gloo,cuda:nccl", [1])
    assert child("process_of_several", 1, 1).startswith("each process on this machine requires its own GPU; there are "
                                                        "only 1, not 2 or more")  # fmt: skip
