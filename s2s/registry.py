"""The registry of components: the only place where a name becomes a class or a function.

A component is imported only when it is chosen. A component with options is a class whose `Config` is the dataclass of
its options; the first field is `type`, the component's name. `decode` has only presets, so its component is the
dataclass itself.

Other packages add components through entry points, one group for each kind: a `setup.cfg` with `s2s.model = mine =
my_package.model:MyModel` makes `model=mine` work. `s2s.presets` names packages of presets, which are YAML files in a
folder for each kind. A folder that the user names by `plugins=[FOLDER]` does the same without being installed: its
`entry_points.txt` has the groups as sections, next to its modules; its presets are in `conf/`.
"""

import functools
import importlib
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from s2s.errors import UserError

ENTRY_POINTS = "entry_points.txt"
COMPONENTS = {
    "task": {
        "translation": "s2s.tasks.translation:TranslationTask",
        "speech_to_text": "s2s.tasks.speech:SpeechToTextTask",
        "language_modeling": "s2s.tasks.language_modeling:LanguageModelingTask",
        "multi_source": "s2s.tasks.multi_source:MultiSourceTask",
        "denoising": "s2s.tasks.denoising:DenoisingTask",
        "mixture": "s2s.tasks.mixture:MixtureTask",
    },
    "preprocess": {
        "translation": "s2s.data.preprocess:TextRecipe",
        "speech_to_text": "s2s.data.speech_preprocess:SpeechRecipe",
        "multi_source": "s2s.data.multi_source:MultiSourceRecipe",
        "denoising": "s2s.data.denoising:DenoisingRecipe",
    },
    "noise": {
        "bart": "s2s.data.noises.bart:Bart",
        "spans": "s2s.data.noises.spans:Spans",
        "mass": "s2s.data.noises.mass:Mass",
        "ul2": "s2s.data.noises.ul2:Ul2",
    },
    "transform": {"shuffle": "s2s.data.transforms:Shuffle"},
    "target_transform": {
        "none": "s2s.data.target_transforms:TargetTransform",
        "reverse": "s2s.data.target_transforms:Reverse",
        "last_word_first": "s2s.data.target_transforms:LastWordFirst",
    },
    "tokenizer": {
        "sentencepiece": "s2s.text.sentencepiece:SentencePieceTokenizer",
        "pieces": "s2s.text.pieces:PiecesTokenizer",
        "tokenizer_json": "s2s.text.tokenizer_json:TokenizerJsonTokenizer",
        "subword_nmt": "s2s.text.subword_nmt:SubwordNmtTokenizer",
        "characters": "s2s.text.characters:CharacterTokenizer",
        "bytes": "s2s.text.bytes:ByteTokenizer",
        "words": "s2s.text.words:WordTokenizer",
        "positions": "s2s.text.positions:PositionTokenizer",
        "wordpiece": "s2s.text.wordpiece:WordPieceTokenizer",
    },
    "pretokenizer": {
        "nfkd_jamo": "s2s.text.pretokenizers.jamo:Jamo",
        "moses": "s2s.text.pretokenizers.moses:Moses",
        "bytes": "s2s.text.pretokenizers.bytes:Bytes",
        "prefix": "s2s.text.pretokenizers.prefix:Prefix",
        "subchar": "s2s.text.pretokenizers.subchar:SubChar",
    },
    "model": {
        "transformer": "s2s.models.transformer:Transformer",
        "speech": "s2s.models.speech:SpeechModel",
        "transformer_encoder": "s2s.models.encoder_only:EncoderOnly",
        "transformer_lm": "s2s.models.language_model:LanguageModel",
    },
    "frontend": {
        "tokens": "s2s.models.frontends.tokens:TokenFrontend",
        "factors": "s2s.models.frontends.factors:FactorsFrontend",
        "subsampling": "s2s.models.frontends.subsampling:SubsamplingFrontend",
        "whisper": "s2s.models.frontends.whisper:WhisperFrontend",
        "one_hot": "s2s.models.frontends.one_hot:OneHotFrontend",
        "gbst": "s2s.models.frontends.gbst:GBSTFrontend",
        "lobef_ncf": "s2s.models.frontends.lobef:NgramFrontend",
        "lobef_wsf": "s2s.models.frontends.lobef:WordFrontend",
        "define": "s2s.models.frontends.define:DefineFrontend",
        "manta": "s2s.models.frontends.manta:MantaFrontend",
        "trigram_hash": "s2s.models.frontends.trigram_hash:TrigramHashFrontend",
        "word_pool": "s2s.models.frontends.word_pool:WordPoolFrontend",
        "context": "s2s.models.frontends.context:ContextFrontend",
        "conv_pool": "s2s.models.frontends.conv_pool:ConvPoolFrontend",
        "byte_conv": "s2s.models.frontends.byte_conv:ByteConvFrontend",
    },
    "encoder": {
        "transformer": "s2s.models.encoders.transformer:TransformerEncoder",
        "fusion_in_encoder": "s2s.models.encoders.fusion_in_encoder:FusionInEncoder",
        "deletion": "s2s.models.encoders.deletion:DeletionEncoder",
        "dynamic_depth": "s2s.models.encoders.dynamic_depth:DynamicDepthEncoder",
        "lstm": "s2s.models.encoders.recurrent:RecurrentEncoder",
        "gru": "s2s.models.encoders.recurrent:GruEncoder",
        "super": "s2s.models.encoders.super:SuperEncoder",
        "no_residual": "s2s.models.encoders.no_residual:NoResidualEncoder",
        "converter": "s2s.models.encoders.converter:ConverterEncoder",
        "language_layers": "s2s.models.encoders.language_layers:LanguageLayersEncoder",
        "none": "s2s.models.encoders.none:NoEncoder",
    },
    "layer": {
        "transformer": "s2s.nn.layers:Layer",
        "disentangled": "s2s.nn.disentangled:DisentangledLayer",
        "conformer": "s2s.nn.conformer:ConformerLayer",
        "e_branchformer": "s2s.nn.conformer:EBranchformerLayer",
        "fconv": "s2s.nn.gated_convolution:GatedConvolutionLayer",
        "light_convolution": "s2s.nn.light_convolution:LightConvolutionLayer",
        "dynamic_convolution": "s2s.nn.light_convolution:DynamicConvolutionLayer",
        "nested": "s2s.nn.nested:NestedLayer",
    },
    "bridge": {
        "top": "s2s.models.bridges.top:TopBridge",
        "flat": "s2s.models.bridges.flat:FlatBridge",
        "sources": "s2s.models.bridges.sources:SourcesBridge",
        "linear": "s2s.models.bridges.linear:LinearBridge",
        "groups": "s2s.models.bridges.groups:GroupsBridge",
        "last": "s2s.models.bridges.last:LastBridge",
    },
    "decoder": {
        "transformer": "s2s.models.decoders.transformer:TransformerDecoder",
        "groups": "s2s.models.decoders.groups:GroupsDecoder",
        "some_cross": "s2s.models.decoders.some_cross:SomeCrossDecoder",
        "lstm": "s2s.models.decoders.recurrent:RecurrentDecoder",
        "gru": "s2s.models.decoders.recurrent:GruDecoder",
        "convolutional": "s2s.models.decoders.convolutional:ConvolutionalDecoder",
        "prefix": "s2s.models.decoders.prefix:PrefixDecoder",
        "nested": "s2s.models.decoders.nested:NestedDecoder",
        "super": "s2s.models.decoders.super:SuperDecoder",
        "word_byte": "s2s.models.decoders.word_byte:WordByteDecoder",
        "multi_source": "s2s.models.decoders.multi_source:MultiSourceDecoder",
    },
    "embedding": {
        "table": "s2s.models.embeddings.table:table",
        "one_hot": "s2s.models.embeddings.one_hot:one_hot",
        "define": "s2s.models.embeddings.define:define",
    },
    "output": {
        "linear": "s2s.models.outputs.linear:linear",
        "one_hot": "s2s.models.outputs.one_hot:OneHotOutput",
        "surface_fusion": "s2s.models.outputs.surface_fusion:SurfaceFusion",
        "adaptive": "s2s.models.outputs.adaptive:AdaptiveOutput",
        "pointer": "s2s.models.outputs.pointer:Pointer",
        "copy": "s2s.models.outputs.copy:Copy",
        "multilabel": "s2s.models.outputs.multilabel:Multilabel",
    },
    "adapter": {
        "lora": "s2s.models.adapters.lora:LoRALinear",
        "bottleneck": "s2s.models.adapters.bottleneck:BottleneckLinear",
    },
    "criterion": {"terms": "s2s.criterions.criterion:Criterion"},
    "term": {
        "cross_entropy": "s2s.criterions.terms.cross_entropy:CrossEntropy",
        "ctc": "s2s.criterions.terms.ctc:CTC",
        "intermediate_ctc": "s2s.criterions.terms.intermediate_ctc:IntermediateCTC",
        "auxiliary": "s2s.criterions.terms.auxiliary:Auxiliary",
        "distillation": "s2s.criterions.terms.distillation:Distillation",
        "r_drop": "s2s.criterions.terms.r_drop:RDrop",
        "deletion": "s2s.criterions.terms.deletion:Deletion",
        "depth": "s2s.criterions.terms.depth:Depth",
        "multilabel": "s2s.criterions.terms.multilabel:MultilabelTerm",
        "source_auto_encoding": "s2s.criterions.terms.source_auto_encoding:SourceAutoEncoding",
        "contrastive": "s2s.criterions.terms.contrastive:Contrastive",
        "minimum_risk": "s2s.criterions.terms.minimum_risk:MinimumRisk",
        "reinforce": "s2s.criterions.terms.reinforce:Reinforce",
        "scheduled_sampling": "s2s.criterions.terms.scheduled_sampling:ScheduledSampling",
        "back_translation": "s2s.criterions.terms.back_translation:BackTranslation",
        "sequence_distillation": "s2s.criterions.terms.sequence_distillation:SequenceDistillation",
    },
    "searcher": {
        "beam": "s2s.decoding.search.kinds:BeamSearch",
        "sample": "s2s.decoding.search.kinds:Sample",
        "stochastic_beam": "s2s.decoding.search.kinds:StochasticBeamSearch",
        "speculative": "s2s.decoding.search.kinds:SpeculativeSearch",
        "ctc": "s2s.decoding.search.kinds:CtcSearch",
    },
    "scorer": {
        "language_model": "s2s.decoding.scorers.language_model:LanguageModelScorer",
        "coverage": "s2s.decoding.scorers.coverage:Coverage",
    },
    "rule": {
        "no_repeat_ngram": "s2s.decoding.rules.no_repeat_ngram:NoRepeatedNgram",
        "forbidden": "s2s.decoding.rules.forbidden:Forbidden",
        "allowed": "s2s.decoding.rules.allowed:AllowedOutputs",
    },
    "decode": {"default": "s2s.decoding.config:DecodeConfig"},
    "optim": {"adam": "s2s.optim.adam:Adam", "adamw": "s2s.optim.adam:AdamW"},
    "schedule": {name: f"s2s.optim.schedule:{name}" for name in ("inverse_sqrt", "cosine", "linear", "constant")},
    "cost": {f"{name}": f"s2s.data.costs:{name}" for name in ("max", "sum", "product", "source", "target", "frames")},
    "logger": {
        "tensorboard": "s2s.training.loggers:TensorBoard",
        "wandb": "s2s.training.loggers:WeightsAndBiases",
        "mlflow": "s2s.training.loggers:MLflow",
    },
    "metric": {
        "bleu": "s2s.scoring.translation:bleu",
        "chrf": "s2s.scoring.translation:chrf",
        "chrf++": "s2s.scoring.translation:chrf_plus_plus",
        "ter": "s2s.scoring.translation:ter",
        "wer": "s2s.scoring.edits:WordErrorRate",
        "cer": "s2s.scoring.edits:CharacterErrorRate",
        "per": "s2s.scoring.edits:PhonemeErrorRate",
        "ser": "s2s.scoring.edits:SentenceErrorRate",
        "exact_match": "s2s.scoring.agreement:ExactMatch",
        "token_accuracy": "s2s.scoring.agreement:TokenAccuracy",
        "ned": "s2s.scoring.structure:NormalisedEditDistance",
        "slot_f1": "s2s.scoring.structure:SlotF1",
        "language_accuracy": "s2s.scoring.structure:LanguageAccuracy",
        "rhyme_precision": "s2s.scoring.structure:RhymePrecision",
        "rouge1": "s2s.scoring.summaries:Rouge1",
        "rouge2": "s2s.scoring.summaries:Rouge2",
        "rougeL": "s2s.scoring.summaries:RougeL",
        "keyphrase_f1": "s2s.scoring.summaries:KeyphraseF1",
        "comet": "s2s.scoring.learned:Comet",
        "bleurt": "s2s.scoring.learned:Bleurt",
    },
}


class Names(Sequence):
    """The names of all components of a kind, as the choices of an option. They are looked up on use, not when a schema
    is defined, so plug-ins are included.

    Args:
        kind: A key of COMPONENTS.
        more: Further choices, which come first.
    """

    def __init__(self, kind: str, *more: str):
        self.kind, self.more = kind, more

    def _names(self) -> list[str]:
        return [*self.more, *names(self.kind)]

    def __getitem__(self, place):
        return self._names()[place]

    def __len__(self) -> int:
        return len(self._names())


_FOLDERS: list[Path] = []  # folders that the user has named by `plugins`


def add_folder(folder: str) -> None:
    """Register the components of a plug-in folder. Nothing is imported yet.

    Raises:
        UserError: there is no such folder, or its entry_points.txt is missing or invalid.
    """
    path = Path(folder).resolve()
    if path in _FOLDERS:
        return
    if not (path / ENTRY_POINTS).is_file():
        raise UserError(f"plugins={folder}: has no {ENTRY_POINTS}, which must name its components, in lines such as "
                        "'mine = my_model:MyModel' below [s2s.model]")  # fmt: skip
    sections = {f"s2s.{kind}" for kind in COMPONENTS}
    for point in _of_folder(path):
        if point.group not in sections:
            raise UserError(f"{path / ENTRY_POINTS}: [{point.group}]: {nearest(point.group, sorted(sections))}")
        if point.name in _named(point.group.removeprefix("s2s.")):
            raise UserError(f"{path / ENTRY_POINTS}: [{point.group}] {point.name}: there is such a component already")
    _FOLDERS.append(path)
    sys.path.append(str(path))  # last, so that it hides no installed package
    _plugins.cache_clear()


def _of_folder(path: Path) -> list[EntryPoint]:
    import configparser

    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign, assignment]  # names keep their case
    try:
        parser.read_string((path / ENTRY_POINTS).read_text("utf-8"))
    except (configparser.Error, UnicodeDecodeError) as error:
        message = str(error).replace("\n", " ")
        raise UserError(f"{path / ENTRY_POINTS}: {message}") from error
    return [
        EntryPoint(name, value, section) for section in parser.sections() for name, value in parser[section].items()
    ]


def folders(name: str) -> list[Path]:
    """The subfolder `name` of each plug-in folder."""
    return [folder / name for folder in _FOLDERS]


@functools.cache
def preset_packages() -> list[str]:
    """Names of the packages of presets, for `importlib.resources`."""
    return sorted(point.value for point in entry_points(group="s2s.presets"))


@functools.cache
def _plugins(kind: str) -> dict:
    """Name -> entry point, from installed packages and plug-in folders."""
    own = [point for folder in _FOLDERS for point in _of_folder(folder) if point.group == f"s2s.{kind}"]
    return {point.name: point for point in [*own, *entry_points(group=f"s2s.{kind}")]}


def _named(kind: str) -> set[str]:
    return {*COMPONENTS[kind], *_plugins(kind)}


def names(kind: str) -> list[str]:
    """Names of all components of a kind: those of the toolkit, then those of plug-ins."""
    return list(dict.fromkeys([*COMPONENTS[kind], *sorted(_plugins(kind))]))


@functools.cache
def find(kind: str, name: str):
    """Import the class or function of a component.

    Raises:
        UserError: there is no such component; the message suggests the nearest name.
    """
    if name in COMPONENTS[kind]:
        module, attribute = COMPONENTS[kind][name].split(":")
        return getattr(importlib.import_module(module), attribute)
    if name in _plugins(kind):
        point = _plugins(kind)[name]
        try:
            return point.load()
        except (ImportError, AttributeError) as error:
            raise UserError(f"the {kind} '{name}' of a plug-in, {point.value}, cannot be imported: {error}") from error
    short = name if len(name) <= 40 else f"{name[:40]}..."
    raise UserError(f"no {kind} is called '{short}'; {nearest(name, names(kind))}")


def nearest(name: str, known: list[str]) -> str:
    """A hint for an unknown name: the closest known one, or all of them."""
    folded = {each.casefold(): each for each in known}
    close = get_close_matches(name, known, n=1, cutoff=0.5) or get_close_matches(name.casefold(), folded, 1, 0.5)
    return (
        f"did you mean '{folded.get(close[0], close[0])}'?" if close else f"choose one of: {', '.join(sorted(known))}"
    )
