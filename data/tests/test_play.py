"""The world to play in: the preset that begins it, and what its network is shown and told."""
import re

import pytest
import torch

import sample
import sora
import train
from data.clips.moving_mnist import KEYS
from data.play.world import World
from data.runtime.checkpoints import load_checkpoint, load_models
from data.sampling.prompt import word_ids
from data.tests.conftest import call, close, complaint, same, spy, start



@pytest.fixture(scope="module")
def models(steered):
    return load_models(steered)


def ids(models, *prompts):
    """A caption for each prompt: (n,words)."""
    return torch.cat([word_ids(prompt, models.words, 1, "cpu") for prompt in prompts])


# --- the preset ---------------------------------------------------------------------------------------

def test_the_preset_begins_with_the_weights_and_adds_words(trained, tmp_path):
    """Its config is the preset's but for the networks; digits keep their embeddings, keys have new ones."""
    run = start("--preset", "steered", "--init", trained / "sora.pt", "--out", tmp_path, "--device", "cpu")
    saved, steps = load_checkpoint(trained / "sora.pt"), train.PRESETS["steered"].steps
    got = run.config.rule, run.config.steps, run.stage
    assert got == ("steered", steps, "dit"), f"expected the preset's config, and no VAE to train, got {got}"
    assert (run.config.dim, run.config.depth) == (48, 2), "the networks must be those of the checkpoint"
    assert run.words == [str(digit) for digit in range(10)] + list(KEYS), f"got words {run.words}"
    for name in ("dit", "ema"):
        weights, theirs = dict(getattr(run, name).state_dict()), dict(saved[name])
        rows, known = weights.pop("embed_word.weight"), theirs.pop("embed_word.weight")
        assert same(weights, theirs), f"{name}: the weights are not the checkpoint's"
        assert len(rows) == 16, f"{name}: expected embeddings of no word and 15 words, got {len(rows)}"
        assert torch.equal(rows[:11], known), f"{name}: digits changed their embeddings"
        spread = rows[11:].std(1)
        assert (spread > 0.3).all(), f"{name}: expected keys of deviation 0.5, got {spread.tolist()}"
        assert len(rows.unique(dim=0)) == 16, f"{name}: two words have one embedding"
    assert same(run.vae.state_dict(), saved["vae"]), "the VAE is not the checkpoint's"


def test_words_that_do_not_follow_are_refused(steered, trained, folder, tmp_path, capsys):
    official, out = trained / "sora.pt", ["--out", tmp_path / "out"]
    for flags, words in (
            (["--init", steered, "--rule", "official"], "its words are 0, .*glide; these clips have 0, .*9:"),
            (["--init", official, "--data", folder], "its words are .*jump"),
            (["--init", official, "--rule", "steered", "--dim", 96], "--dim 96: .* has 48"),
            (["--preset", "steered"], "--vae-steps 0 without --init.*tiny.pt"),
            (["--preset", "steered", "--init", steered, "--dim", 96], "--dim 96: .* has 48")):
        said = complaint(capsys, train.main, *flags, *out)
        assert re.search(words, said), f"{flags}: expected {words!r}, got {said!r}"


def test_videos_and_images_of_a_steered_world_can_be_packed(trained, tmp_path, quick):
    """--shapes: an image is one latent frame with one key; captions go with their own clips."""
    call(train.main, "--preset", "steered", "--init", trained / "sora.pt", "--steps", 2, "--device", "cpu",
         "--shapes", "16x32x32:2 8x24x40:2 1x32x32:2", "--out", tmp_path)
    assert load_checkpoint(tmp_path / "sora.pt")["step"] == 2, "the run was not finished"


# --- the world ----------------------------------------------------------------------------------------

def play(world, captions):
    """What a world makes of captions (n,F,words), four frames at a time: (n,channels,4F,H,W)."""
    return torch.cat([world.step(words) for words in captions.unbind(1)], dim=2)


def captions_of(models, digits, keys):
    """Captions (n,F,words): the same keys for each digit."""
    rows = []
    for digit in digits:
        rows.append(torch.cat([ids(models, f"{digit} {key}") for key in keys]))
    return torch.stack(rows)


def test_a_world_begins_as_sample_makes_it(models):
    """Its first window is the clip of the prompt, whatever is pressed meanwhile."""
    world = World(models, ids(models, "5 glide"), seed=3)
    video = play(world, captions_of(models, [5], ["up"] * 4))
    clip = sample.text_to_video(models, "5 glide", seed=3)
    assert close(video, clip, atol=1e-4), "expected the frames of `sample.py --prompt \"5 glide\" --seed 3`"


def test_playing_is_extending_with_captions_known_ahead(models, monkeypatch):
    """Streaming = offline: keys given one by one make the latents that `extend` makes of all keys at once, and
    frames decoded four by four are those decoded at once."""
    captions = captions_of(models, [5], ["glide"] * 4 + ["up", "left", "left", "glide", "down", "right"])
    windows = spy(monkeypatch, sora, "generate")
    world = World(models, captions[:, 0], seed=1, steps=3)
    video = play(world, captions)
    made = [window for _, _, window in windows]
    new = [window[:, :, -1:] for window in made[1:]]
    latent = torch.cat([made[0], *new], dim=2)                      # (1,C,10,h,w)
    ahead = World(models, captions[:, 0], seed=1, steps=3)
    ahead.captions[:, :captions.shape[1]] = captions
    assert close(sora.take(ahead.windows, 6), latent[:, :, 4:], atol=1e-4), (
        "keys that are known ahead make another video than keys that come one by one")
    with torch.no_grad():
        offline = models.vae.decode(latent).clamp(-1, 1)
    assert close(video, offline, atol=1e-3), "decoded four by four it is another video than decoded at once"


def test_a_world_does_not_depend_on_its_neighbour(models):
    captions = captions_of(models, [5, 3], ["glide"] * 4 + ["up", "left", "right"])
    world = World(models, captions[:, 0], seed=1, steps=3)
    both = play(world, captions)
    world = World(models, captions[1:, 0], seed=2, steps=3)
    alone = play(world, captions[1:])
    assert close(alone, both[1:], atol=1e-3), "two worlds share their noise, or their captions"


def test_each_new_frame_sees_the_anchor_two_frames_and_its_own_key(models, monkeypatch):
    """Windows [anchor, past, past, new] at times -24, 1, 2, 3, each with the key of its own latent frame."""
    keys = ["glide"] * 4 + ["up", "down", "left", "right"]
    world, calls = World(models, ids(models, "5 glide"), steps=2), spy(monkeypatch, sora, "generate")
    play(world, captions_of(models, [5], keys))
    assert len(calls) == 4, f"expected a window for each key after the first window, got {len(calls)}"
    for made, (args, options, _) in enumerate(calls, start=4):      # made: latent frames before this window
        _, _, latent, known, caption, positions = args
        told = [models.words[word - 1] for word in caption[0, :, 1].tolist()]
        expected = [keys[0], *keys[made - 2:made + 1]]
        assert told == expected, f"latent frame {made}: expected the keys {expected}, got {told}"
        known, positions = known.tolist(), positions.tolist()
        assert known == [True, True, True, False], f"expected one new frame, got {known}"
        assert positions == [-24, 1, 2, 3], f"expected times -24, 1, 2, 3, got {positions}"
        sampling = options["steps"], options["guidance"], options["sampler"]
        assert sampling == (2, 1, "ddim"), (
            f"expected 2 steps of DDIM without guidance, got {sampling}")


def test_a_long_game_ends_neither_memory_nor_captions(models, monkeypatch):
    """After the last latent frame that has a caption of its own, the world still goes on."""
    monkeypatch.setattr("data.play.world.LONGEST", 6)
    world, start = World(models, ids(models, "5 glide"), steps=1), ids(models, "5 glide")
    for _ in range(4):
        world.step(start)
    for key in ("up", "down", "left", "right", "up"):
        caption = ids(models, f"5 {key}")
        assert world.step(caption).shape == (1, 1, 4, 32, 32), "the world ended"
        newest = world.captions[0, min(world.made, 6) - 1]
        assert torch.equal(newest, caption[0]), f"{key}: not the caption of the newest latent frame"


@pytest.mark.parametrize("context", [1, 2, 4, 9])
def test_each_step_makes_one_latent_frame_whatever_the_context(models, context):
    """With more of the past than the first window has, a step would make several, and keys come too late."""
    world = World(models, ids(models, "3 glide"), seed=1, context=context, steps=1)
    first = len(world.ready)
    for i in range(first + 4):
        video = world.step(ids(models, "3 up"))
        assert video.shape[2] == 4, f"context {context}, step {i}: expected 4 frames, got {video.shape[2]}"
