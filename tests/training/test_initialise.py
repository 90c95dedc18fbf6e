"""Starting from checkpoints: whole, by part, with other vocabularies; teachers; distilled text."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from s2s.checkpoint import loading, runs
from s2s.decoding.compose import generator_of
from tests.conftest import write_corpus
from tests.training.test_resume import SMALL, same_bits
from tests.training.test_trainer import one_error_line

STILL = ["train.max_updates=1", "optim.lr=0"]  # an update that changes no weight


def words(store, run, *more):
    return [*SMALL, f"store={store}", f"run={run}", "train.valid_updates=1000", "train.log_updates=10", *more]


@pytest.fixture(scope="module")
def parent(store, tmp_path_factory) -> Path:
    """A run of 60 updates, which are enough to leave random weights far behind."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        from tests.conftest import _call

        run = tmp_path_factory.mktemp("parent") / "run"
        options = words(store, run, "train.max_updates=60", "optim.lr=3e-3", "seed=7")
        assert _call(monkeypatch, "s2s_cli.train", *options) == 0
    return run


def remade(store: Path, folder: Path, s2s, symbols: list[str]) -> Path:
    """The text of the made-up store with another list of symbols."""
    folder.mkdir(exist_ok=True)
    write_corpus(folder, {"train": 60, "valid": 10})
    (folder / "symbols").write_text("".join(f"{symbol}\n" for symbol in symbols))
    texts = ["source=src", "target=tgt", f"train={folder}/train", f"valid={folder}/valid", f"store={folder}/store"]
    tokenizer = ["tokenizer=words", f"tokenizer.vocabulary={folder}/symbols"]
    assert s2s("preprocess", *texts, *tokenizer, "workers=1") == 0
    return folder / "store"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "last/model.safetensors")


def nll(run: Path) -> float:
    return json.loads((run / "last/state.json").read_text())["progress"]["last_metrics"]["nll"]


def test_a_whole_checkpoint_is_where_a_run_starts(store, parent, tmp_path, s2s, capsys):
    run, fresh = tmp_path / "run", tmp_path / "fresh"
    assert s2s("train", *words(store, run, *STILL, f"train.init.checkpoint={parent}")) == 0
    assert f"init: embeddings, encoder, decoder, the rest from {parent}" in capsys.readouterr().err
    ours, theirs = weights(run), weights(parent)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    assert s2s("train", *words(store, fresh, *STILL)) == 0
    assert nll(run) == pytest.approx(nll(parent))
    assert nll(run) < 0.9 * nll(fresh)
    folder = runs.resolve(str(parent))
    manifest = json.loads((folder / "manifest.json").read_text())
    expected = {str(folder): manifest["files"]["model.safetensors"]["sha256"]}
    for file in (run / "run.json", run / "last/state.json"):
        content = json.loads(file.read_text())
        assert content.get("origin", content)["initialised_from"] == expected


@pytest.mark.parametrize("part", ["encoder", "decoder", "embeddings"])
def test_a_part_is_taken_and_the_rest_is_as_without(store, parent, tmp_path, s2s, part):
    from s2s.models.parts import part_of

    run, fresh = tmp_path / "run", tmp_path / "fresh"
    assert s2s("train", *words(store, run, *STILL, f"train.init.{part}={parent}")) == 0
    assert s2s("train", *words(store, fresh, *STILL)) == 0
    ours, theirs, without = weights(run), weights(parent), weights(fresh)
    assert {part_of(name) for name in ours} == {"encoder", "decoder", "embeddings"}
    for name, weight in ours.items():
        assert weight.equal((theirs if part_of(name) == part else without)[name]), name
    assert any(not theirs[name].equal(without[name]) for name in ours if part_of(name) == part)


def test_parts_of_several_checkpoints(store, parent, tmp_path, s2s, capsys):
    other, run = tmp_path / "other", tmp_path / "run"
    assert s2s("train", *words(store, other, *STILL, "seed=8")) == 0
    capsys.readouterr()
    both = [f"train.init.checkpoint={parent}", f"train.init.decoder={other}"]
    assert s2s("train", *words(store, run, *STILL, *both)) == 0
    errors = capsys.readouterr().err
    assert f"init: embeddings, encoder, the rest from {parent}" in errors
    assert f"init: decoder from {other}" in errors
    ours = weights(run)
    assert ours["encoder.layers.0.attention.qkv.weight"].equal(weights(parent)["encoder.layers.0.attention.qkv.weight"])
    assert ours["decoder.layers.0.attention.qkv.weight"].equal(weights(other)["decoder.layers.0.attention.qkv.weight"])


@pytest.mark.parametrize("new_rows", ["mean", "fresh"])
def test_symbols_find_their_rows_in_another_vocabulary(store, parent, tmp_path, s2s, capsys, new_rows):
    """Reversed, without `c`, and with two symbols more; the model decodes as before where symbols are known."""
    other = remade(store, tmp_path / "data", s2s, ["new", *"jihgfedba", "newer"])
    run, fresh = tmp_path / "run", tmp_path / "fresh"
    capsys.readouterr()
    options = [*STILL, f"train.init.checkpoint={parent}", f"train.init.new_rows={new_rows}"]
    assert s2s("train", *words(other, run, *options)) == 0
    assert f"init: 13 of 15 symbols have their rows from 14; 2 are new ({new_rows})" in capsys.readouterr().err
    assert s2s("train", *words(other, fresh, *STILL)) == 0
    (mine, task, _), (theirs, before, _) = (loading.load_model(str(path)) for path in (run, parent))
    symbols, old = task.target_tokenizer.vocabulary, before.target_tokenizer.vocabulary
    ours, parents = mine.output.weight, theirs.output.weight
    for symbol in ["<pad>", "<unk>", "<s>", "</s>", *"abdefghij"]:
        assert ours[symbols.index(symbol)].equal(parents[old.index(symbol)]), symbol
    for symbol in ("new", "newer"):
        row = symbols.index(symbol)
        expected = parents.mean(0) if new_rows == "mean" else weights(fresh)["frontend.embedding.tokens.weight"][row]
        torch.testing.assert_close(ours[row], expected)
    lines = ["a b d e", "j i h", "g"]
    decode = [
        generator_of(t, [m], _default_decode()).generate(t.encode(lines)) for m, t in ((mine, task), (theirs, before))
    ]
    texts = [[t.text(best[0].ids, None) for best in n_best] for t, n_best in zip((task, before), decode, strict=True)]
    # What the new symbols take of the probability may cost a token its place, and not often.
    assert sum(a == b for a, b in zip(*texts, strict=True)) >= 2, texts


def test_rows_of_front_ends_find_their_symbols_or_are_refused(store, tmp_path, s2s, capsys):
    other = remade(store, tmp_path / "data", s2s, list("jihgfedcba"))
    gbst, one_hot = ["model.frontend=gbst"], ["model.frontend=one_hot"]
    for name, frontend in (("gbst", gbst), ("one_hot", one_hot)):
        assert s2s("train", *words(store, tmp_path / name, *STILL, *frontend)) == 0
    options = [*STILL, f"train.init.checkpoint={tmp_path}/gbst", *gbst]
    assert s2s("train", *words(other, tmp_path / "run", *options)) == 0
    (mine, task, _), (theirs, before, _) = (loading.load_model(str(tmp_path / name)) for name in ("run", "gbst"))
    symbols, old = (one.source_tokenizer.vocabulary for one in (task, before))
    assert symbols.symbols != old.symbols
    for symbol in "aj":
        pairs = zip((mine, theirs), (symbols, old), strict=True)
        first, second = (model.frontend.tokens.weight[vocabulary.index(symbol)] for model, vocabulary in pairs)
        assert first.equal(second)
    options = [*STILL, f"train.init.checkpoint={tmp_path}/one_hot", *one_hot]
    capsys.readouterr()
    assert s2s("train", *words(other, tmp_path / "refused", *options)) == 2
    message = one_error_line(capsys)
    assert "has another source vocabulary, and the OneHot of the model means symbols by their numbers" in message


def _default_decode():
    from s2s.decoding.config import DecodeConfig

    return DecodeConfig(beam_size=1)


def test_what_does_not_fit_is_named(store, parent, tmp_path, s2s, capsys):
    init = f"train.init.checkpoint={parent}"

    def refused(*options) -> str:
        capsys.readouterr()
        assert s2s("train", *words(store, tmp_path / "run", *STILL, *options)) == 2
        assert not (tmp_path / "run").exists()
        return one_error_line(capsys)

    assert "encoder.layers.1.attention.output.bias is not in it" in refused(init, "model.encoder.layers=2")
    assert "model.encoder.heads is 4 in it, not 2" in refused(init, "model.encoder.heads=2")
    assert "model.norm is pre in it, not post" in refused(f"train.init.encoder={parent}", "model.norm=post")
    assert "no such folder" in refused("train.init.encoder=nowhere")
    untied, run = tmp_path / "untied", tmp_path / "run"
    assert s2s("train", *words(store, untied, *STILL, "model.tie_embeddings=none")) == 0
    line = refused(f"train.init.checkpoint={untied}")
    assert "are one matrix in this model and two in" in line
    assert "model.tie_embeddings" in line
    assert s2s("train", *words(store, run, *STILL, init, "model.tie_embeddings=none")) == 0  # one matrix goes to all
    ours = weights(run)
    assert ours["output.weight"].equal(weights(parent)["frontend.embedding.tokens.weight"])
    folder = tmp_path / "damaged"
    shutil.copytree(runs.resolve(str(parent)), folder)
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    shutil.rmtree(run)
    assert "its content differs from what was saved" in refused(f"train.init.checkpoint={folder}")


def test_a_run_that_goes_on_needs_its_parent_no_more(store, parent, tmp_path, s2s, capsys):
    moved, whole, pieces = tmp_path / "moved", tmp_path / "whole", tmp_path / "pieces"
    shutil.copytree(runs.resolve(str(parent)), moved)
    init = f"train.init.checkpoint={moved}"
    assert s2s("train", *words(store, whole, init, "train.max_updates=12", "train.checkpoint_updates=5")) == 0
    assert s2s("train", *words(store, pieces, init, "train.max_updates=5", "train.checkpoint_updates=5")) == 0
    shutil.rmtree(moved)
    assert s2s("train", *words(store, pieces, init, "train.max_updates=12", "train.checkpoint_updates=5")) == 0
    same_bits(whole, pieces)
    capsys.readouterr()
    assert s2s("train", *words(store, pieces, "train.max_updates=20")) == 2
    assert f"train.init.checkpoint was {moved} and is now None" in one_error_line(capsys)


def test_a_run_is_not_deleted_that_it_is_to_start_from(store, parent, tmp_path, s2s, capsys):
    run = tmp_path / "run"
    shutil.copytree(parent, run, symlinks=True)
    assert s2s("train", *words(store, run, *STILL, f"train.init.checkpoint={run}", "overwrite=true")) == 2
    assert ", which is needed; choose another run folder" in one_error_line(capsys)
    assert (run / "last/model.safetensors").exists()


# --- teachers --------------------------------------------------------------------------------------------------------


def distilled(parent, *more) -> list[str]:
    return ["criterion=distillation", f"criterion.distillation.teachers=[{parent}]",
            "criterion.cross_entropy.label_smoothing=0", *more]  # fmt: skip


@pytest.mark.parametrize("kind", ["encoder_decoder", pytest.param("decoder_only", marks=pytest.mark.slow)])
def test_a_pupil_writes_what_its_teacher_writes(store, parent, tmp_path, s2s, kind):
    """On the same updates a pupil comes nearer to its teacher's probabilities than a model that sees only the text. The
    positions of a decoder-only teacher's target are those of the pupil's decoder."""
    if kind == "decoder_only":
        parent = tmp_path / "teacher"
        size = [word for word in SMALL if not word.startswith(("model=", "model.encoder."))]
        stack = ["model=decoder_only_tiny", "model.encoder.width=32", "model.decoder.layers=2", "train.max_updates=60"]
        teacher = [*size, *stack, f"store={store}", f"run={parent}", "optim.lr=3e-3", "seed=7"]
        assert s2s("train", *teacher) == 0
    runs = {name: tmp_path / name for name in ("taught", "alone")}
    long = ["train.max_updates=60", "optim.lr=3e-3", "seed=3", "model.dropout=0"]
    pure = ["criterion.distillation.weight=1", "criterion.cross_entropy.weight=0"]
    assert s2s("train", *words(store, runs["taught"], *long, *distilled(parent, *pure))) == 0
    assert s2s("train", *words(store, runs["alone"], *long, "criterion=likelihood")) == 0
    teacher, task, _ = loading.load_model(str(parent))
    from s2s.data.store import Store

    batch = task.dataset(Store(store).split("test")).collate(range(10))

    @torch.no_grad()
    def log_probabilities(model):
        return model.decode(model.encode(batch.sources), batch.decoder_input).logits().log_softmax(-1)

    q = log_probabilities(teacher)
    distance = {}
    for name, run in runs.items():
        p = log_probabilities(loading.load_model(str(run))[0])
        distance[name] = float((q.exp() * (q - p)).sum(-1).mean())
    assert distance["taught"] < 0.6 * distance["alone"]


def test_a_distilled_run_resumes_bit_identical_and_only_with_the_same_teacher(store, parent, tmp_path, s2s, capsys):
    whole, pieces, teacher = tmp_path / "whole", tmp_path / "pieces", tmp_path / "teacher"
    shutil.copytree(parent, teacher, symlinks=True)
    options = distilled(teacher, "criterion.terms=[cross_entropy,distillation,r_drop]", "criterion.r_drop.weight=0.5",
                        "criterion.distillation.temperature=2", "train.checkpoint_updates=5")  # fmt: skip
    assert s2s("train", *words(store, whole, *options, "train.max_updates=12")) == 0
    for updates in (3, 5, 12):
        assert s2s("train", *words(store, pieces, *options, f"train.max_updates={updates}")) == 0
    same_bits(whole, pieces)
    other = [*words(store, teacher, "train.max_updates=62", "optim.lr=3e-3", "seed=7")]
    assert s2s("train", *other) == 0
    capsys.readouterr()
    assert s2s("train", *words(store, pieces, *options, "train.max_updates=20")) == 2
    assert "the weights of its teachers have changed since it started" in one_error_line(capsys)


def test_teachers_that_do_not_fit_are_refused(store, parent, tmp_path, s2s, capsys):
    other = remade(store, tmp_path / "data", s2s, [*"abcdefghij", "more"])

    def refused(data, *options) -> str:
        capsys.readouterr()
        assert s2s("train", *words(data, tmp_path / "run", *STILL, *options)) == 2
        return one_error_line(capsys)

    assert "has another source vocabulary, of 14 symbols against 15" in refused(other, *distilled(parent))
    assert "requires at least one checkpoint" in refused(store, "criterion=distillation")
    assert "another data.target_transform, none against reverse" in refused(
        store, *distilled(parent), "data.target_transform=reverse"
    )
    assert "r_drop requires dropout" in refused(store, "criterion=r_drop", "model.dropout=0")


def test_the_text_that_a_teacher_writes_is_a_store(store, parent, tmp_path, s2s):
    """Sequence-level distillation: generate, preprocess with the teacher's tokenizers, train; the pupil's outputs are
    more like its teacher's than those of a model that saw the original text."""
    write_corpus(tmp_path, {"train": 300})
    assert s2s("generate", f"checkpoint={parent}", f"input={tmp_path}/train.src", f"output={tmp_path}/written.tgt",
               "decode.beam_size=2", "device=cpu") == 0  # fmt: skip
    shutil.copy(tmp_path / "train.src", tmp_path / "written.src")
    written = (tmp_path / "written.tgt").read_text()
    assert written != (tmp_path / "train.tgt").read_text()  # the teacher is not perfect, and so this can fail
    for name in ("train", "written"):
        assert s2s("preprocess", "source=src", "target=tgt", f"train={tmp_path}/{name}", f"tokenizer_from={store}",
                   f"store={tmp_path}/{name}.store", "workers=1") == 0  # fmt: skip
        assert s2s("train", *words(f"{tmp_path}/{name}.store", tmp_path / f"{name}.run", "train.max_updates=150",
                                   "optim.lr=5e-3", "model.dropout=0")) == 0  # fmt: skip
    (tmp_path / "few.src").write_text("".join((tmp_path / "train.src").read_text().splitlines(keepends=True)[:60]))
    outputs = {}
    for name, run in (("teacher", parent), ("train", tmp_path / "train.run"), ("written", tmp_path / "written.run")):
        assert s2s("generate", f"checkpoint={run}", f"input={tmp_path}/few.src", f"output={tmp_path}/{name}.out",
                   "decode.beam_size=1", "device=cpu") == 0  # fmt: skip
        outputs[name] = (tmp_path / f"{name}.out").read_text().splitlines()

    def agreement(name: str) -> float:
        pairs = [(a.split(), b.split()) for a, b in zip(outputs[name], outputs["teacher"], strict=True)]
        return sum(x == y for a, b in pairs for x, y in zip(a, b, strict=False)) / sum(len(b) for _, b in pairs)

    assert agreement("written") > agreement("train") + 0.05
