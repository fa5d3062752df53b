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

"""What of the site is made of the code, when it is built: a hook of MkDocs, see mkdocs.yml.

- ``<!-- generated: ... -->`` in a page stands for the fields of a message or for the commands.
- The Python interface has a page for each subject, of the docstrings.
- A link to a file of the repository outside docs/ leads to a page with its content.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PYTHON_INDEX = "python/index.md"
# Title: its modules, in order; NAME/* = all of a package. Those that are gone are left out.
PYTHON = {
    "Types and errors": ("types", "errors"),
    "Settings": ("configuration",),
    "The pipeline": ("frontend.pipeline",),
    "Its parts": ("frontend/*",),
    "Cameras": ("camera", "sources.virtual"),
    "Sources of images": ("sources", "sources.base"),
    "Messages": ("io.messages", "io.image_messages", "io.bags"),
    "Pictures and files": ("io.drawing", "io.results", "exporting/*"),
    "The reference back-end": ("odometry/*",),
    "Evaluation": ("evaluation/*",),
    "Benchmarks": ("benchmark/*",),
    "Training": ("training/*",),
}
# Pages of the site whose files lie at the root, where people look for them.
AT_ROOT = {
    "README.md": ROOT / "README.md",
    "contributing.md": ROOT / "CONTRIBUTING.md",
    "quality_declaration.md": ROOT / "QUALITY_DECLARATION.md",
}
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)")
_MARK = re.compile(r"<!-- generated: (.+?) -->")
_LANGUAGES = {".hpp": "cpp", ".py": "python", ".yaml": "yaml", ".xml": "xml", ".msg": "text"}
_ROS = {  # where the definitions of ROS's own messages are
    "builtin_interfaces": "rcl_interfaces",
    **dict.fromkeys(("std_msgs", "sensor_msgs", "geometry_msgs"), "common_interfaces"),
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Leave pages out of the navigation that are not there yet; add the Python pages."""
    assert config.nav is not None
    config.nav = list(_existing(config.nav))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file holds."""
    pages = dict(python_pages())
    sources = [ROOT / "docs" / one.src_uri for one in files.documentation_pages()]
    for name, source in AT_ROOT.items():
        if source.is_file() and not (ROOT / "docs" / name).exists():
            pages[name] = led(_text(source), ROOT, PurePosixPath("."))
            sources.append(source)
    for source in sources:
        for target in linked_files(source):
            pages[_page_of(target)] = file_page(target)
    for path, text in pages.items():
        if not (ROOT / "docs" / path).exists():
            files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Fill in what is generated, and lead links to files outside docs/ to their pages."""
    if page.file.generated_by:
        return markdown
    text = _MARK.sub(lambda match: generated(match[1]), markdown)
    if page.file.src_uri == "parameters.md":  # so that one can be linked to
        text = re.sub(r"^\| `([\w.]+)` \|", r"| `\1`{ #\1 } |", text, flags=re.MULTILINE)
    here = PurePosixPath(page.file.src_uri).parent
    return led(text, ROOT / "docs" / here, here)


def led(text: str, folder: Path, here: PurePosixPath) -> str:
    """Markdown of a file in ``folder``, its links made to fit a page in ``here`` of the site."""

    def lead(match: re.Match[str]) -> str:
        target = (folder / match[2]).resolve()
        if not target.is_relative_to(ROOT) or target.is_dir() or not target.exists():
            return match[0]
        return f"[{match[1]}]({os.path.relpath(_page_of(target), here)}{match[3] or ''})"

    return _LINK.sub(lead, text)


def generated(what: str) -> str:
    """The Markdown that a mark stands for."""
    if what == "commands":
        return "\n".join(commands())
    kind, _, name = what.partition(" ")
    if kind == "message":
        return "\n".join(message_table(name))
    raise ValueError(f"docs/generate.py does not know {what!r}")


# Messages


def definition(name: str) -> Path:
    """The file of a message or service."""
    (path,) = (ROOT / "aliked_msgs").glob(f"*/{name}.*")
    return path


def definitions() -> list[str]:
    """Names of all messages and services."""
    return sorted(path.stem for path in (ROOT / "aliked_msgs").glob("*/*.[ms][sr][gv]"))


def message_table(name: str) -> Iterator[str]:
    """What a .msg or .srv file says, its fields as a table."""
    path = definition(name)
    request, *response = re.split(r"^---$", _text(path), flags=re.MULTILINE)
    about, fields = parse(request)
    if about:
        yield " ".join(about)
    if response:
        yield from ("", "Request:")
    yield from _field_table(fields)
    for part in response:
        yield from ("", "Response:")
        yield from _field_table(parse(part)[1])
    yield ""


def parse(text: str) -> tuple[list[str], list[tuple[str, str, str]]]:
    """Comment at the top, and type, name and comment of each field and constant.

    A comment on a line of its own belongs to the field above it when it begins further right than
    column 0; at column 0 it is about all fields that follow, and is given as a row without type.
    """
    about: list[str] = []
    rows: list[tuple[str, str, str]] = []
    begun = False
    for line in text.splitlines():
        code, _, comment = line.partition("#")
        kind, _, name = code.strip().partition(" ")
        if kind:
            rows.append((kind, name.strip(), comment.strip()))
            begun = True
        elif comment and not begun:
            about.append(comment.strip())
        elif comment and line.startswith("#"):
            rows.append(("", "", comment.strip()))
        elif comment:
            rows[-1] = (*rows[-1][:2], f"{rows[-1][2]} {comment.strip()}")
        elif about:
            begun = True
    return about, rows


def _field_table(fields: list[tuple[str, str, str]]) -> Iterator[str]:
    yield from ("", "| field | type | |", "|---|---|---|")
    for kind, name, comment in fields:
        meaning = _cell(comment)
        if not kind:
            yield f"| | | *{meaning}* |"
        elif "=" in name:
            constant, _, value = name.partition("=")
            yield f"| `{constant.strip()}` = {value.strip()} | {kind}, constant | {meaning} |"
        else:
            yield f"| `{name}` | {_type_link(kind)} | {meaning} |"


def _type_link(kind: str) -> str:
    """A type of a field, linked where it is a message."""
    name, array = kind.removesuffix("[]"), "\\[\\]" if kind.endswith("[]") else ""
    package, _, message = name.rpartition("/")
    if package:
        address = f"https://github.com/ros2/{_ROS[package]}/blob/jazzy/{package}/msg/{message}.msg"
        return f"[{name}]({address}){array}"
    return f"[{name}](messages.md#{name.lower()}){array}" if name[0].isupper() else name + array


# Commands


def commands() -> Iterator[str]:
    """All commands with their arguments and options."""
    import typer

    from aliked_ros.cli.main import app

    for name, command in leaves(typer.main.get_command(app), "aliked_ros"):
        about, _, example = (command.help or "").partition(" Example: ")
        example = (command.epilog or example).removeprefix("Example: ")
        shown = [one for one in command.params if one.name != "help"]
        arguments = [one for one in shown if one.param_type_name == "argument"]
        usage = [name, *(_placeholder(one) for one in arguments), "[OPTIONS]"]
        yield from ("", f"## {name.removeprefix('aliked_ros ')}", "", about.strip(), "")
        yield from ("```console", f"$ {' '.join(usage)}", f"$ {example}  # for example", "```", "")
        yield from ("| | default | |", "|---|---|---|")
        for one in sorted(shown, key=lambda one: one.param_type_name):
            yield f"| {_option(one)} | {_default(one)} | {_cell(one.help or '')} |"


def leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Name and object of each command that is not a group."""
    groups = getattr(command, "commands", None)
    if groups is None:
        yield name, command
        return
    for child, below in groups.items():
        yield from leaves(below, f"{name} {child}")


def _placeholder(argument: Any) -> str:
    text = argument.name.upper() + ("..." if argument.nargs != 1 else "")
    return text if argument.required else f"[{text}]"


def _option(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.upper()}`"
    return ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "required"
    if value is None or value is False or callable(value):
        return ""
    if value is True:
        return f"`{parameter.opts[0]}`"
    return f"`{getattr(value, 'value', value)}`"


# The Python interface


def python_pages() -> Iterator[tuple[str, str]]:
    """Path and content of each page of the Python interface."""
    rows = ["# Python", "", "What programs may use, none of it needs ROS. "]
    rows += ["[Quick start](../quick_start.md#from-python) has an example.", ""]
    for title, modules in _present().items():
        page = f"{_slug(title)}.md"
        names = ", ".join(f"`aliked_ros.{module}`" for module in modules)
        rows.append(f"- [{title}]({page}): {names}")
        body = [f"# {title}", ""]
        for module in modules:
            body += [f"::: aliked_ros.{module}", ""]
        yield f"python/{page}", "\n".join(body)
    yield PYTHON_INDEX, "\n".join(rows)


def _present() -> dict[str, list[str]]:
    subjects: dict[str, list[str]] = {}
    taken: set[str] = set()
    for title, wanted in PYTHON.items():
        modules = [module for name in wanted for module in _modules(name) if module not in taken]
        if modules:
            subjects[title] = modules
            taken |= set(modules)
    return subjects


def _modules(name: str) -> Iterator[str]:
    folder = ROOT / "aliked_ros" / name.removesuffix("/*").replace(".", "/")
    if name.endswith("/*"):
        package = name.removesuffix("/*")
        for path in sorted(folder.glob("*.py")):
            if not path.name.startswith("_"):
                yield f"{package}.{path.stem}"
    elif folder.with_suffix(".py").is_file() or (folder / "__init__.py").is_file():
        yield name


def _slug(title: str) -> str:
    return title.lower().replace(" ", "_")


# Files and navigation


def linked_files(page: Path) -> set[Path]:
    """Files of the repository outside docs/ that a page links to, and that are no pages."""
    if not page.is_file():
        return set()
    targets = {(page.parent / match[2]).resolve() for match in _LINK.finditer(_text(page))}
    return {one for one in targets if one.is_file() and _page_of(one).startswith("files/")}


def file_page(path: Path) -> str:
    """A file of the repository as a page."""
    language = _LANGUAGES.get(path.suffix, "text")
    return f"# `{path.relative_to(ROOT)}`\n\n~~~~{language}\n{_text(path).rstrip()}\n~~~~\n"


def _page_of(path: Path) -> str:
    """Where a file of the repository is on the site."""
    if path.is_relative_to(ROOT / "docs"):
        return path.relative_to(ROOT / "docs").as_posix()
    for page, source in AT_ROOT.items():
        if path == source:
            return page
    return f"files/{path.relative_to(ROOT).as_posix()}.md"


def _existing(nav: list[Any]) -> Iterator[Any]:
    for item in nav:
        title, target = next(iter(item.items())) if isinstance(item, dict) else (None, item)
        if isinstance(target, list):
            if below := list(_existing(target)):
                yield {title: below}
        elif target == PYTHON_INDEX:
            subjects = [{one: f"python/{_slug(one)}.md"} for one in _present()]
            yield {title: [PYTHON_INDEX, *subjects]}
        elif (ROOT / "docs" / target).is_file() or target in AT_ROOT:
            yield item


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _cell(text: str) -> str:
    """Text for a cell of a table."""
    escaped = re.sub(r"([*|_\[\]<])", r"\\\1", " ".join(text.split()))
    return re.sub(r"'(--?[\w-]+|models \w+)'", r"`\1`", escaped)
