"""The JSON Schema of recipes, so that editors complete and check them while they are written."""

from __future__ import annotations

import inspect
import json
from itertools import chain
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from pydantic_core import core_schema

from robustprune.arithmetic import PATTERN
from robustprune.components import Options, Part, PartOf
from robustprune.families import FAMILIES, family
from robustprune.recipe.document import EXTENDS
from robustprune.recipe.schema import Recipe

Schema = dict[str, Any]

_EXTENDS = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    "description": "A recipe, or several, relative to this file or by name, of which later ones "
    "win. This file's mappings are merged into theirs; its lists and scalars replace theirs.",
}
_ARITHMETIC = {
    "type": "string",
    "pattern": PATTERN,
    "description": "Arithmetic, such as 8/255, 1e-4 or 2 * (3 + 1).",
}


def json_schema() -> Schema:
    """The JSON Schema (draft 2020-12) of a recipe, with every part that is registered now.

    A part of a family is its name alone, if it needs no option, or ``{name: …, option: …}``. In a
    recipe that extends another one no key is required, because that one may have it.
    """
    families = [name for name in FAMILIES if name != "backends"]  # which no recipe names
    parts = {name: [family(name).get(part) for part in family(name).names()] for name in families}
    models: list[type[Options]] = [Recipe, *chain(*parts.values())]
    links, found = models_json_schema(
        [(model, "validation") for model in models], schema_generator=_Composer
    )
    definitions: Schema = {"arithmetic": _ARITHMETIC, **found["$defs"]}
    recipe = definitions.pop("Recipe")
    for name in families:
        choices: list[Schema] = []
        for part in parts[name]:
            if not any(option.is_required() for option in part.model_fields.values()):
                choices.append({"const": part.registered_name, "description": inspect.getdoc(part)})
            choices.append({**links[part, "validation"], "required": ["name"]})
        definitions[name] = {"anyOf": choices}
    partial = _partial(recipe)
    partial["properties"] = {EXTENDS: _EXTENDS, **partial["properties"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "robustprune recipe",
        "description": recipe["description"],
        "if": {"required": [EXTENDS]},
        "then": partial,
        "else": recipe,
        "$defs": definitions | {f"extending.{k}": _partial(v) for k, v in definitions.items()},
    }


class _Composer(GenerateJsonSchema):
    """Pydantic's own, with arithmetic and parts; a type of the user's own may be anything."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> Schema:
        plain = super().function_before_schema(schema)
        number = schema["schema"]["type"] in ("int", "float")
        return {"anyOf": [plain, {"$ref": "#/$defs/arithmetic"}]} if number else plain

    def model_schema(self, schema: core_schema.ModelSchema) -> Schema:
        options, group = super().model_schema(schema), schema["cls"]
        if issubclass(group, Part):
            name = {"name": {"const": group.registered_name}}
            return {**options, "properties": {**name, **options["properties"]}}
        if options.get("required") == ["name"]:  # `model: resnet18`
            return {"anyOf": [{"type": "string"}, options]}
        return options

    def function_plain_schema(self, schema: core_schema.PlainValidatorFunctionSchema) -> Schema:
        mark = getattr(schema["function"]["function"], "__self__", None)
        if not isinstance(mark, PartOf):
            return super().function_plain_schema(schema)
        choices: list[Schema] = [{"$ref": f"#/$defs/{mark.family}"}]
        if mark.default is not None:  # `optimizer: {lr: 0.01}`
            usual = family(mark.family).get(mark.default["name"])
            usual.model_rebuild()
            choices.append(self.generate_inner(usual.__pydantic_core_schema__))
        return {"anyOf": choices}

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Schema:
        return {}


def _partial(schema: Schema) -> Schema:
    """A schema that requires nothing, nor does what it refers to."""

    def loosened(group: Schema) -> Schema:
        return {k: v for k, v in group.items() if k != "required" or not isinstance(v, list)}

    text = json.dumps(schema).replace('"#/$defs/', '"#/$defs/extending.')
    partial: Schema = json.loads(text, object_hook=loosened)
    return partial
