"""Preprocessing of recordings and their texts. All recordings are checked before the tokenizer is learned and features
are computed (`s2s.data.recipe`)."""

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from s2s import registry
from s2s.audio.cmvn import Statistics
from s2s.audio.features import Fbank, FeatureConfig
from s2s.audio.waveform import from_int16, read, to_int16
from s2s.audio.whisper import features_of
from s2s.config.schema import group, option
from s2s.data.columns import Column, tokens
from s2s.data.manifest import Broken, Checked, Entry, Manifest, check, complaint, read_manifest
from s2s.data.processes import progress
from s2s.data.recipe import TOKENIZER, Encoded, Recipe, RecipeConfig, Stream, check_streams, given, make
from s2s.data.report import BARS, aligned, blocks
from s2s.data.shards import not_learned
from s2s.data.speech import UTTERANCES, feature_config, features_facts, source_column
from s2s.data.store import Store
from s2s.data.store_writer import StoreWriter
from s2s.errors import UserError
from s2s.manifests import MANIFEST
from s2s.parts import Shard
from s2s.text.tokenizer import LearningError, Tokenizer, load_tokenizer

CHECKED = 64  # entries that a worker checks at a time
CHUNK_SECONDS = 120.0  # seconds of audio that a worker encodes at a time; a longer utterance is a chunk by itself


@dataclasses.dataclass
class SpeechFilterConfig:
    """Filters of training utterances. Validation and test splits keep every utterance."""

    min_seconds: float = option(0.0, "minimum length of a recording, in seconds", at_least=0)
    max_seconds: float | None = option(60.0, "maximum length of a recording, in seconds; null: any", at_least=0)
    max_length: int = option(1024, "maximum length of a text, in tokens", at_least=1)


@dataclasses.dataclass
class SpeechPreprocessConfig(RecipeConfig):
    """Schema of `s2s-preprocess task=speech_to_text`."""

    task: str = option("speech_to_text", "task of the store; it decides which other keys there are")
    source: str = option("speech", "name of the spoken language")
    target: str = option("text", "name of the written language")
    train: list[str] = option(
        [], "training manifests: FILE.tsv (with a header; also - or a pipe), FILE.jsonl, or Kaldi folders"
    )
    valid: list[str] = option([], "validation manifests, joined into one split")
    test: list[str] = option([], "test manifests: splits test, test1, test2 ...")
    audio_root: str | None = option(
        None, "folder to which relative paths of recordings refer; null: the folder of the manifest"
    )
    skip_broken: bool = option(False, "skip and count broken entries; false: name them and stop")
    wrong_rate: str = option(
        "resample", "recordings with another rate than features.sample_rate: resample them, or treat them as broken",
        ("resample", "error"),
    )  # fmt: skip
    features: FeatureConfig = option(FeatureConfig, "")
    tokenizer: Any = group("tokenizer", TOKENIZER, "tokenizer of the texts")
    tokenizer_from: str | None = option(
        None, "store whose target tokenizer to use instead; if it is a store of speech, also its features and cmvn"
    )
    filter: SpeechFilterConfig = option(SpeechFilterConfig, "which recordings are left out")
    shard_pairs: int = option(20_000, "maximum number of utterances in a shard", at_least=1)


def preprocess(config: SpeechPreprocessConfig) -> dict[str, Any]:
    """Make a store of speech: see `make`. One error names all broken entries."""
    return make(SpeechRecipe(config))


class SpeechRecipe(Recipe[SpeechPreprocessConfig]):
    """Recordings to text."""

    Config = SpeechPreprocessConfig
    unit, measure, took = "utterances", "s", "{hours} hours in {seconds} s, {hours_per_minute} hours a minute"
    alike, may_differ = False, ("channel",)

    def inputs(self) -> Iterable[str | None]:
        """As in Recipe."""
        return [*self._read, self.config.tokenizer_from]

    @property
    def _read(self) -> list[str | None]:
        config = self.config
        return [*config.train, *config.valid, *config.test, *given(config.tokenizer)]

    def find(self) -> None:
        """As in Recipe."""
        check_streams(self._read)
        self.config, self._parent = _inherited(self.config)
        config = self.config
        features_of(config.features)  # raises UserError if options do not fit each other, before anything is read
        if not self.named:
            raise UserError("no manifest is given; use train=FILE.tsv, train=FILE.jsonl or train=FOLDER (of Kaldi)")
        if config.features.cmvn == "global" and not config.train and not self._parent:
            raise UserError("train= is required for features.cmvn=global, whose means are those of the training split "
                            "(or give tokenizer_from=STORE, or features.cmvn=utterance)")  # fmt: skip
        if config.audio_root is not None and not Path(config.audio_root).is_dir():
            raise UserError(f"audio_root={config.audio_root}: no such folder")
        named = self.named.items()
        self._manifests = {
            split: [read_manifest(name, config.audio_root) for name in of_split] for split, of_split in named
        }
        _loaded.cache_clear()  # it may have the tokenizer of an earlier store in the same folder

    def data(self) -> Iterable[str | Path]:
        """As in Recipe; recordings are not among them."""
        return [name for of_split in self.named.values() for name in of_split]

    def take(self, shard: Shard) -> None:
        """As in Recipe."""
        self._manifests = {
            split: [_share(manifest, shard) for manifest in of_split] for split, of_split in self._manifests.items()
        }

    def splits(self, submit: Callable, writer: StoreWriter) -> "dict[str, list[CheckedManifest]]":
        """As in Recipe."""
        splits = _checked(self._manifests, self.config, submit, self.shard is None)
        config = dataclasses.replace(self.config, tokenizer=self.with_reserved(self.config.tokenizer))
        if self.learned is not None:
            self._tokenizer = load_tokenizer(self.learned, "target")
        else:
            self._tokenizer = _tokenizer(config, self._parent, splits, self.shard)
        if self.config.tokenizer_from is not None:
            self.check_reserved([self._tokenizer])
        writer.add_tokenizer(self._tokenizer, "target")
        self._statistics = Statistics()
        return splits

    @property
    def tokenizers(self) -> dict[str, Tokenizer]:
        return {"target": self._tokenizer}

    def columns(self, split: str) -> list[Column]:
        """As in Recipe."""
        symbols = len(self._tokenizer.vocabulary)
        return [source_column(self.config.features), Column(UTTERANCES, "json"), tokens("target.tokens", symbols),
                Column("target.text", "text")]  # fmt: skip

    def work(self, split: str, folder: Path) -> partial:
        """As in Recipe."""
        training = split == "train"
        return partial(encode, Work(folder, self.config.features, self.config.filter if training else None,
                                    training and self.config.features.cmvn == "global"))  # fmt: skip

    def total(self, corpora: "list[CheckedManifest]") -> float:
        """As in Recipe, in seconds of audio."""
        return sum(facts.seconds for manifest in corpora for facts in manifest.checked)

    def split_facts(self, split: str, corpora: list, facts: dict[str, Any], sums: dict[str, Any]) -> dict[str, Any]:
        """As in Recipe; `read` counts broken entries, too."""
        self._statistics += sums["statistics"]
        checked = [recording for manifest in corpora for recording in manifest.checked]
        rates = Counter(str(recording.rate) for recording in checked)
        source = facts["source"]
        return {
            **facts,
            "read": sum(manifest.read for manifest in corpora),
            "corpora": [
                {**corpus, "read": manifest.read} for corpus, manifest in zip(facts["corpora"], corpora, strict=True)
            ],
            "broken": _sum(manifest.broken for manifest in corpora),
            "clipped": sum(recording.clipped for recording in checked),
            "silent": sum(recording.silent for recording in checked),
            "rates": dict(sorted(rates.items())),
            "seconds": round(float(sums["seconds"]), 3),
            "source": {
                "frames": source["tokens"],
                "frame_shift": self.config.features.frame_shift,
                "lengths": source["lengths"],
                "histogram": {"frames": source["histogram"]["tokens"], "lines": source["histogram"]["lines"]},
            },
        }

    def facts(self) -> dict[str, Any]:
        """The options of features, and their means and deviations."""
        features, cmvn = self.config.features, None
        if features.cmvn == "global":
            cmvn = self._parent.facts["cmvn"] if self._parent else self._statistics.facts()
        return {"features": features_facts(features), "cmvn": cmvn}

    def table(self, report: dict[str, Any]) -> str:
        """As in Recipe."""
        return table(report)

    def seen(self, report: dict[str, Any], seconds: float) -> dict[str, Any]:
        """As in Recipe, with hours of recordings."""
        hours = sum(facts["seconds"] for facts in report["splits"].values()) / 3600
        speed = {"hours": round(hours, 4), "hours_per_minute": round(60 * hours / seconds, 2)}
        return {**super().seen(report, seconds), **speed}


def _inherited(config: SpeechPreprocessConfig) -> tuple[SpeechPreprocessConfig, Store | None]:
    """The config with the features of `tokenizer_from`, and that store, if it is a store of speech."""
    if config.tokenizer_from is None:
        return config, None
    if config.tokenizer != registry.find("tokenizer", TOKENIZER).Config():
        raise UserError("tokenizer_from and tokenizer options exclude each other; choose one of them")
    store = Store(config.tokenizer_from)
    if "features" not in store.facts:
        return config, None
    features = feature_config(store.facts, store.path / MANIFEST)
    if config.features.channel is not None:  # the recordings may have it elsewhere
        features = dataclasses.replace(features, channel=config.features.channel)
    if config.features not in (FeatureConfig(channel=config.features.channel), features):
        raise UserError(
            "tokenizer_from and features exclude each other: features are those of that store (except the channel)"
        )
    return dataclasses.replace(config, features=features), store


# Checks


@dataclasses.dataclass
class CheckedManifest:
    """A manifest after its recordings were checked.

    Attributes:
        name: Its name in the config.
        entries: Entries that can be used.
        checked: Facts about their recordings.
        read: Number of all entries.
        broken: Kind of problem -> number of broken entries.
    """

    name: str
    entries: list[Entry]
    checked: list[Checked]
    read: int
    broken: dict[str, int]

    def chunks(self) -> "Iterator[list[Utterance]]":
        """Its utterances, in chunks of up to CHUNK_SECONDS."""
        chunk: list[Utterance] = []
        seconds = 0.0
        for utterance in zip(self.entries, self.checked, strict=True):
            if chunk and seconds + utterance[1].seconds > CHUNK_SECONDS:
                yield chunk
                chunk, seconds = [], 0.0
            chunk.append(utterance)
            seconds += utterance[1].seconds
        if chunk:
            yield chunk


def _share(manifest: Manifest, shard: Shard) -> Manifest:
    """The part of a manifest that a shard encodes; the first one tells of entries that are visibly broken."""
    share = shard.share(len(manifest.entries))
    return manifest._replace(
        entries=manifest.entries[share.start : share.stop], broken=manifest.broken if shard.number == 1 else []
    )


def _checked(
    manifests: dict[str, list[Manifest]], config: SpeechPreprocessConfig, submit: Callable, whole: bool
) -> dict[str, list[CheckedManifest]]:
    """Check all recordings. Raises UserError that names the broken entries, unless config.skip_broken. `whole`: whether
    these are all data, so that a split without entries is an error."""
    total = sum(len(manifest.entries) for of_split in manifests.values() for manifest in of_split)
    broken, read = [], 0
    doubtful: dict[str, list[Broken]] = {"clipped": [], "silent": []}
    splits: dict[str, list[CheckedManifest]] = {}
    with progress("check", total, " recordings") as bar:
        for split, of_split in manifests.items():
            splits[split] = []
            for manifest in of_split:
                entries = iter(manifest.entries)
                chunks = iter(lambda entries=entries: list(islice(entries, CHECKED)), [])
                results: list[Checked | Broken] = []
                for chunk in submit(partial(check, config.features, config.wrong_rate), chunks):
                    results += chunk
                    bar(len(chunk))
                bad = manifest.broken + [result for result in results if isinstance(result, Broken)]
                good = [(e, c) for e, c in zip(manifest.entries, results, strict=True) if isinstance(c, Checked)]
                for kind, entries in doubtful.items():
                    entries += [Broken(e.where, e.id, kind, str(e.audio)) for e, facts in good if getattr(facts, kind)]
                kinds = dict(Counter(entry.kind for entry in bad))
                splits[split].append(CheckedManifest(manifest.name, [e for e, _ in good], [c for _, c in good],
                                                     manifest.read, kinds))  # fmt: skip
                broken += bad
                read += manifest.read
    if broken and not config.skip_broken:
        raise UserError(f"{complaint(broken, read)}\n(skip_broken=true skips them)")
    if broken:
        print(f"warning: skipped: {complaint(broken, read)}", file=sys.stderr)
    for entries in filter(None, doubtful.values()):
        print(f"warning: {complaint(entries, read, 'suspicious, but used')}", file=sys.stderr)
    for split, of_split in splits.items():
        if whole and not any(manifest.entries for manifest in of_split):
            raise UserError(f"{split}: all entries are broken")
    return splits


def _tokenizer(
    config: SpeechPreprocessConfig, parent: Store | None, splits: dict[str, list[CheckedManifest]], shard: Shard | None
) -> Tokenizer:
    """The tokenizer of the texts, from another store or learned on the training texts."""
    if config.tokenizer_from is not None:
        return (parent or Store(config.tokenizer_from)).tokenizers()["target"]

    def texts() -> Iterator[list[str]]:
        if "train" not in splits:
            raise UserError("train= is required to learn a tokenizer (or give tokenizer_from=STORE)")
        for manifest in splits["train"]:
            yield [entry.text for entry in manifest.entries]

    try:
        read = texts() if shard is None else not_learned(shard)
        return registry.find("tokenizer", config.tokenizer.type).learn(config.tokenizer, read, config.seed)
    except LearningError as error:
        raise UserError(f"tokenizer: {error}") from error


# One chunk, in a worker


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of a worker on a chunk.

    Attributes:
        folder: The folder of the tokenizer.
        features: Options of features.
        filter: The filters; None: every utterance is kept.
        statistics: Whether to compute the statistics for cmvn.
    """

    folder: Path
    features: FeatureConfig
    filter: SpeechFilterConfig | None
    statistics: bool


Utterance = tuple[Entry, Checked]


def encode(work: Work, chunk: list[Utterance]) -> Encoded:
    """Tokenize and filter a chunk of utterances, and compute their features.

    Raises:
        AudioError: a recording cannot be read; it has changed since it was checked.
    """
    tokenizer, fbank = _loaded(work.folder), _fbank(*dataclasses.astuple(work.features))
    texts = [entry.text for entry, _ in chunk]
    source = source_column(work.features)
    ids, lengths = tokenizer.encode_flat(texts)
    keep, dropped = np.ones(len(chunk), bool), {}
    if work.filter is not None:
        keep, dropped = select(np.array([facts.seconds for _, facts in chunk]), lengths, work.filter)
    kept = [utterance for utterance, is_kept in zip(chunk, keep.tolist(), strict=True) if is_kept]
    ids, lengths = ids[np.repeat(keep, lengths)], lengths[keep]
    values, frames, statistics = [], [], Statistics()
    for entry, _ in kept:
        channel = entry.channel or work.features.channel
        samples = read(entry.audio, entry.start, entry.duration, work.features.sample_rate, channel)
        if work.features.keep == "waveform":
            waveform = to_int16(samples)
            values.append(waveform)
            frames.append(int(fbank.frames(len(waveform))))
            features = fbank(from_int16(waveform)) if work.statistics else None
        else:
            features = fbank(samples).astype(source.dtype)
            values.append(features.reshape(-1))
            frames.append(len(features))
        if work.statistics:
            statistics += Statistics.of(features)
    sizes = np.fromiter(map(len, values), np.int64, len(values))
    lines = [_line(entry, facts) for entry, facts in kept]
    encoded = Encoded(
        {
            source.name: (np.concatenate(values) if values else np.empty(0, source.dtype), sizes),
            UTTERANCES: (np.frombuffer(b"".join(lines), np.uint8), np.fromiter(map(len, lines), np.int64, len(lines))),
        },
        {"source": Stream(np.array(frames, np.int64))},
        read=len(chunk),
        dropped=dropped,
        done=sum(facts.seconds for _, facts in chunk),
        sums={"statistics": statistics, "seconds": sum(Fraction(facts.seconds) for _, facts in kept)},
    )
    encoded.add_tokens("target", tokenizer, "\n".join(entry.text for entry, _ in kept), ids, lengths, keep_text=True)
    return encoded


def select(seconds: np.ndarray, tokens: np.ndarray, rules: SpeechFilterConfig) -> tuple[np.ndarray, dict[str, int]]:
    """Apply the filters to utterances.

    Args:
        seconds: Length of each recording, [n].
        tokens: Number of tokens of each text, [n].
        rules: The filters.

    Returns:
        Which utterances are kept, bool [n]; and filter -> number of utterances dropped. An utterance counts for the
        first filter that drops it.
    """
    bad = {"min_seconds": seconds < rules.min_seconds, "max_length": tokens > rules.max_length}
    if rules.max_seconds is not None:
        bad["max_seconds"] = seconds > rules.max_seconds
    keep, dropped = np.ones(len(seconds), bool), {}
    for rule, mask in bad.items():
        dropped[rule] = int(np.count_nonzero(mask & keep))
        keep &= ~mask
    return keep, dropped


def _line(entry: Entry, facts: Checked) -> bytes:
    known = {"id": entry.id, "speaker": entry.speaker, "language": entry.language, "seconds": round(facts.seconds, 3)}
    return (json.dumps(known, ensure_ascii=False) + "\n").encode()


@lru_cache(maxsize=1)
def _loaded(folder: Path) -> Tokenizer:
    """The tokenizer in a folder, loaded once in each process."""
    return load_tokenizer(folder, "target")


@lru_cache(maxsize=1)
def _fbank(*options: Any) -> Fbank:
    return features_of(FeatureConfig(*options))


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))


# The report


def table(report: dict[str, Any]) -> str:
    """The report as readable text, without the path of the store and the time taken."""
    splits = report["splits"].items()
    utterances = [("split", "entries read", "kept", "hours", "characters", "dropped", "broken", "clipped", "silent",
                   "rates")]  # fmt: skip
    sizes = [("split", "of an utterance", "50%", "90%", "99%", "max", "tokens", "unknown", "characters/token")]
    bars = [("split", "", "bar", "")]
    for name, split in splits:
        why = (_reasons(split[key], form) for key, form in (("dropped", "{} by {}"), ("broken", "{} {}")))
        rates = ", ".join(f"{rate} Hz" + f" ({n:,})" * (len(split["rates"]) > 1) for rate, n in split["rates"].items())
        source, target = split["source"], split["target"]
        doubtful = f"{split['clipped']:,}", f"{split['silent']:,}"
        utterances.append((name, f"{split['read']:,}", f"{split['pairs']:,}", f"{split['seconds'] / 3600:.2f}",
                           f"{target['characters']:,}", *why, *doubtful, rates))  # fmt: skip
        if len(split["corpora"]) > 1:
            utterances += [(f"  {c['name']}", f"{c['read']:,}", f"{c['kept']:,}", *[""] * 7) for c in split["corpora"]]
        second = source["frame_shift"] / 1000
        lengths = [f"{frames * second:.1f}" for frames in source["lengths"].values()]
        sizes.append((name, "seconds", *lengths, "", "", ""))
        rate, characters = f"{100 * target['unknown_rate']:.2f}%", f"{target['characters_per_token']:.2f}"
        sizes.append((name, "tokens", *map(str, target["lengths"].values()), f"{target['tokens']:,}", rate, characters))
        for what, facts, unit in (("seconds", source, second), ("tokens", target, 1)):
            width, counts = facts["histogram"].values()
            bars.append((name, what, f"{width * unit:g}", blocks(counts)))
    sections = [
        [f"vocabulary: {report['vocabularies']['target']['size']}"],
        aligned(utterances, right=(1, 2, 3, 4, 7, 8)),
        aligned(sizes, right=range(2, 9)),
        [f"utterances by length, from 0; the last of {BARS} bars has all longer utterances"],
        aligned(bars, right=(2,)),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections)


def _reasons(counts: dict[str, int], form: str) -> str:
    """Counts by reason as text, each in the given form; "0" if there are none."""
    return ", ".join(form.format(f"{count:,}", what) for what, count in counts.items() if count) or "0"
