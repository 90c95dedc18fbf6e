"""Many runs from one command: `--multirun`, carried out by hydra's sweepers and launchers. The folder of a
run has the name of its swept values.

Hydra gets only the swept keys, as text, and passes each job its values. `compose` handles their types and all other
keys, as in any other command.
"""

import dataclasses
import hashlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from s2s.config import compose, streams
from s2s.config.compose import Override
from s2s.config.values import choices
from s2s.errors import Failure, UserError, install

HYDRA = ("hydra.", "hydra/")  # beginnings of the keys of hydra's own
ROOT = "s2s"
LONGEST = 120  # maximum length of the name of a run's folder, in bytes
FUNCTION = re.compile(r"(choice|range|interval|shuffle|sort|tag)\(.*\)")  # hydra's functions, for sweeps over numbers
EXTRAS = {"hydra/sweeper/optuna": "sweep", "hydra/launcher/submitit": "slurm"}  # what setup.cfg calls their packages
CHOICE = re.compile(r"hydra/(launcher|sweeper)")
OPTION = re.compile(r"hydra\.(launcher|sweeper)(\.[A-Za-z]\w*)+")  # no `_target_`: it would name code to run


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a sweep does with the runs of a command.

    Attributes:
        value: The value of a finished run that a sweeper such as Optuna optimizes, by its config; None: it has none.
        maximise: Whether higher values are better, by the config of a run.
        table: The table of all runs in the folder of the sweep.
        parts: For a command whose jobs make parts of an output by `shard`: the key of the output. None: each job has a
            folder in `run`.
    """

    value: Callable[[Any], float | None]
    maximise: Callable[[Any], bool]
    table: Callable[[Path], str]
    parts: str | None = None


def of_parts(key: str) -> Outcome:
    """The outcome of `shard=1/2,2/2` of a command whose output `key` names."""
    done = "the parts are made; the same command with shard=join joins them"
    return Outcome(lambda config: None, lambda config: False, lambda folder: f"{folder}: {done}", key)


EXPLAINED = (  # messages of hydra, and what they say to a user of ours
    (r"Could not find 'hydra/(launcher|sweeper)/(\w+)'", "hydra/{0}={1}: no such {0} is installed"),
    (r"Could not override '([\w.]+)'. ?Key '(\w+)'", "{0}: the chosen launcher or sweeper has no option '{1}'"),
    (r"override '([^=']+)=(\w+\(.*\))'.*argument (\w+): (\w+) is incompatible", "{0}={1}: numbers are needed"),
    (r"does not support sweep type : (\w+)_SWEEP", "this sweeper has no function for {0}; give values, or choose "
                                                   "another by hydra/sweeper"),
    (r"override '([^=']+)=(\w+\(.*\))' empty choice", "{0}={1}: the values are missing, such as choice(1,2)"),
    (r"override '([^=']+)=(\w+\(.*\))'.*", "{0}={1}: hydra cannot read this function; examples are range(1,4) and "
                                            "choice(1,2)"),
)  # fmt: skip


def sweep(name: str, schema: type, main: Callable[[Any], None], words: list[Override], outcome: Outcome) -> None:
    """Run a command once for each combination of comma-separated values; a job writes to a folder in RUN that is named
    by its values, such as RUN/lr-0.001_seed-2, or into the parts of an output. At the end, the table of all runs goes
    to standard output.

    Args:
        name: The command's name.
        schema: Its root config dataclass.
        main: Does the work of one job; takes the config.
        outcome: What the runs of the command come to.
        words: The overrides. Hydra's own keys (`hydra/launcher=submitit_slurm hydra.launcher.partition=gpu`) choose
            where and in which order the jobs run.

    Raises:
        UserError: `run` is missing, a hydra key is not one of its launcher or sweeper, a job has a bad value, or
            another key than `shard` has several values, where jobs make parts.
    """
    of_hydra_words = [word for word in words if word.key.startswith(HYDRA)]
    of_hydra = list(map(_of_hydra, of_hydra_words))
    words = [word for word in words if not word.key.startswith(HYDRA)]
    key, parts = outcome.parts or "run", outcome.parts is not None
    run = next((word.text for word in reversed(words) if word.key == key), "").rstrip(os.sep)
    if not run or "${" in run:
        where = "of which each job makes a part" if parts else "; each job writes to a folder in it"
        raise UserError(f"--multirun requires {key}={'PATH, ' if parts else 'FOLDER'}{where}")
    fixed, swept = _divided(schema, [word for word in words if parts or word.key != "run"])
    if parts and [*swept] != ["shard"]:
        others = [key for key in swept if key != "shard"]
        raise UserError(f"--multirun: {others[0]} has several values, and only shard= can have them" if others else
                        "--multirun: shard= must have several values, such as shard=1/2,2/2")  # fmt: skip
    typed, pid = list(sys.argv), os.getpid()
    codes: list[int] = []
    optuna = next((word.text for word in reversed(of_hydra_words) if word.key == "hydra/sweeper"), "") == "optuna"

    def job(node: Any) -> float | None:
        from hydra.core.hydra_config import HydraConfig

        sys.argv = typed  # a run prints it as the command to repeat
        values = list(map(_chosen, HydraConfig.get().overrides.task))
        folder = f"shard={values[0].value}" if parts else folder_of(values, [*swept])
        try:
            of_job = [] if parts else [Override("run", f"{run}/{folder}")]
            config = compose.compose(schema, [*fixed, *values, *of_job])
            config.given = frozenset(word.key for word in (*fixed, *values))
            main(config)
            return outcome.value(config)
        except (UserError, Failure) as error:
            if os.getpid() != pid:  # the launcher reports it
                raise
            print(f"{name}: job {folder} failed: {error}", file=sys.stderr)
            codes.append(2 if isinstance(error, UserError) else 1)
            if optuna:
                raise  # there is no value
            return None

    if optuna and not any(word.key == "hydra.sweeper.direction" for word in of_hydra_words):
        better = outcome.maximise(compose.compose(schema, [word for word in fixed if word.key not in swept]))
        of_hydra.append(f"hydra.sweeper.direction={'maximize' if better else 'minimize'}")
    folder = Path(f"{run}.parts" if parts else run)
    words = ["hydra.output_subdir=null", f"hydra.sweep.dir={_quoted(str(folder))}", "hydra.sweep.subdir=.",
             "hydra/job_logging=none", "hydra/hydra_logging=none", *of_hydra]  # fmt: skip
    _hand_over(job, [name, "--multirun", *words, *(f"{key}={value}" for key, value in swept.items())], [*swept])
    if codes and parts:
        sys.exit(max(codes))
    print(outcome.table(folder), file=streams.results())
    if codes:
        sys.exit(max(codes))


def folder_of(values: list[Override], keys: list[str]) -> str:
    """The name of a run's folder: its swept values, each with the last part of its key, or with the whole key where two
    keys end alike. Characters that do not suit a file's name are replaced, and then a hash tells such names apart."""
    short = {key: key.removesuffix(".type").rpartition(".")[2] for key in keys}
    if len({*short.values()}) < len(short):
        short = {key: key.removesuffix(".type") for key in keys}
    whole = "_".join(f"{short[word.key]}-{word.value}" for word in values) or "run"
    name = re.sub(r"[^\w.+-]", "_", whole)  # without = and commas: the folder can be named on a command line
    if name == whole and len(name.encode()) <= LONGEST:
        return name
    cut = name.encode()[:LONGEST].decode(errors="ignore")
    return f"{cut}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def _hand_over(job: Callable[[Any], float | None], argv: list[str], keys: list[str]) -> None:
    """Let hydra call the job for each combination of the values of the keys."""
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException

    top: dict[str, Any] = {}
    for key in keys:
        *path, last = key.split(".")
        node = top
        for section in path:
            node = node.setdefault(section, {})
        node[last] = None
    ConfigStore.instance().store(name=ROOT, node=top)
    sys.argv = argv
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else it prints errors itself, and exits
    try:
        hydra.main(version_base=None, config_path=None, config_name=ROOT)(job)()
    except HydraException as error:
        lines = [str(cause).strip().split("\n")[0] for cause in (error, error.__cause__) if cause]
        hint = next(
            (f"; {install(extra)}" for key, extra in EXTRAS.items() if f"Could not find '{key}" in lines[0]), ""
        )
        raise UserError(f"--multirun: {_explained(' '.join(lines))}{hint}") from error


def _explained(message: str) -> str:
    """An error message of hydra in our words, as far as they are known."""
    for pattern, words in EXPLAINED:
        if match := re.search(pattern, message):
            return words.format(*match.groups())
    return message


def _divided(schema: type, words: list[Override]) -> tuple[list[Override], dict[str, str]]:
    """The overrides that all jobs have in common, and the others in hydra's syntax, by key.

    Raises:
        UserError: a value that a job would refuse.
    """
    words = list(compose.by_key(words).values())
    values: dict[str, list[Override]] = {}
    built = compose.build(schema, {})
    known, choosing = built.known, built.choices
    while chosen := [word for word in words if word.key in choosing and word.key not in values]:  # one may hold others
        values |= {word.key: _values(word, choosing[word.key]) for word in chosen}
        first = {key: alternatives[0] for key, alternatives in values.items()}
        for choice in [choice for alternatives in values.values() for choice in alternatives]:
            built = compose.build(schema, first | {choice.key: choice})
            known, choosing = known | built.known, choosing | built.choices
    functions = {}
    for word in words:
        leaf = known.get(word.key)
        if leaf and not word.file and FUNCTION.fullmatch(word.value) and not (leaf.is_text or leaf.is_list):
            functions[word.key] = word.value
        elif word.key not in choosing:
            if leaf and not word.file and not leaf.is_list and re.fullmatch(r"\[.*\]", word.value):
                raise UserError(f"{word.key}={word.value}: the values of a sweep stand without brackets: "
                                f"{word.key}={word.value[1:-1]}")  # fmt: skip
            values[word.key] = _values(word, leaf.annotation if leaf else str)
    fixed = [alternatives[0] for alternatives in values.values() if len(alternatives) == 1]
    swept = {key: alternatives for key, alternatives in values.items() if len(alternatives) > 1}
    start = [*fixed, *(alternatives[0] for alternatives in swept.values())]
    for choice in [choice for alternatives in swept.values() for choice in alternatives] or start[:1]:
        compose.compose(schema, [*start, choice])
    texts = {key: ",".join(_quoted(choice.value) for choice in options) for key, options in swept.items()} | functions
    typed = [word.key for word in words if word.key in texts]  # the last key changes fastest
    return fixed, {f"{key}.type" if choosing.get(key) is str else key: texts[key] for key in typed}


def _values(word: Override, annotation: Any) -> list[Override]:
    """The values of a key in a sweep; a key in a file has one."""
    if word.file:
        return [word]
    return [Override(word.key, value) for value in choices(word.value, annotation, word.key)]


def _chosen(word: str) -> Override:
    """Convert an override of a hydra job to ours."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    override = OverridesParser.create().parse_override(word)
    value = override.value()
    return Override(override.key_or_group, str(value).lower() if isinstance(value, bool) else str(value))


def _of_hydra(word: Override) -> str:
    """An override of hydra's launcher or sweeper, in hydra's syntax. Raises UserError for other keys and values."""
    value = word.value if isinstance(word.value, str) else word.value.value
    is_list = isinstance(value, str) and value.startswith("[") and not word.file  # `setup`: commands
    if CHOICE.fullmatch(word.key) and isinstance(value, str) and re.fullmatch(r"\w+", value):
        return f"{word.key}={value}"
    if not OPTION.fullmatch(word.key):
        raise UserError(f"{word.where}{word.key}: the only hydra keys are hydra/launcher, hydra/sweeper, "
                        "hydra.launcher.* and hydra.sweeper.*")  # fmt: skip
    if not isinstance(value, str) or not value.isprintable() or re.search(r"\$\{|_target_|\{", value):
        raise UserError(f"{word.where}{word.key}: a number, a word, true or false is needed")
    return f"{word.key}={value if is_list or value == 'null' else _quoted(value)}"


def _quoted(text: str) -> str:
    """Text in hydra's syntax, in which a backslash escapes only a quote."""
    if "${" in text:
        raise UserError(f"{text}: a swept value cannot contain ${{")
    return "'" + re.sub(r"(\\+)(?='|\Z)", r"\1\1", text).replace("'", "\\'") + "'"
