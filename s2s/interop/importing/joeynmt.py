"""JoeyNMT's Transformer: a folder with config.yaml, src_vocab.txt, trg_vocab.txt and checkpoints, or one of these.

Tokenizers are those that the config names: words, characters, subword-nmt codes or a SentencePiece model, whose file
lies in the folder.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from s2s.config.documents import read_yaml
from s2s.config.shapes import Limits
from s2s.config.streams import content
from s2s.errors import UserError
from s2s.interop.importing.dictionaries import of_symbols
from s2s.interop.importing.imported import Imported, arranged, checked
from s2s.interop.importing.records import read_checkpoint
from s2s.interop.places import Names, Place, Table, fused, named_stack
from s2s.tasks.translation import TranslationTask
from s2s.text.characters import CharacterConfig, CharacterTokenizer
from s2s.text.pretokenizers.moses import MosesConfig
from s2s.text.sampling import SPACE
from s2s.text.tokenizer import Tokenizer
from s2s.text.vocabulary import Vocabulary

BEST = ("best.ckpt", "avg_best.ckpt", "latest.ckpt")
EMBEDDINGS = {"source": "src_embed.lut.weight", "target": "trg_embed.lut.weight"}
OUTPUT = "decoder.output_layer.weight"
NAMES = Names(
    layers={side: f"{side}.layers.{{}}" for side in ("encoder", "decoder")}, cross="src_trg_att",
    attention={"encoder": "src_src_att", "decoder": "trg_trg_att"},
    maps=("q_layer", "k_layer", "v_layer", "output_layer"), inner=("feed_forward.pwff_layer.0",),
    outer="feed_forward.pwff_layer.3",
    norms={"encoder": ("layer_norm", "feed_forward.layer_norm"),
           "decoder": ("x_layer_norm", "dec_layer_norm", "feed_forward.layer_norm")},
)  # fmt: skip
ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "swish": "silu"}
EPSILON = 1e-6  # of its norms
SPECIAL = {"unk": ("<unk>", 0), "pad": ("<pad>", 1), "bos": ("<s>", 2), "eos": ("</s>", 3)}
LARGE = Limits(size=1 << 20, values=1 << 16, aliases=True)


class Settings:
    """The options of a model; where: its config.yaml."""

    def __init__(self, where: Path):
        self.where, self.config = where, read_yaml(where, {...: object}, limits=LARGE)
        if not all(isinstance(self.config.get(name), dict) for name in ("data", "model")):
            raise UserError(f"{where}: has no data and model, the options of JoeyNMT")

    def group(self, *names: str) -> dict[str, Any]:
        """The options of a group; {}: there is none."""
        group: Any = self.config
        for name in names:
            group = group.get(name) if isinstance(group, dict) else None
        return group if isinstance(group, dict) else {}

    def get(self, name: str, default: Any, *names: str) -> Any:
        """An option of a group, which has the type of the default. Raises UserError as `checked`."""
        value = self.group(*names).get(name)
        return default if value is None else checked(".".join((*names, name)), value, default, self.where)


def recognises(path: Path) -> bool:
    """Whether a path is such a folder, or a checkpoint in it."""
    folder = path if path.is_dir() else path.parent
    found = (folder / "config.yaml").is_file() and (folder / "src_vocab.txt").is_file()
    return found and (path.is_dir() or path.suffix == ".ckpt")


def read(path: Path) -> Imported:
    """Read a model. Raises UserError: files are missing or damaged, or the model is one that is not read."""
    folder = path if path.is_dir() else path.parent
    settings, file = Settings(folder / "config.yaml"), _checkpoint(path)
    tensors = read_checkpoint(file).get("model_state")
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{file}: model_state: is not a state dict, of tensors by name")
    norm = _check(settings, tensors)
    (source, rows, kept), (target, target_rows, more) = (_tokenizer(settings, side, tensors) for side in EMBEDDINGS)
    if source.facts() == target.facts() and source.vocabulary.symbols == target.vocabulary.symbols:
        target = source
    options = _options(settings) | {"norm": norm}
    return Imported(
        family="JoeyNMT", options=options, task=TranslationTask(source, target),
        table=_table(options, rows, target_rows), tensors=tensors, where=file, ignored=("*.pe.pe",),
        same=_copies(options["tie_embeddings"]), preset="fairseq", decode=_decode(settings),
        notes=list(dict.fromkeys(kept + more)),
    )  # fmt: skip


def _checkpoint(path: Path) -> Path:
    """The file of the weights. Raises UserError: a folder has none, or none of them is the best."""
    if path.is_file():
        return path
    if (file := next((path / name for name in BEST if (path / name).is_file()), None)) is not None:
        return file
    found = sorted(path.glob("*.ckpt"))
    if len(found) != 1:
        raise UserError(f"{path}: has {len(found)} checkpoints, and no best.ckpt; from=FILE.ckpt names one of them")
    return found[0]


def _check(settings: Settings, tensors: dict[str, Tensor]) -> str:
    """`norm`. Raises UserError for a model that is not read; names all options that stand against it."""
    get, wrong, norms = settings.get, [], {}
    for side, default in (("encoder", "recurrent"), ("decoder", "transformer")):
        kind = get("type", default, "model", side)
        wrong += [f"{side}.type={kind}"] * (kind != "transformer")
        activation = get("activation", "relu", "model", side)
        wrong += [f"{side}.activation={activation}"] * (activation not in ACTIVATIONS)
        last = f"{side}.layer_norm.weight" in tensors
        norms[side] = get("layer_norm", "pre" if side == "encoder" or last else "post", "model", side)
        if kind == "transformer" and (norms[side] == "pre") != last:
            wrong.append(f"{side}.layer_norm={norms[side]} {'with' if last else 'without'} a norm after the last layer")
    if norms["encoder"] != norms["decoder"]:
        wrong.append(f"encoder.layer_norm={norms['encoder']} beside decoder.layer_norm={norms['decoder']}")
    for name in ("activation", "embeddings.scale"):
        group, _, key = name.rpartition(".")
        pair = [get(key, False if key == "scale" else "relu", "model", side, *[group] * bool(group))
                for side in ("encoder", "decoder")]  # fmt: skip
        if pair[0] != pair[1]:
            wrong.append(f"encoder.{name}={pair[0]} beside decoder.{name}={pair[1]}")
    if settings.group("model").get("initializer") == "xavier_normal":
        wrong.append("initializer=xavier_normal, which scales what goes around a block (DeepNet)")
    if wrong:
        raise UserError(f"{settings.where}: JoeyNMT's model is not read with {', '.join(wrong)}")
    return norms["encoder"]


def _options(settings: Settings) -> dict[str, Any]:
    """Our options but `norm`."""
    get = settings.get
    shared, output = get("tied_embeddings", False, "model"), get("tied_softmax", False, "model")
    rate = float(get("dropout", 0.1, "model", "encoder"))
    options: dict[str, Any] = {
        "norm_epsilon": EPSILON, "positions": "sinusoidal_interleaved", "output.bias": True,
        "scale_embeddings": get("scale", False, "model", "encoder", "embeddings"),
        "activation": ACTIVATIONS[get("activation", "relu", "model", "encoder")],
        "dropout": rate, "attention_dropout": rate, "activation_dropout": rate,
        "embedding_dropout": float(get("dropout", rate, "model", "encoder", "embeddings")),
        "tie_embeddings": ("all" if output else "inputs") if shared else "decoder" if output else "none",
    }  # fmt: skip
    for side, (layers, heads) in {"encoder": (8, 4), "decoder": (4, 8)}.items():
        options |= {f"{side}.layers": get("num_layers", layers, "model", side),
                    f"{side}.width": get("hidden_size", 512, "model", side),
                    f"{side}.heads": get("num_heads", heads, "model", side),
                    f"{side}.ffn_width": get("ff_size", 2048, "model", side)}  # fmt: skip
    return options


def _decode(settings: Settings) -> dict[str, Any]:
    """Options of decoding that mean what the config says for tests."""
    get = settings.get
    alpha = float(get("beam_alpha", -1.0, "testing"))
    options = {"beam_size": get("beam_size", 1, "testing"), "length_normalization": "gnmt",
               "length_penalty": max(alpha, 0.0), "stopping": "best_possible",
               "min_length_b": get("min_output_length", 1, "testing"),
               "allow_unknown": get("generate_unk", True, "testing")}  # fmt: skip
    if (most := get("max_output_length", -1, "testing")) > 0:
        options["max_length_b"] = most
    return options


def _tokenizer(settings: Settings, side: str, tensors: dict[str, Tensor]) -> tuple[Tokenizer, Tensor, list[str]]:
    """The tokenizer of a side, the rows of its symbols, and what could not be taken over."""
    key = {"source": "src", "target": "trg"}[side]
    folder, get = settings.where.parent, settings.get
    file, matrix = folder / f"{key}_vocab.txt", tensors.get(EMBEDDINGS[side])
    if not file.is_file():
        raise UserError(f"{file}: no such vocabulary")
    if matrix is None:
        raise UserError(f"{settings.where}: the checkpoint has no {EMBEDDINGS[side]}")
    symbols = content(file).decode("utf-8", "replace").removesuffix("\n").split("\n")
    if len(symbols) != len(matrix):
        raise UserError(f"{file}: {len(symbols):,} symbols, and the embedding has {len(matrix):,} rows: the vocabulary "
                        "is that of another model")  # fmt: skip
    place = {name: get(f"{name}_id", number, "data", "special_symbols") for name, (_, number) in SPECIAL.items()}
    tags = settings.group("data", "special_symbols").get("lang_tags") or []
    apart = {f"<{symbol.strip('<>')}>": symbol for symbol in symbols if symbol in tags}
    level = get("level", "word", "data", key)
    if level == "char":
        symbols = [" " if symbol == SPACE else symbol for symbol in symbols]
    ours, names, rows = arranged(symbols, [place[name] for name in ("pad", "unk", "bos", "eos")], len(matrix), apart)
    options: dict[str, Any] = {"lowercase": get("lowercase", False, "data", key)}
    notes = [f"data.{key}.normalize=true: Unicode and punctuation are not normalised as JoeyNMT does"
             ] * get("normalize", False, "data", key)  # fmt: skip
    pre = get("pretokenizer", "none", "data", key, "tokenizer_cfg").lower()
    if pre not in ("none", "moses"):
        raise UserError(f"{settings.where}: data.{key}.tokenizer_cfg.pretokenizer={pre}: none and moses are known")
    if pre == "moses":
        options["pre"] = MosesConfig(language=get("lang", "en", "data", key))
    if level == "char":
        if wrong := [symbol for symbol in ours[4:] if len(symbol) != 1]:
            raise UserError(f"{file}: {', '.join(wrong[:5])}: not a character, as level: char needs")
        config = CharacterConfig(normalization="none", reserved=names, joint=False, **options)
        return CharacterTokenizer(config, Vocabulary(ours)), rows, notes
    split = None
    if level == "bpe":
        kind = get("tokenizer_type", "", "data", key) or get("bpe_type", "sentencepiece", "data", key)
        name = get({"subword-nmt": "codes"}.get(kind, "model_file"), "", "data", key, "tokenizer_cfg")
        split = folder / Path(name).name
        if not name or not split.is_file():
            raise UserError(f"{split}: no such file: the {kind} that splits the {side}, which data.{key}.tokenizer_cfg "
                            "names; copy it into the folder")  # fmt: skip
    elif level != "word":
        raise UserError(f"{settings.where}: data.{key}.level={level}: word, bpe and char are known")
    return of_symbols(ours, names, split, False, **options), rows, notes


def _table(options: dict[str, Any], source: Tensor, target: Tensor) -> Table:
    """The place of each weight; source, target: rows of our symbols."""
    tie = options["tie_embeddings"]
    table: Table = {"frontend.embedding.tokens.weight": Place((EMBEDDINGS["source"],), source)}
    if tie not in ("all", "inputs"):
        table["decoder.embedding.tokens.weight"] = Place((EMBEDDINGS["target"],), target)
    if tie not in ("all", "decoder"):
        table["output.weight"] = Place((OUTPUT,), target)
    for side in ("encoder", "decoder"):
        table |= named_stack(side, options[f"{side}.layers"], NAMES)
        if options["norm"] == "pre":
            table |= fused(f"{side}.norm", side, ("layer_norm",))
    return table


def _copies(tie: str) -> dict[str, str]:
    """Names of copies of shared matrices, and what they are copies of."""
    copies = {EMBEDDINGS["target"]: EMBEDDINGS["source"]} if tie in ("all", "inputs") else {}
    if tie in ("all", "decoder"):
        copies[OUTPUT] = EMBEDDINGS["source" if tie == "all" else "target"]
    return copies
