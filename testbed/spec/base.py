"""What all spec models share: strictness, and errors that name the place, the nearest known key and
the remedy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from testbed.core.errors import InputError, Place
from testbed.core.units import UnitError
from testbed.spec import yaml_reader
from testbed.spec.yaml_reader import Loc

Count = Annotated[int, Field(strict=True, ge=1)]
Flag = Annotated[bool, Field(strict=True)]


def _finish_schema(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Allow ``x-`` keys, and write defaults as people do, with units; null is none."""
    schema.setdefault("patternProperties", {})["^x-"] = {}
    defaults = model.model_construct().model_dump(mode="json", by_alias=True, exclude_none=True)
    for name, field in schema.get("properties", {}).items():
        if field.pop("default", None) is not None:
            field["default"] = defaults[name]


class Strict(BaseModel):
    """Base of all spec models: immutable, no unknown keys except those that begin with ``x-``,
    which are ignored.

    Built in code, values are written as in a file: ``Wan(between=("iowa", "ohio"), rate="10
    Gbit/s")``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_finish_schema)

    def __init__(self, **values: Any) -> None:
        """Check and take over `values`.

        Raises:
            InputError: a value is wrong; names every error with its place in the model.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            model = self.__class__
            raise input_error(
                error, model, lambda loc: Place(key=_dotted(model.__name__, *loc))
            ) from error

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # `model_validate` need not call it

    @model_validator(mode="before")
    @classmethod
    def _ignore_extensions(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {key: value for key, value in data.items() if not str(key).startswith("x-")}

    def to_yaml(self) -> str:
        """What was set, as YAML that loads to an equal model."""
        return yaml_reader.dump(self.model_dump(mode="json", exclude_unset=True, by_alias=True))


S = TypeVar("S", bound=Strict)


def overlay(base: S, top: Strict | None) -> S:
    """`base` with every field that was set in `top`, model by model."""
    if top is None:
        return base
    update: dict[str, Any] = {}
    for name in top.model_fields_set & base.__class__.model_fields.keys():
        old, new = getattr(base, name), getattr(top, name)
        update[name] = (
            overlay(old, new) if isinstance(old, Strict) and isinstance(new, type(old)) else new
        )
    return base.model_copy(update=update)


class Problem(NamedTuple):
    """Something wrong at `loc` that no single field shows."""

    loc: Loc
    what: str
    remedy: str = ""


def refuse(problems: Sequence[Problem], title: str) -> None:
    """Raise all `problems` as one `pydantic.ValidationError`; nothing if there are none."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError(
                "value_error", "{error}", {"error": UnitError(problem.what, problem.remedy)}
            ),
            loc=problem.loc,
            input=None,
        )
        for problem in problems
    ]
    if details:
        raise ValidationError.from_exception_data(title, details)


def nearest(name: object, known: Iterable[str], limit: int = 3) -> list[str]:
    """Those of `known` that are like `name`, best first."""
    from rapidfuzz import fuzz, process  # noqa: PLC0415 (0.05 s, for mistakes alone)

    matches = process.extract(
        str(name), list(known), scorer=fuzz.ratio, limit=limit, score_cutoff=60
    )
    return [match for match, _, _ in matches]


def suggest(name: object, known: Iterable[str], label: str = "known") -> str:
    """``nearest: …`` if something is near to `name`; else all that is known."""
    names = list(known)
    near = nearest(name, names)
    return f"nearest: {', '.join(near)}" if near else f"{label}: {', '.join(names)}"


def _dotted(*steps: object) -> str:
    return ".".join(map(str, steps))


Located = tuple[Place, str, str]


def input_error(
    error: ValidationError, model: type[BaseModel], locate: Callable[[Loc], Place]
) -> InputError:
    """All that `error` found in one message; `locate` gives the place of a location in the
    input.
    """
    found: list[Located] = []
    for detail in error.errors(include_url=False):
        loc = tuple(step for step in detail["loc"] if not _is_tag(step))
        found.append((locate(loc), *_explain(detail, loc, model)))
    if len(found) == 1:
        return InputError(found[0][1], place=found[0][0], remedy=found[0][2])
    lines = [
        f"  {InputError(what, place=place, remedy=remedy)}".replace("\n", "\n  ")
        for place, what, remedy in found
    ]
    return InputError(f"{len(lines)} errors\n" + "\n".join(lines))


def _is_tag(step: str | int) -> bool:
    """Whether a step of pydantic's location is one of its own, not a key: tags of alternatives are
    in parentheses.
    """
    return isinstance(step, str) and (
        step == "[key]" or (step.startswith("(") and step.endswith(")"))
    )


def _explain(detail: Any, loc: Loc, model: type[BaseModel]) -> tuple[str, str]:
    """What is wrong, and the remedy."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    shown = "null" if value is None else repr(value)
    cause = context.get("error")
    if isinstance(cause, UnitError):
        return cause.what, cause.remedy
    if kind == "extra_forbidden":
        return f"unknown key {str(loc[-1])!r}", suggest(
            loc[-1], _keys_at(model, loc[:-1]), "known keys"
        )
    if kind in _EXPECTED:
        return f"{shown} is not {_EXPECTED[kind]}", ""
    messages = {
        "missing": "it is missing",
        "finite_number": f"{shown} is not a finite number",
        "literal_error": f"{shown} is not one of {context.get('expected')}",
        "too_short": f"it needs at least {context.get('min_length')}, not {context.get('actual_length')}",
        "too_long": f"it may have at most {context.get('max_length')}",
        "greater_than_equal": f"{shown} is less than {context.get('ge')}",
        "less_than_equal": f"{shown} is more than {context.get('le')}",
    }
    return messages.get(kind) or str(cause or detail["msg"]), ""


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


def _keys_at(model: Any, loc: Loc) -> list[str]:
    """The keys that the model at `loc` knows."""
    annotations = [model]
    for step in loc:
        annotations = [below for annotation in annotations for below in _below(annotation, step)]
    fields = [found.model_fields for annotation in annotations for found in _models(annotation)]
    return [field.alias or name for known in fields for name, field in known.items()]


def _below(annotation: Any, step: str | int) -> list[Any]:
    """The annotations of what an instance of `annotation` holds at `step`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [field.annotation for name, field in annotation.model_fields.items() if name == step]
    arguments = get_args(annotation)
    if get_origin(annotation) in (dict, list, tuple):
        return [arguments[-1]]
    return [found for argument in arguments for found in _below(argument, step)]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (dict, list, tuple):
        return []
    return [found for argument in get_args(annotation) for found in _models(argument)]
