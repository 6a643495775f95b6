"""Models on the Hugging Face Hub: published with their card, fetched, and verified by digest.

`huggingface_hub` is imported only when asked for. What is published names no folder of this machine.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import tempfile
from pathlib import Path, PurePath
from typing import Any

from pairloom import checkpoint as checkpoints
from pairloom.checkpoint import CheckpointError

SCHEME = "hf://"
NETWORKS = ("generator.safetensors", "discriminator.safetensors")
CARD = "MODEL_CARD.md"
DIGESTS = "SHA256SUMS"
"""One `sha256  name` a line, as `sha256sum -c` reads it."""
PRIVATE = ("path", "path_b", "source_palette", "target_palette", "edge_model", "hole")
"""Fields of the data that may name folders; published are their last names."""


class HubError(CheckpointError):
    """A model cannot be published or fetched; one sentence says why and what to do."""


def resolve(path: str | Path, *, cache: Path | None = None) -> Path:
    """Where a model lies: the path itself, or of hf://owner/name[@revision] its copy in the Hub's cache.

    Args:
        path: What `Translator.load` takes, or an address on the Hub.
        cache: Folder of the copies, instead of the Hub's own.

    Raises:
        HubError: A bad address, no such model, no network, or weights that are not those of their digest.
    """
    if not re.match(r"hf:/", str(path)):
        return Path(path)
    repo, revision = _address(str(path))
    sums = _fetch(repo, DIGESTS, revision, cache)
    digests = _digests(sums)
    if NETWORKS[0] not in digests:
        raise HubError(f"{path}: its {DIGESTS} does not name {NETWORKS[0]}; it is no model of pairloom.")
    for name in digests:
        # The commit that the digests came from: a push between the two must not mix them.
        file = _fetch(repo, name, sums.parent.name, cache)
        if digest(file) != digests[name]:
            raise HubError(
                f"{path}: its {name} is not the file that its {DIGESTS} speaks of (cut off, or changed); "
                f"remove {file} and fetch it again, or ask its author."
            )
    return sums.parent


def push(
    run: str | Path,
    repo: str,
    *,
    private: bool = True,
    revision: str | None = None,
    message: str = "",
    discriminator: bool = True,
    token: str | None = None,
) -> str:
    """Publish a model with its card and its digests.

    Args:
        run: A run directory, or the folder of an imported model, with a MODEL_CARD.md.
        repo: owner/name; made if absent.
        private: Of a repository that is made: only its owner sees it.
        revision: Branch; None: main.
        message: Of the commit.
        discriminator: Also publish D, where there is one.
        token: Instead of the one that `hf auth login` left.

    Returns:
        The address that `Translator.load` takes, with its commit.

    Raises:
        HubError: No model or no card there, or the Hub refuses.
    """
    folder = Path(run)
    _check_name(repo, repo)
    hub = _library()
    with tempfile.TemporaryDirectory() as temporary:
        stage(folder, Path(temporary), discriminator=discriminator)
        try:
            api = hub.HfApi(endpoint=_endpoint(), token=token)
            api.create_repo(repo, private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=repo,
                folder_path=temporary,
                revision=revision,
                commit_message=message or f"{folder.resolve().name}, by pairloom",
            )
        except Exception as error:  # the library's, its HTTP client's and the system's
            raise HubError(
                f"{repo}: could not be published ({_reason(error)}); check the name, your right to write "
                "there (`hf auth login`), and the network."
            ) from error
    return f"{SCHEME}{repo}@{done.oid}"


def stage(folder: Path, out: Path, *, discriminator: bool = True) -> None:
    """What is published of a model, in a folder: card, weights, digests.

    Raises:
        HubError: No generator.safetensors or no card there.
    """
    if not (folder / NETWORKS[0]).is_file():
        raise HubError(f"{folder}: holds no {NETWORKS[0]}; give a run directory or an imported model.")
    if not (folder / CARD).is_file():
        raise HubError(
            f"{folder}: has no {CARD}; write one with `pairloom card {folder}`, read it, then push again."
        )
    (out / "README.md").write_bytes((folder / CARD).read_bytes())
    lines = []
    for name in NETWORKS[: 1 + discriminator]:
        if (folder / name).is_file():
            weights, description = checkpoints.load_weights(folder / name)
            checkpoints.save_weights(out / name, weights, without_folders(description))
            lines.append(f"{digest(out / name)}  {name}\n")
    (out / DIGESTS).write_bytes("".join(lines).encode())


def digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def without_folders(description: dict[str, Any]) -> dict[str, Any]:
    """The same description, whose paths are only names."""
    kept = {key: value for key, value in description.items() if key != "format"}
    config = kept.get("config", {})
    data, training = dict(config.get("data", {})), dict(config.get("training", {}))
    for fields, names in ((data, PRIVATE), (training, ("init_from",))):
        fields |= {name: PurePath(fields[name]).name for name in names if fields.get(name)}
    return kept | {"config": {**config, "data": data, "training": training}}


def _address(text: str) -> tuple[str, str | None]:
    found = re.fullmatch(r"hf:/{1,2}([^@\s]+)(?:@(\S+))?", text)  # a Path makes one slash of two
    if found is None:
        raise HubError(
            f"{text}: is no address of a model; write hf://owner/name or hf://owner/name@revision."
        )
    _check_name(found[1], text)
    return found[1], found[2]


def _check_name(repo: str, text: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*", repo):
        raise HubError(f"{text}: names no model; it must be owner/name, of letters, digits, - _ and dots.")


def _digests(file: Path) -> dict[str, str]:
    """The digests of the networks; other names are not ours to fetch."""
    text = file.read_bytes()[:10_000].decode("ascii", "replace")
    found = re.findall(r"^([0-9a-f]{64})  ([\w.]+)$", text, re.MULTILINE)
    return {name: value for value, name in found if name in NETWORKS}


def _fetch(repo: str, name: str, revision: str | None, cache: Path | None) -> Path:
    hub = _library()
    address = f"{SCHEME}{repo}{f'@{revision}' if revision else ''}"
    errors = importlib.import_module("huggingface_hub.errors")
    try:
        return Path(hub.hf_hub_download(repo, name, revision=revision, endpoint=_endpoint(), cache_dir=cache))
    except errors.LocalEntryNotFoundError as error:
        raise HubError(
            f"{address}: the Hub cannot be reached and there is no copy of {name} here; try again online."
        ) from error
    except errors.EntryNotFoundError as error:
        raise HubError(
            f"{address}: holds no {name}; it is no model that `pairloom push` published."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{address}: has no such revision; leave it out, or name another.") from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"{address}: there is no such model, or you may not see it; check the name, or `hf auth login`."
        ) from error
    except Exception as error:  # the library's, its HTTP client's and the system's
        raise HubError(f"{address}: {name} could not be fetched ({_reason(error)}); try again.") from error


def _library() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise HubError(
            'Models on the Hub need huggingface_hub; install it with `pip install "pairloom[hub]"`.'
        ) from error


def _endpoint() -> str | None:
    """As the environment says now; the library reads it once, when it is imported."""
    return os.environ.get("HF_ENDPOINT") or None


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")[:200]
