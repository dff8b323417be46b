"""Make the text that the adapter of smollm2 was trained on: dialogue, Python's text, and stories.

Dialogue is that of the package chitchat-dataset (MIT licence), fetched by pip and not installed;
prose and code ship with Python; stories are written by SmolLM2 itself (Apache-2.0).
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

WHEEL = "chitchat-dataset==0.9.0"
MIN_DIALOGUE, MAX_DOCUMENT = 300, 20_000  # characters
MAX_CODE = 3_000_000  # characters of code among which the documents are chosen
DIALOGUE, PYTHON = 1_200_000, 2_000_000  # characters that are taken, to the end of a document
BATCH, MAX_TOKENS, MIN_STORY = 48, 130, 80
SYSTEM_END = 2  # <|im_end|>
NAMES = re.findall(
    r"\w+",
    """Anna Ben Carla David Ella Frank Grace Henry Ivy Jack Kate Leo Maria Noah Olivia Paul Quinn
    Rosa Sam Tina Uma Victor Wendy Xavier Yara Zoe Tom Lucy Mike Sarah Amy Dan Emma Joe Kim Matt
    Nina Pete Rachel Steve""",
)
THINGS = [
    *("a bicycle", "a lost dog", "a birthday cake", "a football match", "a school test"),
    *("a job interview", "a broken window", "a new neighbour", "a camping trip", "a piano lesson"),
    *("a train ride", "a garden", "a letter", "an old car", "a rainy day", "a wedding"),
    *("a kitchen fire", "a missing key", "a movie night", "a doctor's visit", "a snowstorm"),
    *("a market", "a fishing trip", "a painting", "a phone call", "a swimming pool", "a haircut"),
    *("a library book", "a surprise party", "a stolen wallet", "a road trip", "a new puppy"),
    *("a garage sale", "a bad dream", "a spelling contest", "a restaurant", "a hiking trail"),
    *("a bus stop", "a flat tire", "a dance class", "a beach day", "a math problem"),
    *("a pair of shoes", "a cup of coffee", "a computer game", "a secret", "a museum"),
    *("a baby brother", "a farm", "an airplane"),
]
MOODS = ["happy", "sad", "funny", "surprising", "quiet", "exciting", "strange", "everyday"]


def main(folder: Path, num_stories: int) -> None:
    rng = random.Random(0)
    stories = list(written_stories(num_stories))
    mixed = [
        *stories,
        *taken(shuffled(dialogues(), rng), DIALOGUE),
        *taken(shuffled(python_text(), rng), PYTHON),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": text}) + "\n" for text in shuffled(mixed, rng)]
    (folder / "adaptation.jsonl").write_text("".join(lines), encoding="utf-8")
    print(f"{len(stories)} stories and {len(mixed) - len(stories)} other documents in {folder}")


def shuffled(texts: list[str], rng: random.Random) -> list[str]:
    """Return texts in random order."""
    return rng.sample(texts, len(texts))


def taken(texts: list[str], num_characters: int) -> Iterator[str]:
    """Yield the first texts, long ones cut, until they have so many characters."""
    count = 0
    for text in texts:
        if count > num_characters:
            return
        yield text[:MAX_DOCUMENT]
        count += len(text[:MAX_DOCUMENT])


def dialogues() -> list[str]:
    """Return conversations, a turn a line."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", folder, WHEEL]
        subprocess.run(command, check=True)
        with ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            conversations = json.loads(wheel.read("chitchat_dataset/dataset.json")).values()
    found = []
    for conversation in conversations:
        turns = [[m["text"].strip() for m in turn] for turn in conversation["messages"]]
        lines = [" ".join(filter(None, turn)) for turn in turns]
        found.append("\n".join(filter(None, lines)))
    return [text for text in found if len(text) > MIN_DIALOGUE]


def python_text() -> list[str]:
    """Return prose and code that ship with Python, without its tests."""
    from asarm.corpus import training_documents

    documents = [d for d in training_documents() if not d.is_test]
    random.Random(0).shuffle(documents)
    found, num_code = [], 0
    for document in documents:
        if document.kind == "prose" or num_code <= MAX_CODE:
            found.append(document.text)
            num_code += len(document.text) * (document.kind == "code")
    return found


def written_stories(count: int) -> Iterator[str]:
    """Yield short stories by SmolLM2, whole sentences."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from asarm.fetch import smollm2_base

    tokenizer = AutoTokenizer.from_pretrained(smollm2_base(), padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(smollm2_base(), dtype=torch.bfloat16).eval()
    rng = random.Random(1)
    torch.manual_seed(1)
    for done in range(0, count, BATCH):
        asked = [
            f"Write a {rng.choice(MOODS)} story of five short sentences about {rng.choice(NAMES)} "
            f"and {rng.choice(THINGS)}."
            for _ in range(BATCH)
        ]
        prompts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
            for text in asked
        ]
        batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.no_grad():
            tokens = model.generate(
                **batch,
                max_new_tokens=MAX_TOKENS,
                do_sample=True,
                temperature=0.9,
                top_p=0.95,
                pad_token_id=SYSTEM_END,
            )
        for row in tokens[:, batch["input_ids"].shape[1] :]:
            text = " ".join(tokenizer.decode(row, skip_special_tokens=True).split())
            if SYSTEM_END not in row:  # it was cut off
                text = text[: text.rfind(".") + 1]
            if len(text) > MIN_STORY:
                yield text
        print(f"{min(done + BATCH, count)} of {count} stories", flush=True)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write adaptation.jsonl")
    parser.add_argument("--num_stories", type=int, default=1968, help="of the model's own")
    arguments = parser.parse_args()
    main(arguments.folder, arguments.num_stories)
