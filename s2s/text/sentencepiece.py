"""SentencePiece (Kudo and Richardson 2018): unigram or byte-pair pieces, learned here or given as a model file."""

import dataclasses
import heapq
import io
import re
import signal
import struct
import sys
from collections.abc import Iterable
from functools import cached_property
from itertools import chain
from multiprocessing import get_context
from multiprocessing.connection import Connection
from operator import itemgetter
from pathlib import Path

import numpy as np
import sentencepiece

from s2s import registry
from s2s.config.schema import option
from s2s.config.streams import content, is_there
from s2s.errors import Failure, UserError
from s2s.files import write
from s2s.text.extension import extended
from s2s.text.protection import MARKS
from s2s.text.sampling import SPACE, Sampler, sampler
from s2s.text.tokenizer import LearningError, Tokenizer, TokenizerConfig, check_given, is_blank, view, without_blank
from s2s.text.vocabulary import BOS, EOS, PAD, SPECIALS, UNK, Vocabulary


@dataclasses.dataclass
class SentencePieceConfig(TokenizerConfig):
    """Options of the SentencePiece tokenizer."""

    type: str = option("sentencepiece", "component")
    algorithm: str = option("unigram", "learning algorithm", choices=("unigram", "bpe"))
    vocab_size: int = option(
        8000, "pieces in the vocabulary, including the 4 special symbols", at_least=5, at_most=1 << 24
    )
    character_coverage: float = option(
        1.0, "share of the text's characters that have a piece", at_least=0.98, at_most=1
    )
    byte_fallback: bool = option(False, "spell characters without a piece in 256 byte pieces, so that none is unknown")
    sample_lines: int = option(1_000_000, "most lines to learn from; a longer text is sampled at random", at_least=1)
    sample_characters: int = option(
        30_000_000,
        "most characters to learn from, as with sample_lines; each takes about 25 bytes of memory",
        at_least=1,
    )
    symbols: list[str] = option(
        [], "texts that are one piece wherever they stand, and are never cut, such as [<b>,</b>,{name}]"
    )
    model: str | None = option(None, "SentencePiece model file to use instead of learning one")
    extend: str | None = option(None, "text whose characters get pieces of their own where the model lacks them")
    sampling: float = option(
        0.0,
        "random segmentation in training; unigram: exponent of probabilities, bpe: dropout of merges",
        at_least=0,
        at_most=1,
    )


class SentencePieceTokenizer(Tokenizer):
    """Splits lines into the pieces of a SentencePiece model. Runs of spaces, and spaces at the ends, are lost.

    Args:
        config: Its config.
        model: A serialised SentencePiece model with any order of ids. Our ids have the special symbols first.

    Raises:
        ValueError: `model` is not a serialised model.
    """

    Config = SentencePieceConfig
    widens = True
    unknown = " \u2047 "

    def __init__(self, config: SentencePieceConfig, model: bytes):
        self.model = model
        self._processor = processor_of(model)
        symbols, self._ours = _layout(self._processor)
        self._theirs = np.zeros(len(symbols), np.int32)  # our id -> the model's
        self._theirs[self._ours] = np.arange(len(self._ours))
        self._theirs[UNK] = self._processor.unk_id()
        self._same = np.array_equal(self._ours, np.arange(len(symbols)))
        super().__init__(config, Vocabulary(symbols))

    @classmethod
    def _learn(cls, config: SentencePieceConfig, chunks: Iterable[list[str]], seed: int) -> "SentencePieceTokenizer":
        symbols = _symbols(config)
        if config.model is not None:
            check_given(config, "model", ("algorithm", "vocab_size", "character_coverage", "byte_fallback",
                                          "sample_lines", "sample_characters"))  # fmt: skip
            tokenizer = cls._extended(cls._read(config, config.model))
            if config.sampling:
                try:
                    sampler(tokenizer.model, config.sampling)
                except UserError as error:  # now, not in training
                    raise UserError(f"{config.model}: {error}") from error
            return tokenizer
        lines = sample(chunks, config.sample_lines, config.sample_characters, seed)
        return cls._extended(cls(config, _train(config, symbols, "\n".join(lines).encode())))

    @classmethod
    def _extended(cls, tokenizer: "SentencePieceTokenizer") -> "SentencePieceTokenizer":
        """With pieces for the characters of `extend` that it lacks."""
        config, path = tokenizer.config, tokenizer.config.extend
        if lacking := [symbol for symbol in _symbols(config) if tokenizer.vocabulary.index(symbol) == UNK]:
            tokenizer = cls(config, extended(tokenizer.model, lacking))  # those of a given model
        if path is None:
            return tokenizer
        if not is_there(path):
            raise UserError(f"extend={path}: no such file")
        try:
            lines = view(tokenizer.config)(content(path).decode("utf-8-sig").splitlines())
        except UnicodeDecodeError as error:
            raise UserError(f"extend={path}: invalid UTF-8 at byte {error.start} of the file; convert it") from error
        characters = (c for c in dict.fromkeys("".join(lines)) if not is_blank(c) and c != SPACE)
        lacking = [c for c in characters if tokenizer.vocabulary.index(c) == UNK]
        return cls(tokenizer.config, extended(tokenizer.model, lacking))

    def encode_text(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        # Encode the text at once to UTF-8, which SentencePiece would otherwise do line by line.
        if self.pre is not None:
            return super().encode_text(text)
        text = self._normalised(text)
        return without_blank(text, text.split("\n"), *self._encode(text.encode().split(b"\n")))

    def _encode(self, lines: list[str] | list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        rows = self._processor.encode(lines, out_type=int, num_threads=1)
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        # The fastest way from Python's integers to an array.
        ids = np.frombuffer(struct.pack(f"{lengths.sum()}i", *chain.from_iterable(rows)), np.int32)
        return ids if self._same else self._ours[ids], lengths

    def _decode(self, ids: list[int]) -> str:
        return self._processor.decode(ids if self._same else self._theirs[ids].tolist())

    def _texts(self, line: str) -> list[str]:
        return self._processor.encode(line, out_type=str)

    def _joined(self, texts: list[str]) -> str:
        return self._processor.decode(texts).replace(SPACE, " ")

    @property
    def sampling(self) -> float:
        return self.config.sampling

    def sample(self, lines: list[str], seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not self.sampling:
            return super().sample(lines, seeds)
        lines = self.normalise(lines)
        ids, lengths = self._sampler.sample(self._processor.normalize(self.rewrite(lines)), seeds)
        return without_blank("".join(lines), lines, ids if self._same else self._ours[ids], lengths)

    @cached_property
    def _sampler(self) -> Sampler:
        return sampler(self.model, self.sampling)

    def save(self, folder: Path, name: str) -> None:
        super().save(folder, name)
        write(Path(folder) / f"{name}.spm.model", self.model)

    @classmethod
    def _load(cls, config: SentencePieceConfig, folder: Path, name: str) -> "SentencePieceTokenizer":
        return cls._read(config, folder / f"{name}.spm.model")

    @classmethod
    def _read(cls, config: SentencePieceConfig, path: str | Path) -> "SentencePieceTokenizer":
        """The tokenizer of a model file. Raises UserError."""
        if not is_there(path):
            raise UserError(f"{path}: no such SentencePiece model file")
        try:
            return cls(config, content(path))
        except ValueError as error:
            why = "; it is another file, or damaged" if "INTERNAL" in str(error) else f": {error}"
            raise UserError(f"{path}: not a SentencePiece model{why}") from error


def sample(chunks: Iterable[list[str]], most_lines: int, most_characters: int, seed: int) -> list[str]:
    """A uniform random sample of lines, in their order; all lines if they are within both limits.

    Each line gets a random number; the lines with the lowest numbers are kept, as many as the limits allow.
    """
    rng = np.random.default_rng(seed)
    kept: list[tuple[float, int, str]] = []  # a heap of (-number, position in the text, line), highest number first
    seen, characters, limit = 0, 0, 1.0
    for lines in chunks:
        numbers = rng.random(len(lines))
        for i in np.flatnonzero(numbers < limit).tolist():
            heapq.heappush(kept, (-numbers[i], seen + i, lines[i]))
            characters += len(lines[i])
            while len(kept) > most_lines or characters > most_characters:
                number, _, line = heapq.heappop(kept)
                limit, characters = -number, characters - len(line)
        seen += len(lines)
    kept.sort(key=itemgetter(1))
    return [line for *_, line in kept]


def _train(config: SentencePieceConfig, symbols: list[str], text: bytes) -> bytes:
    """Learn a model from lines of UTF-8. Returns it serialised.

    SentencePiece cannot be interrupted, but a process can be killed, so learning runs in a child process. The text is
    one block of bytes, since reference counting would make a forked child copy the memory of a list of lines.

    Raises:
        LearningError: the vocabulary's size does not suit the text; the message names a size that does.
        Failure: the child process was killed.
    """
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_train_and_send, args=(sender, config, symbols, text), daemon=True)
    process.start()
    sender.close()
    try:
        model, error = receiver.recv()
    except EOFError as error:
        raise Failure(
            "learning the tokenizer was killed, perhaps for lack of memory: lower sample_characters"
        ) from error
    finally:
        process.kill()
        process.join()
        receiver.close()
    if error:
        raise LearningError(_explain(error, config))
    return model


def _train_and_send(sender: Connection, config: SentencePieceConfig, symbols: list[str], text: bytes) -> None:
    """Send the serialised model and an empty message, or SentencePiece's error message."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    model, complaint = io.BytesIO(), ""
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=io.BytesIO(text),
            model_writer=model,
            model_type=config.algorithm,
            vocab_size=config.vocab_size,
            character_coverage=config.character_coverage,
            byte_fallback=config.byte_fallback,
            required_chars=_required(config),
            user_defined_symbols=symbols,
            normalization_rule_name="identity",  # `Tokenizer` normalises lines for all tokenizers
            max_sentence_length=1 << 20,
            pad_id=PAD,
            unk_id=UNK,
            bos_id=BOS,
            eos_id=EOS,
            **dict(zip(("pad_piece", "unk_piece", "bos_piece", "eos_piece"), SPECIALS, strict=True)),
            num_threads=16,  # SentencePiece's default; results depend on it, so it must not depend on the machine
            minloglevel=4,
        )
    except RuntimeError as error:
        complaint = str(error) or "no reason given"
    sender.send((model.getvalue(), complaint))


def _required(config: SentencePieceConfig) -> str:
    """Characters that get a piece, in the text or not."""
    if config.pre is None:
        return ""
    return registry.find("pretokenizer", config.pre.type).alphabet + (MARKS if config.protect else "")


def _symbols(config: SentencePieceConfig) -> list[str]:
    """The texts that are never cut. Raises UserError."""
    for symbol in config.symbols:
        if not symbol or symbol in SPECIALS or SPACE in symbol or any(map(str.isspace, symbol)):
            raise UserError(f"symbols: {symbol!r}: a text without spaces, and none of {' '.join(SPECIALS)}, is needed")
    return list(dict.fromkeys(config.symbols))


def _explain(error: str, config: SentencePieceConfig) -> str:
    """Explain an error message of SentencePiece in terms of our options."""
    if match := re.search(r"value <= (\d+)", error):
        most = f"the most that can be learned from this text is vocab_size={match[1]}"
        return f"vocab_size={config.vocab_size} is too large: {most}"
    if match := re.search(r"required_chars. \d+ vs (\d+)", error):
        least = f"the characters of this text need at least vocab_size={match[1]}"
        return f"vocab_size={config.vocab_size} is too small: {least} (or a lower character_coverage)"
    if "sentences_.empty()" in error:
        return "SentencePiece finds nothing to learn from: the training text has only empty lines"
    return f"SentencePiece could not learn from the training text: {' '.join(error.split())}"


def processor_of(model: bytes) -> sentencepiece.SentencePieceProcessor:
    """The SentencePiece processor of a serialised model. Raises ValueError if it is not a model."""
    processor = sentencepiece.SentencePieceProcessor()
    try:
        if not model:
            raise RuntimeError("the file is empty")
        processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).split())) from error
    return processor


def _layout(processor: sentencepiece.SentencePieceProcessor) -> tuple[list[str], np.ndarray]:
    """Our symbols for the pieces of a model, and a table from its ids to ours, int32 [pieces]."""
    pieces = processor.id_to_piece(list(range(processor.get_piece_size())))
    pieces = [piece.replace("\n", "\u2424") for piece in pieces]
    special = {name: index for index, name in enumerate(SPECIALS)}
    special_ids = (processor.pad_id(), processor.unk_id(), processor.bos_id(), processor.eos_id())
    special_ids = {theirs: ours for ours, theirs in enumerate(special_ids) if theirs >= 0}
    symbols, ours = list(SPECIALS), np.zeros(len(pieces), np.int32)
    for theirs, piece in enumerate(pieces):
        if theirs in special_ids:
            ours[theirs] = special_ids[theirs]
        elif piece in special:
            ours[theirs] = special[piece]
        else:
            ours[theirs] = len(symbols)
            symbols.append(piece)
    return symbols, ours
