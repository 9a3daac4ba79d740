"""Imports only point up the route, modules stay small, domains are told apart in one place, errors have one shape."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from processes import PATIENCE

import deepsep

PACKAGE = Path(deepsep.__file__).parent
# Each line may import those before it, and its own members one another.
ORDER = """
    errors
    staging
    config
    progress
    audio
    recordings
    flows
    inference
    spectral
    waveform
    models
    separation
    training
    output
    evaluation
    api
    app
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


# --- sizes -----------------------------------------------------------------------------------------------


def test_no_module_is_long():
    lengths = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    long = {str(path.relative_to(PACKAGE)): length for path, length in lengths.items() if length > 400}
    assert not long, f"split what has more than 400 lines: {long}"


def test_few_modules_lie_outside_of_folders():
    names = sorted(path.name for path in PACKAGE.glob("*.py"))
    assert len(names) <= 10, f"move some of {', '.join(names)} into folders"


def test_every_folder_says_what_lives_there():
    markers = sorted(PACKAGE.glob("*/**/__init__.py"))
    assert len(markers) > 8
    docstrings = {str(m.relative_to(PACKAGE)): ast.get_docstring(ast.parse(m.read_text())) for m in markers}
    short = [name for name, text in docstrings.items() if len((text or "").split()) < 10]
    assert not short, f"say what lives there and what it may import: {', '.join(short)}"


# --- domains ---------------------------------------------------------------------------------------------

DOMAINS = {"spectral", "waveform"}
CHOICE = "models.folder"  # where a priors folder is read, and with it the domain chosen
DOMAIN_CLASSES = set(
    """
    Domain SpectralDomain WaveformDomain
    Flow SpectralFlow WaveformFlow Prior FlowPrior SpectralPrior WaveformPrior DefensivePrior
    Encoder SpectralEncoder WaveformEncoder UNet Spectrum
    FlowConfig SpectralFlowConfig WaveformFlowConfig EncoderConfig SpectralEncoderConfig WaveformEncoderConfig
    SpectrumConfig WaveformConfig SgldConfig SpectralSgldConfig WaveformSgldConfig
    Posterior BandPosterior SamplePosterior PowerBank SampleBank
    """.split()
)


def names_in(node):
    """Every name and attribute in an expression."""
    found = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return found | {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}


def texts_in(node):
    """Every string in an expression."""
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def type_checks(tree, classes):
    """Lines that ask whether something is of one of these classes."""
    for node in ast.walk(tree):
        asked = set()
        if isinstance(node, ast.Call) and names_in(node.func) & {"isinstance", "issubclass"}:
            asked = names_in(node.args[1])
        elif isinstance(node, ast.MatchClass):
            asked = names_in(node.cls)
        elif isinstance(node, ast.Compare) and any(
            isinstance(side, ast.Call) and names_in(side.func) == {"type"}
            for side in (node.left, *node.comparators)
        ):
            asked = set().union(*map(names_in, node.comparators))
        if asked & classes:
            yield node.cls.lineno if isinstance(node, ast.MatchClass) else node.lineno


def domain_branches(tree, domains):
    """Lines that compare with the name of a domain, or whose condition is a flag or attribute of that name."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Compare, ast.MatchValue)):
            told = texts_in(node) | (names_in(node) if isinstance(node, ast.Compare) else set())
        elif isinstance(node, (ast.If, ast.IfExp, ast.While, ast.Assert)):
            told = flags(node.test)
        elif isinstance(node, ast.comprehension):
            told = set().union(*map(flags, node.ifs))
        elif isinstance(node, ast.BoolOp):
            told = set().union(*map(flags, node.values))
        elif isinstance(node, ast.Match):
            told = flags(node.subject)
        else:
            continue
        if told & domains:
            yield node.iter.lineno if isinstance(node, ast.comprehension) else node.lineno


def flags(test):
    """The last name of each operand of a condition that is a bare name or attribute."""
    if isinstance(test, ast.UnaryOp):
        return flags(test.operand)
    if isinstance(test, ast.BoolOp):
        return set().union(*map(flags, test.values))
    if isinstance(test, ast.Attribute):
        return {test.attr}
    return {test.id} if isinstance(test, ast.Name) else set()


def count(check, forbidden):
    """`module:line` wherever a check finds what is forbidden to that module."""
    found = {
        f"{name.replace('.', '/')}.py:{line}"
        for name, tree in MODULES.items()
        if name != CHOICE
        for line in check(tree, forbidden(name.split(".")[0]))
    }
    return sorted(found, key=lambda place: (place.split(":")[0], int(place.split(":")[1])))


def test_nobody_asks_for_the_class_of_a_domain():
    found = count(type_checks, lambda folder: DOMAIN_CLASSES)
    assert not found, f"{len(found)} ask for a domain's class; call a method of Domain: {', '.join(found)}"


def test_nobody_branches_on_the_domain():
    found = count(domain_branches, lambda folder: DOMAINS - {folder})
    assert not found, f"{len(found)} branch on the domain; call a method of Domain: {', '.join(found)}"


@pytest.mark.parametrize(
    ("code", "checks", "branches"),
    [
        ("isinstance(x, Encoder)", 1, 0),
        ("assert isinstance(x, (int, flow.Flow))", 1, 0),
        ("issubclass(x, FlowConfig | None)", 1, 0),
        ("match x:\n    case UNet():\n        pass", 1, 0),
        ("type(x) is WaveformPrior", 1, 0),
        ("isinstance(x, dict)", 0, 0),
        ("model.domain == 'waveform'", 0, 1),
        ("x in ('spectral', 'other')", 0, 1),
        ("match x:\n    case 'waveform':\n        pass", 0, 1),
        ("if model.waveform is not None: pass", 0, 1),
        ("a if not model.waveform else b", 0, 1),
        ("[x for x in y if waveform]", 0, 1),
        ("model.waveform or spectrum", 0, 1),
        ("TABLE = {'spectral': Spectral, 'waveform': Waveform}\nTABLE[name].train()", 0, 0),
        ("if spectral.check(x): pass", 0, 0),
        ("read(waveform)", 0, 0),
    ],
)
def test_what_counts(code, checks, branches):
    tree = ast.parse(code)
    assert len(list(type_checks(tree, DOMAIN_CLASSES))) == checks
    assert len(set(domain_branches(tree, DOMAINS))) == branches


# --- the command line ------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["import deepsep.cli", "from deepsep.cli import main; main()"])
def test_help_does_without_torch(code):
    script = f"""
import sys
sys.argv = ["deepsep", "--help"]
try:
    {code.replace("; ", chr(10) + "    ")}
except SystemExit as done:
    assert not done.code, done.code
heavy = [n for n in ("torch", "soundfile", "stempeg", "huggingface_hub", "matplotlib", "starlette") if n in sys.modules]
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=PATIENCE)


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
