"""What a priors folder says of itself: sources, licences, data, figures; and the model card made of that.

A config.json from the Hub is a stranger's text: whatever is taken from it here is one printable line of
bounded length, and anything of an unexpected type is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import is_number
from ..errors import DeepsepError
from .files import check_own

__all__ = ["UNSPECIFIED", "clean", "describe", "licence_line", "model_card", "write_card"]

UNSPECIFIED = "unspecified"

BEGIN = "<!-- deepsep: from here to the closing mark, `deepsep priors push` writes this card anew -->"
END = "<!-- deepsep: end -->"
KEYS = ("library_name", "pipeline_tag", "license", "license_name", "tags")
HUB_LICENCES = (
    "apache-2.0 mit bsd-2-clause bsd-3-clause isc unlicense wtfpl gpl-2.0 gpl-3.0 lgpl-3.0 agpl-3.0 mpl-2.0 "
    "cc0-1.0 cc-by-2.0 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 "
    "cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0"
).split()


def clean(value: object, limit: int = 200) -> str:
    """Text from outside as one printable line, cut at `limit`."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def describe(config: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a config.json as plain JSON values; by source where sources differ."""
    names = config.get("sources")
    sources = [n for n in names if isinstance(n, str) and n == clean(n)] if isinstance(names, list) else []
    priors, encoder = _table(config.get("priors")), _table(config.get("encoder"))
    each = {s: _table(priors.get(s)) for s in sources}
    whole = config.get("licence") or config.get("license") or UNSPECIFIED
    files = _table(config.get("files"))
    sizes = {clean(n): s for n, t in files.items() if (s := _whole(_table(t).get("size"))) is not None}
    trained = encoder.get("sources")
    figures = {s: _figures(t.get("held_out")) for s, t in each.items()}
    figures |= {"encoder": _figures(encoder.get("simulated"))}
    figures |= {"separation": _figures(config.get("figures"))}
    return {
        "format": _whole(config.get("format")),
        "domain": clean(config.get("domain", "unknown"), 40),
        "rate": _whole(_table(config.get("waveform") or config.get("spectrum")).get("rate")),
        "sources": sources,
        "licence": {s: clean(t.get("licence") or whole, 80) for s, t in each.items()},
        "data": {s: _statement(t.get("data") or config.get("data")) for s, t in each.items()},
        "figures": {name: table for name, table in figures.items() if table},
        "encoder": [clean(s, 64) for s in trained] if isinstance(trained, list) else None,
        "files": sizes,
        "size": sum(sizes.values()),
    }


def licence_line(facts: Mapping[str, Any]) -> str:
    """The licences in a few words: one for all, or each with its sources."""
    by_licence: dict[str, list[str]] = {}
    for source, licence in facts["licence"].items():
        by_licence.setdefault(licence, []).append(source)
    if len(by_licence) < 2:
        return next(iter(by_licence), UNSPECIFIED)
    return "; ".join(f"{licence} ({', '.join(names)})" for licence, names in by_licence.items())


def model_card(config: Mapping[str, Any], repo: str, former: str = "") -> str:
    """README.md for the Hub: front matter, use, licence, data and figures.

    Of a `former` card, what its author wrote outside the marks is kept, and front matter that is not ours.
    """
    facts = describe(config)
    theirs, above, below = _split(former)
    parts = ["---", *_front_matter(facts), *theirs, "---", "", *([above, ""] if above else [])]
    return "\n".join([*parts, BEGIN, "", *_body(facts, repo), "", END, *(["", below] if below else []), ""])


def write_card(folder: Path, config: Mapping[str, Any], repo: str) -> Path:
    """Write the model card into a priors folder, over the one that is there. DeepsepError for one that is no text."""
    path = folder / "README.md"
    check_own(folder, [path.name])
    try:
        former = path.read_text(encoding="utf-8") if path.is_file() else ""
    except UnicodeDecodeError:
        raise DeepsepError(f"{path}: is no UTF-8 text; remove it or write it again") from None
    path.write_text(model_card(config, repo, former), encoding="utf-8", newline="\n")
    return path


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    return value if is_number(value) and -1e15 < value < 1e15 else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and _number(value) is not None else None


def _figures(value: object, depth: int = 3) -> dict[str, float | str]:
    """Numbers and short texts by name; tables within become "name, inner name"."""
    flat: dict[str, float | str] = {}
    for name, item in _table(value).items():
        if isinstance(item, dict) and depth > 1:
            flat |= {f"{clean(name, 60)}, {inner}": v for inner, v in _figures(item, depth - 1).items()}
        elif (number := _number(item)) is not None:
            flat[clean(name, 60)] = number
        elif isinstance(item, str):
            flat[clean(name, 60)] = clean(item)
    return flat


def _statement(data: object) -> str:
    """What a prior was trained on, in a line."""
    if isinstance(data, str) and data.strip():
        return clean(data, 600)
    table = _table(data)
    hours = _number(table.get("hours"))
    words = [] if hours is None else [f"{hours:g} hours"]
    folders = table.get("folders")
    if isinstance(folders, list) and folders:
        words.append(f"from {', '.join(clean(f, 80) for f in folders[:20])}")
    told = table.get("statement")
    words += [clean(told, 600)] if isinstance(told, str) and told.strip() else []
    return clean(" ".join(words), 800) or "not stated"


def _front_matter(facts: Mapping[str, Any]) -> list[str]:
    lines = ["library_name: deepsep", "pipeline_tag: audio-to-audio"]
    licences = sorted(set(facts["licence"].values()) - {UNSPECIFIED})
    if licences:
        known = licences[0].lower().replace(" ", "-")
        if len(licences) == 1 and known in HUB_LICENCES and UNSPECIFIED not in facts["licence"].values():
            lines.append(f"license: {known}")
        else:
            lines += ["license: other", "license_name: see-below"]
    tags = ["deepsep", "music-source-separation", "audio-source-separation", "normalizing-flow"]
    return [*lines, "tags:", *(f"- {tag}" for tag in tags)]


def _body(facts: Mapping[str, Any], repo: str) -> list[str]:
    sources = facts["sources"]
    lines = [
        f"# {repo}: priors for deepsep",
        "",
        f"Generative flow priors of {', '.join(sources) or 'no instrument'} for music source separation. "
        "Each prior is the density of one instrument's recordings; none was trained on pairs of a song and "
        "its stems.",
        "",
        "## Use",
        "",
        "```",
        f"deepsep separate song.mp3 --priors {repo}",
        *(f"deepsep separate song.mp3 --prior {s}={repo}" for s in sources[:1]),
        f"deepsep priors info {repo}",
        "```",
        "",
        "## Licence of the weights and data",
        "",
        "| source | licence of the weights | trained on |",
        "| --- | --- | --- |",
        *(f"| {_cell(s)} | {_cell(facts['licence'][s])} | {_cell(facts['data'][s])} |" for s in sources),
    ]
    if UNSPECIFIED in facts["licence"].values():
        lines += ["", "Where the licence is unspecified, ask the author before you use the weights."]
    lines += ["", "## Figures", ""]
    if not facts["figures"]:
        return [*lines, "None were measured."]
    lines += ["| of | figure | value |", "| --- | --- | --- |"]
    for name, table in facts["figures"].items():
        lines += [f"| {_cell(name)} | {_cell(figure)} | {_cell(value)} |" for figure, value in table.items()]
    return [
        *lines,
        "",
        "Bits per dimension tell how well a prior predicts recordings it was not trained on, at a noise "
        "level; lower is better. They are no measure of separation. Figures of the encoder come from "
        "mixtures simulated during its training; they are no benchmark.",
    ]


def _cell(value: object) -> str:
    text = clean(f"{value:g}" if isinstance(value, float) else value, 800)
    return text.replace("|", "\\|").replace("<", "&lt;")


def _split(former: str) -> tuple[list[str], str, str]:
    """A card's front matter that is not ours, and what its author wrote above and below our part."""
    theirs: list[str] = []
    body = former.replace("\r\n", "\n")
    if body.startswith("---\n"):
        head, closed, rest = body[4:].partition("\n---")
        if closed:
            body = rest.partition("\n")[2]
            ours = False
            for line in head.splitlines():
                if line[:1].strip() and not line.startswith(("-", "#")):
                    ours = line.partition(":")[0].strip() in KEYS
                if not ours and line.strip():
                    theirs.append(line)
    above, marked, rest = body.partition(BEGIN)
    below = rest.partition(END)[2] if marked else ""
    return theirs, above.strip(), below.strip()
