"""The content of requests and answers as pydantic models. That of a request is made from the schema of `decode`."""

import dataclasses
import typing
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from s2s import registry
from s2s.data.directions import LANGUAGES
from s2s.decoding.config import DecodeConfig

GREATEST = 2**31 - 1  # upper bound of whole numbers that have no bound of their own


class Options(BaseModel):
    """The options of a request."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    hypotheses: bool = Field(
        False, description="true: the answer has a list of hypotheses for each line; false: a text"
    )
    alignment: bool = Field(
        False, description="with hypotheses: the source position to which each token attends most, from 0"
    )
    attention: bool = Field(False, description="with hypotheses: the weights of each token's attention to the source")
    timestamps: bool = Field(
        False, description="with hypotheses: start and end of each word of a recording, in seconds"
    )
    prefixes: list[str] | None = Field(None, description="for each line, how its translation must begin")
    constraints: list[list[str]] | None = Field(None, description="for each line, phrases that its translation has")
    stream: bool = Field(False, description="true: server-sent events, one for each line as soon as it is translated")
    seed: int = Field(1, ge=0, lt=2**63, description="seed of sampling")
    tags: dict[str, str] = Field({}, description="values of the tags that the model reads, for all lines")
    source_language: str | None = Field(None, description="the tag source_language")
    target_language: str | None = Field(None, description="the tag target_language")

    def all_tags(self) -> dict[str, str]:
        """`tags`, and the languages."""
        given = {name: getattr(self, name) for name in LANGUAGES}
        return {name: value for name, value in given.items() if value is not None} | self.tags


class Request(Options):
    """Lines to translate, and the options."""

    lines: list[str] = Field(description="the lines to translate; a line may have several sources, with tabs between")


class Batch(BaseModel):
    """Requests with options of their own that are answered together."""

    model_config = ConfigDict(extra="forbid", strict=True)

    requests: list[dict[str, Any]] = Field(description="each as for /v1/translate, without stream")


class Word(BaseModel):
    """A word of a recording, with its start and end in seconds."""

    word: str
    start: float
    end: float


class Hypothesis(BaseModel):
    """A translation of a line with its scores. Log-probabilities are in nats."""

    text: str
    score: float | None
    log_probability: float | None
    tokens: list[str]
    token_log_probabilities: list[float | None]
    truncated: bool
    unmet: int = Field(description="how many of the constraints the text does not contain")
    alignment: list[int] | None = None
    attention: list[list[float]] | None = Field(None, description="for each token, a weight of each source position")
    source_tokens: list[str] | None = Field(None, description="what the source positions stand for")
    words: list[Word] | None = None


class LineError(BaseModel):
    """Why a line has no translation."""

    line: int = Field(description="number of the line, from 1")
    error: str


class Answer(BaseModel):
    """The translations, in the order of the lines; null for a line that failed."""

    translations: list[str | None] | list[list[Hypothesis] | None]
    errors: list[LineError] = Field([], description="errors of the lines that failed")


class Answers(BaseModel):
    """The answers of a batch, in the order of its requests; a refused one has `error` and its `status`."""

    answers: list[Answer | dict[str, Any]]


class Refusal(BaseModel):
    """Why the request was refused."""

    error: str


def request_model(base: type[Options], options: list[str], decode: DecodeConfig, beam_size: int) -> type[Options]:
    """The pydantic model of a request.

    Args:
        base: The keys that are not keys of `decode`.
        options: Keys of `decode` that a request may set.
        decode: Their default values.
        beam_size: Largest beam_size and n_best.
    """
    hints = typing.get_type_hints(DecodeConfig)
    fields = {field.name: field for field in dataclasses.fields(DecodeConfig)}
    most = {"beam_size": beam_size, "n_best": beam_size}
    return create_model(
        base.__name__,
        __base__=base,
        **{name: _option(fields[name], hints[name], getattr(decode, name), most.get(name)) for name in options},
    )


def _option(field: dataclasses.Field, hint: type, default: Any, most: int | None) -> tuple[Any, Any]:
    metadata = field.metadata
    if "group" in metadata:  # chosen by name; its options are the server's
        return Literal[tuple(registry.names(metadata["group"]))], Field(default.type, description=metadata["help"])
    if metadata["choices"]:
        return Literal[metadata["choices"]], Field(default, description=metadata["help"])
    bounds = {"ge": metadata["at_least"], "lt": metadata["below"], "le": metadata["at_most"] if most is None else most}
    if hint is int and bounds["le"] is None and bounds["lt"] is None:
        bounds["le"] = GREATEST
    bounds = {name: bound for name, bound in bounds.items() if bound is not None}
    return Annotated[hint, Field(description=metadata["help"], **bounds)], default


def complaint(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong with a request that should be a `model`: one line, for the client."""
    first = error.errors(include_url=False, include_input=False)[0]
    place, message = first["loc"], first["msg"].replace("Input should be", "must be")
    if first["type"] == "json_invalid":
        return f"the request is not JSON: {first['ctx']['error']}"
    if not place:
        return 'the request must be a JSON object such as {"lines": ["..."]}'
    if first["type"] == "extra_forbidden":
        return f"'{place[0]}' cannot be set; a request may set " + ", ".join(
            sorted(model.model_fields, key=lambda name: name != "lines")
        )
    if place[0] == "lines":
        return f"line {place[1] + 1}: {message}" if len(place) > 1 else "lines: must be a list of texts"
    return f"{place[0]}: {message}"
