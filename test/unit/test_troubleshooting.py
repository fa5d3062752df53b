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

"""Every sentence that a node says of a problem has its entry in docs/troubleshooting.md.

The sentences are read from the source; what varies in them is written ``...`` there and here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
SPEAKING = {  # methods that say something, and which argument that is
    "warn": -1, "once": 0, "warning": 0, "error": 0, "fatal": 0, "report_failure": 0,
    "report_error": 0, "fail": 0,
}  # fmt: skip
# What the nodes say comes from these: their own modules, and errors of the core about inputs.
SOURCES = [
    *sorted((ROOT / "aliked_ros" / "ros").glob("*.py")),
    *(
        ROOT / "aliked_ros" / f"{name}.py"
        for name in ("io/image_messages", "io/images", "io/video", "camera")
    ),
    ROOT / "aliked_ros" / "frontend" / "extractor.py",
    ROOT / "aliked_ros" / "exporting" / "maps.py",
    ROOT / "aliked_ros" / "backends" / "cpu" / "backend.py",
]
# Said by programs that a person runs by hand, who sees them end with the sentence, remedy included.
COMMANDS = {"demo", "demo_report", "processes"}
LEAST = 10  # letters of its own that make a sentence


def text_of(node: ast.expr, function: ast.AST) -> Iterator[str]:
    """The texts an expression can be, with ``...`` for what varies."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "..." for part in node.values]
        yield "".join(str(part) for part in parts)
    elif isinstance(node, ast.IfExp):
        yield from text_of(node.body, function)
        yield from text_of(node.orelse, function)
    elif isinstance(node, ast.BinOp):
        for left in text_of(node.left, function):
            for right in text_of(node.right, function):
                yield left + right
    elif isinstance(node, ast.Name):
        for statement in ast.walk(function):
            if isinstance(statement, ast.Assign) and any(
                isinstance(target, ast.Name) and target.id == node.id
                for target in statement.targets
            ):
                yield from text_of(statement.value, function)
    else:
        yield "..."


def spoken(function: ast.AST) -> Iterator[ast.expr]:
    """What a function logs, warns of, or raises."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            position = SPEAKING.get(node.func.attr)
            if position is not None and node.args:
                yield node.args[position]
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            name = node.exc.func
            if isinstance(name, ast.Name) and name.id.endswith("Error") and node.exc.args:
                yield node.exc.args[0]


def sentences_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    found = {
        text
        for function in functions
        for expression in spoken(function)
        for text in text_of(expression, function)
    }
    return {text for text in found if len(re.sub(r"\.\.\.|\W", "", text)) >= LEAST}


def entries() -> list[str]:
    page = PAGE.read_text(encoding="utf-8")
    quoted = [words.strip(" .") for words in re.findall(r"`([^`\n]+)`", page)]
    return [words for words in quoted if len(words) >= LEAST]


SENTENCES = sorted(
    (path.stem, sentence)
    for path in SOURCES
    if path.stem not in COMMANDS
    for sentence in sentences_of(path)
)


def test_sentences_are_found():
    """The reading of the source itself, by sentences that are said in different ways."""
    texts = [sentence for _, sentence in SENTENCES]
    for words in (
        "Image refused (... so far): ...",  # logged
        "CameraInfo refused: ...",  # a warning
        "Sync" + "hronise the two, or set sync to approximate",  # by way of a variable
        "step is ... bytes, but a row of ... ... pixels takes ...",  # raised
    ):
        assert any(words in text for text in texts), words
    assert len(texts) > 50


@pytest.mark.parametrize(("module", "sentence"), SENTENCES)
def test_every_sentence_has_its_entry(module: str, sentence: str):
    known = entries()
    assert any(words in sentence for words in known), (
        f"{module} can say {sentence!r}: give it an entry in docs/troubleshooting.md that quotes "
        "some of it in backticks, with '...' for what varies, and says what to do"
    )


def test_no_entry_is_about_a_sentence_that_is_gone():
    """Entries in the tables that begin with words of a message."""
    texts = [sentence for _, sentence in SENTENCES]
    page = PAGE.read_text(encoding="utf-8")
    quoted = [w.strip(" .") for w in re.findall(r"^\| `([^`\n]*\.\.\.[^`\n]*)`", page, re.M)]
    assert len(quoted) > 20
    source = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("aliked_ros/**/*.py"))
    gone = [
        words
        for words in quoted
        if not any(words in text for text in texts)
        and not all(piece in source for piece in words.split("...") if len(piece) >= LEAST)
    ]
    assert not gone
