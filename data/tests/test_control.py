"""The measurement of control, on worlds whose control is known; and of prompts that change."""
import json
from pathlib import Path

import pytest
import torch

import sample
import sora
from data.clips.moving_mnist import KEYS, MovingMNIST, draw_keys, load_digits
from data.evaluation import change, control, ends, long_video
from data.evaluation.change import changing, pairs, readings
from data.evaluation.control import branch_numbers, obeys, worlds
from data.evaluation.judge import Judge
from data.runtime.checkpoints import load_models
from data.runtime.config import ClipConfig
from data.tests.conftest import call, complaint, spy

NAMES = list(KEYS)
GLIDE = NAMES.index("glide")


def seeded(number):
    return torch.Generator().manual_seed(number)


@pytest.fixture(scope="module")
def game():
    """Real worlds: videos (16,1,400,32,32), and the keys pressed in them."""
    keys = draw_keys(16, 100, seeded(0))
    data = MovingMNIST(*load_digits("heldout"), (32, 32), 20, 1, 400, "steered")
    video, _ = data.clips(16, seeded(1), keys=keys)
    return video, keys


def swapped(keys, order):
    """Each key replaced by another: order[number] of it."""
    return torch.tensor(order)[keys]


# --- does it obey? ------------------------------------------------------------------------------------

def test_the_rule_obeys_and_others_do_not(game):
    video, keys = game
    right = obeys(video, keys)
    assert (right > 0.97).all(), f"the rule itself should obey its keys always, got {right.tolist()}"
    others = {"another's keys": keys.roll(1, 0), "keys that act a latent frame late": keys.roll(-1, 1)}
    for name, other in others.items():
        share = obeys(video, other).mean().item()
        assert share < 0.85, f"{name}: expected clearly less than 1, got {share:.3f}"
    share = obeys(video, swapped(keys, [1, 0, 3, 2, 4])).mean().item()
    assert share < 0.55, f"opposite keys: expected hardly any obedience, got {share:.3f}"


@pytest.mark.parametrize("name,mirror,order", [
    ("upside down", lambda video: video.flip(3), [1, 0, 2, 3, 4]),
    ("left to right", lambda video: video.flip(4), [0, 1, 3, 2, 4]),
    ("diagonal", lambda video: video.transpose(3, 4), [2, 3, 0, 1, 4])])
def test_mirrored_worlds_obey_mirrored_keys(game, name, mirror, order):
    """Up and down, left and right, y and x: each mirror of the picture is one of the keys."""
    video, keys = game
    more = obeys(mirror(video), swapped(keys, order)) - obeys(video, keys)
    assert more.abs().max() < 0.05, f"{name}: expected the same shares, got {more.tolist()} more"


def share_of(four, key):
    """What `obeys` says of a blob that goes from corner to corner, then is in four places, told a key."""
    down = [[place, place] for place in range(2, 26)]
    middle = [[12, 12]]
    path = down + down[::-1] + 4 * middle + four + 8 * middle
    video = torch.full((1, 1, len(path), 32, 32), -1.0)
    for t, (y, x) in enumerate(path):
        video[0, 0, t, y:y + 4, x:x + 4] = 1
    keys = torch.full((1, len(path) // 4), GLIDE)
    assert obeys(video, keys).isnan().all(), "latent frames without a key should not count"
    keys[0, 13] = NAMES.index(key)
    return obeys(video, keys).item()


DOWN = [[13, 12], [14, 12], [15, 12], [16, 12]]
UP = [[11, 12], [10, 12], [9, 12], [8, 12]]
BOUNCE = [[18, 12], [25, 12], [18, 12], [12, 12]]                   # to the bottom, and back


@pytest.mark.parametrize("name,four,key,expected", [
    ("down", DOWN, "down", 1),
    ("down", DOWN, "up", 0),
    ("down", DOWN, "right", 0),
    ("up", UP, "down", 0),
    ("still", [[12, 12]] * 4, "down", 0),
    ("to the bottom and back", BOUNCE, "down", 1),
    ("to the bottom and back", BOUNCE, "up", 0),
    ("a pixel down in the first frame", [[13, 12]] * 4, "down", 1)])
def test_what_counts_as_obeying(name, four, key, expected):
    got = share_of(four, key)
    assert got == expected, f"{name}, told {key}: expected {expected}, got {got}"


def test_who_stands_still_obeys_nobody():
    """Its place is the farthest that it ever gets, but no wall."""
    video = torch.full((1, 1, 32, 32, 32), -1.0)
    video[..., 14:18, 14:18] = 1
    for name in ("up", "down", "left", "right"):
        got = obeys(video, torch.full((1, 8), NAMES.index(name))).item()
        assert got == 0, f"a digit that never moves, told {name}: expected 0, got {got}. It meets no wall"


# --- the same past, another key -----------------------------------------------------------------------

@pytest.fixture(scope="module")
def futures():
    """Real worlds that differ in the key of their fourth latent frame: {key: (video, caption)}."""
    return worlds(ClipConfig(rule="steered"), 24, seed=3, known=3)


def test_worlds_have_one_past(futures):
    first = futures["up"][0]
    for name, (video, caption) in futures.items():
        assert video.shape[2] == 16, f"{name}: expected 16 frames, got {video.shape[2]}"
        assert torch.equal(video[:, :, :12], first[:, :, :12]), f"{name}: another past than with \"up\""
        word = 11 + NAMES.index(name)
        assert (caption[:, 3, -1] == word).all(), f"{name}: the last captions do not say this key"


def test_numbers_of_other_keys(futures, few_references):
    """Of the rule itself, and of worlds that confuse their keys."""
    real = {name: video[:, :, -4:] for name, (video, _) in futures.items()}
    judge = Judge(ClipConfig(rule="steered"))

    def numbers(**confused):
        table = branch_numbers(judge, real | confused, real)
        return {name: cell[0] for name, cell in table.items()}

    right = numbers()
    assert 4 < right["keys apart, along"] < 7 and right["keys apart, across"] < 0.01, (
        f"the rule: expected some 5 pixels along and 0 across, got {right}")
    assert right["misplaced, a key"] == right["misplaced, none"] == 0, f"the rule is misplaced: {right}"
    exchanged = numbers(up=real["down"], down=real["up"])
    assert exchanged["misplaced, a key"] > 2 and exchanged["keys apart, along"] < 1, (
        f"up and down exchanged: expected misplaced digits, got {exchanged}")
    turned = numbers(up=real["left"], down=real["right"])
    assert 2 < turned["keys apart, across"] < 4, f"up is left: expected half of 5 pixels across, got {turned}"
    glide = real["glide"]
    deaf = numbers(up=glide, down=glide, left=glide, right=glide)
    assert deaf["keys apart, along"] == 0, f"a deaf world: expected its keys 0 apart, got {deaf}"
    wrong = numbers(glide=real["up"])["misplaced, none"]
    assert wrong > 2, f"pushed up without a key: expected misplaced digits, got {wrong}"


# --- the commands -------------------------------------------------------------------------------------

def test_control_writes_its_table_and_videos(steered, few_references, tmp_path, capsys):
    call(control.main, "--ckpt", steered, "--n", 4, "--frames", 40, "--steps", 1, 2, "--device", "cpu",
         "--out", tmp_path / "c.json")
    table = json.loads((tmp_path / "c.json").read_text())["table"]
    assert list(table) == ["the rule", "VAE's copy", "steps: 1", "steps: 2"], f"got columns {list(table)}"
    rule, model = table["the rule"], table["steps: 2"]
    assert set(model) - set(rule) == {"frames a second"}, "the model's numbers are not those of the rule"
    assert rule["obeys its keys"][0] > 0.9, f"the rule does not obey: {rule['obeys its keys']}"
    assert model["frames a second"][0] > 0, f"got {model['frames a second']} frames a second"
    assert (tmp_path / "c.1.gif").exists() and (tmp_path / "c.2.png").exists(), "no videos of the games"
    assert "obeys its keys" in capsys.readouterr().out, "the table was not printed"


def test_measurements_refuse_what_they_cannot_measure(steered, ckpt, tmp_path, capsys):
    out = "--out", tmp_path / "x.json"
    for main, flags, words in (
            (control.main, ["--ckpt", ckpt, *out], "expected a checkpoint of the preset `steered`"),
            (control.main, ["--ckpt", steered, "--frames", 42, *out], "multiple of 4 frames"),
            (control.main, ["--ckpt", steered, "--n", 1, *out], "at least 2 videos"),
            (control.main, ["--ckpt", steered, "--context", 6, *out], "--context 6"),
            (control.main, ["--ckpt", steered, "--context", 16, *out], "--context 16"),
            (ends.main, ["--ckpt", steered], "data.evaluation.control measures it"),
            (change.main, ["--ckpt", steered], "data.evaluation.control measures it"),
            (change.main, ["--ckpt", ckpt, "--at", 20], "--at 20")):
        said = complaint(capsys, main, *flags)
        assert words in said, f"{flags}: expected {words!r}, got {said!r}"
    pytest.importorskip("matplotlib")
    said = complaint(capsys, long_video.main, "--ckpt", steered, *out)
    assert "data.evaluation.control measures it" in said, f"long_video: got {said!r}"


def test_a_steered_checkpoint_has_a_score(steered, few_references):
    """--score reads its digits, whatever the keys say."""
    call(sample.main, "--score", "--ckpt", steered, "--n", 4, "--device", "cpu")
    table = json.loads(Path(steered).with_suffix(".score.json").read_text())
    legibility = table["clips"]["samples"]["legibility"][0]
    assert 0 <= legibility <= 1, f"got a legibility of {legibility}"
    shape = torch.tensor(table["captions"]["samples"]).shape
    assert shape == (4, 4, 2), f"expected captions of 4 clips, 4 latent frames, 2 words, got {tuple(shape)}"


# --- prompts that change ------------------------------------------------------------------------------

def test_pairs_are_two_different_digits():
    before, after = pairs(200, 0)
    assert (before != after).all(), "some digits change to themselves"
    for ids in (before, after):
        assert sorted(ids.unique().tolist()) == list(range(1, 11)), f"expected ten word ids, got {ids.unique()}"


def test_both_digits_are_asked_for_at_their_time(ckpt):
    """Frames before 32 are told the first digit, later ones the second."""
    models, calls = load_models(ckpt), []
    before, after = pairs(2, 0)

    class Spy(torch.nn.Module):
        def forward(self, x, t, caption, positions):
            calls.append((t[0].tolist(), caption[0, :, 0].tolist()))
            return models.dit(x, t, caption, positions)
    spied = models._replace(dit=Spy())
    video = changing(spied, before, after, 32, 0, windows=(4, 1, 24), sampling=dict(steps=1))
    assert video.shape == (2, 1, 64, 32, 32), (
        f"expected as many frames after the change as before it, got {tuple(video.shape)}")
    told = []
    for levels, words in calls:
        told += [word for level, word in zip(levels, words) if level > 0]       # of new latent frames
    expected = [before[0].item()] * 8 + [after[0].item()] * 8
    assert told[:16] == expected, f"expected these words of latent frames 0 to 15: {expected}, got {told}"


def test_readings_around_the_change(few_references):
    """A real clip of one digit, then one of another: read as the first before, as the second after."""
    config = ClipConfig()
    data = MovingMNIST(*load_digits("train"), (32, 32), 20, 1, 32)
    video, first = data.clips(8, seeded(0))
    other, second = data.clips(8, seeded(5))
    table = readings(Judge(config), torch.cat([video, other], dim=2), first, second, 32)
    rows = ["-16 to -1, before", "-16 to -1, after", "+0 to +15, before", "+0 to +15, after"]
    assert list(table)[:4] == rows, f"expected rows {rows}, got {list(table)}"
    assert table[rows[0]][0] > 0.85 and table[rows[3]][0] > 0.85, f"real digits are not read: {table}"
    alike = (first == second).double().mean().item()
    assert table["+16 to +31, before"][0] < alike + 0.1, f"the first digit is still read at the end: {table}"


def test_change_prints_both_arms(ckpt, few_references, capsys):
    call(change.main, "--ckpt", ckpt, "--n", 2, "--at", 16, "--steps", 1, "--device", "cpu")
    said = capsys.readouterr().out
    for words in ("anchor", "plain window", "+0 to +15, after"):
        assert words in said, f"expected {words!r} in the table, got {said!r}"


def test_keys_are_compared_with_the_sampler_that_is_played_with(steered, futures, monkeypatch):
    calls = spy(monkeypatch, sora, "generate")
    control.branches(load_models(steered), futures, 0, 2, dict(steps=1))
    samplers = {keywords["sampler"] for _, keywords, _ in calls}
    assert samplers == {"ddim"}, f"expected the player's sampler, ddim, got {samplers}"
