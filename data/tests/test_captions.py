"""Captions and prompts become words in the same way, whatever wrote the text."""
import time

import pytest

import sample
from data.clips.captions import MOST, read_caption, words_in
from data.clips.find import find_clips
from data.tests.conftest import counting
from sora import InputError

import numpy as np


@pytest.mark.parametrize("text,words", [
    ("Wave, one hand!", "wave one hand"), ("  3\t7\r\n", "3 7"), ("3,7", "3 7"), ('"jump"; (high)...', "jump high"),
    ("one-handed -- don't", "one-handed don't"), ("wave_left", "wave_left"), ("\ufeffwave", "wave"),
    ("wa\u200bve", "wave"), ("cafe\u0301", "caf\u00e9"), ("CAF\u00c9", "caf\u00e9"), ("\uff13", "3"),
    ("\u6ce2\u3002\u8df3", "\u6ce2 \u8df3"), ("\u0939\u093f\u0902\u0926\u0940", "\u0939\u093f\u0902\u0926\u0940"),
    ("\u00a1hola! \u00bfqu\u00e9?", "hola qu\u00e9"), ("?!", ""), ("", "")])
def test_words_that_look_equal_are_equal(text, words):
    got = " ".join(words_in(text))
    assert got == words, f"{text!r}: expected {words!r}, got {got!r}"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_captions_are_decoded_by_their_mark(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("H\u00f6her, Anna!\r\n".encode(encoding))
    got = read_caption(tmp_path / "a.txt")
    assert got == ["h\u00f6her", "anna"], f"{encoding}: got {got}"


def test_big_endian_marks_are_known(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xfe\xff" + "wave".encode("utf-16-be"))
    assert read_caption(tmp_path / "a.txt") == ["wave"], "UTF-16 with the mark of big-endian text"


@pytest.mark.parametrize("data,words", [
    ("h\u00f6her".encode("latin-1"), "byte 1 is not utf-8; save the caption as UTF-8"),
    ("wave".encode("utf-16-le"), "zero byte"), (b"\xff\xfew", "not utf-16"),
    (b"wave " * (MOST + 1), f"{MOST + 1} words; expected up to {MOST}"),
    (b"wave " * 10 ** 6, f"more than {100 * MOST} bytes")])
def test_what_is_no_caption_is_named(tmp_path, data, words):
    (tmp_path / "a.txt").write_bytes(data)
    begin = time.monotonic()
    with pytest.raises(InputError, match="a.txt") as error:
        read_caption(tmp_path / "a.txt")
    assert words in str(error.value), f"expected {words!r}, got {error.value}"
    assert time.monotonic() - begin < 5, "megabytes of words should be refused at once"


def test_a_clip_whose_caption_cannot_be_read_is_skipped_and_named(tmp_path):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", counting(8))
    (tmp_path / "a.txt").write_bytes(b"h\xf6her")
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfWave, high!")
    found = find_clips(tmp_path)
    assert [clip[:2] for clip in found.clips] == [["b.npy", "wave high"]], f"got {found.clips}"
    assert "a.txt" in found.skipped["a.npy"], f"expected a.npy with a reason, got {found.skipped}"


def test_prompts_are_read_as_captions_are():
    words = ["wave", "high"]
    ids = sample.word_ids("\ufeffHigh, WAVE!", words, 2, "cpu").tolist()
    assert ids == [[2, 1]] * 2, f"expected the ids of high and wave, got {ids}"
    with pytest.raises(InputError, match="no word in it"):
        sample.word_ids("...", words, 1, "cpu")
