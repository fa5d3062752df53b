"""README and docs/ say what is true: links lead somewhere, the first example runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


def test_the_python_example_of_the_readme_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGES[0].read_text(encoding="utf-8"), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    tracked = [int(count) for count in re.findall(r"image \d+: (\d+) tracked", done.stdout)]
    assert len(tracked) == 20
    assert tracked[0] == 0
    assert min(tracked[1:]) > 100


def test_pictures_are_small_enough_for_a_repository() -> None:
    pictures = list((ROOT / "docs" / "images").iterdir())
    assert pictures
    assert max(picture.stat().st_size for picture in pictures) < 400_000
