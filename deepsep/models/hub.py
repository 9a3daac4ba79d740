"""What a user types for priors, turned into a local folder of files: bundled, a folder, or a Hub repository.

A priors folder holds `config.json`, one `<source>.safetensors` per instrument, perhaps `encoder.safetensors`,
and a `README.md`. From the Hub all of it comes at one commit and is checked (`files`, `download`).
"""

from __future__ import annotations

import contextlib
import glob
import importlib.resources
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..errors import DeepsepError
from .download import COMMIT, OnProgress, client_settings, explain, failures, fetch_snapshot, is_offline
from .files import check_own, listed_files, quote, read_json, verify

__all__ = ["Cached", "OnProgress", "Resolved", "cached", "check_push", "push", "remove", "resolve"]

REPO = re.compile(r"(?P<repo>\w(?:[\w.-]*\w)?/\w(?:[\w.-]*\w)?)(?:@(?P<revision>\w[\w./-]*))?", re.ASCII)
PREFIX = re.compile(r"[0-9a-fA-F]{7,40}")  # of a commit; fewer digits are a slip, as git has it too
FORMS = "give `bundled`, a folder such as ./my-priors, or a Hub repository as org/name or org/name@revision"


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """Where the files of a priors folder lie, and which commit they are when they come from the Hub."""

    name: str
    folder: Path
    commit: str | None
    kind: Literal["bundled", "folder", "hub"]


class Cached(NamedTuple):
    """One priors repository in the local Hub cache, at one commit."""

    repo: str
    commit: str
    size: int
    path: Path


def resolve(
    spec: str,
    *,
    offline: bool = False,
    on_progress: OnProgress | None = None,
    only: list[str] | None = None,
) -> Resolved:
    """Find the folder that `spec` names; a Hub repository is downloaded if it is not in the local cache.

    A folder that exists wins over a repository of the same name. A repository pinned to a full commit and
    already cached costs no request; a branch or a tag costs one, and falls back on the cache when the server
    is down. `only` names the sources whose files are wanted from the Hub: not the others, not the encoder.

    Downloaded files are checked by size and sha256, cached ones by size: `verify` checks any folder in full.
    """
    spec = spec.strip()
    if spec == "bundled":
        return Resolved(name=spec, folder=bundled_folder(), commit=None, kind="bundled")
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # a NUL, an overlong name, no home folder
        folder = Path(spec).expanduser()
        if spec and folder.is_dir():
            if not (folder / "config.json").is_file():
                raise DeepsepError(f"{folder} is not a priors folder: it holds no config.json")
            return Resolved(name=str(folder), folder=folder, commit=None, kind="folder")
        if spec and folder.exists():
            raise DeepsepError(f"{folder} is a file, not a priors folder; {FORMS}")
    match = REPO.fullmatch(spec)
    if match is None or ".." in spec:
        raise DeepsepError(f"no priors at {quote(spec)}; {FORMS}")
    repo, revision = match["repo"], match["revision"]
    if revision is not None and COMMIT.fullmatch(revision.lower()):
        revision = revision.lower()
    check_repo(repo)
    name = repo if revision is None else f"{repo}@{revision}"
    folder, commit = fetch_snapshot(repo, revision or "main", is_offline(offline), on_progress, only)
    return Resolved(name=name, folder=folder, commit=commit, kind="hub")


def bundled_folder() -> Path:
    folder = Path(str(importlib.resources.files("deepsep").joinpath("bundled")))
    if not (folder / "config.json").is_file():
        raise DeepsepError(
            "this installation carries no bundled priors; give a folder, or org/name from the Hub"
        )
    return folder


def cached() -> list[Cached]:
    """List the priors repositories in the local Hub cache; models of other programs are left out.

    Raises DeepsepError for a cache that cannot be read.
    """
    return list(scan_cache())


def remove(repo: str) -> int:
    """Delete `org/name` (every commit) or `org/name@commit` from the local cache; give the bytes freed.

    A commit is its 40 digits, or at least 7 of them that fit no other; a branch or a tag is the commit that it last
    led to. Raises DeepsepError where nothing is there, or more than one commit fits.
    """
    settings = client_settings()
    from huggingface_hub import scan_cache_dir

    name, at, revision = repo.strip().partition("@")
    commits = [found.commit for found in cached() if found.repo == name]
    if at and commits:
        commits = [pick_commit(name, revision, commits)]
    if not commits:
        raise DeepsepError(f"no priors {quote(repo.strip())} in the local cache")
    strategy = scan_cache_dir(settings.HF_HUB_CACHE).delete_revisions(*commits)
    strategy.execute()
    return strategy.expected_freed_size


def pick_commit(name: str, revision: str, commits: list[str]) -> str:
    """The one of a repository's cached commits that a revision names. Raises DeepsepError for none or several."""
    fitting = [commit for commit in commits if commit.startswith(revision.lower())]
    if PREFIX.fullmatch(revision) and fitting:
        if len(fitting) > 1:
            raise DeepsepError(
                f"{name}@{revision} is several commits: {', '.join(fitting)}; give more digits"
            )
        return fitting[0]
    with contextlib.suppress(DeepsepError):  # a branch or a tag
        commit = resolve(f"{name}@{revision}", offline=True, only=[]).commit
        if commit in commits:
            return commit
    raise DeepsepError(
        f"no revision {quote(revision)} of {name} in the local cache; it holds {', '.join(commits)}: "
        "give one of these, or its first 7 digits"
    )


def scan_cache() -> Iterator[Cached]:
    settings = client_settings()
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        found = scan_cache_dir(settings.HF_HUB_CACHE)
    except CacheNotFound:
        return
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no folder"
        raise DeepsepError(
            f"{settings.HF_HUB_CACHE}: the Hub cache cannot be read ({why}); set HF_HUB_CACHE to another folder"
        ) from error
    for repo in sorted(found.repos, key=lambda repo: repo.repo_id):
        for revision in sorted(repo.revisions, key=lambda revision: revision.commit_hash):
            with contextlib.suppress(DeepsepError):
                config = read_json(revision.snapshot_path)
                if repo.repo_type == "model" and {"format", "sources", "files"} <= config.keys():
                    size, path = revision.size_on_disk, revision.snapshot_path
                    yield Cached(repo.repo_id, revision.commit_hash, size, path)


def push(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
) -> str:
    """Upload a priors folder to the Hub, creating the repository if needed; give the address of the commit.

    The folder is verified first, and only `config.json`, `README.md` and the files listed are sent; none of them may
    be a link.
    """
    check_repo(repo_id)
    config = check_push(folder)
    if is_offline(False):
        raise DeepsepError("cannot push while HF_HUB_OFFLINE is set")
    from huggingface_hub import HfApi

    names = sent_files(folder, config)
    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            allow_patterns=[glob.escape(name) for name in names],
            commit_message="Upload deepsep priors",
        )
    except failures() as error:
        raise explain(error, repo_id, revision or "main", None) from error
    return commit.commit_url


def check_push(folder: Path) -> dict[str, Any]:
    """Read the config.json of a folder that can be pushed; DeepsepError for one that is damaged or holds links."""
    check_own(folder, ["config.json"])
    config = read_json(folder)
    check_own(folder, sent_files(folder, config))
    verify(folder, config)
    return config


def sent_files(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """What of a folder is pushed."""
    return ["config.json", "README.md", *listed_files(config, None, str(folder))]


def check_repo(repo: str) -> None:
    """The rules of the Hub for org/name, so that a slip is told before any request."""
    match = REPO.fullmatch(repo)
    slip = len(repo) > 96 or repo.endswith(".git") or "--" in repo or ".." in repo
    if match is None or match["revision"] or slip:
        raise DeepsepError(f"{quote(repo)} is not the name of a repository; give org/name")
