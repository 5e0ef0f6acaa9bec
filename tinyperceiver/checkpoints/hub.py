"""Checkpoints from and to the Hugging Face hub."""

from pathlib import Path

from tinyperceiver.checkpoints.folder import CONFIG, PICKLE, WEIGHTS, CheckpointError

__all__ = ["fetch_from_hub", "upload_to_hub"]


def _reason(error: Exception) -> str:
    return str(error).split("\n")[0] or type(error).__name__


def fetch_from_hub(name: str, revision: str | None, options: dict) -> Path:
    """Download config.json and one file of weights; return their folder in the cache."""
    from huggingface_hub import errors, hf_hub_download

    try:
        folder = Path(
            hf_hub_download(name, CONFIG, revision=revision, **options)
        ).parent
        if not any((folder / weights).exists() for weights in (WEIGHTS, PICKLE)):
            # Both files from one, even if the branch moves on meanwhile.
            commit = folder.name
            try:
                hf_hub_download(name, WEIGHTS, revision=commit, **options)
            except errors.EntryNotFoundError:
                hf_hub_download(name, PICKLE, revision=commit, **options)
        return folder
    except errors.RepositoryNotFoundError as error:
        reason, cause = (
            "no such model, or a private one: check the name, or pass `token`",
            error,
        )
    except errors.RevisionNotFoundError as error:
        reason, cause = f"it has no revision {revision!r}", error
    except errors.LocalEntryNotFoundError as error:
        reason, cause = (
            "it is not in the cache, and the hub is switched off or out of reach: check the "
            "name. Without a network, HF_HUB_OFFLINE=1 spares you the wait for the hub",
            error,
        )
    except errors.EntryNotFoundError as error:
        reason, cause = f"it lacks {CONFIG}, or both {WEIGHTS} and {PICKLE}", error
    # Of the network libraries below, which differ between versions.
    except Exception as error:
        reason, cause = f"{_reason(error)}; try again", error
    raise CheckpointError(
        f"{name!r}: no such folder, and not from the hub: {reason}"
    ) from cause


def upload_to_hub(folder: Path, name: str, token: str | bool | None) -> None:
    """Upload the files of a checkpoint to a model of the hub, which is made if need be."""
    from huggingface_hub import HfApi

    try:
        api = HfApi(token=token)
        name = api.create_repo(name, exist_ok=True).repo_id
        patterns = [CONFIG, WEIGHTS, "README.md"]
        api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=patterns)
    except Exception as error:
        raise CheckpointError(
            f"{folder} is written, but its upload to {name!r} failed: {_reason(error)}. Log in "
            f"with `hf auth login` or pass `token`, and upload the folder"
        ) from error
