"""The base of all spec models, with strict validation and helpful errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from testbed.core.errors import InputError, Place
from testbed.core.suggestions import nearest, nearest_text, suggest
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
        what, remedy = explain(detail, loc, model)
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


def explain(detail: ErrorDetails, loc: Loc, model: type[BaseModel]) -> tuple[str, str]:
    """Return the description of an error of pydantic, and the remedy.

    Args:
        detail: The error.
        loc: The location of the value in the input.
        model: The validated model.
    """
    if detail["type"] == "extra_forbidden":
        key = str(loc[-1])
        known_keys = _keys_at(model, loc[:-1])
        return f"unknown key {key!r}", suggest(key, known_keys, "known keys")

    what, remedy = explain_value(detail)
    if detail["type"] in _MAPPING_KINDS:
        keys = ", ".join(_keys_at(model, loc))
        remedy = f"known keys: {keys}" if keys else "such as {name: value}"
    if detail["type"] in _LIST_KINDS:
        remedy = _as_list(detail["input"], _choices_at(model, loc))
    return what, remedy


def explain_value(detail: ErrorDetails) -> tuple[str, str]:
    """Return the description of an error of pydantic about a single value, and the remedy.

    Args:
        detail: The error.
    """
    kind = detail["type"]
    context = detail.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, UnitError):
        return cause.what, cause.remedy

    value = detail["input"]
    shown = "null" if value is None else repr(value)
    if kind in _EXPECTED:
        return f"{shown} is not {_EXPECTED[kind]}", ""
    if kind in ("literal_error", "enum"):
        expected = str(context.get("expected"))
        remedy = nearest_text(value, re.findall("'([^']*)'", expected))
        return f"{shown} is not one of {expected}", remedy
    if kind == "missing" and not isinstance(value, Mapping):
        return f"{shown} has too few items", ""

    messages = {
        "missing": "required key is missing",
        "finite_number": f"{shown} is not a finite number",
        "too_short": (
            f"expected at least {_items(context.get('min_length'))}, got "
            f"{context.get('actual_length')}"
        ),
        "too_long": f"expected at most {_items(context.get('max_length'))}",
        "greater_than_equal": f"{value} is less than {_bound(context, 'ge')}",
        "greater_than": f"{value} is not greater than {_bound(context, 'gt')}",
        "less_than_equal": f"{value} is more than {_bound(context, 'le')}",
        "less_than": f"{value} is not less than {_bound(context, 'lt')}",
    }
    # Other messages of pydantic say "Input should be VALID", and name the exception's class.
    message = str(cause or detail["msg"])
    message = re.sub(r"^(Value error|Assertion failed), ", "", message).rstrip(".")
    message = re.sub(r"^Input should be ", lambda _: f"{shown} is not ", message)
    return messages.get(kind, message), ""


def _bound(context: Mapping[str, Any], name: str) -> str:
    """Return a bound as text, a whole number without a decimal point."""
    bound = context.get(name)
    return f"{bound:g}" if isinstance(bound, float) else str(bound)


def _items(count: object) -> str:
    return "1 item" if count == 1 else f"{count} items"


def _as_list(value: object, choices: Sequence[str]) -> str:
    """Return the remedy for a single value in place of a list; empty for a mapping or null.

    Args:
        value: The value.
        choices: All valid items; empty: not known.
    """
    if not isinstance(value, str | int | float):
        return ""

    items: list[str] = []
    for part in str(value).split(","):
        item = re.sub(r"^([0-9.]+)(?=[A-Za-z%])", r"\1 ", part.strip())
        items += nearest(item, choices, limit=1) or [item]
    return f"write a list: [{', '.join(items)}]"


_LIST_KINDS = ("list_type", "tuple_type")
_MAPPING_KINDS = ("dict_type", "model_type", "model_attributes_type")
_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "list_type": "a list",
    "tuple_type": "a list",
}


def _keys_at(model: type[BaseModel], loc: Loc) -> list[str]:
    """Return the keys of the model at `loc`."""
    keys: list[str] = []
    for annotation in _annotations_at(model, loc):
        for found_model in _models(annotation):
            for name, field in found_model.model_fields.items():
                keys.append(field.alias or name)

    return keys


def _choices_at(model: type[BaseModel], loc: Loc) -> list[str]:
    """Return the valid items of the list at `loc`; empty unless the items are literals."""
    choices: list[str] = []
    for annotation in _annotations_at(model, (*loc, 0)):
        if get_origin(annotation) is Literal:
            choices += map(str, get_args(annotation))
    return choices


def _annotations_at(model: type[BaseModel], loc: Loc) -> list[Any]:
    """Return the annotations of the values of a model at `loc`."""
    annotations: list[Any] = [model]
    for step in loc:
        annotations_below: list[Any] = []
        for annotation in annotations:
            annotations_below += _below(annotation, step)

        annotations = annotations_below
    return annotations


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
