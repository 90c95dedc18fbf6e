"""Shapes of the files of runs and checkpoints; see `s2s.config.shapes`."""

from s2s.checkpoint.progress import Progress
from s2s.config import schema
from s2s.config.shapes import mapping, text, whole
from s2s.manifests import PATH, SHA256

FORMATS = (1, 2)  # formats of checkpoints that can be read; the last one is written; format 1 has no manifest.sha256
MANIFEST = {"format": int, "s2s": str, "files": mapping({"bytes": whole(0), "sha256": SHA256}, PATH)}
# Folders of checkpoints -> SHA-256 of their weights, which older versions did not record.
PARENTS = (mapping((SHA256, None)), [str])
ROLES = ("averaged_from", "initialised_from", "teachers")
ORIGIN = {
    "store_digest?": str, "s2s?": str, "torch?": str, **{f"{role}?": PARENTS for role in ROLES},
    "parents?": mapping(PARENTS, text("|".join(ROLES), " or ".join(ROLES))),
}  # fmt: skip
# The state of an average has only its parents.
STATE = {
    "progress?": schema.shape(Progress),
    "iterator?": {"epoch": whole(1), "window": whole(0), "position": whole(0), "group": whole(1),
                  "reorders?": [[whole(0)]]},
    "origin?": ORIGIN,
    **{f"{role}?": PARENTS for role in ROLES},
}  # fmt: skip
RUN = ORIGIN | {"store_digest": str}
del RUN["store_digest?"]
# The config of a run, perhaps of another version: only what the code reads.
CONFIG = {
    "task": {"type": str, ...: object},
    "model": {"type": str, ...: object},
    "criterion": {"type": str, ...: object},
    "data": {"target_transform": (str, {"type": str, ...: object}), "batch_tokens": int, ...: object},
    "train": {"accumulate": whole(1), "valid_metrics": [str], "best_metric": (str, None), ...: object},
    "plugins?": [str],
    "distributed?": {"processes?": whole(1), ...: object},
    ...: object,
}
