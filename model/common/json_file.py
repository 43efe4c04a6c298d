"""JSON files that a person writes: read strictly, and every problem told in one line."""

import difflib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from model.common.errors import UserError
from model.common.files import read_bytes
from model.common.text import printable

Content = TypeVar("Content", bound=BaseModel)

# What a person writes is far smaller; more is another file under this name.
_MOST_BYTES = 2**20
# Pydantic, and the code that makes the messages, call themselves for each level, which Python soon ends.
_MOST_LEVELS = 32


def read(path: str | os.PathLike[str], model: type[Content], if_missing: str, known_keys: str = "") -> Content:
    """Reads a file that holds what a Pydantic model describes: `read_object`, then `validate`."""
    return validate(path, read_object(path, if_missing), model, known_keys)


def read_object(path: str | os.PathLike[str], if_missing: str) -> dict[str, Any]:
    """Reads a file that holds a JSON object, without its "$schema", which is for editors.

    Args:
        path: The file, in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.
        if_missing: What to tell somebody whose file is not there.

    Raises:
        UserError: The file cannot be read, or holds no JSON object, or one of more than 1 MiB or 32 levels.
    """
    path = Path(path)
    try:
        text = read_bytes(path, _MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise UserError(
                f"{path}: larger than {_MOST_BYTES:,} bytes, expected a short JSON file; is it another one?"
            )
        content = parse(text, object_pairs_hook=reject_duplicates)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {if_missing}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a text file: {error}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except ValueError as error:  # a duplicate key, a number too long or a nest too deep
        raise UserError(f"{path}: {error}") from None
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{path}: half of a character, {error.object[error.start]!a}, is no text") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object {{...}}, received {_show(content)}")
    content.pop("$schema", None)
    return content


def parse(text: str | bytes, object_pairs_hook: Callable[[list[tuple[str, Any]]], dict[str, Any]] | None = None) -> Any:
    """Parses JSON that nobody vouches for, as `json.loads` does.

    Args:
        text: The JSON; bytes in UTF-8, UTF-16 or UTF-32.
        object_pairs_hook: As for `json.loads`.

    Raises:
        ValueError: It is no JSON, or has more than 32 levels, one object or list in the other.
    """
    too_deep = f"nested deeper than {_MOST_LEVELS} levels, one object or list in the other; flatten it"
    try:
        content = json.loads(text, object_pairs_hook=object_pairs_hook)
    except RecursionError:
        raise ValueError(too_deep) from None
    level = [content]
    for _ in range(_MOST_LEVELS):
        level = [part for value in level for part in _parts(value)]
    if any(isinstance(value, dict | list) for value in level):
        raise ValueError(too_deep)
    return content


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def validate(
    path: str | os.PathLike[str], content: Mapping[str, Any], model: type[Content], known_keys: str = ""
) -> Content:
    """Returns what a file says as a Pydantic model.

    Args:
        path: The file, for the message.
        content: As `read_object` returns it.
        model: What it has to be.
        known_keys: Where the keys are listed, for somebody who wrote one that is like none of them.

    Raises:
        UserError: The content is not what the model describes. The line names the file and the key.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, content, model, known_keys)}") from None


def explain(error: ValidationError, content: Any, model: type[BaseModel], known_keys: str = "") -> str:
    """Returns all problems in one line; a key of several types, such as a number or a word, has one for each.

    Args:
        error: What Pydantic found.
        content: What was checked.
        model: What it had to be.
        known_keys: Where the keys are listed.
    """
    explained = []
    for key, group in itertools.groupby(error.errors(), key=lambda problem: _key(problem, content)):
        problems = list(group)
        kind = problems[0]["type"]
        if kind == "extra_forbidden" and len(problems[0]["loc"]) == 1:
            explained.append(_explain_unknown(key, model, known_keys))
        elif kind == "extra_forbidden":
            explained.append(f"unknown key '{key}'")
        elif kind == "missing":
            explained.append(f"'{key}' is missing")
        elif kind == "value_error":
            explained.append(f"'{key}': {problems[0]['ctx']['error']}" if key else str(problems[0]["ctx"]["error"]))
        else:
            said = (re.sub(r"^(Input|String|List|Dictionary) should ", "", problem["msg"]) for problem in problems)
            expected = " or ".join(dict.fromkeys(said))
            explained.append(f"'{key}' must {expected}, received {_show(problems[0]['input'])}")
    return "; ".join(explained)


def _key(problem: Mapping[str, Any], content: Any) -> str:
    """Returns which part of the content a problem is about: its place, without the names of types in it."""
    names = []
    for part in problem["loc"]:
        if isinstance(content, dict) and part in content:
            content = content[part]
            names.append(printable(str(part), 60))
    if problem["type"] == "missing":
        names.append(str(problem["loc"][-1]))
    return ".".join(names)


def _explain_unknown(key: str, model: type[BaseModel], known_keys: str) -> str:
    close = difflib.get_close_matches(key, model.model_fields, n=1)
    known = f"see {known_keys} for the known ones" if known_keys else f"known are {', '.join(model.model_fields)}"
    return f"unknown key '{key}'; " + (f"did you mean '{close[0]}'?" if close else known)


def reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object of pairs, for `parse`; a key that is there twice is a ValueError."""
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"'{printable(key, 60)}' is there twice; keep one")
        content[key] = value
    return content


def _show(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
