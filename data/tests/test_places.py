"""Captions that say where things are, from training to sampling."""
from dataclasses import replace

import pytest
import torch

import sample
import sora
import train
from data.clips.places import digits_of, with_places
from data.evaluation import ends, long_video
from data.evaluation.judge import words_of
from data.runtime.checkpoints import SHIPPED, load_models, save_checkpoint
from data.studies import places, study
from data.tests.conftest import RUN, call, complaint, spy, start


@pytest.fixture(scope="module")
def placed(tmp_path_factory):
    """A checkpoint of a miniature that was trained on such captions."""
    out = tmp_path_factory.mktemp("placed")
    call(train.main, *RUN, "--vae-steps", 2, "--steps", 2, "--digits", 2, "--placed", 0.5, "--out", out)
    return str(out / "sora.pt")


@pytest.fixture
def told(monkeypatch):
    """The captions that `extend` and `generate` get from now on: two lists of (args, keywords, result)."""
    return spy(monkeypatch, sample, "extend"), spy(monkeypatch, sora, "generate")


def has_places(caption):
    return (caption >= sora.PLACE)


def test_training_drops_some_places(tmp_path, monkeypatch):
    """Some clips keep the places of the first latent frames, some have none; the words stay."""
    seen = spy(monkeypatch, train, "draw_noise")
    monkeypatch.setattr(train, "finish", lambda run: None)
    call(train.main, *RUN, "--vae-steps", 1, "--steps", 4, "--batch", 32, "--digits", 2, "--placed", 0.5,
         "--out", tmp_path / "out")
    captions = torch.cat([args[4] for args, _, _ in seen])          # (n,F,2), before captions are dropped
    counts = has_places(captions)[..., 0].sum(1)
    assert set(counts.tolist()) == {0, 1, 2, 3, 4}, (
        f"latent frames with places: expected 0 to 4, got {sorted(set(counts.tolist()))}")
    assert ((captions % sora.PLACE - 1) < 10).all(), "a word beyond the digits: is the place in the way?"


def test_text_gets_a_window_of_places(placed, told, tmp_path):
    windows, _ = told
    call(sample.main, "--ckpt", placed, "--prompt", "3 7", "--n", 2, "--frames", 24, "--out", tmp_path / "x.npy")
    caption = windows[0][0][3]
    assert caption.shape == (2, 5, 2), f"4 latent frames of a window and what comes then: got {tuple(caption.shape)}"
    assert has_places(caption[:, :4]).all() and not has_places(caption[:, 4]).any(), (
        "places belong to the first window: what comes later has to go on by itself")
    assert (digits_of(caption, 2) == torch.tensor([4, 8])).all(), "the prompt's words"


def test_a_prompt_without_words_has_no_places_and_no_guidance(placed, tmp_path, capsys):
    """None, "" and "any" are no caption; 0, which a notebook may say, is the word "0"."""
    models = load_models(placed)
    usual = models.config.guidance
    for prompt, guidance in ((None, 1), ("", 1), ("any", 1), (0, usual), ("any, 3 at 8", usual)):
        got = sample.make_job(models, prompt).sampling["guidance"]
        assert got == guidance, f"prompt {prompt!r}: expected guidance {guidance}, got {got}"
    for prompt in ("any", "any, 3 7 at 8"):
        said = complaint(capsys, sample.main, "--ckpt", placed, "--prompt", prompt, "--places", "9,9", "--out",
                         tmp_path / "x.gif")
        assert "begins with no word" in said, f"{prompt!r}: got {said!r}"
    call(sample.main, "--ckpt", placed, "--prompt", "any", "--out", tmp_path / "x.gif")
    assert "words in a caption" not in capsys.readouterr().out, "\"any\" is not one word of two"


@pytest.mark.parametrize("rule", ["official", "stochastic"])
def test_places_can_be_given(placed, told, tmp_path, rule):
    """A point: a path from there; a path: as it is."""
    windows, path = told[0], tmp_path / "rule.pt"
    state = torch.load(placed, weights_only=True)
    save_checkpoint(path, **state | {"config": state["config"] | {"rule": rule}})
    for places, first, last in (("10,12 22,8", None, None),
                                ("10,12>20,20 22,8>10,20", [(10, 12), (22, 10)], [(20, 20), (10, 20)])):
        windows.clear()
        call(sample.main, "--ckpt", path, "--prompt", "3 7", "--places", places, "--n", 4, "--out",
             tmp_path / "x.npy")
        place = windows[0][0][3] // sora.PLACE - 1                  # (n,F,words)
        got = [[divmod(p, 1000) for p in row] for row in place[0, [0, 3]].tolist()]
        if first:
            assert got == [first, last], f"{places}: expected {first} to {last}, got {got}"
        else:                                                       # up to 4 pixels a frame, 4 frames
            y_x = torch.stack([place[:, 0] // 1000, place[:, 0] % 1000], dim=-1)      # (n,words,2)
            off = (y_x - torch.tensor([[10, 12], [22, 10]])).abs().max()       # 8 is beyond the edge
            assert off <= 7 and (place[:, 3] > 0).all(), f"paths begin at {places}; after 2 frames they are {off} off"


@pytest.mark.parametrize("use", ["--extend", "--edit", "--image", "--extend-backward"])
def test_what_is_given_shows_its_places_itself(placed, told, monkeypatch, tmp_path, clip, use):
    windows, single = told[0], spy(monkeypatch, sample, "generate")
    call(sample.main, "--ckpt", placed, use, clip, "--resize", "--prompt", "3 7", "--out", tmp_path / "x.npy")
    captions = [args[3] for args, _, _ in windows] + [args[4] for args, _, _ in single]
    assert captions and not any(has_places(caption).any() for caption in captions), (
        f"{use}: places that were drawn would contradict the clip")


def test_a_loop_leads_back_without_places(placed, told, tmp_path):
    call(sample.main, "--ckpt", placed, "--loop", "--prompt", "3 7", "--frames", 32, "--out", tmp_path / "x.npy")
    captions = [args[4] for args, _, _ in told[1]]                  # a window each
    assert has_places(captions[0]).all(), "the window that a loop begins with is told places"
    assert not any(has_places(caption).any() for caption in captions[1:]), "the way back is not"


def test_measurements_of_long_videos_go_on_without_places(placed, monkeypatch):
    seen = spy(monkeypatch, sora, "generate")
    models = load_models(placed, "cpu")
    judge = long_video.Judge(models.config)
    for window in (4, 6):                                           # as in training, and longer
        seen.clear()
        settings = dict(window=window, context=1, anchor=24, sampling=dict(steps=1, guidance=2.0))
        list(long_video.drift(judge, models, 4, 32, 0, "throughout", "", settings))
        captions = [args[4] for args, _, _ in seen]
        assert has_places(captions[0][:, :4]).all() and not has_places(captions[0][:, 4:]).any(), "a training clip's"
        assert not any(has_places(caption).any() for caption in captions[1:]), (
            "only the first window is told places: the last ones must not hold for all that follows")
    seen.clear()
    ends.loops(models, 2, 32, 4, 1, 24, 0, dict(steps=1, guidance=2.0))
    captions = [args[4] for args, _, _ in seen]
    assert has_places(captions[0]).all() and not has_places(captions[-1]).any(), "nor is the way back of a loop"


def test_other_sizes_and_worlds(placed, capsys, tmp_path):
    """Where digits have no room, none is drawn; keys say where things go already."""
    call(sample.main, "--ckpt", placed, "--prompt", "3 7", "--size", "16x16", "--out", tmp_path / "x.npy")
    said = complaint(capsys, sample.main, "--ckpt", placed, "--prompt", "3 7", "--size", "16x16", "--places", "9,9", "9,9",
                     "--out", tmp_path / "x.npy")
    assert "9,9 9,9" in said and "16x16 is not of 20 to 1,000 pixels" in said, said
    with pytest.raises(sora.InputError, match="say no places"):
        sample.text_to_video(load_models(SHIPPED, "cpu"), "5", places="9,9")
    with pytest.raises(sora.InputError, match="begins with no word"):
        sample.text_to_video(load_models(placed, "cpu"), "", places="9,9")
    said = complaint(capsys, train.main, *RUN, "--rule", "steered", "--placed", 0.5, "--out", tmp_path / "out")
    assert "placed 0.5" in said and "expected 0" in said, said


def test_the_study_counts_twins():
    """Readings are sorted; clips that ask for one digit twice do not count."""
    words = torch.tensor([[8, 4], [4, 8], [6, 6]])                  # 7 and 3, twice; 5 and 5
    read = torch.tensor([[[3, 7], [3, 3], [7, 7]], [[5, 5], [3, 9], [7, 9]], [[5, 5], [5, 5], [5, 5]]])
    both, twice = places.twins(read, words)
    assert both.tolist() == [[1, 0, 0], [0, 0, 0]], f"3 7 is read in the first frame only: got {both.tolist()}"
    assert twice.tolist() == [[0, 1, 1], [0, 0, 0]], f"3 3 and 7 7 are twins, 5 5 was not asked: got {twice.tolist()}"


def test_the_study_tells_more_and_more(placed, ckpt, tmp_path, monkeypatch, capsys, few_references):
    monkeypatch.setattr(study, "TABLES", tmp_path)
    seen = spy(monkeypatch, places, "sample_clips")
    call(places.main, "--ckpt", placed, "--n", 4, "--steps", 1)
    counts = [has_places(args[4]).all(-1).sum(1).tolist() for args, _, _ in seen]
    assert counts == [[frames] * 4 for frames in range(5)], f"latent frames with places: 0 to 4, got {counts}"
    lines = (tmp_path / "places.csv").read_text().splitlines()
    assert len(lines) == 1 + 5 * 4, f"5 rows of 4 numbers and a heading: got {len(lines)} lines"
    assert "--digits 2" in complaint(capsys, places.main, "--ckpt", ckpt, "--n", 4), "one digit, no places"


def test_a_run_can_begin_with_weights_that_know_more_or_less_of_places(placed, ckpt, tmp_path):
    """--init: embeddings of places are new, or left behind; --resume: the run stays what it is."""
    run = start("--init", ckpt, "--placed", 0.5, "--out", tmp_path / "more")
    assert run.dit.embed_place is not None, "--init of a model without places, --placed 0.5: it is to learn them"
    one = start("--init", placed, "--placed", 0.9, "--out", tmp_path / "share")
    theirs = load_models(placed, "cpu").dit.embed_place.weight
    assert torch.equal(one.ema.embed_place.weight, theirs), "--init must take the embeddings of places over"
    less = start("--preset", "steered", "--init", placed, "--digits", 2, "--out", tmp_path / "less")
    assert less.dit.embed_place is None, "a steered world has no places"


def test_scores_of_models_with_and_without_places_can_be_compared(placed):
    config = load_models(placed, "cpu").config
    caption = with_places(torch.tensor([[[4, 8]] * 4]), torch.tensor(20.0).expand(1, 4, 2, 2))
    assert words_of(caption, config).tolist() == [[4, 8]], "places must not make the same captions differ"
    plain = torch.tensor([[[4, 11], [4, 12]]])
    assert torch.equal(words_of(plain, replace(config, placed=0.0)), plain), "keys of a steered world stay"


def test_captions_of_a_folder_have_no_places(folder, tmp_path, quick):
    """--placed has no effect on clips of one's own, and does no harm."""
    call(train.main, *RUN, "--data", folder, "--heldout", "one", "--vae-steps", 1, "--steps", 2, "--height", 32,
         "--width", 40, "--frames", 16, "--placed", 0.5, "--out", tmp_path / "out")
    call(sample.main, "--ckpt", tmp_path / "out/sora.pt", "--prompt", "wave", "--out", tmp_path / "x.npy")
