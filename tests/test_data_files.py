"""Folders as users have them: what is read, what is left out, and what is said of it."""

import bz2
import codecs
import gzip
import json
import lzma
import os

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from asarm.data.columns import text_column
from asarm.data.files import find_files, survey
from asarm.data.hub import open_stream
from asarm.data.packing import no_counts, usable
from asarm.data.text_files import read_documents

ROWS = [{"text": "one"}, {"text": "zwei\nlines, é"}, {"text": None}, {"text": 'a "quote"; ok'}]
TEXTS = [row["text"] or "" for row in ROWS]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = 'n,text\n1,one\n2,"zwei\nlines, é"\n3,\n4,"a ""quote""; ok"\n'


def read(path, **options) -> list[str]:
    documents = read_documents(find_files(str(path)), "text", **options)
    return [d if isinstance(d, str) else d.decode() for d in documents]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", LINES),
        ("A.JSONL", LINES),
        ("a.ndjson", LINES),
        ("a.json", LINES),
        ("b.json", json.dumps(ROWS)),
        ("c.json", json.dumps(ROWS, indent=2)),
        ("a.csv", CSV),
        ("b.Csv", CSV.replace("\n", "\r\n").replace("zwei\r", "zwei")),
        (
            "c.csv",
            CSV.replace("n,text", "n;text")
            .replace(",one", ";one")
            .replace(",\n", ";\n")
            .replace('2,"', '2;"')
            .replace('4,"', '4;"'),
        ),
        ("a.tsv", 'n\ttext\n1\tone\n2\t"zwei\nlines, é"\n3\t\n4\t"a ""quote""; ok"\n'),
        ("d.json", json.dumps({"text": "one"})),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_records_are_read_whatever_they_are_written_in(tmp_path, name, text, encoding):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    assert read(path) == (["one"] if name == "d.json" else TEXTS)


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_utf16_text_is_read_and_half_a_pair_is_skipped(tmp_path, mark):
    encoding = "utf-16-le" if mark == codecs.BOM_UTF16_LE else "utf-16-be"
    text = "one é\n😀\r\n\n\ud83d half\n"
    (tmp_path / "a.txt").write_bytes(mark + text.encode(encoding, "surrogatepass"))
    documents = list(read_documents(find_files(str(tmp_path)), "text"))
    assert documents[0] == "one é\n😀".encode()
    counts = no_counts()
    assert [bool(usable(d, counts)) for d in documents] == [True, False]
    (tmp_path / "a.txt").write_bytes(mark + text.encode(encoding, "surrogatepass")[:-1])
    with pytest.raises(ValueError, match=r"cannot read .*a\.txt .*UTF-16"):
        list(read_documents(find_files(str(tmp_path)), "text"))


def zst(content: bytes) -> bytes:
    return pyarrow.Codec("zstd").compress(content, asbytes=True)


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zst}


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("name", ["a.jsonl", "B.JSON", "c.csv", "d.txt", "e.md"])
def test_compressed_files_are_read_and_cut_ones_refused(tmp_path, name, suffix):
    text = {"c": CSV, "d": "one", "e": "one"}.get(name[0], LINES)
    path = tmp_path / (name + (suffix.upper() if name.isupper() else suffix))
    packed = PACKERS[suffix](codecs.BOM_UTF8 + text.encode())
    path.write_bytes(packed)
    assert read(path) == (["one"] if text == "one" else TEXTS)
    path.write_bytes(packed[:-5])
    with pytest.raises(ValueError, match=f"cannot read {path}") as refused:
        read(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "kind",
    [
        pyarrow.string(),
        pyarrow.large_string(),
        pyarrow.string_view(),
        pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
    ],
    ids=str,
)
def test_columns_of_every_string_type_are_read(tmp_path, kind):
    column = pyarrow.array(["one", None, "é"]).cast(kind)
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a [1].parquet")
    assert read(tmp_path) == ["one", "", "é"]


def test_streams_take_every_string_type_too(tmp_path):
    column = pyarrow.array(["one", "é"]).cast(pyarrow.string_view())
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    rows = open_stream("parquet", data_files=[str(tmp_path / "a.parquet")])
    found = [row["text"] for row in text_column(rows, "text", "a stream")]
    assert found == [b"one", "é".encode()]


def test_arrow_files_with_a_footer_are_read(tmp_path):
    table = pyarrow.table({"text": ["one", None, "é"], "n": [1, 2, 3]})
    with pyarrow.ipc.new_file(tmp_path / "a.arrow", table.schema) as file:
        file.write_table(table, max_chunksize=2)
    assert read(tmp_path) == ["one", "", "é"]


def test_arrow_files_and_saved_folders_are_read(tmp_path):
    rows = datasets.Dataset.from_list(ROWS)
    rows.save_to_disk(tmp_path / "saved", num_shards=2)
    assert read(tmp_path / "saved") == TEXTS
    assert read(tmp_path) == TEXTS
    rows.select([3, 0]).save_to_disk(tmp_path / "chosen")
    assert read(tmp_path / "chosen") == [TEXTS[3], TEXTS[0]]
    (tmp_path / "one").mkdir()
    (tmp_path / "saved" / "data-00000-of-00002.arrow").rename(tmp_path / "one" / "a.arrow")
    assert read(tmp_path / "one") == TEXTS[:2]
    with pytest.raises(ValueError, match="cannot read .*saved"):
        read(tmp_path / "saved")


def test_one_split_of_a_saved_folder_is_read(tmp_path):
    rows = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict(train=rows, test=rows.select([0])).save_to_disk(tmp_path / "all")
    found = survey(str(tmp_path / "all"))
    assert [path.name for path in found.files] == ["train"]
    assert found.left_out == {"of another split": ["test"]}
    assert [path.name for path in find_files(str(tmp_path), split="test")] == ["test"]
    with pytest.raises(
        ValueError, match="all holds test, train and no split 'dev'; name the folder"
    ):
        find_files(str(tmp_path), split="dev")
    with pytest.raises(ValueError, match="all holds test, train; name the folder of one"):
        find_files(str(tmp_path), split=None)


def test_a_mixed_folder_is_read_and_what_is_left_out_is_named(tmp_path):
    root = tmp_path / "mixed"
    for folder in ("nested/deep", ".git", ".ipynb_checkpoints", "run/checkpoints"):
        (root / folder).mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in (
        *("a.txt", "UPPER.TXT", "b.md", "nested/deep/c.txt", "../elsewhere/linked.txt"),
        *(".git/x.txt", ".hidden.txt", "._a.txt", ".ipynb_checkpoints/a-checkpoint.txt"),
        *("image.png", "run/metrics.txt"),
    ):
        (root / name).write_text(name, encoding="utf-8")
    (root / "c.json").write_text(json.dumps(ROWS))
    (root / "package.json").write_text('{\n "name": "x"\n}')
    (root / "short.json").write_text('{"name": "x"}')
    (root / "run" / "config.yaml").write_text(
        "# The settings of this asarm run, defaults included.\nseed: 0\n"
    )
    (root / "link.txt").symlink_to("a.txt")
    os.link(root / "b.md", root / "hard.md")
    (root / "loop").symlink_to(".")
    (root / "linkdir").symlink_to(tmp_path / "elsewhere")
    (root / "nowhere.txt").symlink_to("nothing.txt")
    os.mkfifo(root / "pipe.txt")
    found = survey(str(root))
    names = [path.relative_to(root).as_posix() for path in found.files]
    assert names == [
        *("UPPER.TXT", "a.txt", "b.md", "c.json", "linkdir/linked.txt", "nested/deep/c.txt"),
    ]
    assert found.left_out == {
        "hidden": ["._a.txt", ".git/", ".hidden.txt", ".ipynb_checkpoints/"],
        "read already under another name": ["hard.md", "link.txt", "loop/"],
        "of a kind that is not read": ["image.png", "pipe.txt"],
        "linked to nothing": ["nowhere.txt"],
        "without records": ["package.json", "short.json"],
        "of a run": ["run/"],
    }
    said = found.said()
    assert said.startswith("6 files are read, 13 left out: ") and "\n" not in said
    assert "2 of a kind that is not read (image.png, pipe.txt)" in said


def test_a_folder_of_nothing_to_read_says_what_it_holds(tmp_path):
    (tmp_path / "scan.pdf").touch()
    with pytest.raises(ValueError, match=r"holds no file that ends in .*scan\.pdf"):
        find_files(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "n,body\n1,x\n", "a.csv row 2 has no column 'text', only: n, body"),
        ("a.csv", "text,n\nhello, world,1\n", "row 2 has 1 fields more than the first row"),
        ("a.csv", 'text\n"never closed\n', "row 2 is not CSV"),
        ("a.json", '{"body": "x"}', "row 1 has no column 'text', only: body"),
        ("a.json", '[{"body": "x"}]', "record 1 has no column 'text', only: body"),
        ("a.json", '["x"]', "record 1 is of type str"),
        ("a.json", '[{"text": "x"}', "a.json is not a JSON file"),
        ("a.parquet", "PAR1", "cannot read .*a.parquet"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as refused:
        read(tmp_path / name)
    assert "\n" not in str(refused.value)


def test_rows_that_are_not_utf8_are_skipped_alone(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"text\nok\ncaf\xe9\nlast\n")
    counts = no_counts()
    documents = read_documents(find_files(str(tmp_path)), "text")
    assert [usable(d, counts) for d in documents] == [b"ok", b"", b"last"]
    assert counts["skipped_not_utf8"] == 1


def test_what_a_document_of_a_text_file_is_can_be_chosen(tmp_path):
    text = "Title\n\nFirst.\nMore.\n\nSecond.\n"
    (tmp_path / "a.txt").write_text(text)
    assert read(tmp_path) == ["Title", "First.\nMore.", "Second."]
    assert read(tmp_path, txt_documents="line") == text.removesuffix("\n").split("\n")
    assert read(tmp_path, txt_documents="file") == [text]
    (tmp_path / "a.txt").rename(tmp_path / "a.md")
    assert read(tmp_path) == [text]
    (tmp_path / "a.md").rename(tmp_path / "a.raw")
    assert read(tmp_path) == text.removesuffix("\n").split("\n")
