"""Downloads from the Hugging Face Hub: single files of one commit, each checked as it comes, and what can go wrong.

Nothing else of a repository is fetched than `config.json`, the files that it lists and `README.md`; pickles are refused
by name. huggingface_hub is imported on first use. It reads its environment (HF_ENDPOINT, HF_HOME, HF_HUB_CACHE,
HF_HUB_OFFLINE, HF_HUB_ETAG_TIMEOUT, HF_HUB_VERBOSITY, HF_TOKEN) when it is imported, so set these before the first
call here.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import DeepsepError
from .files import MAX_TEXT_BYTES, check_file, check_size, listed_files, one_line, quote, read_json

if TYPE_CHECKING:
    from huggingface_hub.utils.tqdm import tqdm

__all__ = ["COMMIT", "OnProgress", "client_settings", "explain", "failures", "fetch_snapshot", "is_offline"]

ETAG_TIMEOUT_SECONDS = 5  # how long a silent server is waited for when HF_HUB_ETAG_TIMEOUT says nothing else

OnProgress = Callable[[str, int, int], None]
"""Called with (file name, bytes so far, bytes in all) while a file is downloaded."""

COMMIT = re.compile(r"[0-9a-f]{40}")
PLAIN = re.compile(r"\w[\w.-]{,255}", re.ASCII)  # an ETag without its quotes


def fetch_snapshot(
    repo: str, revision: str, offline: bool, on_progress: OnProgress | None, only: list[str] | None
) -> tuple[Path, str]:
    """Return the cache's folder of a repository at a revision, and its commit; download what is missing.

    Raises DeepsepError for files that are damaged, too large, or not to be had.
    """
    client_settings()
    where = f"{repo}@{revision}"
    pinned = COMMIT.fullmatch(revision) is not None
    download = Download(repo, on_progress)

    path = find_in_cache(repo, revision, "config.json")
    if path is None and offline:
        raise not_cached(where, "config.json")
    if path is None or not (pinned or offline):
        path = download("config.json", revision, MAX_TEXT_BYTES, fallback=path)
    folder, commit = path.parent, path.parent.name
    if not COMMIT.fullmatch(commit) or (pinned and commit != revision):
        raise DeepsepError(f"{where}: the server answered with another commit, {quote(commit)}")

    try:
        config = read_json(folder)
    except DeepsepError as error:  # the client would not ask again for what it has
        raise DeepsepError(f"{error}; delete {path.resolve()} and fetch it again") from None
    for name, entry in listed_files(config, only, where).items():
        path = find_in_cache(repo, commit, name)
        if path is not None:
            check_size(path, entry)
        elif offline:
            raise not_cached(where, name)
        else:
            path = download(name, commit, entry.size)
            if path != folder / name:
                raise DeepsepError(f"{where}: the server answered for {name} with another commit")
            check_file(path, entry)

    # the model card is for people: it rides along with a download, and its absence stops nothing
    if download.count and find_in_cache(repo, commit, "README.md") is None:
        with contextlib.suppress(DeepsepError):
            download("README.md", commit, MAX_TEXT_BYTES)
    return folder, commit


def find_in_cache(repo: str, revision: str, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


class Download:
    """Fetches single files of one repository and counts those that were not in the cache."""

    def __init__(self, repo: str, on_progress: OnProgress | None) -> None:
        self.repo = repo
        self.on_progress = on_progress
        self.reached = False
        self.count = 0

    def __call__(self, name: str, revision: str, limit: int, fallback: Path | None = None) -> Path:
        """Fetch one file of at most `limit` bytes; `fallback` is what the cache holds already."""
        from huggingface_hub import hf_hub_download

        constants = client_settings()

        watch: dict[str, Any] = {}
        if (
            "tqdm_class" in inspect.signature(hf_hub_download).parameters
        ):  # recent clients; older ones tell the end only
            watch["tqdm_class"] = make_watcher(self.repo, name, limit, self.on_progress)
        timeout = ETAG_TIMEOUT_SECONDS
        if constants.HF_HUB_ETAG_TIMEOUT != constants.DEFAULT_ETAG_TIMEOUT:
            timeout = constants.HF_HUB_ETAG_TIMEOUT
        try:
            with plain_names(self.repo):
                # the client retries a dead server for 23 s per missing file: first ask once, without retries
                if fallback is None and not (self.reached and watch):
                    self.ask(name, revision, limit, timeout)
                path = Path(
                    hf_hub_download(self.repo, name, revision=revision, etag_timeout=timeout, **watch)
                )
        except failures() as error:
            if fallback is not None and not is_refusal(error):
                return fallback
            raise explain(error, self.repo, revision, name) from error
        if path != fallback:
            self.count += 1
            if not watch and self.on_progress is not None:
                self.on_progress(name, path.stat().st_size, path.stat().st_size)
        return path

    def ask(self, name: str, revision: str, limit: int, timeout: float) -> None:
        from huggingface_hub import file_download, hf_hub_url

        url = hf_hub_url(self.repo, name, revision=revision)
        found = file_download.get_hf_file_metadata(url, timeout=timeout)
        self.reached = True
        if found.size is not None and found.size > limit:
            raise too_large(self.repo, name, found.size, limit)


@contextlib.contextmanager
def plain_names(repo: str) -> Iterator[None]:
    """Refuse, as an answer comes, an ETag or a commit that is no plain name: of these the client makes file names.

    Raises DeepsepError in the block. (huggingface_hub 2.4 would write a file wherever "../.." leads.)
    """
    from huggingface_hub import file_download

    ask = file_download.get_hf_file_metadata

    def asked(*args: Any, **more: Any) -> Any:
        found = ask(*args, **more)
        for name in (found.etag, found.commit_hash):
            if name is not None and not PLAIN.fullmatch(name):
                raise DeepsepError(
                    f"{repo}: the server names a file {quote(name)}, which is no ETag; not downloaded"
                )
        return found

    file_download.get_hf_file_metadata = asked
    try:
        yield
    finally:
        file_download.get_hf_file_metadata = ask


def make_watcher(repo: str, name: str, limit: int, on_progress: OnProgress | None) -> type[tqdm]:
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
                raise too_large(repo, name, self.expected, limit)
            self.report()

        def update(self, n: float | None = 1) -> bool | None:
            self.received += int(n or 0)
            if self.received > limit:
                raise too_large(repo, name, self.received, limit)
            self.report()
            return None

        def report(self) -> None:
            nonlocal best
            if on_progress is not None and self.received > best:
                best = self.received
                on_progress(name, best, int(self.expected or limit))

    return Watcher


def network_failures() -> tuple[type[BaseException], ...]:
    """The errors of the client's HTTP library, be it requests, httpx or httpx2: the bases of its own one."""
    from huggingface_hub.errors import HfHubHTTPError

    return tuple(base for base in HfHubHTTPError.__mro__[1:] if base.__module__ != "builtins")


def failures() -> tuple[type[BaseException], ...]:
    """All that the client raises; ValueError is for a declared length above its own limit."""
    return (OSError, ValueError, *network_failures())


def is_refusal(error: BaseException) -> bool:
    """Whether a server that works said no, so that the cache must not answer in its place."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RevisionNotFoundError

    return isinstance(error, (EntryNotFoundError, RevisionNotFoundError)) and not isinstance(
        error, LocalEntryNotFoundError
    )


def explain(error: BaseException, repo: str, revision: str, name: str | None) -> DeepsepError:
    """Say in one line what an error of the client means and what to do."""
    from huggingface_hub import errors

    constants = client_settings()
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
        return DeepsepError(f"{repo} has no revision {quote(revision)}; try {repo} or another revision")
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        if name == "config.json":
            return DeepsepError(f"{where} is not a priors repository: it holds no config.json")
        return DeepsepError(f"{where} lacks {name}, which its config.json lists; it is incomplete")
    if isinstance(error, errors.LocalTokenNotFoundError) or status in (401, 403):
        return DeepsepError(f"no permission for {repo} at {constants.ENDPOINT}; {login}")
    if status is not None:
        return DeepsepError(f"{constants.ENDPOINT} answered {status} for {where}; try again later")
    if name is None:
        return DeepsepError(f"could not push to {where}: {one_line(error)}")
    if isinstance(error, (errors.LocalEntryNotFoundError, *network_failures())):
        return DeepsepError(
            f"cannot download {name} of {where} from {constants.ENDPOINT}, and it is not in the local cache "
            f"({one_line(error.__cause__ or error)}); check the network and try again"
        )
    return DeepsepError(f"could not download {name} of {where}: {one_line(error)}; try again")


def not_cached(where: str, name: str) -> DeepsepError:
    return DeepsepError(
        f"offline, and {name} of {where} is not in the local cache; run once online: deepsep priors download "
        f"{where.removesuffix('@main')}"
    )


def too_large(repo: str, name: str, size: int, limit: int) -> DeepsepError:
    return DeepsepError(f"{repo}: {name} has {size} bytes where at most {limit} are allowed; not downloaded")


def client_settings() -> ModuleType:
    """What the client reads from its environment; it is silent from then on.

    Raises DeepsepError where the environment cannot be read.
    """
    try:
        silence_client()
        from huggingface_hub import constants
    except ValueError as error:
        raise DeepsepError(
            f"the Hub's client cannot read its environment variables, HF_... ({one_line(error)}); correct or unset them"
        ) from error
    return constants


@functools.cache
def silence_client() -> None:
    """Keep the client's own lines from stderr, once: it tells each retry, and whatever text a server wants shown.

    What becomes of a download is said by `explain`. Who sets HF_HUB_VERBOSITY gets the lines of that level.
    """
    warnings.filterwarnings("ignore", module=r"huggingface_hub\b")
    from huggingface_hub.utils import logging

    if "HF_HUB_VERBOSITY" not in os.environ:
        logging.set_verbosity(logging.CRITICAL)


def is_offline(asked: bool) -> bool:
    """Whether no request may be made: it was asked for, or HF_HUB_OFFLINE is set."""
    return asked or bool(client_settings().HF_HUB_OFFLINE)
