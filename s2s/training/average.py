"""Averages of weights: over several checkpoints, and over all updates of a run (exponential moving average)."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from s2s import registry
from s2s.checkpoint import loading, runs, shapes
from s2s.config.compose import to_yaml
from s2s.config.documents import read_yaml
from s2s.errors import UserError
from s2s.training import checkpoints
from s2s.training.validation import higher_is_better


class ExponentialMovingAverage:
    """A moving average of weights: average <- decay * average + (1 - decay) * weights, in fp32.

    The decay at update u is at most (1 + u) / (10 + u), so that the first weights are soon forgotten.

    Args:
        model: The model whose parameters are averaged; the average starts as a copy of them.
        decay: Between 0 and 1.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay = model, decay
        self.average = {name: p.detach().float().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, update: int) -> None:
        """Add the weights after update number `update`."""
        weight = 1 - min(self.decay, (1 + update) / (10 + update))
        parameters = dict(self.model.named_parameters())
        torch._foreach_lerp_(list(self.average.values()), [parameters[name].float() for name in self.average], weight)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's weights and the average; a second call undoes it."""
        for name, parameter in self.model.named_parameters():
            average = self.average[name].clone()
            self.average[name].copy_(parameter)
            parameter.copy_(average)


def choose(run: Path, last: int | None, best: int | None) -> list[Path]:
    """Choose checkpoints of a run.

    Args:
        run: Folder of the run.
        last: Number of newest checkpoints; None: choose the best ones.
        best: Number of best checkpoints, by train.best_metric.

    Raises:
        UserError: there are too few checkpoints.
    """
    if not run.is_dir():
        raise UserError(f"checkpoint={run}: no such folder")
    folders = runs.steps(run)
    if best and folders:
        file = folders[-1] / runs.CONFIG
        options = read_yaml(file, shapes.CONFIG)["train"]
        metric = options["best_metric"] or next(reversed(options["valid_metrics"]), "")
        if metric not in ("loss", *registry.names("metric")):
            raise UserError(f"{file}: train.valid_metrics: '{metric}' is not a metric")
        values = {folder: runs.validated(folder, metric) for folder in folders}
        scored = [folder for folder in folders if values[folder] is not None]
        folders = sorted(scored, key=values.get, reverse=higher_is_better(metric))
    count = last or best
    if len(folders) < count:
        raise UserError(
            f"checkpoint={run}: {len(folders)} checkpoints to choose from, not {count}; "
            "train.keep_last and train.keep_best decide how many a run keeps"
        )
    return folders[:count] if best else folders[-count:]


def strangers(folders: list[Path]) -> str | None:
    """A warning if checkpoints have nothing in common: the mean of weights that were drawn apart is no model. Those of
    one run have the same folder, seed and data in their config; runs that began with one checkpoint record its hash.
    Averages and imported checkpoints, whose origin is unknown, are taken as related to all."""
    groups: list[set] = []  # each with the marks of checkpoints that are related
    for folder in folders:
        state, config = runs.read_state(folder), read_yaml(folder / runs.CONFIG, shapes.CONFIG)
        if "progress" not in state:
            continue
        origin = state.get("origin", {})
        before = origin.get("initialised_from", {})
        before = before if isinstance(before, list) else before.values()  # older versions recorded no hashes
        marks = {(config.get("run"), config.get("seed"), origin.get("store_digest")), runs.weights_hash(folder),
                 *filter(None, before)}  # fmt: skip
        related = [group for group in groups if group & marks]
        groups = [group for group in groups if group not in related] + [marks.union(*related)]
    if len(groups) < 2:
        return None
    return (f"warning: the checkpoints come from {len(groups)} trainings that have no initial checkpoint in common; "
            "the mean of their weights is hardly a good model")  # fmt: skip


def average_checkpoints(folders: list[Path], output: Path) -> list[Path]:
    """Write a checkpoint with the mean of the weights of several checkpoints; config and task are those of the last
    one. Adapters that can be merged are.

    Returns:
        `folders`.

    Raises:
        UserError: a checkpoint is damaged, or models or vocabularies differ.
        OSError: writing fails, for example because the disk is full. Nothing is left behind, and an existing checkpoint
            is unchanged.
    """
    total: dict[str, Tensor] = {}
    first = None
    for folder in folders:
        model, task, config = loading.load_folder(folder)
        weights = {name: p.detach().double() for name, p in model.named_parameters()}
        if first is None:
            first, total = task, weights
            continue
        difference = first.difference(task)
        if difference is None and {n: p.shape for n, p in weights.items()} != {n: p.shape for n, p in total.items()}:
            difference = "another model"
        if difference:
            raise UserError(f"{folder}: has {difference} of {folders[0]}; they cannot be averaged")
        total = {name: total[name] + p for name, p in weights.items()}
    mean = {name: (p / len(folders)).float() for name, p in total.items()}
    texts = {
        "config.yaml": to_yaml(config),
        "state.json": json.dumps(
            {"averaged_from": {str(folder): runs.weights_hash(folder) for folder in folders}}, indent=1
        ),
    }
    checkpoints.write(output, {runs.WEIGHTS: mean}, texts, first)
    return folders
