"""Small trainings and decodings whose results are recorded: what a change of structure must leave as it is.

Each is a few words of the commands. Data are made up from fixed seeds, here and not in shared helpers, so that they
stay the same. `record` runs one or all of them, and returns plain values for JSON.
"""

import hashlib
import importlib
import json
import platform
import random
import sys
from pathlib import Path

import numpy as np

WORDS = {  # store -> words of s2s-preprocess
    "text": ["source=src", "target=tgt", "tokenizer=words", "keep_text=true"],
    "bytes": ["source=src", "target=tgt", "tokenizer=bytes"],
    "speech": ["task=speech_to_text", "tokenizer=characters", "features.sample_rate=8000", "features.bins=20",
               "features.keep=waveform"],
}  # fmt: skip
COUNTS = {"train": 240, "valid": 16, "test": 24}
SPEECH_COUNTS = {"train": 40, "valid": 6, "test": 8}

COMMON = ["device=cpu", "workers=1", "train.samples=0", "train.loggers=[]", "train.log_updates=10",
          "optim.warmup_updates=10", "optim.lr=4e-3", "data.batch_tokens=300", "train.max_updates=60",
          "train.valid_updates=60"]  # fmt: skip
SIZES = [f"model.{side}.{key}" for side in ("encoder", "decoder") for key in ("width=32", "ffn_width=64")]
SMALL = ["model=transformer_tiny", *SIZES, *COMMON]
SPEECH = ["task=speech_to_text", "model=conformer_tiny", "model.encoder.layers=2", "model.encoder.ctc_layers=[1]",
          *COMMON, "data.batch_tokens=800", "model.frontend.channels=8",
          "data.spec_augment.time_masks=1", "data.waveform.speed=[0.9,1.0,1.1]"]  # fmt: skip
JOINT = [*SPEECH, *SIZES, "model.decoder.layers=1", "criterion.terms=[ctc,intermediate_ctc,cross_entropy]",
         "criterion.ctc.weight=0.15", "criterion.intermediate_ctc.weight=0.15"]  # fmt: skip

TRAININGS = {  # run -> (store, words of s2s-train); `{folder}` is where stores and runs are
    "text": ("text", SMALL),
    "packed": ("text", [*SMALL, "data.batching=packed", "data.row_tokens=32", "model.positions=rotary",
                        "model.norm=post", "optim.lr=1e-3"]),
    "unpad": ("text", [*SMALL, "data.batching=bucket_2d", "data.buckets=[3,3]", "model.encoder.unpad=true",
                       "model.activation=swiglu", "model.encoder.kv_heads=2", "model.decoder.kv_heads=2"]),
    "bf16": ("text", [*SMALL, "train.precision=bf16", "model.positions=learned", "model.max_positions=64"]),
    "joint": ("speech", JOINT),
    "ctc": ("speech", [*SPEECH, "model=conformer_ctc_small", "model.encoder.width=32", "model.encoder.ffn_width=64",
                       "model.encoder.heads=4", "model.dropout=0.05", "criterion=intermediate_ctc"]),
    "lm": ("text", ["task=language_modeling", "model=transformer_lm_tiny", "model.decoder.width=32",
                    "model.decoder.ffn_width=64", *COMMON]),
    "heads": ("text", [*SMALL, "model.auxiliary_heads=[1]", "criterion=auxiliary", "data.target_transform=reverse"]),
    "distillation": ("text", [*SMALL, "criterion=distillation",
                              "criterion.terms=[cross_entropy,distillation,r_drop]", "criterion.r_drop.weight=0.5",
                              "criterion.distillation.teachers=[{folder}/text]",
                              "criterion.distillation.temperature=2"]),
    "r_drop": ("text", [*SMALL, "criterion=r_drop", "criterion.r_drop.weight=1", "optim=adamw",
                        "optim.weight_decay=0.01", "optim.schedule=cosine"]),
    "stages": ("text", [*SMALL, "data.stages=[{epochs:1,max_length:6},{word_dropout:0.1,prev_output_mask:0.15}]",
                        "train.stages=[{updates:15,freeze:[encoder]},{factor:0.5}]", "data.character_noise=0.05"]),
    "ema": ("text", [*SMALL, "train.ema=0.9", "train.accumulate=2", "data.cost=sum", "optim.layer_decay=0.9",
                     "train.checkpoint_activations=true"]),
    "bytes": ("bytes", [*SMALL, "data.batch_tokens=900", "model.tie_embeddings=none"]),
}  # fmt: skip

TEXT = ["checkpoint={folder}/text", "store={folder}/text.store", "format=json"]
RECORDINGS = ["store={folder}/speech.store", "format=json"]
DECODINGS = {  # name -> words of s2s-generate
    "greedy": [*TEXT, "decode.beam_size=1"],
    "beam": [*TEXT, "decode.n_best=3"],
    "eager": [*TEXT, "decode.n_best=3", "decode.backend=eager"],
    "int8": [*TEXT, "decode.dtype=int8"],
    "int8 eager": [*TEXT, "decode.dtype=int8", "decode.backend=eager"],
    "bf16": [*TEXT, "decode.dtype=bf16"],
    "exhaustive": [*TEXT, "decode.stopping=exhaustive", "decode.length_normalization=gnmt", "decode.max_length_b=5"],
    "best possible": [*TEXT, "decode=ctranslate2", "decode.stopping=best_possible", "decode.word_reward=0.1"],
    "fairseq": [*TEXT, "decode=fairseq", "decode.max_length_b=20"],
    "slots": [*TEXT, "decode.slots=3"],
    "diverse": [*TEXT, "decode.beam_size=4", "decode.n_best=4", "decode.diverse_groups=2"],
    "sampling": [*TEXT, "decode.search=sample", "decode.n_best=3", "decode.top_k=5", "seed=7"],
    "stochastic beam": [*TEXT, "decode.search=stochastic_beam", "decode.n_best=3", "seed=7"],
    "no repeats": [*TEXT, "decode.no_repeat_ngram=2"],
    "forbidden": [*TEXT, "decode.forbidden={folder}/forbidden.txt"],
    "allowed": [*TEXT, "decode.allowed={folder}/allowed.txt"],
    "constraints": [*TEXT, "constraints={folder}/constraints.txt"],
    "prefix": [*TEXT, "prefix={folder}/prefix.txt"],
    "shortlist": [*TEXT, "decode.shortlist={folder}/shortlist"],
    "ensemble": [*TEXT, "checkpoint=[{folder}/text,{folder}/r_drop]", "decode.ensemble_weights=[1,2]"],
    "ensemble log-linear": [*TEXT, "checkpoint=[{folder}/text,{folder}/r_drop]", "decode.ensemble=log_linear"],
    "language model": [*TEXT, "decode.language_model={folder}/lm"],
    "copied draft": [*TEXT, "decode.beam_size=1", "decode.speculative=input"],
    "model draft": [*TEXT, "decode.beam_size=1", "decode.speculative=draft", "draft={folder}/r_drop"],
    "mbr": [*TEXT, "decode.search=sample", "decode.n_best=4", "decode.mbr=chrf"],
    "coverage and alignment": [*TEXT, "decode.coverage_penalty=0.2", "alignment=true"],
    "scores": [*TEXT, "mode=score"],
    "packed": [*TEXT, "checkpoint={folder}/packed"],
    "grouped heads": [*TEXT, "checkpoint={folder}/unpad"],
    "learned positions": [*TEXT, "checkpoint={folder}/bf16"],
    "auxiliary heads": [*TEXT, "checkpoint={folder}/heads", "decode.auxiliary_weights=[0.3]"],
    "bytes": ["checkpoint={folder}/bytes", "store={folder}/bytes.store", "format=json"],
    "joint": [*RECORDINGS, "checkpoint={folder}/joint", "decode=speech", "decode.n_best=2"],
    "attention alone": [*RECORDINGS, "checkpoint={folder}/joint", "decode=speech", "decode.ctc_weight=0"],
    "joint scores": [*RECORDINGS, "checkpoint={folder}/joint", "mode=score", "decode=speech"],
    "best path": [*RECORDINGS, "checkpoint={folder}/ctc", "decode=speech", "decode.beam_size=1", "timestamps=true"],
    "prefix beam": [*RECORDINGS, "checkpoint={folder}/ctc", "decode=speech", "decode.n_best=2"],
    "exit layer": [*RECORDINGS, "checkpoint={folder}/ctc", "decode=speech", "decode.exit_layer=1"],
    "chunks": [*RECORDINGS, "checkpoint={folder}/ctc", "decode=speech", "decode.chunk_seconds=1",
               "decode.chunk_overlap=0.4"],
}  # fmt: skip


def fingerprint() -> str:
    """What decides the bits of a result: the processor, the versions, the threads."""
    import torch

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), platform.processor())
    facts = [platform.machine(), flags, torch.__version__, np.__version__, str(torch.get_num_threads())]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def call(command: str, *words: str) -> None:
    """Run a command in this process; it must succeed."""
    before, sys.argv, code = sys.argv, [f"s2s-{command}", *words], 0
    try:
        importlib.import_module(f"s2s_cli.{command}").main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
    assert not code, f"s2s-{command} {' '.join(words)} ended with {code}"


class Golden:
    """Makes stores and runs when they are first asked for, in one folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        _write_text(folder)

    def store(self, name: str) -> Path:
        """A store, made."""
        store = self.folder / f"{name}.store"
        if not store.exists():
            ending = ""
            if name == "speech":
                _write_speech(self.folder / "recordings")
                ending = ".tsv"
            at = self.folder / "recordings" if name == "speech" else self.folder
            splits = [f"{split}={at / split}{ending}" for split in COUNTS]
            call("preprocess", *WORDS[name], *splits, f"store={store}", "workers=1")
        return store

    def run(self, name: str) -> Path:
        """A run, trained."""
        run = self.folder / name
        if not run.exists():
            store, words = TRAININGS[name]
            call("train", f"store={self.store(store)}", f"run={run}", *self._placed(words))
        return run

    def training(self, name: str) -> dict:
        """The recorded values of a training: a hash of the weights, whatever they are called; the norms of the tensors;
        the losses."""
        from safetensors.numpy import load_file

        run = self.run(name)
        tensors = list(load_file(run / "last" / "model.safetensors").values())
        digests = sorted(hashlib.sha256(str(x.shape).encode() + x.tobytes()).hexdigest() for x in tensors)
        events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses = [[event["update"], event["loss"]] for event in events if event["kind"] in ("train", "valid")]
        return {
            "sha256": hashlib.sha256("".join(digests).encode()).hexdigest(),
            "norms": sorted(float(np.linalg.norm(tensor.astype(np.float64))) for tensor in tensors),
            "losses": losses,
        }

    def decoding(self, name: str) -> dict:
        """The recorded values of a decoding: a hash of all that the hypotheses hold; their texts and scores."""
        output = self.folder / "output.json"
        call("generate", *self._placed(DECODINGS[name]), f"output={output}", "device=cpu")
        rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
        facts = ("index", "hypothesis", "score", "token_log_probabilities", "alignment", "words")
        digest = hashlib.sha256(repr([[row.get(fact) for fact in facts] for row in rows]).encode()).hexdigest()
        return {"sha256": digest, "hypotheses": [[row["index"], row["hypothesis"], row["score"]] for row in rows]}

    def _placed(self, words: list[str]) -> list[str]:
        """Words with the stores and runs that they name, made."""
        for run in TRAININGS:
            if any(f"{{folder}}/{run}" in word.replace(f"{run}.store", "") for word in words):
                self.run(run)
        for store in WORDS:
            if any(f"{{folder}}/{store}.store" in word for word in words):
                self.store(store)
        shortlist = self.folder / "shortlist"
        if any("{folder}/shortlist" in word for word in words) and not shortlist.exists():
            call("shortlist", f"store={self.store('text')}", f"output={shortlist}", "candidates=3", "frequent=4")
        return [word.replace("{folder}", str(self.folder)) for word in words]


def record(folder: Path) -> dict:
    """Everything, in an empty folder."""
    golden = Golden(folder)
    return {
        "fingerprint": fingerprint(),
        "trainings": {name: golden.training(name) for name in TRAININGS},
        "decodings": {name: golden.decoding(name) for name in DECODINGS},
    }


def _write_text(folder: Path) -> None:
    """Letters, and the same sorted; and the files that decodings name."""
    rng, targets = random.Random(20261130), {}
    for split, count in COUNTS.items():
        sources = [[rng.choice("abcdefghij") for _ in range(rng.randint(1, 8))] for _ in range(count)]
        targets[split] = [sorted(line) for line in sources]
        for ending, lines in (("src", sources), ("tgt", targets[split])):
            (folder / f"{split}.{ending}").write_text("".join(f"{' '.join(line)}\n" for line in lines))
    (folder / "forbidden.txt").write_text("b c\nd\n")
    (folder / "allowed.txt").write_text("".join(f"{' '.join(line)}\n" for line in targets["train"][:30]))
    (folder / "constraints.txt").write_text("".join("\t".join(line[:2]) + "\n" for line in targets["test"]))
    (folder / "prefix.txt").write_text("".join(f"{' '.join(line[:2])}\n" for line in targets["test"]))


def _write_speech(folder: Path) -> None:
    """Letters as tones of 120 ms."""
    import soundfile

    folder.mkdir()
    rng, noise = random.Random(7), np.random.default_rng(7)
    for split, count in SPEECH_COUNTS.items():
        rows = ["id\taudio\ttext\n"]
        for number in range(count):
            text = "".join(rng.choices("abcd", k=rng.randint(2, 6)))
            time = np.arange(960) / 8000
            pieces = [np.zeros(600)]
            for letter in text:
                tone = np.sin(2 * np.pi * {"a": 400, "b": 800, "c": 1600, "d": 3000}[letter] * time)
                pieces += [tone * rng.uniform(0.2, 0.5), np.zeros(rng.randrange(400, 900))]
            samples = np.concatenate(pieces)
            samples += noise.standard_normal(len(samples)) * 1e-3
            soundfile.write(folder / f"{split}-{number}.wav", samples.astype(np.float32), 8000, subtype="PCM_16")
            rows.append(f"{split}-{number}\t{split}-{number}.wav\t{text}\n")
        (folder / f"{split}.tsv").write_text("".join(rows))
