"""What mkdocs cannot do by itself for this site: separate the demo song, and lead links out of docs/ to the repository.

mkdocs.yml names it as a hook; mkdocs calls the functions by their names.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = "https://github.com/deepsep/deepsep/blob/main/"


@cache
def demo_page() -> str:
    """The page of the demo song, as `--report` writes it; made once, however often the site is built."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["separate", str(ROOT / "docs/demo.ogg"), "-o", folder, "--report", "--quiet", "--offline"]
        subprocess.run([sys.executable, "-m", "deepsep", *words], cwd=ROOT, check=True)
        return Path(folder, "demo/report.html").read_text(encoding="utf-8")


def on_files(files: Any, config: Any) -> Any:
    """Add the page of the demo song."""
    files.append(File.generated(config, "demo.html", content=demo_page()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead links to files of the repository that are no pages to where they are seen."""
    return re.sub(r"\]\(\.\./(?!\.)", f"]({REPOSITORY}", markdown)
