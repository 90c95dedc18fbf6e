"""Hypotheses as lines: plain text, tab-separated with scores, or JSON."""

from collections.abc import Callable

from s2s.config.documents import to_json
from s2s.decoding.hypothesis import Translation

# index: number of the sentence in the input, from 0; its translations, the best first; returns whole lines
Format = Callable[[int, list[Translation]], str]

LINE_BREAKS = str.maketrans("\r\n", "  ")
BREAKS = str.maketrans("\t\r\n", "   ")


def formatter(name: str, score: bool = False) -> Format:
    """How the hypotheses of a sentence are printed.

    Args:
        name: `text`: the best one, a line (its score, where given targets are scored); `tsv`: a line for each, with
            the columns index, score, text, and the alignment where there is one, as pairs source-target from 0;
            `json`: an object a line for each, with tokens (EOS among them) and their log-probabilities. A line break in
            a hypothesis, and a tab in `tsv`, becomes a space.
        score: Given targets are scored.
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
            f"{index}\t{one.score:.6f}\t{one.text.translate(BREAKS)}{_pairs(one.alignment)}\n" for one in n_best
        )

    def as_json(index: int, n_best: list[Translation]) -> str:
        if (error := n_best[0].error) is not None:
            return to_json({"index": index, "error": str(error)}) + "\n"
        lines = []
        for rank, one in enumerate(n_best):
            content = {
                "index": index,
                "rank": rank,
                "hypothesis": one.text,
                "score": one.score,
                "log_probability": one.log_probability,
                "tokens": one.tokens,
                "token_log_probabilities": one.token_log_probabilities,
                "truncated": one.truncated,
                "source_truncated": one.source_truncated,
            }
            if one.alignment is not None:
                content |= {"alignment": one.alignment, "source_tokens": one.source_tokens}
            if one.words is not None:
                content["words"] = [
                    {"word": w.word, "start": round(w.start, 3), "end": round(w.end, 3)} for w in one.words
                ]
            lines.append(to_json(content) + "\n")
        return "".join(lines)

    return {"text": text, "tsv": tsv, "json": as_json}[name]


def _pairs(alignment: list[int] | None) -> str:
    """A column of an alignment, if there is one."""
    return "" if alignment is None else "\t" + " ".join(f"{i}-{j}" for j, i in enumerate(alignment))
