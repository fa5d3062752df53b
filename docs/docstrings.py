# Copyright 2026 aliked_ros maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""How this project's docstrings become Markdown: an extension of griffe, for mkdocs.yml.

They name parameters and attributes as ``name, other: what they are``, several in a row, which
Markdown would run together. Here each becomes an item of a list, and a sentence that begins with
"Raises" a paragraph of its own.
"""

from __future__ import annotations

import re
from textwrap import dedent
from typing import Any

import griffe

_ENTRY = re.compile(r"(?:^|(?<=[.;] )|(?<=\n))(\w+(?:, \w+)*): ", re.MULTILINE)
_ENDS = re.compile(r"(?:^|(?<=[.] )|(?<=\n))(?=Raises |Returns )")
_ROLE = re.compile(r":(?:mod|class|func|meth|data|attr):`~?([^`]+)`")


class HouseStyle(griffe.Extension):
    """Rewrites the docstrings of modules, classes, functions and attributes."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """See the module."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value, _names_of(obj))


def as_markdown(docstring: str, names: set[str]) -> str:
    """A docstring with its entries as lists; names: of the parameters and attributes it may name.

    The first paragraph is a summary and has none.
    """
    text = _ROLE.sub(r"`\1`", docstring)
    summary, *paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join([dedent(summary), *(_listed(one, names) for one in paragraphs)])


def _listed(paragraph: str, names: set[str]) -> str:
    found = [m for m in _ENTRY.finditer(paragraph) if set(m[1].split(", ")) <= names]
    if not found:
        return paragraph
    parts = [paragraph[: found[0].start()].strip()] if found[0].start() else []
    items, rest = [], []
    for match, after in zip(found, [*found[1:], None], strict=True):
        entry = paragraph[match.end() : after.start() if after else None]
        meaning, *more = _ENDS.split(entry, maxsplit=1)
        named = ", ".join(f"`{name}`" for name in match[1].split(", "))
        items.append(f"- {named}: {' '.join(meaning.split()).rstrip(';')}")
        rest += [" ".join(one.split()) for one in more]
    return "\n\n".join([*parts, "\n".join(items), *rest])


def _names_of(obj: griffe.Object) -> set[str]:
    names = set(obj.members)
    if isinstance(obj, griffe.Function):
        names |= {parameter.name.lstrip("*") for parameter in obj.parameters}
    if isinstance(obj, griffe.Class):
        names |= {parameter.name for parameter in obj.parameters}
    return names
