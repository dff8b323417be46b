"""Make the bundled held-out text and tokenizer again, from the running Python's own files.

The shipped ones were made with Python 3.11.7; another version has other text.
"""

import shutil
import sysconfig
from argparse import ArgumentParser
from pathlib import Path

from asarm import corpus
from asarm.training.tokenizer import save_tokenizer, train_tokenizer

PROSE_WEIGHT = 3  # there is about five times as much code as prose


def main() -> None:
    folder = corpus.HELD_OUT_DIR
    folder.mkdir(parents=True, exist_ok=True)
    for kind in corpus.KINDS:
        documents = corpus.collect_held_out_documents(kind)
        corpus.write_documents(folder / f"{kind}.jsonl.xz", documents)
        print(kind, len(documents), "held-out documents")
    licence = Path(sysconfig.get_path("stdlib")) / "LICENSE.txt"
    shutil.copyfile(licence, folder / "LICENSE.txt")

    library = [d for d in corpus.training_documents() if not d.is_test]
    prose = [d.text for d in library if d.kind == "prose"]
    code = [d.text for d in library if d.kind == "code"]
    save_tokenizer(train_tokenizer(prose * PROSE_WEIGHT + code), folder.parent)


if __name__ == "__main__":
    ArgumentParser(description=__doc__).parse_args()  # --help makes nothing
    main()
