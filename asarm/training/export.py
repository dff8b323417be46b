"""A finished run as a model folder: weights, tokenizer, card; and that folder on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from asarm.backbones import lora
from asarm.data.retry import first_line, is_network_trouble
from asarm.drafting.files import CONFIG as CONFIG_OF_HEAD
from asarm.loading import Model
from asarm.run import Run
from asarm.training.card import card
from asarm.training.config import TrainingConfig
from asarm.training.watch import EVALUATIONS

REFUSED = (401, 403)  # answers to a login that does not hold, or not there
# one file, several of a large model, or an adapter's
WEIGHTS = ("model*.safetensors", lora.WEIGHTS)
# the files of a run folder that belong to the model
MODEL_FILES = (
    *("README.md", "config.json", "*.safetensors", "tokenizer*", "special_tokens_map.json"),
    *(CONFIG_OF_HEAD, lora.CONFIG),
)


def export(
    run: Run,
    config: TrainingConfig,
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Write the model into the run's folder.

    Raises:
        OSError: it cannot be written; the last checkpoint has it.
    """
    try:
        model.save_pretrained(run.folder)
        tokenizer.save_pretrained(run.folder)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"cannot write the model into {run.folder} ({first_line(error)}); the last checkpoint "
            "has it: make room, and run the same command again"
        ) from None
    evaluations = run.read(EVALUATIONS)
    run.write("README.md", card(config, model, evaluations[-1] if evaluations else None))


def check_upload(name: str) -> None:
    """Refuse an upload that nobody here may make: before the run, not after its last step.

    Where the hub cannot be reached now, that is reported.

    Raises:
        ValueError: no model can have the name, nobody is logged in, or who is may not write there.
    """
    try:
        validate_repo_id(name)
        problem = _may_not_write(name, HfApi().whoami())
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, HFValidationError | LocalTokenNotFoundError) or status in REFUSED:
            problem = first_line(error)
        elif is_network_trouble(error):
            print(
                f"the hub cannot be reached now ({first_line(error)}); "
                "the upload is tried at the end"
            )
            return
        else:
            raise
    if problem:
        raise ValueError(
            f"push_to_hub is {name!r}, and {problem}; expected OWNER/NAME and a login that may "
            "write there: `hf auth login`, or leave it out to keep the model in the run's folder"
        )


def _may_not_write(name: str, who: dict[str, Any]) -> str | None:
    """Say why the one who is logged in may not write to a repository; None if nothing says so."""
    owner = name.rpartition("/")[0] or who["name"]
    if owner not in [who["name"], *(organisation["name"] for organisation in who.get("orgs", []))]:
        return f"{who['name']}, who is logged in, is not {owner} and not of that organisation"
    role = who.get("auth", {}).get("accessToken", {}).get("role")
    return f"the token of {who['name']} may only read" if role == "read" else None


def upload(folder: Path, name: str) -> None:
    """Put the model of a run's folder on the hub.

    Raises:
        ValueError: the hub does not take it; the folder is whole all the same.
    """
    try:
        api = HfApi()
        whole_name = api.create_repo(name, exist_ok=True).repo_id  # with its owner
        api.upload_folder(repo_id=whole_name, folder_path=folder, allow_patterns=[*MODEL_FILES])
    except Exception as error:
        if not isinstance(error, ValueError) and not is_network_trouble(error):
            raise
        raise ValueError(
            f"cannot upload to {name} ({first_line(error)}); the model is in {folder}: check the "
            "network and the name, `hf auth login`, and run the same command again"
        ) from None
