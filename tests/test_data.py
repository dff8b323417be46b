"""Documents of local files, and how they are cut into parts and blocks."""

import json

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asarm.data import DataConfig, pack, read_text
from asarm.data.config import check_data_config
from asarm.data.files import find_files
from asarm.data.packing import Packer, no_counts, parts_of, usable
from asarm.data.text_files import read_documents


def test_pack_cuts_the_joined_documents_and_drops_the_rest():
    blocks = pack(iter([[1, 2, 3], [], [4, 5], [6, 7]]), 3)
    assert blocks.dtype == torch.int64
    assert blocks.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_pack_refuses_less_than_one_block_naming_both_numbers():
    with pytest.raises(ValueError, match="2 tokens, less than one block of 3"):
        pack([[1, 2]], 3)
    with pytest.raises(ValueError, match="0 tokens, less than one block of 3"):
        pack([], 3)


@given(st.lists(st.lists(st.integers(0, 99), max_size=9), max_size=9), st.integers(1, 5))
def test_the_packer_gives_what_pack_gives_however_the_documents_come(documents, length):
    packer = Packer(length, np.uint16)
    blocks = []
    for document in documents:
        assert packer.add([document]) == len(document)
        blocks.append(packer.take(1))
    blocks.append(packer.take())
    tokens = [i for document in documents for i in document]
    got = np.concatenate(blocks)
    assert got.dtype == np.uint16
    assert got.flatten().tolist() + packer.rest.tolist() == tokens
    assert len(got) == len(tokens) // length and len(packer.rest) < length


def test_read_text_keeps_the_bytes(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("é\r\n\tx\n".encode())
    assert read_text(path) == "é\r\n\tx\n"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_read_text_reads_what_a_byte_order_mark_names(tmp_path, encoding):
    path = tmp_path / "text.txt"
    path.write_bytes("é\r\n\tx\n".encode(encoding))
    assert read_text(path) == "é\r\n\tx\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"ab\xe9c", "byte 0xe9 at offset 2"),
        ("no mark".encode("utf-16-le"), "holds NUL bytes.*UTF-16LE"),
        (None, "name"),
    ],
)
def test_read_text_refuses_in_one_line_that_names_the_file(tmp_path, content, message):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        read_text(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_read_text_refuses_a_folder(tmp_path):
    with pytest.raises(ValueError, match="directory"):
        read_text(tmp_path)


def test_a_text_file_is_cut_at_blank_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\nmore\n\n\n  \ntwo\r\n\r\nthr\xe9e\n\n\x00\n\nlast")
    documents = list(read_documents([path], "text"))
    assert documents == [b"one\nmore", b"two", b"thr\xe9e", b"\x00", b"last"]
    counts = no_counts()
    assert [usable(d, counts) for d in documents] == [b"one\nmore", b"two", b"", b"", b"last"]
    assert counts["documents"] == 3
    assert counts["bytes"] == 15
    assert counts["skipped_not_utf8"] == counts["skipped_binary"] == 1


def test_a_folder_holds_files_of_every_kind_in_sorted_order(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.jsonl").write_bytes(b'{"text": "two"}\n\n{"text": null}\n{"te\xe9": 1}\n')
    (tmp_path / "a.txt").write_text("one\n", encoding="utf-8")
    (tmp_path / "b" / "e.md").write_text("# Five\n\nA file.\n", encoding="utf-8")
    rows = datasets.Dataset.from_list([{"text": "three"}, {"text": None}, {"text": "four"}])
    rows.to_parquet(tmp_path / "d.parquet")
    files = find_files(str(tmp_path))
    assert [f.name for f in files] == ["a.txt", "c.jsonl", "e.md", "d.parquet"]
    documents = list(read_documents(files, "text"))
    rows = [b"three", b"", b"four"]
    assert documents == [b"one", "two", "", b'{"te\xe9": 1}\n', b"# Five\n\nA file.\n", *rows]
    counts = no_counts()
    assert [bool(usable(d, counts)) for d in documents] == [
        True,
        True,
        *[False] * 2,
        True,
        True,
        False,
        True,
    ]
    assert (counts["skipped_empty"], counts["skipped_not_utf8"]) == (2, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"text": ', r"a\.jsonl row 2 is not JSON"),
        ('{"text": "a"}\n{"body": "b", "n": 1}', r"row 2 has no column 'text', only: body, n"),
        ("[1]", r"row 1 is of type list; expected an object with a column 'text'"),
        ('{"text": 3}', r"row 1 has int in column 'text'; expected a string"),
    ],
)
def test_a_bad_line_is_refused_with_file_and_row(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as refused:
        list(read_documents([path], "text"))
    assert "\n" not in str(refused.value)


def test_a_bad_parquet_file_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"a\.parquet"):
        list(read_documents([path], "text"))
    datasets.Dataset.from_list([{"body": "a", "n": 1}]).to_parquet(path)
    with pytest.raises(ValueError, match="no column 'text', only: body, n"):
        list(read_documents([path], "text"))


def test_files_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        find_files(str(tmp_path / "none.txt"))
    with pytest.raises(ValueError, match="holds no file that ends in"):
        find_files(str(tmp_path))
    (tmp_path / "a.pdf").touch()
    with pytest.raises(ValueError, match="expected a file that ends in"):
        find_files(str(tmp_path / "a.pdf"))


@given(st.text(st.sampled_from("ab\né😀"), max_size=60), st.integers(4, 20))
def test_parts_are_short_whole_and_end_at_lines_where_they_can(text, limit):
    counts = no_counts()
    parts = parts_of(text.encode(), limit, counts)
    assert "".join(parts) == text
    assert all(len(part.encode()) <= limit for part in parts)
    assert counts["split"] == (len(parts) > 1)
    for part in parts[:-1]:
        assert part.endswith("\n") or "\n" not in part


def test_half_a_character_of_a_json_escape_is_not_utf8():
    counts = no_counts()
    assert usable(json.loads('"a \\ud83d"'), counts) == b""
    assert counts["skipped_not_utf8"] == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("length", 1),
        ("last_block", "keep"),
        ("max_document_bytes", 3),
        ("shuffle_blocks", 0),
        ("workers", -1),
        ("eval_sequences", 0),
        ("txt_documents", "page"),
        ("dataset", ""),
        ("repeats", {"prose": 1}),
        ("repeats", {"prose": 0, "code": 0, "test": 0}),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name) as refused:
        check_data_config(DataConfig(**{name: value}))
    assert "\n" not in str(refused.value)
