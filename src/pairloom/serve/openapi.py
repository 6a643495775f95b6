"""The interface for programs, described in OpenAPI 3.1: written by hand, held to the routes by a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pairloom.serve.answers import FILES
from pairloom.serve.declared import CONTENT_TYPES, Limits
from pairloom.serve.requests import MOST_SAMPLES, MOST_SEED

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_PNG_TEXT = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"}
_RGB = {
    "type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}, "minItems": 3, "maxItems": 3,
}  # fmt: skip

REFUSALS = {
    "400": "The body is empty or damaged, or no host is named.",
    "403": "A page of another origin asks.",
    "404": "There is no such model, example or address.",
    "405": "This address takes another method.",
    "406": "The answer is not to be had as any of the accepted types.",
    "408": "The body did not arrive in time.",
    "413": "The body, the image or the number of samples is too large.",
    "415": "The content type is none of those allowed, or not what the body is.",
    "421": "The server is not called by this name.",
    "422": "A parameter is wrong, or the image is not of the kind that the model was trained on.",
    "503": "The line is full, or the server made a mistake; Retry-After says when to try again.",
    "504": "The line did not move in time.",
}


def openapi(limits: Limits, models: Sequence[str]) -> dict[str, Any]:
    """The description, with this server's limits and the names of its models."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pairloom serve",
            "version": "1",
            "description": 'Translate images with trained models. A refusal is JSON, {"error": sentence}.',
        },
        "paths": {
            "/api/models": {"get": _models()},
            "/api/example": {"get": _example(models)},
            "/api/translate": {"post": _translate(limits, models)},
            "/api/openapi.json": {
                "get": {
                    "operationId": "openapi",
                    "summary": "This description.",
                    "responses": {
                        "200": _json("OpenAPI 3.1.", {"type": "object"}),
                        **_refusals(403, 405, 421),
                    },
                }
            },
        },
        "components": {"schemas": _schemas()},
    }


def _json(words: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": words, "content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _refusals(*statuses: int) -> dict[str, Any]:
    found = {str(s): _json(REFUSALS[str(s)], _ref("Error")) for s in sorted({400, *statuses})}
    for status in {"503", "504"} & set(found):
        found[status]["headers"] = {
            "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}
        }
    return found


def _query(name: str, words: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": words, "schema": schema}


def _model(models: Sequence[str]) -> dict[str, Any]:
    return _query("model", "Its name; left out, the first.", {"type": "string", "enum": list(models)})


def _models() -> dict[str, Any]:
    return {
        "operationId": "models",
        "summary": "The models, and the limits of a request.",
        "responses": {"200": _json("All models.", _ref("Models")), **_refusals(403, 405, 421)},
    }


def _example(models: Sequence[str]) -> dict[str, Any]:
    number = _query("number", "Which one, counted from 0.", {"type": "integer", "minimum": 0, "default": 0})
    return {
        "operationId": "example",
        "summary": "A source picture, held out of the model's training.",
        "parameters": [_model(models), number],
        "responses": {
            "200": {"description": "The picture.", "content": {"image/png": _BINARY}},
            **_refusals(403, 404, 405, 421),
        },
    }


def _translate(limits: Limits, models: Sequence[str]) -> dict[str, Any]:
    flag = {"type": "integer", "enum": [0, 1], "default": 0}
    whole = {"type": "integer"}
    sizes = (
        f"At most {limits.max_mb:g} MiB, and {limits.max_side} x {limits.max_side} pixels or as many in "
        "another shape."
    )
    return {
        "operationId": "translate",
        "summary": "Translate one image.",
        "description": (
            "The body is the image file itself. The answer is an image of the same size, in the target's own "
            "depth and without loss, in the container that Accept likes best; or, with samples above 1, "
            "patches=1 or Accept: application/json, a JSON object with 8-bit pictures."
        ),
        "parameters": [
            _model(models),
            _query("seed", "Of the noise z.", {**whole, "minimum": 0, "maximum": MOST_SEED, "default": 0}),
            _query(
                "samples",
                "Translations, each with another z, with their mean and spread.",
                {**whole, "minimum": 1, "maximum": MOST_SAMPLES, "default": 1},
            ),
            _query("patches", "1: with D's patch map.", flag),
            _query(
                "picture",
                "1: the body is an 8-bit picture as the page shows it (label colours as /api/models names "
                "them, grey or RGB from low to high), not the source's own values.",
                flag,
            ),
            {
                "name": "X-Drawing",
                "in": "header",
                "description": "client;number: older drawings of this client that wait are dropped.",
                "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64};[0-9]{1,15}$"},
            },
        ],
        "requestBody": {
            "required": True,
            "description": sizes,
            "content": dict.fromkeys(CONTENT_TYPES, _BINARY),
        },
        "responses": {
            "200": {
                "description": "The translation.",
                "headers": {
                    "X-Milliseconds": {"description": "Of the model alone.", "schema": {"type": "number"}}
                },
                "content": {
                    **dict.fromkeys(FILES, _BINARY),
                    "application/json": {"schema": _ref("Translation")},
                },
            },
            "204": {"description": "A newer drawing of the same client has arrived (X-Drawing)."},
            **_refusals(403, 404, 405, 406, 408, 413, 415, 421, 422, 503, 504),
        },
    }


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _schemas() -> dict[str, Any]:
    number, whole, text = {"type": "number"}, {"type": "integer"}, {"type": "string"}
    described = _object(words=text, spec={"type": "object"})
    return {
        "Error": _object(error=text),
        "Models": _object(
            models={"type": "array", "items": _ref("Model")},
            limits=_object(
                max_mb=number, max_side=whole, samples=whole, formats={"type": "array", "items": text}
            ),
        ),
        "Model": _object(
            name=text,
            source=described,
            target=described,
            semantics=_object(
                norm_stats={"enum": ["image", "running", "batch"]}, dropout={"type": "boolean"}
            ),
            trained=_object(
                height=whole, width=whole, step={"type": ["integer", "null"]}, base_channels=whole
            ),
            manner={"enum": ["labels", "paint", "pen", "photo", "none"]},
            palette={"type": "array", "items": _object(name=text, rgb=_RGB)},
            background=_RGB,
            examples=whole,
            noise={"type": "boolean"},
            patches=_or_null(_object(centre=number, jump=number, field=number)),
            is_picture={"type": "boolean"},
        ),
        "Translation": _object(
            width=whole,
            height=whole,
            seed=whole,
            milliseconds=number,
            images={"type": "array", "items": _PNG_TEXT},
            mean=_or_null(_PNG_TEXT),
            spread=_or_null(_PNG_TEXT),
            most_spread=_or_null(number),
            patch_map=_or_null(
                _object(
                    width=whole,
                    height=whole,
                    values={"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}},
                )
            ),
        ),
    }
