"""Imports only point up the route, help comes without torch, and errors are lines of one shape."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import deepsep

PACKAGE = Path(deepsep.__file__).parent
# Each line may import those before it, and its own members one another.
ORDER = """
    errors
    config
    audio
    recordings
    flows
    inference
    spectral waveform
    models
    separation
    training
    output
    evaluation
    api
    cli
    __main__
""".strip().splitlines()


def read_modules():
    """Dotted name -> syntax tree of every module that is not a bare package marker."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if path.name != "__init__.py":
            found[name] = ast.parse(path.read_text())
    return found


MODULES = read_modules()


def imports(name, tree):
    """Dotted names, below the package, of the modules that a module imports, at any depth of its code."""
    for node in ast.walk(tree):
        bases = []
        if isinstance(node, ast.Import):
            bases = [a.name.split(".")[1:] for a in node.names if a.name.split(".")[0] == "deepsep"]
        elif isinstance(node, ast.ImportFrom):
            inner = (node.module or "").split(".") if node.module else []
            if node.level:
                inner = name.split(".")[: -node.level] + inner
            elif inner[0] == "deepsep":
                inner = inner[1:]
            else:
                continue
            bases = [[*inner, a.name] for a in node.names]
        for base in bases:
            for length in (len(base), len(base) - 1):
                if ".".join(base[:length]) in MODULES:
                    yield ".".join(base[:length])
                    break


def place(name):
    """A module's place in the order: that of its folder, or its own directly under the package."""
    return next((i for i, line in enumerate(ORDER) if name.split(".")[0] in line.split()), None)


def test_every_module_has_its_place():
    strangers = [n for n in MODULES if place(n) is None]
    assert not strangers, f"give {', '.join(strangers)} a place in ORDER"


def test_imports_point_up():
    seen = 0
    for name, tree in MODULES.items():
        for used in imports(name, tree):
            seen += 1
            within = name.split(".")[0] == used.split(".")[0]
            assert within or place(used) < place(name), f"{name} imports {used}, which lies below it"
    assert seen > 40


@pytest.mark.parametrize("code", ["import deepsep.cli", "from deepsep.cli import main; main()"])
def test_help_does_without_torch(code):
    script = f"""
import sys
sys.argv = ["deepsep", "--help"]
try:
    {code.replace("; ", chr(10) + "    ")}
except SystemExit as done:
    assert not done.code, done.code
heavy = [n for n in ("torch", "soundfile", "stempeg", "huggingface_hub", "matplotlib") if n in sys.modules]
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=60)


def ending(message):
    """The last literal characters of a message in the source."""
    if isinstance(message, ast.JoinedStr):
        return ending(message.values[-1])
    return message.value if isinstance(message, ast.Constant) else ""


def test_errors_end_without_a_full_stop():
    seen = 0
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            called = getattr(getattr(node, "func", None), "id", "")
            if called in ("DeepsepError", "MissingExtra", "usage") and node.args:
                seen += 1
                text = ending(node.args[0])
                assert not text.endswith(".") or text.endswith("..."), f"{name}: {text!r}"
    assert seen > 100
