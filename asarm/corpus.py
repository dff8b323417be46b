"""The text that ships with Python: training documents, and held-out ones in the package."""

import ast
import json
import lzma
import sysconfig
import tokenize
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Literal

Kind = Literal["prose", "code"]
NameTest = Callable[[str], bool]
KINDS: tuple[Kind, ...] = ("prose", "code")

HELD_OUT_DIR = Path(__file__).parent / "demo" / "heldout"
HELD_OUT_MODULES = ("json", "smtplib", "socketserver", "statistics", "textwrap", "timeit")
HELD_OUT_TOPICS = (
    "assignment",
    "comparisons",
    "debugger",
    "execmodel",
    "import",
    "string-methods",
)
# sections of held-out topics that pydoc lists a second time under a name of their own
REPEATED_TOPICS = ("augassign", "dynamic-features", "exceptions", "in", "naming")

# installed packages, code tables that no one wrote by hand, and files of the machine Python is on
EXCLUDED_FOLDERS = {"site-packages", "dist-packages", "encodings", "_bundled", "__pycache__"}
EXCLUDED_PREFIXES = ("bad", "_sysconfigdata", "config-")  # `bad*` tests are files with errors
TEST_FOLDERS = {"test", "tests", "idle_test"}
MIN_DOCSTRING = 60  # shorter ones are one-line titles
LONG_LINE = 60  # characters from which a line counts as a fingerprint of its document


@dataclass(frozen=True)
class Document:
    """A text that comes with Python: a module's source or docstrings, or a topic of its
    reference."""

    name: str
    kind: Kind
    text: str

    @property
    def is_test(self) -> bool:
        """Whether it comes from Python's own tests: two thirds of the code, where installed."""
        return _is_test(self.name)


def training_documents() -> list[Document]:
    """Return prose and code of the running Python, in a fixed order, nothing of it held out.

    The held-out modules, their tests and the held-out topics are left out by name, and so is every
    paragraph elsewhere that repeats one of the shipped held-out lines of 60 or more characters.
    """
    held_out = long_lines(held_out_documents())
    documents = [*_prose(_is_training_source, _is_training_topic), *_code(_is_training_source)]
    trimmed = [Document(d.name, d.kind, drop_paragraphs(d.text, held_out)) for d in documents]
    unique = {d.text: d for d in reversed(trimmed) if d.text.strip()}
    return list(reversed(unique.values()))


def held_out_documents(kind: Kind | None = None) -> list[Document]:
    """Return the held-out documents that lie in the package, the same bytes for everyone."""
    kinds = KINDS if kind is None else (kind,)
    return [d for k in kinds for d in read_documents(HELD_OUT_DIR / f"{k}.jsonl.xz")]


def collect_held_out_documents(kind: Kind) -> list[Document]:
    """Return the held-out documents of the running Python: the shipped files hold these."""
    if kind == "code":
        return list(_code(_is_held_out_source))
    return list(_prose(_is_held_out_source, HELD_OUT_TOPICS.__contains__))


def read_documents(path: Path) -> list[Document]:
    """Return the documents of a file that `write_documents` wrote."""
    with lzma.open(path, "rt", encoding="utf-8", newline="\n") as file:
        return [Document(**json.loads(line)) for line in file]


def write_documents(path: Path, documents: Iterable[Document]) -> None:
    """Write one JSON object a line, compressed."""
    lines = [json.dumps(asdict(d), ensure_ascii=False) + "\n" for d in documents]
    path.write_bytes(lzma.compress("".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME))


def long_lines(documents: Iterable[Document]) -> set[str]:
    """Return the stripped lines of 60 or more characters."""
    lines = (line.strip() for d in documents for line in d.text.split("\n"))
    return {line for line in lines if len(line) >= LONG_LINE}


def drop_paragraphs(text: str, lines: set[str]) -> str:
    """Drop the paragraphs (between empty lines) that hold one of the stripped `lines`."""

    def repeats(paragraph: str) -> bool:
        return any(line.strip() in lines for line in paragraph.split("\n"))

    return "\n\n".join(p for p in text.split("\n\n") if not repeats(p))


def docstrings(source: str) -> str:
    """Join the docstrings of a module, its classes and functions, in source order.

    A blank line separates them. Indentation is removed, titles below 60 characters are skipped.
    Source with a syntax error has none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escape sequences in old modules
        try:
            tree = ast.parse(source)
        except SyntaxError:
            return ""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, owners)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    found = [ast.get_docstring(node) or "" for node in nodes]
    return "\n\n".join(dict.fromkeys(d for d in found if len(d) >= MIN_DOCSTRING))


def _prose(is_source: NameTest, is_topic: NameTest) -> Iterator[Document]:
    for name in filter(is_topic, sorted(topics)):
        yield Document(f"topic {name}", "prose", topics[name].strip() + "\n")
    for name, source in _sources(is_source):
        text = "" if _is_test(name) else docstrings(source)
        if text:
            yield Document(name, "prose", text + "\n")


def _code(is_source: NameTest) -> Iterator[Document]:
    for name, source in _sources(is_source):
        if source.strip():
            yield Document(name, "code", source)


def _sources(is_source: NameTest) -> Iterator[tuple[str, str]]:
    """Name (path with /) and text of the standard library's modules, library first, then tests."""
    root = Path(sysconfig.get_path("stdlib"))
    names = [path.relative_to(root).as_posix() for path in root.rglob("*.py")]
    for name in sorted(filter(is_source, names), key=lambda name: (_is_test(name), name)):
        try:
            with tokenize.open(root / name) as file:  # honours `# -*- coding` lines
                yield name, file.read()
        except (SyntaxError, UnicodeDecodeError):  # a test file made to be unreadable
            continue


def _is_standard(name: str) -> bool:
    parts = name.split("/")
    return not any(
        part in EXCLUDED_FOLDERS or part.startswith(EXCLUDED_PREFIXES) or part.endswith("data")
        for part in parts
    )


def _is_test(name: str) -> bool:
    return not TEST_FOLDERS.isdisjoint(name.split("/"))


def _is_held_out_source(name: str) -> bool:
    return name.removesuffix(".py").split("/")[0] in HELD_OUT_MODULES


def _is_training_source(name: str) -> bool:
    about_held_out = {f"test_{module}" for module in HELD_OUT_MODULES} | set(HELD_OUT_MODULES)
    return _is_standard(name) and about_held_out.isdisjoint(name.removesuffix(".py").split("/"))


def _is_training_topic(name: str) -> bool:
    return name not in HELD_OUT_TOPICS + REPEATED_TOPICS
