"""The base of all spec models, with strict validation and helpful errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from testbed.core.errors import InputError, Place
from testbed.core.units import UnitError
from testbed.spec import yaml_reader
from testbed.spec.yaml_reader import Loc

Count = Annotated[int, Field(strict=True, ge=1)]
Flag = Annotated[bool, Field(strict=True)]


def _finish_schema(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Finish the JSON schema of a model in place.

    ``x-`` keys are allowed. Descriptions have line breaks only between paragraphs. Defaults are
    written with units, as people write them; a default of null is omitted.
    """
    schema.setdefault("patternProperties", {})["^x-"] = {}
    paragraphs: list[str] = []
    for paragraph in schema["description"].split("\n\n"):
        paragraphs.append(" ".join(paragraph.split()))

    schema["description"] = "\n\n".join(paragraphs)

    defaults = model.model_construct().model_dump(mode="json", by_alias=True, exclude_none=True)
    for name, field in schema.get("properties", {}).items():
        default = field.pop("default", None)
        if default is not None:
            field["default"] = defaults[name]


class Strict(BaseModel):
    """Base of all spec models: immutable, with no unknown keys.

    Keys that begin with ``x-`` are ignored. In code, values are written as in a file:
    ``Wan(between=("iowa", "ohio"), rate="10 Gbit/s")``.
    """

    model_config = ConfigDict(
        defer_build=True, frozen=True, extra="forbid", json_schema_extra=_finish_schema
    )

    def __init__(self, **values: Any) -> None:
        """Validate `values`, and create the model.

        Raises:
            InputError: A value is wrong; the message lists every error with its place in the model.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            model = type(self)
            locate = partial(_place_in_model, model.__name__)
            raise input_error(error, model, locate) from error

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # `model_validate` need not call it

    @model_validator(mode="before")
    @classmethod
    def _ignore_extensions(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data

        known: dict[Any, Any] = {}
        for key, value in data.items():
            if not str(key).startswith("x-"):
                known[key] = value

        return known

    def to_yaml(self) -> str:
        """Return the fields that were set as YAML that loads to an equal model."""
        written = self.model_dump(mode="json", exclude_unset=True, by_alias=True)
        return yaml_reader.dump(written)


def _place_in_model(model: str, loc: Loc) -> Place:
    steps = [model, *map(str, loc)]
    return Place(key=".".join(steps))


S = TypeVar("S", bound=Strict)


def overlay(base: S, top: Strict | None) -> S:
    """Return `base` with every field that was set in `top`, model by model."""
    if top is None:
        return base

    update: dict[str, Any] = {}
    shared_fields = top.model_fields_set & type(base).model_fields.keys()
    for name in shared_fields:
        old = getattr(base, name)
        new = getattr(top, name)
        if isinstance(old, Strict) and isinstance(new, type(old)):
            new = overlay(old, new)

        update[name] = new

    return base.model_copy(update=update)


class Mistake(NamedTuple):
    """A mistake of the user at `loc` that involves several fields."""

    loc: Loc
    what: str
    remedy: str = ""


def refuse(problems: Sequence[Mistake], title: str) -> None:
    """Raise all problems as one `pydantic.ValidationError`; return if there are none.

    Args:
        problems: Problems of the model.
        title: Name of the model.
    """
    if not problems:
        return

    details: list[InitErrorDetails] = []
    for problem in problems:
        cause = UnitError(problem.what, problem.remedy)
        kind = PydanticCustomError("value_error", "{error}", {"error": cause})
        detail = InitErrorDetails(
            type=kind,
            loc=problem.loc,
            input=None,
        )
        details.append(detail)

    raise ValidationError.from_exception_data(title, details)


def nearest(name: object, known: Iterable[str], limit: int = 3) -> list[str]:
    """Return up to `limit` names of `known` that are similar to `name`, best first.

    Args:
        name: The misspelt name.
        known: All valid names.
        limit: Maximum number of names.
    """
    from rapidfuzz import fuzz, process  # noqa: PLC0415 (0.05 s, for mistakes alone)

    matches = process.extract(
        str(name),
        list(known),
        scorer=fuzz.ratio,
        limit=limit,
        score_cutoff=60,
    )
    return [match for match, _, _ in matches]


def suggest(name: object, known: Iterable[str], label: str = "known") -> str:
    """Return ``nearest: …`` if known names are similar to `name`, otherwise all known names.

    Args:
        name: The user's text.
        known: All valid names.
        label: Text in front of the list of all known names.
    """
    names = list(known)
    near = nearest(name, names)
    if near:
        return f"nearest: {', '.join(near)}"
    return f"{label}: {', '.join(names)}"


def input_error(
    error: ValidationError, model: type[BaseModel], locate: Callable[[Loc], Place]
) -> InputError:
    """Combine all errors of pydantic into one message.

    Args:
        error: The errors of pydantic.
        model: The validated model.
        locate: Function that returns the place in the input for a location.
    """
    errors: list[InputError] = []
    for detail in error.errors(include_url=False):
        loc = tuple(step for step in detail["loc"] if not _is_tag(step))
        place = locate(loc)
        what, remedy = _explain(detail, loc, model)
        errors.append(InputError(what, place=place, remedy=remedy))

    if len(errors) == 1:
        return errors[0]

    lines = [f"{len(errors)} errors"]
    for each in errors:
        lines += str(each).split("\n")
    return InputError("\n  ".join(lines))


def _is_tag(step: str | int) -> bool:
    """Return whether a step of pydantic's location is a tag instead of a key of the input.

    Tags of alternatives are in parentheses.
    """
    if not isinstance(step, str):
        return False

    is_alternative = step.startswith("(") and step.endswith(")")
    return is_alternative or step == "[key]"


def _explain(detail: ErrorDetails, loc: Loc, model: type[BaseModel]) -> tuple[str, str]:
    """Return the description of an error, and the remedy."""
    kind = detail["type"]
    context = detail.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, UnitError):
        return cause.what, cause.remedy

    if kind == "extra_forbidden":
        key = str(loc[-1])
        known_keys = _keys_at(model, loc[:-1])
        return f"unknown key {key!r}", suggest(key, known_keys, "known keys")

    value = detail["input"]
    shown = "null" if value is None else repr(value)
    if kind in _EXPECTED:
        return f"{shown} is not {_EXPECTED[kind]}", ""

    messages = {
        "missing": "required key is missing",
        "finite_number": f"{shown} is not a finite number",
        "literal_error": f"{shown} is not one of {context.get('expected')}",
        "too_short": (
            f"expected at least {context.get('min_length')} items, got "
            f"{context.get('actual_length')}"
        ),
        "too_long": f"expected at most {context.get('max_length')} items",
        "greater_than_equal": f"{shown} is less than {context.get('ge')}",
        "less_than_equal": f"{shown} is more than {context.get('le')}",
    }
    other = str(cause or detail["msg"])
    return messages.get(kind, other), ""


_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "list_type": "a list",
    "tuple_type": "a list",
}


def _keys_at(model: type[BaseModel], loc: Loc) -> list[str]:
    """Return the keys of the model at `loc`."""
    annotations: list[Any] = [model]
    for step in loc:
        annotations_below: list[Any] = []
        for annotation in annotations:
            annotations_below += _below(annotation, step)

        annotations = annotations_below

    keys: list[str] = []
    for annotation in annotations:
        for found_model in _models(annotation):
            for name, field in found_model.model_fields.items():
                keys.append(field.alias or name)

    return keys


def _below(annotation: Any, step: str | int) -> list[Any]:
    """Return the annotations of the values of an instance of `annotation` at `step`."""
    if _is_model(annotation):
        field = annotation.model_fields.get(step)
        return [] if field is None else [field.annotation]

    arguments = get_args(annotation)
    if get_origin(annotation) in (dict, list, tuple):
        return [arguments[-1]]

    annotations: list[Any] = []
    for argument in arguments:
        annotations += _below(argument, step)
    return annotations


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the possible models of an instance of `annotation`."""
    if _is_model(annotation):
        return [annotation]
    if get_origin(annotation) in (dict, list, tuple):
        return []

    models: list[type[BaseModel]] = []
    for argument in get_args(annotation):
        models += _models(argument)
    return models


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
