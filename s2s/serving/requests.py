"""What a request may hold: the pydantic model of it, made of the schema of `decode`."""

import dataclasses
import typing
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from s2s import registry
from s2s.decoding.config import DecodeConfig

GREATEST = 2**31 - 1  # of whole numbers without a bound of their own
OWN = ("lines", "hypotheses", "seed", "tags")  # keys that are not of `decode`


class Request(BaseModel):
    """Lines to translate, and how."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, title="Request")

    lines: list[str] = Field(description="what to translate")
    hypotheses: bool = Field(False, description="whether a line is answered with a list of objects, not with a text")
    seed: int = Field(1, ge=0, lt=2**63, description="of samples")
    tags: dict[str, str] = Field({}, description="values of the tags that the model reads, of all lines")


class Hypothesis(BaseModel):
    """A translation of a line with its scores; of log-probabilities in nats."""

    text: str
    score: float | None
    log_probability: float | None
    tokens: list[str]
    token_log_probabilities: list[float | None]
    truncated: bool


class LineError(BaseModel):
    """Why a line has no translation."""

    line: int = Field(description="its number, from 1")
    error: str


class Answer(BaseModel):
    """The translations, in the order of the lines; null for a line that failed."""

    translations: list[str | None] | list[list[Hypothesis] | None]
    errors: list[LineError] = Field([], description="of lines that failed, if there are any")


class Refusal(BaseModel):
    """Why there is no answer."""

    error: str


def request_model(options: list[str], decode: DecodeConfig, beam_size: int) -> type[Request]:
    """The model of a request.

    Args:
        options: Keys of `decode` that it may set.
        decode: Their values where it does not.
        beam_size: The greatest beam_size and n_best.
    """
    hints = typing.get_type_hints(DecodeConfig)
    fields = {field.name: field for field in dataclasses.fields(DecodeConfig)}
    most = {"beam_size": beam_size, "n_best": beam_size}
    return create_model(
        "Request",
        __base__=Request,
        **{name: _option(fields[name], hints[name], getattr(decode, name), most.get(name)) for name in options},
    )


def _option(field: dataclasses.Field, hint: type, default: Any, most: int | None) -> tuple[Any, Any]:
    said = field.metadata
    if "group" in said:  # chosen by name; its options are the server's
        return Literal[tuple(registry.names(said["group"]))], Field(default.type, description=said["help"])
    if said["choices"]:
        return Literal[said["choices"]], Field(default, description=said["help"])
    bounds = {"ge": said["at_least"], "lt": said["below"], "le": said["at_most"] if most is None else most}
    if hint is int and bounds["le"] is None and bounds["lt"] is None:
        bounds["le"] = GREATEST
    bounds = {name: bound for name, bound in bounds.items() if bound is not None}
    return Annotated[hint, Field(description=said["help"], **bounds)], default


def complaint(error: ValidationError, options: list[str]) -> str:
    """What is wrong with a request, in a line."""
    first = error.errors(include_url=False, include_input=False)[0]
    place, message = first["loc"], first["msg"].replace("Input should be", "must be")
    if first["type"] == "json_invalid":
        return f"the request is not JSON: {first['ctx']['error']}"
    if not place:
        return 'a JSON object is needed, such as {"lines": ["..."]}'
    if first["type"] == "extra_forbidden":
        return f"'{place[0]}' cannot be set here; there is {', '.join([*OWN, *options])}"
    if place[0] == "lines":
        return f"line {place[1] + 1}: {message}" if len(place) > 1 else "lines: a list of texts is needed"
    return f"{place[0]}: {message}"
