"""`decode.replace_unknown`: an unknown symbol of the output is replaced by the source token that attention points at.

Paper: Luong et al., "Addressing the Rare Word Problem in Neural Machine Translation", ACL 2015,
https://arxiv.org/abs/1410.8206; Jean et al., "On Using Very Large Target Vocabulary for Neural Machine Translation",
ACL 2015, https://arxiv.org/abs/1412.2007.

The search may write the unknown symbol. Afterwards each one becomes the text of the source token with the largest
cross-attention weight, which is that of `alignment=true` and is chosen by the same options. The text is that of the raw
line, so that it may be a word which the source vocabulary lacks. A dictionary may give another text for it. An unknown
symbol that points at the end of the source stays as it is. Only the text changes, not tokens and scores.

Use: decode.allow_unknown=true decode.replace_unknown=true decode.unknown_dictionary=names.txt

Left out: positions of the unknown words as symbols of the target (Luong et al.); the pointed-at token is found by
attention instead.
"""

from s2s.config.streams import content, is_there
from s2s.decoding.hypothesis import Hypothesis
from s2s.decoding.inputs import Window
from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.tasks.text import TextTask
from s2s.text.vocabulary import EOS, UNK

LENGTH = 97  # of a source whose positions are counted: one that no factor of a front-end divides
SAID = "decode.replace_unknown=true"


class Unknowns:
    """Writes the texts of hypotheses.

    Args:
        task: The task of the models.
        models: One or an ensemble.
        dictionary: Text of a source token -> what is written for it.

    Raises:
        UserError: there is no unknown symbol, or no source token for each position of the memory.
    """

    def __init__(self, task: TextTask, models: list[EncoderDecoder], dictionary: dict[str, str]):
        sources = list(getattr(task, "source_tokenizers", {}).values())
        if len(sources) != 1 or type(task).text is not TextTask.text:
            raise UserError(f"{SAID}: requires one source of text, and task={task.config.type} has others, or writes "
                            "texts in its own way")  # fmt: skip
        self.before = len(task.source_tags)  # symbols of tags before the tokens of a line
        self.source, self.target, self.dictionary = sources[0], task.target_tokenizer, dictionary
        for tokenizer in (self.source, self.target):
            if tokenizer.unknown is None:
                raise UserError(f"{SAID}: the tokenizer {tokenizer.config.type} has no unknown symbol whose text could "
                                "be replaced")  # fmt: skip
        if self.source.config.type != self.target.config.type:
            raise UserError(f"{SAID}: requires tokens of one kind on both sides, not {self.source.config.type} and "
                            f"{self.target.config.type}")  # fmt: skip
        if not task.target_transform.is_none:
            raise UserError(f"{SAID}: requires a model that writes tokens in their order, without "
                            "data.target_transform")  # fmt: skip
        for model in models:
            if model.memory_length(LENGTH) != LENGTH or getattr(model.encoder, "deletes", False):
                raise UserError(f"{SAID}: requires a front-end and an encoder that keep all tokens of the source")

    @staticmethod
    def lines(window: Window) -> list:
        """The raw lines of a window. Raises UserError if there are none."""
        if window.lines is None:
            raise UserError(f"{SAID}: requires the raw lines of the sources")
        return window.lines()

    def text(self, hypothesis: Hypothesis, line: str) -> str:
        """The text of a hypothesis with an alignment; line: its raw source."""
        words, symbols = self.source.texts(line), self.target.vocabulary.symbols
        reserved = set(self.target.vocabulary.reserved.values())
        pieces = []
        for i, position in zip(hypothesis.ids, hypothesis.alignment or [], strict=False):
            if i == UNK:
                place = position - self.before
                word = words[place] if 0 <= place < len(words) else self.target.unknown
                pieces.append(self.dictionary.get(word, word))
            elif i > EOS and i not in reserved:
                pieces.append(symbols[i])
        return self.target.joined(pieces)


def read_dictionary(path: str | None) -> dict[str, str]:
    """The file of `decode.unknown_dictionary`; None: nothing is in it.

    Raises:
        UserError: the file is missing or not UTF-8, or a line does not have two parts.
    """
    if path is None:
        return {}
    key = f"decode.unknown_dictionary={path}"
    if not is_there(path):
        raise UserError(f"{key}: no such file")
    try:
        lines = content(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{key}: invalid UTF-8 at byte {error.start} of the file; convert it") from error
    dictionary = {}
    for number, line in enumerate(lines, 1):
        parts = line.split("\t") if "\t" in line else line.split()
        if len(parts) != 2:
            raise UserError(f"{key}, line {number}: a source token and what is written for it are needed, with a tab "
                            "or space between them")  # fmt: skip
        dictionary[parts[0]] = parts[1]
    return dictionary
