"""Output formats of hypotheses: plain text, tab-separated with scores, or JSON."""

from collections.abc import Callable

from s2s.config.documents import to_json
from s2s.decoding.hypothesis import Translation

# (number of the sentence in the input, from 0; its translations, the best first): complete lines
Format = Callable[[int, list[Translation]], str]

LINE_BREAKS = str.maketrans("\r\n", "  ")
BREAKS = str.maketrans("\t\r\n", "   ")


def formatter(name: str, score: bool = False) -> Format:
    """A function that formats the hypotheses of a sentence.

    Line breaks in a hypothesis, and in `tsv` also tabs, become spaces.

    Args:
        name: `text`: one line with the best hypothesis, or its score if given targets are scored. `tsv`: one line per
            hypothesis with the columns index, score, text and, if there is one, alignment, as pairs source-target from
            0. `json`: one object per hypothesis and line, with tokens (EOS among them) and their log-probabilities.
        score: Whether given targets are scored.
    """

    def text(index: int, n_best: list[Translation]) -> str:
        best = n_best[0]
        if score and best.error is None:
            return f"{best.score:.6f}\n"
        return f"{best.text.translate(LINE_BREAKS)}\n"

    def tsv(index: int, n_best: list[Translation]) -> str:
        if n_best[0].error is not None:
            return f"{index}\t\t\n"
        return "".join(
            f"{index}\t{hypothesis.score:.6f}\t{hypothesis.text.translate(BREAKS)}{_pairs(hypothesis.alignment)}\n"
            for hypothesis in n_best
        )

    def as_json(index: int, n_best: list[Translation]) -> str:
        if (error := n_best[0].error) is not None:
            return to_json({"index": index, "error": str(error)}) + "\n"
        lines = []
        for rank, hypothesis in enumerate(n_best):
            content = {
                "index": index,
                "rank": rank,
                "hypothesis": hypothesis.text,
                "score": hypothesis.score,
                "log_probability": hypothesis.log_probability,
                "tokens": hypothesis.tokens,
                "token_log_probabilities": hypothesis.token_log_probabilities,
                "truncated": hypothesis.truncated,
                "source_truncated": hypothesis.source_truncated,
            }
            if hypothesis.alignment is not None:
                content |= {"alignment": hypothesis.alignment, "source_tokens": hypothesis.source_tokens}
            if hypothesis.words is not None:
                content["words"] = [
                    {"word": w.word, "start": round(w.start, 3), "end": round(w.end, 3)} for w in hypothesis.words
                ]
            lines.append(to_json(content) + "\n")
        return "".join(lines)

    return {"text": text, "tsv": tsv, "json": as_json}[name]


def _pairs(alignment: list[int] | None) -> str:
    """The column of the alignment, after a tab; empty if there is none."""
    return "" if alignment is None else "\t" + " ".join(f"{i}-{j}" for j, i in enumerate(alignment))
