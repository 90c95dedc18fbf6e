"""s2s: a command-line sequence-to-sequence toolkit. Raw corpora in, trained encoder-decoder models out."""

__version__ = "0.1.0"


def load(checkpoint, device: str = "auto", dtype: str = "auto", draft=None, backend: str = "auto"):
    """Load a trained model as a `Translator`: `s2s.load("runs/m30k").translate(lines, beam_size=5)`.

    The arguments are those of `s2s.decoding.translator.load`. PyTorch is imported only when this is called.
    """
    from s2s.decoding.translator import load

    return load(checkpoint, device, dtype, draft, backend)
