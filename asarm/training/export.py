"""A finished run as a model folder: weights, tokenizer, card; and that folder on the hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from asarm.data.retry import first_line, is_network_trouble
from asarm.draft_head import CONFIG as CONFIG_OF_HEAD
from asarm.model import AnySubsetTransformer
from asarm.run import Run
from asarm.training.card import card
from asarm.training.config import TrainingConfig
from asarm.training.watch import EVALUATIONS

# what belongs to the model, of all that lies in a run's folder
WEIGHTS = "model*.safetensors"  # one file, or several of a large model
MODEL_FILES = (
    *("README.md", "config.json", "*.safetensors", "tokenizer*", "special_tokens_map.json"),
    CONFIG_OF_HEAD,
)


def model_files(folder: Path) -> list[Path]:
    """The files of the model that lies in a run's folder."""
    return [path for pattern in MODEL_FILES for path in folder.glob(pattern)]


def export(
    run: Run,
    config: TrainingConfig,
    model: AnySubsetTransformer,
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


def upload(folder: Path, name: str) -> None:
    """Put the model of a run's folder on the hub.

    Raises:
        ValueError: the hub does not take it; the folder is whole all the same.
    """
    try:
        api = HfApi()
        api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=[*MODEL_FILES])
    except Exception as error:
        if not isinstance(error, ValueError) and not is_network_trouble(error):
            raise
        raise ValueError(
            f"cannot upload to {name} ({first_line(error)}); the model is in {folder}: check the "
            "network and the name, `hf auth login`, and run the same command again"
        ) from None
