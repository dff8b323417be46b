import pytest
import torch

from asarm.data import pack, read_text


def test_pack_cuts_the_joined_documents_and_drops_the_rest():
    blocks = pack(iter([[1, 2, 3], [], [4, 5], [6, 7]]), 3)
    assert blocks.dtype == torch.int64
    assert blocks.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_pack_refuses_less_than_one_block_naming_both_numbers():
    with pytest.raises(ValueError, match="2 tokens, less than one block of 3"):
        pack([[1, 2]], 3)
    with pytest.raises(ValueError, match="0 tokens, less than one block of 3"):
        pack([], 3)


def test_read_text_keeps_the_bytes(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("é\r\n\tx\n".encode())
    assert read_text(path) == "é\r\n\tx\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"ab\xe9c", "byte 0xe9 at offset 2"),
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
