import math
import sys
from collections import Counter

import pytest

from asarm.corpus import (
    HELD_OUT_DIR,
    HELD_OUT_MODULES,
    HELD_OUT_TOPICS,
    KINDS,
    Document,
    collect_held_out_documents,
    docstrings,
    drop_paragraphs,
    held_out_documents,
    long_lines,
    read_documents,
    training_documents,
    write_documents,
)
from asarm.metrics.compression import order2_bits_per_byte, xz_bits_per_byte


@pytest.fixture(scope="module")
def training():
    return training_documents()


@pytest.mark.slow
def test_no_long_held_out_line_is_in_the_training_text(training):
    held_out = long_lines(held_out_documents())
    assert len(held_out) > 1000
    assert not held_out & long_lines(training)


@pytest.mark.slow
def test_held_out_names_are_not_trained_on(training):
    parts = {part for d in training for part in d.name.removesuffix(".py").split("/")}
    assert parts.isdisjoint(HELD_OUT_MODULES)
    assert parts.isdisjoint(f"test_{module}" for module in HELD_OUT_MODULES)
    assert parts.isdisjoint(f"topic {topic}" for topic in HELD_OUT_TOPICS)


@pytest.mark.slow
def test_training_text_is_repeatable_and_has_no_copies(training):
    assert training_documents() == training
    assert len({d.text for d in training}) == len(training)
    assert all(d.text.strip() for d in training)


def test_training_text_has_enough_of_both_kinds_and_nothing_installed(training):
    size = Counter()
    for document in training:
        size[document.kind] += len(document.text.encode())
    assert size["prose"] > 1_000_000
    assert size["code"] > 5_000_000
    assert not [d.name for d in training if "site-packages" in d.name or "_sysconfigdata" in d.name]


def test_shipped_held_out_files_have_both_kinds_of_every_module_and_the_licence():
    for kind in KINDS:
        documents = held_out_documents(kind)
        assert {d.kind for d in documents} == {kind}
        modules = {d.name.removesuffix(".py").split("/")[0] for d in documents}
        assert modules.issuperset(HELD_OUT_MODULES)
        assert 150_000 <= sum(len(d.text.encode()) for d in documents) <= 210_000
    assert sum(path.stat().st_size for path in HELD_OUT_DIR.iterdir()) <= 400_000
    assert "PYTHON SOFTWARE FOUNDATION LICENSE" in (HELD_OUT_DIR / "LICENSE.txt").read_text("utf-8")


@pytest.mark.slow_but_one
@pytest.mark.skipif(sys.version_info[:3] != (3, 11, 7), reason="shipped files are of Python 3.11.7")
@pytest.mark.parametrize("kind", KINDS)
def test_shipped_held_out_files_are_those_of_this_python(kind):
    assert collect_held_out_documents(kind) == held_out_documents(kind)


def test_documents_survive_the_file(tmp_path):
    documents = [Document("a", "code", 'x = "\f\u2028é"\r\n'), Document("b", "prose", "😀\n\n")]
    write_documents(tmp_path / "both.jsonl", documents)
    assert read_documents(tmp_path / "both.jsonl") == documents


def test_docstrings_come_in_source_order_clean_and_without_titles():
    long = "A sentence that is long enough to be kept as a docstring, by far."
    source = (
        f'"""{long}\n\n    Indented."""\n'
        f'class A:\n    """Short."""\n    def f(self):\n        """{long} F.\n\n        End."""\n'
        f'def g():\n    """{long} F.\n\n    End."""\n'
    )
    assert docstrings(source) == f"{long}\n\nIndented.\n\n{long} F.\n\nEnd."
    assert docstrings("def broken(:\n") == ""


def test_drop_paragraphs_drops_the_whole_paragraph():
    text = "keep\n\nalpha\n  secret line\nomega\n\nkeep too\n"
    assert drop_paragraphs(text, {"secret line"}) == "keep\n\nkeep too\n"


def test_order2_model_is_the_nested_mixture():
    training, text, strength = "abracadabra", "abba", 2.0

    def prob(context, byte):
        lower = prob(context[1:], byte) if context else 1 / 256
        if context == "":
            return (training.count(byte) + strength * lower) / (len(training) + strength)
        grams = [training[i : i + len(context) + 1] for i in range(len(training) - len(context))]
        total = sum(gram.startswith(context) for gram in grams)
        return (grams.count(context + byte) + strength * lower) / (total + strength)

    expected = -(math.log2(prob("ab", "b")) + math.log2(prob("bb", "a"))) / 2
    assert order2_bits_per_byte(training, text, strength=strength) == pytest.approx(expected)


def test_xz_is_between_nothing_and_the_text_itself():
    text = "".join(d.text for d in held_out_documents("code"))
    assert 1.5 < xz_bits_per_byte(text) < 2.5
