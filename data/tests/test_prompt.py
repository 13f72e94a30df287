"""Prompts that change on the way: which latent frame is told which words."""
import pytest
import torch

import sample
import sora
from data.runtime.config import ClipConfig
from data.sampling.prompt import detailed, read_places, word_ids
from data.tests.conftest import assert_near, close, complaint, spy

DIGITS = [str(digit) for digit in range(10)]


def ids(prompt, words=DIGITS, n=1, **options):
    return word_ids(prompt, words, n, "cpu", **options).tolist()


@pytest.mark.parametrize("prompt,expected", [
    ("3", [[4]]), ("", [[0]]), ("3 7", [[4, 8]]),
    ("3, 8 at 8", [[[4], [4], [9]]]), ("3,8 at 8", [[[4], [4], [9]]]), ("3,  8\tAT  8 ", [[[4], [4], [9]]]),
    ("3, 8 at 4, 1 at 12", [[[4], [9], [9], [2]]]),
    ("3 7, 8 at 4", [[[4, 8], [9, 0]]]), (", 8 at 4", [[[0], [9]]]),
    ("any", [[0]]), ("3 7, Any. at 4", [[[4, 8], [0, 0]]]), (0, [[1]]), (None, [[0]])])
def test_each_latent_frame_has_the_words_of_its_time(prompt, expected):
    got = ids(prompt)
    assert got == expected, f"{prompt!r}: expected {expected} (one for each latent frame), got {got}"


def test_every_clip_is_told_the_same():
    assert word_ids("3, 8 at 8", DIGITS, 5, "cpu").shape == (5, 3, 1), "expected ids (n,F,words)"
    assert word_ids("3", DIGITS, 5, "cpu").shape == (5, 1), "expected ids (n,words)"


def test_a_comma_or_an_at_of_a_caption_is_no_time():
    """A folder's captions may hold commas, or the word "at"."""
    words = ["a", "cat", "look", "at", "5", "dog"]
    assert ids("a cat, a dog", words) == [[1, 2, 1, 6]], "the comma of a caption was taken for a change"
    assert ids("a cat, any at 4", ["a", "any", "cat"]) == [[[1, 3], [2, 0]]], "\"any\" is a word of this vocabulary"
    assert ids("look at 5", words) == [[3, 4, 5]], "the first part has no time: \"at 5\" are words of it"
    assert ids("a dog, look at 5 at 8", words) == [[[1, 6, 0], [1, 6, 0], [3, 4, 5]]], (
        "of \"look at 5 at 8\" only the last is a time")


@pytest.mark.parametrize("at,unseen,start", [
    (8, 0, 2), (9, 0, 2), (10, 0, 3), (6, 0, 2), (5, 3, 2), (8, 3, 3)])
def test_times_are_rounded_to_latent_frames_with_a_note(capsys, at, unseen, start):
    """unseen: the first latent frame of a picture shows its last video frame only."""
    got = word_ids(f"3, 8 at {at}", DIGITS, 1, "cpu", unseen)
    said = capsys.readouterr().out
    assert got.shape[1] == start + 1, (
        f"8 at {at}, {unseen} frames unseen: expected latent frame {start}, got {got.shape[1] - 1}")
    exact = 4 * start - unseen
    if exact == at:
        assert not said, f"8 at {at} begins exactly there, yet it says {said!r}"
    else:
        assert f"8 begins at {exact}, not {at}" in said, f"8 at {at} becomes {exact}: got {said!r}"


@pytest.mark.parametrize("prompt,words", [
    ("3, 8 at 0", "times that rise"),
    ("3, 8 at 1", "times that rise"),
    ("3, 8 at 8, 1 at 8", "times that rise"),
    ("3, 8 at 20, 1 at 8", "times that rise"),
    ("3, x at 8", "'x' is not known"),
    ("3, 8 at", "'at' is not known"),
    ("3, 8 at -4", "'at' is not known"),
    ("3, 8 at 99999999999", "expected a video frame below 10,000,000"),
    ("3, 8 at 8, 5", "'8 at 8, 5': expected words and then a time"),
    ("3, at 8", "'at 8': expected words and then a time"),
    ("3 8 at 8", 'a prompt that changes is written "3, 8 at 60"'),
    ("3, ! at 8", "no word in it")])
def test_times_that_cannot_be_are_refused(trained, tmp_path, capsys, monkeypatch, prompt, words):
    monkeypatch.chdir(tmp_path)
    said = complaint(capsys, sample.main, "--ckpt", trained / "sora.pt", "--prompt", prompt)
    assert words in said, f"{prompt!r}: expected {words!r}, got {said!r}"


@pytest.mark.parametrize("flags", [
    ["--loop"], ["--connect", "a.npy", "b.npy"], ["--extend-backward", "a.npy"], ["--edit", "a.npy"]])
def test_uses_without_a_forward_time_refuse_a_change(tmp_path, capsys, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    said = complaint(capsys, sample.main, "--prompt", "3, 8 at 8", *flags)
    assert "one that changes goes with text" in said, f"{flags}: got {said!r}"


def told(calls):
    """{latent frame of the video: the word told when it was made} of calls of sora.generate."""
    words, made = {}, 0
    for args, _, _ in calls:
        known, caption = args[3], args[4]
        caption = caption[:, None].expand(-1, len(known), -1) if caption.ndim == 2 else caption
        for word in caption[0, ~known, 0].tolist():
            words[made] = word
            made += 1
    return words


def test_new_frames_are_told_their_own_words(make, monkeypatch):
    """From text, 60 frames: those from 40 on are told 8, and the windows before it are not."""
    calls = spy(monkeypatch, sora, "generate")
    made = make("--prompt", "3, 8 at 40", "--frames", 60)
    words = told(calls)
    expected = {f: 4 if f < 10 else 9 for f in words}
    assert words == expected, f"expected word 4 up to latent frame 9 and 9 from 10 on, got {words}"
    plain = make("--prompt", "3", "--frames", 60)
    same = (made.latent == plain.latent).all(1).all(-1).all(-1)[0, :15].tolist()
    assert same == [True] * 10 + [False] * 5, (
        f"against \"3\" alone: expected latent frames 0 to 9 to be the same, later ones not, got {same}")
    first = calls[0][0][4]
    assert first.shape == (1, 4, 1), f"expected a caption a latent frame, got {tuple(first.shape)}"


def test_without_frames_the_video_is_long_enough_to_see_it(make, capsys):
    assert len(make("--prompt", "3, 8 at 20").video) == 40, "expected as long after the change as before it"
    assert "changes at 20, after the last of 16" in make("--prompt", "3, 8 at 20", "--frames", 16).printed, (
        "no note that the change is never seen")


def test_a_clip_and_a_picture_go_on_with_words_of_their_time(make, clip, monkeypatch):
    calls = spy(monkeypatch, sora, "generate")
    make("--extend", clip, "--prompt", "3, 8 at 32", "--frames", 48)
    known, caption = calls[0][0][3], calls[0][0][4]
    assert known.sum() > 0 and caption.shape[1] == len(known), "expected a past, and a caption a frame"
    new = told(calls)
    words = [new[f] for f in range(7)]                              # latent frames 5 to 11 of the video
    assert words == [4, 4, 4, 9, 9, 9, 9], (
        f"the clip has 5 latent frames; expected 8 (word 9) from latent frame 8 on, got {words} from 5 on")
    calls.clear()
    make("--image", clip, "--prompt", "3, 8 at 13", "--frames", 29)
    words = list(told(calls).values())[:6]
    assert words == [4, 4, 4, 9, 9, 9], f"a picture: expected 8 (word 9) from video frame 13 on, got {words}"


def test_a_prompt_that_changes_to_itself_changes_nothing(make):
    """The whole path of captions per latent frame against that of one caption."""
    plain, same = make("--prompt", "3", "--frames", 40), make("--prompt", "3, 3 at 20", "--frames", 40)
    assert_near(same.video, plain.video, "\"3, 3 at 20\" against \"3\"")
    assert close(same.latent, plain.latent), "the latents of \"3, 3 at 20\" are not those of \"3\""


# --- where things are ---------------------------------------------------------------------------------

TWO = ClipConfig(digits=2, digit_size=28, height=64, width=64, frames=20, placed=0.9)


def places_of(caption):
    """y, x (...,2) of ids; -1, 999 where there is no place."""
    place = caption // sora.PLACE - 1
    return torch.stack([place // 1000, place % 1000], dim=-1)


def test_a_short_prompt_becomes_a_detailed_caption():
    caption = word_ids("3 7", DIGITS, 2, "cpu")
    got = detailed(caption, TWO, (64, 80), 5, [4, 5])
    assert got.shape == (2, 6, 2), f"5 latent frames with places and one without: got {tuple(got.shape)}"
    assert torch.equal(got % sora.PLACE, caption[:, None].expand(-1, 6, -1)), "the words stay what they are"
    where = places_of(got)
    assert (where[:, 5] == torch.tensor([-1, 999])).all(), "after the window nothing says where digits are"
    low, high = where[:, :5].amin((0, 1, 2)), where[:, :5].amax((0, 1, 2))
    assert (low >= 14).all() and (high <= torch.tensor([50, 66])).all(), (
        f"middles of 28-pixel digits on 64x80: expected 14 to 50 and 14 to 66, got {low.tolist()} to {high.tolist()}")
    assert (where[:, 1:5] != where[:, :4]).any(), "digits of training clips move: so must the places"
    alone = detailed(caption[:1], TWO, (64, 80), 5, [5])
    assert torch.equal(alone[0], got[1]), "the seed of a video decides its places, alone or beside others"
    assert not torch.equal(got[0], got[1]), "two seeds, the same places"


def test_a_prompt_that_changes_keeps_its_times():
    caption = word_ids("3, 8 at 12", DIGITS, 1, "cpu")
    got = detailed(caption, TWO, (64, 64), 5, [0])[0, :, 0]
    assert (got % sora.PLACE).tolist() == [4, 4, 4, 9, 9, 9], "the second word begins at latent frame 3"
    assert (got[:5] >= sora.PLACE).all() and got[5] == 9, "places are for the first 5 latent frames"


def test_places_of_the_command_line():
    """Points are for the first latent frame; paths are run through evenly."""
    got = read_places("16,40 8,50", 2, 5, (64, 64))
    assert got.tolist() == [[[16, 40], [8, 50]]], f"points: the first latent frame only, got {got.tolist()}"
    got = read_places("8,50>40,10 0,0>10,0>10,30", 2, 5, (64, 64)).transpose(0, 1).tolist()
    assert got[0] == [[8, 50], [16, 40], [24, 30], [32, 20], [40, 10]], got[0]
    assert got[1] == [[0, 0], [5, 0], [10, 0], [10, 15], [10, 30]], f"a path that bends: got {got[1]}"
    assert read_places("20,70", 1, 5, (32, 80)).tolist() == [[[20, 70]]], "y is held against the height, x the width"
    caption = detailed(word_ids("3 7", DIGITS, 2, "cpu"), TWO, (64, 64), 5, [0, 1], "16,40 30,2")
    where = places_of(caption)                                      # (2,6,words,2)
    assert caption.shape == (2, 6, 2) and (where[:, 5] == torch.tensor([-1, 999])).all(), "a window, and none later"
    off = (where[:, 0] - torch.tensor([[16, 40], [30, 14]])).abs()  # 14: half a digit from the edge
    assert (off <= 0.1 * 36 * 4).all(), f"paths begin at the points, in 4 frames of 3.6 pixels: off by {off.tolist()}"
    assert (where[0] != where[1]).any(), "the seed of each video draws where its digits go from there"
    path = detailed(word_ids("3", DIGITS, 1, "cpu"), TWO, (64, 64), 3, [0], "0,63>40,10>20,20")
    assert places_of(path)[0, :3, 0].tolist() == [[14, 50], [40, 14], [20, 20]], "kept within the picture"
    longer = detailed(word_ids("3, 8 9 at 28", DIGITS, 1, "cpu"), TWO, (64, 64), 5, [0], "16,40>40,16")[0]
    assert (longer % sora.PLACE).tolist() == [[4, 0]] * 7 + [[9, 10]], "the second caption begins at latent frame 7"
    assert (longer[:5, 0] >= sora.PLACE).all() and (longer[5:] < sora.PLACE).all(), "places: a window of them"
    assert (longer[:5, 1] == 0).all(), "no word is nowhere"


@pytest.mark.parametrize("text,words", [
    ("16,16", r"begins with \(2\)"), ("16 16", "expected y,x"), ("16,16 x,3", "expected y,x"),
    ("16,16 3,-4", "expected y,x"), ("16,16 3,4>", "expected y,x"), ("16,16 64,3", "y from 0 to 63"), ("", "expected y,x"),
    (" ".join(2 * [">".join(6 * ["1,2"])]), "a path of 6 points; expected up to 5"),
    ("16,16 3,48", "y from 0 to 63, x from 0 to 47"), ("16,16 3,4>5,6", "or a path for each")])
def test_places_that_cannot_be(text, words):
    with pytest.raises(sora.InputError, match=words):
        read_places(text, 2, 5, (64, 48))


@pytest.mark.parametrize("flags,words", [
    (["--prompt", "5", "--places", "9,9"], "say no places"), (["--places", "9,9"], "expected --prompt"),
    (["--prompt", "5", "--places", "9,9", "--extend", "x.npy"], "the given clip or picture shows where things are")])
def test_places_without_use(ckpt, tmp_path, capsys, flags, words):
    said = complaint(capsys, sample.main, "--ckpt", ckpt, "--out", tmp_path / "x.gif", *flags)
    assert words in said and "9,9" in said, f"{flags}: got {said!r}"
