"""The demo's tokenizer: byte-level pieces that give every text back, at XLNet's special ids."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

NUM_PIECES = 8192
# ids 0 to 8, as in XLNet's vocabulary
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>")
PRE_TOKENIZER_PATTERN = "|".join(
    (
        r"\n[ \t\n]*",  # line ends with the indentation that follows
        r" ?_*\p{L}+",  # words, and the parts of a_name: `a`, `_name`
        r" ?\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+(?:\n[ \t\n]*)?",  # runs of punctuation, with the line end: `):\n    `
        r"[^\S\n]+(?=[^\S\n])",  # blanks, but the last goes with the next word
        r"\s+",
    )
)


def train_tokenizer(texts: Iterable[str], *, num_pieces: int = NUM_PIECES) -> Tokenizer:
    """Train a byte-level BPE of `num_pieces` pieces: decode(encode(text)) is `text`, byte for byte.

    All 256 bytes are pieces, nothing is normalised, and the same texts give the same pieces.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKENIZER_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=num_pieces,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the two files that `transformers.AutoTokenizer.from_pretrained(folder)` reads."""
    _write_json(folder / "tokenizer.json", json.loads(tokenizer.to_str()), indent=None)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "cls_token": "<cls>",
        "sep_token": "<sep>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
        "additional_special_tokens": ["<eod>", "<eop>"],
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
    }
    _write_json(folder / "tokenizer_config.json", config, indent=2)


def _write_json(path: Path, content: dict, *, indent: int | None) -> None:
    separators = (",", ":") if indent is None else None
    text = json.dumps(content, ensure_ascii=False, indent=indent, separators=separators)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
