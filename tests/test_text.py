"""Texts on disk become numbers by rules that are easy to say, or are refused in one line."""

import numpy as np
import pytest

from darts_dist.data import text
from darts_dist.errors import ConfigError, DataError

TEXTS = {"train": "a b a\n\nc <unk>", "valid": "b d\n", "test": "e a d\r\n"}


def write(folder, **texts):
    for split, content in (TEXTS | texts).items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / f"{split}.txt").write_bytes(data)
    return folder


def test_words_are_numbered_as_they_first_appear_over_all_three_texts(tmp_path):
    corpus = text.read(write(tmp_path))
    assert corpus.words == ("a", "b", "<eos>", "c", "<unk>", "d", "e")
    assert corpus.train.tolist() == [0, 1, 0, 2, 2, 3, 4, 2]
    assert corpus.valid.tolist() == [1, 5, 2] and corpus.test.tolist() == [6, 0, 5, 2]
    assert corpus.train.dtype == np.int32


def test_a_line_ends_where_the_original_ends_it(tmp_path):
    train = "\ufeffa\u2028b\x0cc \t d\r\ne\rf\n"  # separators of lines elsewhere are spaces here
    corpus = text.read(write(tmp_path, train=train))
    words = [corpus.words[n] for n in corpus.train]
    assert words == ["a", "b", "c", "d", "<eos>", "e", "<eos>", "f", "<eos>"]


def test_a_line_of_a_million_words_is_read_as_any_other(tmp_path):
    corpus = text.read(write(tmp_path, train="a b " * 500_000))
    assert corpus.words[:3] == ("a", "b", "<eos>")
    assert np.bincount(corpus.train).tolist() == [500_000, 500_000, 1]


def test_new_words_are_taken_for_unknown_when_asked(tmp_path):
    corpus = text.read(write(tmp_path), new_words="unknown")
    assert corpus.words == ("a", "b", "<eos>", "c", "<unk>")
    assert corpus.valid.tolist() == [1, 4, 2] and corpus.test.tolist() == [4, 0, 4, 2]


@pytest.mark.parametrize(
    ("new_words", "texts", "said"),
    [
        ("stop", {}, r"valid.txt: line 1: train.txt has no 'd'; wanted .* by \"add\""),
        ("stop", {"valid": "b", "test": "a\n\nb e"}, r"test.txt: line 3: train.txt has no 'e'"),
        ("unknown", {"train": "a b c"}, "has no 'd', and no <unk> to take it for"),
    ],
)
def test_new_words_that_may_not_be_are_named(tmp_path, new_words, texts, said):
    with pytest.raises(DataError, match=said):
        text.read(write(tmp_path, **texts), new_words=new_words)


def test_a_policy_that_is_unknown_is_refused(tmp_path):
    with pytest.raises(ConfigError, match='new_words="skip" is unknown; known are add'):
        text.read(write(tmp_path), new_words="skip")


@pytest.mark.parametrize("content", ["", "\n \n\n", "\ufeff"])
def test_a_text_without_words_is_refused(tmp_path, content):
    with pytest.raises(DataError, match=r"valid\.txt holds no words"):
        text.read(write(tmp_path, valid=content))


def test_what_is_not_utf8_is_refused_with_its_line(tmp_path):
    with pytest.raises(DataError, match=r"test\.txt: line 3 is not UTF-8"):
        text.read(write(tmp_path, test=b"a\nb\n\xff\xfe\n"))


def test_a_missing_text_is_named_with_what_is_there(tmp_path):
    write(tmp_path)
    (tmp_path / "valid.txt").rename(tmp_path / "ptb.valid.txt")
    with pytest.raises(DataError, match=r"has no valid\.txt; found ptb\.valid\.txt, test"):
        text.read(tmp_path)


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"data\.path is empty"):
        text.read("")
    with pytest.raises(DataError, match="nowhere does not exist"):
        text.read(tmp_path / "nowhere")
    file = tmp_path / "file.txt"
    file.write_text("a")
    with pytest.raises(DataError, match=r"file\.txt is not a folder"):
        text.read(file)


def test_columns_are_contiguous_parts_side_by_side():
    table = text.columns(np.arange(11, dtype=np.int32), 3)
    assert table.tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    assert table.flags["C_CONTIGUOUS"] and table.dtype == np.int32


def test_more_columns_than_the_text_fills_are_refused():
    assert text.columns(np.arange(6), 3).shape == (2, 3)
    with pytest.raises(
        ConfigError, match=r"5 words does not fill two rows of 3 columns.* at most 2"
    ):
        text.columns(np.arange(5), 3)


def test_the_packaged_text_has_the_same_words_in_all_three_parts():
    corpus = text.load_sample(new_words="stop")
    assert len(corpus.words) == 2955
    assert (len(corpus.train), len(corpus.valid), len(corpus.test)) == (38_992, 10_501, 9_333)
    assert set(corpus.train) == set(range(len(corpus.words)))
    assert [corpus.words[n] for n in corpus.train[:5]] == ["=", "Homarus", "gammarus", "=", "<eos>"]
