"""s2s: a command-line sequence-to-sequence toolkit. Raw corpora in, trained encoder-decoder models out."""

__version__ = "0.1.0"
