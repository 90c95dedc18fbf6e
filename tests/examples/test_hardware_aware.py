"""examples/hardware_aware: a search finds the best sub-network below a limit of time."""

import itertools

import pytest

from s2s.errors import UserError
from s2s.models.subnets import stacks
from tests.examples.test_examples import EXAMPLES, load
from tests.models.test_super import SUPER, model_of

SIZES = [f"model.{word}" for word in SUPER]


@pytest.fixture(scope="module")
def search():
    return load(EXAMPLES / "hardware_aware" / "search.py")


def test_evolution_finds_the_best_that_fits(search):
    """Of 4 x 10^5 sub-networks it tries some hundred; a slow search goes through all sizes of a layer by itself."""
    model = model_of(*SUPER)
    tried = []

    def cost(candidate):  # wide layers cost, and deep stacks
        some = search.trimmed(candidate)
        return sum(2 * side["layers"] + sum(side["ffn_widths"]) + sum(side["head_counts"]) for side in some.values())

    def value(candidate):  # the decoder's widths help most
        some = search.trimmed(candidate)
        tried.append(some)
        return -3 * sum(some["decoder"]["ffn_widths"]) - sum(some["encoder"]["ffn_widths"]) \
            - sum(some["decoder"]["memories"]) / 10  # fmt: skip

    limit = 60
    options = search.parser().parse_args(["--checkpoint", "-", "--store", "-", "--milliseconds", "1"])
    best, found = search.evolve(model, value, lambda some: cost(some) <= limit, options)
    assert cost(best) <= limit
    assert all(cost(some) <= limit for some in tried)
    assert len(tried) == len({str(some) for some in tried}) < 400

    def sides(depths, sizes):  # (sum of widths, cost with the fewest heads) of all stacks
        for depth in depths:
            for widths in itertools.product(sizes, repeat=depth):
                yield depth, sum(widths), 2 * depth + sum(widths) + 2 * depth

    encoders, decoders = (list(sides(stack.depths, stack.choices["ffn_widths"])) for stack in stacks(model).values())
    exact = min(-3 * d[1] - e[1] - 2 * d[0] / 10 for e in encoders for d in decoders if e[2] + d[2] <= limit)
    assert found <= exact + 4  # nearly the best


def test_a_search_writes_what_decoding_reads(search, s2s, store, tmp_path, capsys):
    run, file, output = tmp_path / "run", tmp_path / "subnet.yaml", tmp_path / "out"
    words = [f"store={store}", "model=hat_tiny", *SIZES, "train.max_updates=2", "train.samples=0",
             "train.valid_metrics=[loss]", "data.batch_tokens=300", "workers=1"]  # fmt: skip
    assert s2s("train", *words, f"run={run}") == 0
    few = ["--checkpoint", str(run), "--store", str(store), "--length", "5", "--repeats", "1", "--examples", "4",
           "--population", "4", "--parents", "2", "--generations", "2", "--output", str(file)]  # fmt: skip
    capsys.readouterr()
    search.main([*few, "--milliseconds", "1000"])
    printed = capsys.readouterr().out
    assert s2s("generate", f"checkpoint={run}", f"store={store}", "split=valid", f"output={output}",
               f"decode.subnet={file}") == 0  # fmt: skip
    options = printed.split("train it alone: ")[1].split()
    assert s2s("train", *words, *options, f"run={tmp_path / 'alone'}") == 0
    with pytest.raises(UserError, match="--milliseconds 1e-06: the fastest sub-network takes"):
        search.main([*few, "--milliseconds", "1e-6"])
