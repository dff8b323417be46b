"""Data sets that are too large to fetch: names on the hub and addresses of files, as streams."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import datasets
from datasets import IterableDataset
from huggingface_hub import constants

from asarm.data import http_files
from asarm.data.config import DataConfig
from asarm.data.retry import first_line, patiently

# bytes that are not UTF-8 come as U+FFFD, for `usable` to see
BUILDERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".txt": ("text", {"encoding_errors": "replace"}),
    # an encoding that is not "utf-8" is decoded by Python, which can replace; Arrow only fails
    ".jsonl": ("json", {"encoding": "utf_8_sig", "encoding_errors": "replace"}),
    ".parquet": ("parquet", {}),
}
SAMPLE_BY = {"paragraph": "paragraph", "line": "line", "file": "document"}  # as `datasets` says it
GONE = {400, 401, 403, 404, 410, 416}  # answers that another try does not change


def is_url(dataset: str) -> bool:
    """Return whether it is the address of a file."""
    return dataset.startswith(("http://", "https://"))


def open_dataset(config: DataConfig) -> IterableDataset:
    """Open the stream that the config names.

    Raises:
        ValueError: no such data set, configuration or split, or one that wants a login.
        DataUnavailable: the network does not let it be opened.
    """
    name = config.dataset
    if is_url(name):
        if _ending(name) not in BUILDERS:
            kinds = ", ".join(BUILDERS)
            raise ValueError(f"dataset is {name}; expected an address that ends in {kinds}")
        return patiently(lambda: _open_address(name, config.txt_documents), name)
    if "://" in name:
        raise ValueError(
            f"dataset is {name}; expected a local path, an address that begins with http:// or "
            "https://, or a name on the hub"
        )
    if constants.HF_HUB_OFFLINE:
        raise ValueError(
            f"dataset {name} is not a local file or folder, and the hub is off (HF_HUB_OFFLINE); "
            "name a local one, or unset it"
        )
    hub: dict[str, Any] = {
        "name": config.dataset_config,
        "data_dir": config.dataset_data_dir,
        "split": config.dataset_split,
    }
    return patiently(lambda: open_stream(name, **hub), name)


def _open_address(address: str, txt_documents: str) -> IterableDataset:
    builder, options = BUILDERS[_ending(address)]
    if builder == "text":
        options = options | {"sample_by": SAMPLE_BY[txt_documents]}
    try:
        http_files.HttpFiles().info(address)  # its errors say more than those of `datasets`
    except OSError as error:
        if (status := _http_status(error)) in GONE:
            raise ValueError(
                f"cannot open {address} (HTTP status {status}); check the address"
            ) from None
        raise
    return open_stream(builder, data_files=[address], **options)


def replaces_bytes(dataset: str) -> bool:
    """Return whether U+FFFD in its texts means bytes that were not UTF-8."""
    return is_url(dataset) and "encoding_errors" in BUILDERS[_ending(dataset)][1]


def open_stream(source: str, *, split: str = "train", **arguments: Any) -> IterableDataset:
    """Open a stream with `datasets`, and put its refusals into one line."""
    prepare_process()
    try:
        return datasets.load_dataset(source, split=split, streaming=True, **arguments)
    except datasets.exceptions.DatasetNotFoundError as error:
        if "gated" in str(error):
            raise _gated(source) from None
        raise ValueError(
            f"dataset {source} is neither a local file or folder nor on the hub, or is private: "
            "check the name, or log in: hf auth login"
        ) from None
    except (ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"cannot open dataset {source} ({first_line(error)})") from None
    except FileNotFoundError as error:
        if "check your connection" in str(error):
            raise ConnectionError(first_line(error)) from None
        raise ValueError(f"cannot open dataset {source} ({first_line(error)})") from None
    except OSError as error:
        status = _http_status(error)
        if status in (401, 403):
            raise _gated(source) from None
        if status in GONE:
            raise ValueError(f"cannot open dataset {source} ({first_line(error)})") from None
        raise


def _gated(name: str) -> ValueError:
    return ValueError(
        f"dataset {name} is gated: accept its terms at https://huggingface.co/datasets/{name}, "
        "then log in: hf auth login"
    )


def _ending(address: str) -> str:
    return PurePosixPath(urlsplit(address).path).suffix.lower()


def prepare_process() -> None:
    """Prepare a process for reading a stream.

    `datasets` would try 20 times, silently; our tries are fewer, wait longer and say so.
    """
    http_files.register()
    for name in ("STREAMING_OPEN_MAX_RETRIES", "STREAMING_READ_MAX_RETRIES"):
        setattr(datasets.config, name, 1)
    for name in (
        "STREAMING_OPEN_RETRY_INTERVAL",
        "STREAMING_READ_RETRY_INTERVAL",
        "STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL",
        "STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL",
    ):
        setattr(datasets.config, name, 0)


def _http_status(error: BaseException | None) -> int | None:
    """Return the status with which the server answered, if the error comes from that."""
    while error is not None:
        answer = getattr(error, "response", None)
        status = getattr(error, "status", None) or getattr(answer, "status_code", None)
        if status is not None:
            return status
        error = error.__cause__ or error.__context__
    return None
