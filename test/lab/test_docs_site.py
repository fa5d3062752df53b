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

"""The documentation site: it builds, is complete, and neither leads nor reaches anywhere else."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

from helpers import ROOT

pytest.importorskip("mkdocs", reason="make setup GROUP=docs")

LOADING = {"script", "img", "link", "iframe", "source", "video", "audio", "object", "embed"}
HARMLESS = {"canonical", "next", "prev"}  # relations of <link> that nothing is loaded for


def module(name: str) -> ModuleType:
    """A script of docs/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@dataclass
class Content(HTMLParser):
    """What a page of the site holds."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.ids |= {given[name] or "" for name in ("id", "name") if name in given}
        for name in ("href", "src", "data"):
            address = given.get(name)
            if address is None or (tag == "link" and given.get("rel") in HARMLESS):
                continue
            (self.loaded if tag in LOADING else self.links).append(address)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


@dataclass(frozen=True)
class Site:
    folder: Path
    processor_time: float  # seconds
    output: str

    def pages(self) -> Iterator[tuple[Path, Content]]:
        for path in sorted(self.folder.rglob("*.html")):
            yield path, self.page(path.relative_to(self.folder).as_posix())

    def page(self, name: str) -> Content:
        content = Content()
        content.feed((self.folder / name).read_text(encoding="utf-8"))
        return content


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stdout + done.stderr
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Site(folder, spent, done.stderr)


def test_it_is_built_without_a_warning_in_seconds(site: Site):
    assert "WARNING" not in site.output
    assert site.processor_time < 30.0


def test_every_link_and_anchor_of_the_site_leads_somewhere(site: Site):
    pages = {path.resolve(): content for path, content in site.pages()}
    assert len(pages) > 30
    missing = []
    for path, content in pages.items():
        for address in content.links + content.loaded:
            parts = urlsplit(address)
            if parts.scheme or path.name == "404.html":  # whose links are from the server's root
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            fragment = unquote(parts.fragment)
            known = pages[target].ids if target in pages else set()
            if not target.is_file() or (fragment and fragment not in known | {"__skip"}):
                missing.append(f"{path.relative_to(site.folder)}: {address}")
    assert not missing


def test_links_to_elsewhere_are_well_formed(site: Site):
    for path, content in site.pages():
        for address in content.links:
            parts = urlsplit(address)
            if parts.scheme:
                assert parts.scheme in ("https", "http", "mailto"), (path, address)
                assert re.fullmatch(r"[\w.-]+\.\w{2,}|localhost(:\d+)?", parts.netloc), address
                assert not re.search(r"[\s<>]", address), address


def test_nothing_is_loaded_from_elsewhere(site: Site):
    for path, content in site.pages():
        assert not [one for one in content.loaded if urlsplit(one).netloc], path
        assert not [one for one in content.loaded if urlsplit(one).scheme not in ("", "data")], path
    for path in site.folder.rglob("*.css"):
        style = path.read_text(encoding="utf-8")
        addresses = re.findall(r"url\(\s*[\"']?([^\"')]+)|@import\s+[\"']([^\"']+)", style)
        outside = [a or b for a, b in addresses if re.match(r"(?!data:)\w+:|//", a or b)]
        assert not outside, path


def test_a_browser_shows_and_searches_it_without_a_server_and_asks_for_nothing_else(site: Site):
    sys.path.insert(0, str(ROOT / "tools"))
    from browser import Browser, find_chromium

    command = find_chromium()
    if command is None:
        pytest.skip("no Chromium: apt install chromium")
    with Browser(command, 1200, 800) as browser:
        for name in ("index.html", "python/types_and_errors.html"):
            browser.open((site.folder / name).as_uri())
            browser.wait(
                lambda: browser.evaluate("document.fonts.status") == "loaded", 20.0, "fonts"
            )
            assert browser.evaluate("document.documentElement.scrollWidth") <= 1200, name
        browser.open((site.folder / "index.html").as_uri() + "?q=relocalize")
        found = "document.querySelector('.md-search-result__list')?.innerText"
        browser.wait(lambda: "Relocalize" in (browser.evaluate(found) or ""), 20.0, "search")
        kinds = {urlsplit(address).scheme for address in browser.requests}
        assert not browser.console
    assert kinds <= {"file", "data", "blob", "about"}, browser.requests


def test_every_parameter_has_its_row_and_its_address(site: Site):
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    from aliked_ros.ros.parameters import DECLARATIONS

    page = site.page("parameters.html")
    assert {declaration.name for declaration in DECLARATIONS} <= page.ids
    for declaration in DECLARATIONS:
        assert declaration.constraint in page.text, declaration.name


@pytest.mark.parametrize(
    ("name", "page"),
    [("player", "player_recorder"), ("recorder", "player_recorder"), ("odometry_node", "odometry")],
)
def test_parameters_of_the_other_nodes_are_in_their_pages(name: str, page: str):
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    declarations = importlib.import_module(f"aliked_ros.ros.{name}")._DECLARATIONS
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    for declaration in declarations:
        found = [row for row in rows if f"`{declaration.name}`" in row[1]]
        default = declaration.default
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        assert any(f"`{shown or chr(34) * 2}`" in row[2] for row in found), declaration.name


def test_every_field_of_every_message_is_on_the_site(site: Site):
    files = [path for path in (ROOT / "aliked_msgs").glob("*/*") if path.suffix in (".msg", ".srv")]
    assert len(files) >= 6
    page = site.page("messages.html")
    assert "generated:" not in page.text
    for path in files:
        assert path.stem.lower() in page.ids, path.name
        for line in path.read_text(encoding="utf-8").splitlines():
            code, _, comment = line.partition("#")
            if code.strip() and code.strip() != "---":
                kind, name = code.split()[:2]
                assert kind in page.text, line
                assert name.partition("=")[0] in page.text, line
            for word in comment.split():
                assert word in page.text, line


def test_the_parts_of_a_definition_are_told_apart():
    generate = module("generate")
    about, fields = generate.parse(
        "# What it is\n# for.\n\nuint8 A=0\n\n# Two times:\nfloat32[] x   # metres, or\n"
        "              # feet\nstring name\n"
    )
    assert about == ["What it is", "for."]
    assert fields == [
        ("uint8", "A=0", ""),
        ("", "", "Two times:"),
        ("float32[]", "x", "metres, or feet"),
        ("string", "name", ""),
    ]


def test_every_topic_and_service_that_the_nodes_make_is_named():
    """Those of the front-end's outputs are a table, and checked with it."""
    pages = [ROOT / "docs" / f"{name}.md" for name in ("topics", "odometry", "player_recorder")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    names = set()
    for stem in ("frontend_node", "places", "reporter", "inputs", "odometry_node", "player"):
        tree = ast.parse((ROOT / "aliked_ros" / "ros" / f"{stem}.py").read_text(encoding="utf-8"))
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call):
                continue
            made = getattr(call.func, "attr", getattr(call.func, "id", ""))
            if re.search(r"publisher|subscri|service|add_lasting", made):
                names |= {
                    argument.value
                    for argument in call.args
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
                }
    assert {"~/status", "~/relocalize", "~/loops", "~/odometry", "mask"} <= names
    assert not {name for name in names if f"`{name}`" not in text}


def test_every_command_and_option_is_on_the_site(site: Site):
    import typer

    from aliked_ros.cli.main import app

    page = site.page("command_line.html")
    commands = dict(module("generate").leaves(typer.main.get_command(app), "aliked_ros"))
    assert "aliked_ros models fetch" in commands
    for name, command in commands.items():
        assert name in page.text
        assert name.removeprefix("aliked_ros ").replace(" ", "-") in page.ids
        options = [option for one in command.params for option in one.opts if option[0] == "-"]
        assert not [option for option in options if option not in page.text], name


def test_docstrings_become_lists(site: Site):
    page = site.page("python/types_and_errors.html")
    assert "aliked_ros.types.Features" in page.ids
    source = (site.folder / "python" / "types_and_errors.html").read_text(encoding="utf-8")
    assert re.search(r"<li><code>width</code>, <code>height</code>: size in pixels", source)
    as_markdown = module("docstrings").as_markdown
    text = as_markdown(
        "See :class:`Camera`.\n\nwidth, height: pixels. matrix: 3×3,\n    note: float64.\n"
        "Raises SomeError for nonsense.",
        {"width", "height", "matrix"},
    )
    assert text == (
        "See `Camera`.\n\n- `width`, `height`: pixels.\n- `matrix`: 3×3, note: float64.\n\n"
        "Raises SomeError for nonsense."
    )


def test_pages_that_are_not_there_yet_are_left_out():
    generate = module("generate")
    nav = [{"A": ["README.md", {"Gone": "no_such_page.md"}]}, {"B": [{"Gone": "nothing.md"}]}]
    assert list(generate._existing(nav)) == [{"A": ["README.md"]}]


def test_every_page_is_in_the_navigation(site: Site):
    index = site.page("index.html")
    pages = {
        path.relative_to(site.folder).as_posix()
        for path in site.folder.rglob("*.html")
        if path.name != "404.html" and path.relative_to(site.folder).parts[0] != "files"
    }
    assert pages <= {urlsplit(link).path for link in index.links} | {"index.html"}
