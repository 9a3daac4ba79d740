"""What a user types for priors, turned into a local folder of files: bundled, a folder, or a Hub repository.

A priors folder holds `config.json`, one `<source>.safetensors` per instrument, perhaps `encoder.safetensors`,
and a `README.md`. The "files" table of `config.json` lists every weights file with its sha256 and its size:

    {"files": {"vocals.safetensors": {"sha256": "<64 hex digits>", "size": 1234}, ...}, ...}

From the Hub only `config.json`, the files of that table and `README.md` are fetched, all at one commit, and
checked against the table. Nothing else of a repository is touched, and pickles are refused by name.

huggingface_hub is imported on first use. It reads its environment (HF_ENDPOINT, HF_HOME, HF_HUB_CACHE,
HF_HUB_OFFLINE, HF_HUB_ETAG_TIMEOUT, HF_TOKEN) when it is imported, so set these before the first call here.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import importlib.resources
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..errors import DeepsepError

if TYPE_CHECKING:
    from huggingface_hub.utils.tqdm import tqdm

__all__ = [
    "MAX_FILE_BYTES",
    "Cached",
    "OnProgress",
    "Resolved",
    "cached",
    "push",
    "read_config",
    "remove",
    "resolve",
    "verify",
]

MAX_FILE_BYTES = 2 * 1024**3
"""The largest weights file that is fetched or listed."""

MAX_TEXT_BYTES = 4 * 1024**2  # config.json and README.md: far above any real one
ETAG_TIMEOUT_SECONDS = 5  # how long a silent server is waited for when HF_HUB_ETAG_TIMEOUT says nothing else

OnProgress = Callable[[str, int, int], None]
"""Called with (file name, bytes so far, bytes in all) while a file is downloaded."""

COMMIT = re.compile(r"[0-9a-f]{40}")
REPO = re.compile(r"(?P<repo>\w(?:[\w.-]*\w)?/\w(?:[\w.-]*\w)?)(?:@(?P<revision>\w[\w./-]*))?", re.ASCII)
SHA256 = re.compile(r"[0-9a-f]{64}")
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
SUFFIXES = (".safetensors", ".json", ".md")
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


class _Entry(NamedTuple):
    sha256: str
    size: int


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
        return Resolved(name=spec, folder=_bundled(), commit=None, kind="bundled")
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
        raise DeepsepError(f"no priors at {_quote(spec)}; {FORMS}")
    repo, revision = match["repo"], match["revision"]
    if revision is not None and COMMIT.fullmatch(revision.lower()):
        revision = revision.lower()
    _check_repo(repo)
    name = repo if revision is None else f"{repo}@{revision}"
    folder, commit = _resolve_hub(repo, revision or "main", _is_offline(offline), on_progress, only)
    return Resolved(name=name, folder=folder, commit=commit, kind="hub")


def verify(folder: Path, config: Mapping[str, Any], *, only: list[str] | None = None) -> None:
    """Check size and sha256 of the files that `config` lists (or of the sources in `only`)."""
    for name, entry in _listed(config, only, str(folder)).items():
        path = folder / name
        if not path.is_file():
            raise DeepsepError(f"{folder} lacks {name}, which its config.json lists")
        _check_file(path, entry)


def read_config(folder: Path) -> dict[str, Any]:
    """Read `config.json` of a priors folder as JSON; what it says is for the caller to judge."""
    path = folder / "config.json"
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise DeepsepError(f"{path} is too large for a priors config ({path.stat().st_size} bytes)")
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DeepsepError(f"{folder} is not a priors folder: it holds no config.json") from None
    except OSError as error:
        raise DeepsepError(f"cannot read {path}: {_line(error)}") from error
    except (ValueError, RecursionError) as error:
        raise DeepsepError(f"{path} is not valid JSON: {_line(error)}") from error
    if not isinstance(config, dict):
        raise DeepsepError(f"{path} must hold a JSON object")
    return config


def cached() -> list[Cached]:
    """List the priors repositories in the local Hub cache; models of other programs are left out."""
    return list(_scan())


def remove(repo: str) -> int:
    """Delete `org/name` (every commit) or `org/name@commit` from the local cache; give the bytes freed."""
    from huggingface_hub import constants, scan_cache_dir

    name, _, commit = repo.strip().partition("@")
    commits = [found.commit for found in cached() if found.repo == name and found.commit.startswith(commit)]
    if not commits:
        raise DeepsepError(f"no priors {_quote(repo.strip())} in the local cache")
    strategy = scan_cache_dir(constants.HF_HUB_CACHE).delete_revisions(*commits)
    strategy.execute()
    return strategy.expected_freed_size


def push(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a priors folder to the Hub, creating the repository if needed; give the address of the commit.

    The folder is verified first, and only `config.json`, `README.md` and the files listed are sent.
    """
    _check_repo(repo_id)
    config = read_config(folder)
    verify(folder, config)
    if _is_offline(False):
        raise DeepsepError("cannot push while HF_HUB_OFFLINE is set")
    from huggingface_hub import HfApi

    names = ["config.json", "README.md", *_listed(config, None, str(folder))]
    api = HfApi(token=token)
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
    except _failures() as error:
        raise _explain(error, repo_id, revision or "main", None) from error
    return commit.commit_url


# --- what config.json lists ---------------------------------------------------------------------------------


def _listed(config: Mapping[str, Any], only: list[str] | None, where: str) -> dict[str, _Entry]:
    """The "files" table, every name and size judged before a byte is fetched, narrowed to `only`."""
    files = config.get("files")
    if not isinstance(files, dict) or not files:
        raise DeepsepError(f'{where}: config.json has no "files" table, so this is not a priors folder')
    entries = {}
    for name, raw in files.items():
        _check_name(name, where)
        sha256, size = (raw.get("sha256"), raw.get("size")) if isinstance(raw, dict) else (None, None)
        if not isinstance(sha256, str) or not SHA256.fullmatch(sha256.lower()):
            raise DeepsepError(f"{where}: config.json gives no valid sha256 for {name}")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise DeepsepError(f"{where}: config.json gives no valid size for {name}")
        if size > MAX_FILE_BYTES:
            raise DeepsepError(
                f"{where}: {name} is declared as {size} bytes, above {MAX_FILE_BYTES}; refused"
            )
        entries[name] = _Entry(sha256.lower(), size)
    if only is None:
        return entries
    wanted = {}
    for source in only:
        if f"{source}.safetensors" not in entries:
            known = ", ".join(str(known) for known in config.get("sources") or ())
            raise DeepsepError(f"{where} has no prior for {_quote(source)}; it has {_line(known) or 'none'}")
        wanted[f"{source}.safetensors"] = entries[f"{source}.safetensors"]
    return wanted


def _check_name(name: str, where: str) -> None:
    if name.lower().endswith(PICKLES):
        raise DeepsepError(f"{where} lists {_quote(name)}: pickles can run code; only safetensors are read")
    parts = set(name.split("/"))
    unsafe = "\\" in name or ":" in name or not name.isprintable() or parts & {"", ".", "..", "~"}
    if unsafe or name.lower() == "config.json" or not name.endswith(SUFFIXES):
        raise DeepsepError(
            f"{where} lists {_quote(name)}: only relative .safetensors, .json and .md files are accepted"
        )


def _check_size(path: Path, entry: _Entry) -> None:
    size = path.stat().st_size
    if size != entry.size:
        raise _damaged(path, f"it has {size} bytes and config.json says {entry.size}")


def _check_file(path: Path, entry: _Entry) -> None:
    _check_size(path, entry)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    sha256 = digest.hexdigest()
    if sha256 != entry.sha256:
        raise _damaged(path, f"its sha256 is {sha256[:12]}.. and config.json says {entry.sha256[:12]}..")


def _damaged(path: Path, found: str) -> DeepsepError:
    # in the Hub cache a file is a link: without its target gone, the client links the same bytes again
    return DeepsepError(f"{path.name} is damaged: {found}; delete {path.resolve()} and fetch it again")


# --- the three kinds ----------------------------------------------------------------------------------------


def _bundled() -> Path:
    folder = Path(str(importlib.resources.files("deepsep").joinpath("bundled")))
    if not (folder / "config.json").is_file():
        raise DeepsepError(
            "this installation carries no bundled priors; give a folder, or org/name from the Hub"
        )
    return folder


def _resolve_hub(
    repo: str, revision: str, offline: bool, on_progress: OnProgress | None, only: list[str] | None
) -> tuple[Path, str]:
    where = f"{repo}@{revision}"
    pinned = COMMIT.fullmatch(revision) is not None
    download = _Download(repo, on_progress)

    path = _in_cache(repo, revision, "config.json")
    if path is None and offline:
        raise _not_cached(where, "config.json")
    if path is None or not (pinned or offline):
        path = download("config.json", revision, MAX_TEXT_BYTES, fallback=path)
    folder, commit = path.parent, path.parent.name
    if not COMMIT.fullmatch(commit) or (pinned and commit != revision):
        raise DeepsepError(f"{where}: the server answered with another commit, {_quote(commit)}")

    for name, entry in _listed(read_config(folder), only, where).items():
        path = _in_cache(repo, commit, name)
        if path is not None:
            _check_size(path, entry)
        elif offline:
            raise _not_cached(where, name)
        else:
            path = download(name, commit, entry.size)
            if path != folder / name:
                raise DeepsepError(f"{where}: the server answered for {name} with another commit")
            _check_file(path, entry)

    # the model card is for people: it rides along with a download, and its absence stops nothing
    if download.count and _in_cache(repo, commit, "README.md") is None:
        with contextlib.suppress(DeepsepError):
            download("README.md", commit, MAX_TEXT_BYTES)
    return folder, commit


def _in_cache(repo: str, revision: str, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


class _Download:
    """Fetches single files of one repository and counts those that were not in the cache."""

    def __init__(self, repo: str, on_progress: OnProgress | None) -> None:
        self.repo = repo
        self.on_progress = on_progress
        self.reached = False
        self.count = 0

    def __call__(self, name: str, revision: str, limit: int, fallback: Path | None = None) -> Path:
        """Fetch one file of at most `limit` bytes; `fallback` is what the cache holds already."""
        from huggingface_hub import constants, hf_hub_download

        watch: dict[str, Any] = {}
        if (
            "tqdm_class" in inspect.signature(hf_hub_download).parameters
        ):  # recent clients; older ones tell the end only
            watch["tqdm_class"] = _watcher(self.repo, name, limit, self.on_progress)
        timeout = ETAG_TIMEOUT_SECONDS
        if constants.HF_HUB_ETAG_TIMEOUT != constants.DEFAULT_ETAG_TIMEOUT:
            timeout = constants.HF_HUB_ETAG_TIMEOUT
        try:
            # the client retries a dead server for 23 s per missing file: first ask once, without retries
            if fallback is None and not (self.reached and watch):
                self._ask(name, revision, limit, timeout)
            path = Path(hf_hub_download(self.repo, name, revision=revision, etag_timeout=timeout, **watch))
        except _failures() as error:
            if fallback is not None and not _is_refusal(error):
                return fallback
            raise _explain(error, self.repo, revision, name) from error
        if path != fallback:
            self.count += 1
            if not watch and self.on_progress is not None:
                self.on_progress(name, path.stat().st_size, path.stat().st_size)
        return path

    def _ask(self, name: str, revision: str, limit: int, timeout: float) -> None:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        found = get_hf_file_metadata(hf_hub_url(self.repo, name, revision=revision), timeout=timeout)
        self.reached = True
        if found.size is not None and found.size > limit:
            raise _too_large(self.repo, name, found.size, limit)


def _watcher(repo: str, name: str, limit: int, on_progress: OnProgress | None) -> type[tqdm]:
    """A silent progress bar: stops a file that outgrows its limit, and tells `on_progress` how far it is."""
    from huggingface_hub.utils.tqdm import tqdm

    best = -1  # Xet drives two bars per file and a resumed download may count back: report only what is new

    class Watcher(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.expected = kwargs.get("total")
            self.received = int(kwargs.get("initial") or 0)
            init: Any = super().__init__  # tqdm has no type hints
            init(*args, **{**kwargs, "disable": True})
            if self.expected is not None and self.expected > limit:
                raise _too_large(repo, name, self.expected, limit)
            self.report()

        def update(self, n: float | None = 1) -> bool | None:
            self.received += int(n or 0)
            if self.received > limit:
                raise _too_large(repo, name, self.received, limit)
            self.report()
            return None

        def report(self) -> None:
            nonlocal best
            if on_progress is not None and self.received > best:
                best = self.received
                on_progress(name, best, int(self.expected or limit))

    return Watcher


def _scan() -> Iterator[Cached]:
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        found = scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return
    for repo in sorted(found.repos, key=lambda repo: repo.repo_id):
        for revision in sorted(repo.revisions, key=lambda revision: revision.commit_hash):
            with contextlib.suppress(DeepsepError):
                config = read_config(revision.snapshot_path)
                if repo.repo_type == "model" and {"format", "sources", "files"} <= config.keys():
                    size, path = revision.size_on_disk, revision.snapshot_path
                    yield Cached(repo.repo_id, revision.commit_hash, size, path)


# --- what goes wrong ----------------------------------------------------------------------------------------


def _network_failures() -> tuple[type[BaseException], ...]:
    """The errors of the client's HTTP library, be it requests, httpx or httpx2: the bases of its own one."""
    from huggingface_hub.errors import HfHubHTTPError

    return tuple(base for base in HfHubHTTPError.__mro__[1:] if base.__module__ != "builtins")


def _failures() -> tuple[type[BaseException], ...]:
    """All that the client raises; ValueError is for a declared length above its own limit."""
    return (OSError, ValueError, *_network_failures())


def _is_refusal(error: BaseException) -> bool:
    """Whether a server that works said no, so that the cache must not answer in its place."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RevisionNotFoundError

    return isinstance(error, (EntryNotFoundError, RevisionNotFoundError)) and not isinstance(
        error, LocalEntryNotFoundError
    )


def _explain(error: BaseException, repo: str, revision: str, name: str | None) -> DeepsepError:
    from huggingface_hub import constants, errors

    where = f"{repo}@{revision}"
    login = "log in with `hf auth login` or set HF_TOKEN"
    status = None
    if isinstance(error, errors.HfHubHTTPError) and error.response is not None:
        status = error.response.status_code
    if isinstance(error, errors.GatedRepoError):
        return DeepsepError(f"{repo} is gated: ask for access on its page, then {login}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return DeepsepError(
            f"no repository {repo} at {constants.ENDPOINT}: gone, private or mistyped; if private, {login}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return DeepsepError(f"{repo} has no revision {_quote(revision)}; try {repo} or another revision")
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        if name == "config.json":
            return DeepsepError(f"{where} is not a priors repository: it holds no config.json")
        return DeepsepError(f"{where} lacks {name}, which its config.json lists; it is incomplete")
    if isinstance(error, errors.LocalTokenNotFoundError) or status in (401, 403):
        return DeepsepError(f"no permission for {repo} at {constants.ENDPOINT}; {login}")
    if status is not None:
        return DeepsepError(f"{constants.ENDPOINT} answered {status} for {where}; try again later")
    if name is None:
        return DeepsepError(f"could not push to {where}: {_line(error)}")
    if isinstance(error, (errors.LocalEntryNotFoundError, *_network_failures())):
        return DeepsepError(
            f"cannot download {name} of {where} from {constants.ENDPOINT}, and it is not in the local cache "
            f"({_line(error.__cause__ or error)}); check the network and try again"
        )
    return DeepsepError(f"could not download {name} of {where}: {_line(error)}; try again")


def _not_cached(where: str, name: str) -> DeepsepError:
    return DeepsepError(
        f"offline, and {name} of {where} is not in the local cache; run once online: deepsep priors download "
        f"{where.removesuffix('@main')}"
    )


def _too_large(repo: str, name: str, size: int, limit: int) -> DeepsepError:
    return DeepsepError(f"{repo}: {name} has {size} bytes where at most {limit} are allowed; not downloaded")


def _is_offline(asked: bool) -> bool:
    from huggingface_hub import constants

    return asked or bool(constants.HF_HUB_OFFLINE)


def _check_repo(repo: str) -> None:
    """The rules of the Hub for org/name, so that a slip is told before any request."""
    match = REPO.fullmatch(repo)
    slip = len(repo) > 96 or repo.endswith(".git") or "--" in repo or ".." in repo
    if match is None or match["revision"] or slip:
        raise DeepsepError(f"{_quote(repo)} is not the name of a repository; give org/name")


def _quote(text: str) -> str:
    """A name from outside, made safe for one line of a terminal."""
    return ascii(text if len(text) <= 120 else text[:117] + "...")


def _line(error: object) -> str:
    text = str(error) or type(error).__name__
    return " ".join(text.split())[:160].rstrip(".")
