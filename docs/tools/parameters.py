"""Writes docs/parameters.md: every key of `params.json`, from the schema.

python -m docs.tools.parameters
"""

import inspect
import json
import re
from collections.abc import Mapping
from typing import Any

from docs.tools.snippets import ROOT
from model.params import WITHOUT_EFFECT, Params

PAGE = ROOT / "docs" / "parameters.md"

_HEAD = """\
<!-- made by: python -m docs.tools.parameters -->
# Parameters

Every key of `params.json`. All are optional: a file holds what differs from the defaults. A mistake is one line that
names the file, the key and what was expected. Editors complete the keys if the file says
`"$schema": "../params.schema.json"`.
"""


def page() -> str:
    """Returns the page as Markdown."""
    properties = Params.model_json_schema()["properties"]
    lines = [_HEAD]
    for group, keys in groups().items():
        lines += [f"## {group}", "", "| key | default | values | what it is |", "|---|---|---|---|"]
        for key in keys:
            about = properties[key]
            meaning = re.sub(r"([|<*])", r"\\\1", about["description"])
            default = about["default"]
            default = f"{default:.4g}" if isinstance(default, float) else json.dumps(default)
            lines.append(f"| `{key}` | `{default}` | {values(about)} | {meaning} |")
        lines.append("")
    lines += ["## Old keys", "", "Files of before may carry these; they are read, and told of in the log.", ""]
    lines += [f"- `{key}`: without effect, {reason}." for key, reason in WITHOUT_EFFECT.items()]
    lines += ['- `squared`: `true` is the old name of `"distance": "squared_euclidean"`.', ""]
    return "\n".join(lines)


def groups() -> dict[str, list[str]]:
    """Returns the keys by the comments that stand above them in `Params`."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in inspect.getsource(Params).splitlines():
        if comment := re.fullmatch(r"    # (.+)", line):
            name = comment[1]
        elif (key := re.match(r"    (\w+): ", line)) and key[1] in Params.model_fields:
            found.setdefault(name, []).append(key[1])
    return found


def values(about: Mapping[str, Any]) -> str:
    """Returns what a part of the schema allows, in words."""
    if "enum" in about:
        return ", ".join(f"`{json.dumps(value)}`" for value in about["enum"])
    if "const" in about:
        return f"`{json.dumps(about['const'])}`"
    if "anyOf" in about:
        return ", or ".join(values(one) for one in about["anyOf"])
    kind = about["type"]
    if kind in ("integer", "number"):
        name = "whole number" if kind == "integer" else "number"
        low, above = about.get("minimum"), about.get("exclusiveMinimum")
        high, below = about.get("maximum"), about.get("exclusiveMaximum")
        ends = [f"from {low:,}" if low is not None else f"above {above:,}" if above is not None else ""]
        if high is not None and high < 2**31 - 1:
            ends.append(f"to {high:,}")
        if below is not None:
            ends.append("below 2^32" if below == 2**32 else f"below {below:,}")
        return " ".join([name, *filter(None, ends)])
    if kind == "array":
        return "a list of labels, names or patterns"
    return {"boolean": "`true`, `false`", "string": "text", "null": "`null`"}[kind]


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
