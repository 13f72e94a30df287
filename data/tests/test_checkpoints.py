"""Checkpoints: saved whole or not at all, refused when they cannot be used, shipped at half the precision."""
import copy
import os
import re
import zipfile

import pytest
import torch

import sample
import train
from data.evaluation.judge import real_clips
from data.evaluation.score import through_vae
from data.runtime import checkpoints
from data.runtime.checkpoints import FIELDS, load_checkpoint, load_models, load_optimizer, save_checkpoint
from data.tests.conftest import call, complaint, same, start
from data.weights import polish, ship
from sora import InputError


def a_state(step=0):
    """A checkpoint with next to nothing in it."""
    return {name: kind() for name, kind in FIELDS.items()} | {"stage": "dit", "step": step}


def test_checkpoint_round_trip(tmp_path):
    state = a_state() | dict(step=3, dit={"a": torch.randn(3)}, words=["0", "1"],
                                            config={"dim": 48})
    save_checkpoint(tmp_path / "x.pt", **state)
    back = load_checkpoint(tmp_path / "x.pt")
    assert same(back, state | {"format": checkpoints.FORMAT}), f"what came back is not what was saved: {back}"
    left = [p.name for p in tmp_path.iterdir()]
    assert left == ["x.pt"], f"expected one file, got {left}: is the temporary one renamed?"


def test_a_crash_while_saving_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "x.pt", **a_state(1))

    def half(state, file):
        file.write(b"half a checkpo")
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(InputError, match="x.pt: cannot be written .No space left on device; .* GB are free"):
        save_checkpoint(tmp_path / "x.pt", **a_state(2))
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "x.pt")["step"] == 1, (
        "the old checkpoint is lost though the new one failed")
    left = [p.name for p in tmp_path.iterdir()]
    assert left == ["x.pt"], f"expected no half file, got {left}"


@pytest.fixture(scope="module")
def spoilt(trained, tmp_path_factory):
    """Checkpoints that cannot be used: {name: (path, what has to be said about it)}."""
    out = tmp_path_factory.mktemp("spoilt")
    whole, state = (trained / "sora.pt").read_bytes(), torch.load(trained / "sora.pt", weights_only=True)
    with zipfile.ZipFile(trained / "sora.pt") as archive:
        weights = max(archive.infolist(), key=lambda info: info.file_size)
    places = {"middle": len(whole) // 2, "weights": weights.header_offset + weights.file_size // 2}
    damaged = {name: whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1:] for name, i in places.items()}
    damaged |= {"short": whole[:len(whole) // 2], "empty": b"", "text": b"not a checkpoint"}
    files_ = {}
    for name, raw in damaged.items():
        (out / f"{name}.pt").write_bytes(raw)
        files_[name] = "damaged, or not a checkpoint of sora.py"
    without = lambda state, name: {key: value for key, value in state.items() if key != name}
    saved = {"foreign": ({"model": torch.zeros(3)}, "format None, not"),
             "tensor": (torch.zeros(3), "format None"),
             "old": (state | {"format": checkpoints.FORMAT - 1}, f"format {checkpoints.FORMAT - 1}, not")}
    saved |= {f"no {name}": (without(state, name), f"without {name}") for name in FIELDS}
    saved["other"] = (state | {"config": without(state["config"], "reach")}, "has no reach")
    saved["value"] = (state | {"config": state["config"] | {"heads": 7}}, "dim 48 is not a multiple of 14")
    saved["shapes"] = (state | {"config": state["config"] | {"shapes": "16x32"}}, "16x32: expected FRAMES")
    for name, kind in (("sparse", lambda x: x.to_sparse()), ("float8", lambda x: x.to(torch.float8_e4m3fn)),
                       ("meta", lambda x: x.to("meta"))):
        spoilt_weights = {key: kind(value) for key, value in state["ema"].items()}
        saved[name] = (state | {"ema": spoilt_weights}, "weights that are no tensors of numbers")
    saved["step"] = (state | {"step": 10 ** 30}, "it is of 'dit', step 10{30}")
    saved["seconds"] = (state | {"seconds": float("inf")}, "it took inf seconds")
    saved["early"] = state | {"stage": "vae"}, "stopped before the transformer|not trained to the end"
    saved["misfit"] = (state | {"ema": dict(list(state["ema"].items())[1:])}, "do not fit")
    for name, (content, said) in saved.items():
        torch.save(content, out / f"{name}.pt")
        files_[name] = said
    files_["missing"] = "no such checkpoint"
    (out / "folder.pt").mkdir()
    files_["folder"] = "not a file"
    return {name: (out / f"{name}.pt", said) for name, said in files_.items()}


SPOILT = ["middle", "weights", "short", "empty", "text", "foreign", "tensor", "old", "other", "value",
          "shapes", "sparse", "float8", "meta", "early", "misfit", "missing", "folder",
          "step", "seconds", *[f"no {name}" for name in FIELDS]]


@pytest.mark.parametrize("name", SPOILT)
def test_scripts_refuse_unusable_checkpoints(spoilt, tmp_path, capsys, name):
    path, words = spoilt[name]
    for main, *flags in ((sample.main, "--ckpt", path, "--out", tmp_path / "x.gif"),
                         (train.main, "--init", path, "--vae-steps", 0, "--out", tmp_path / "out")):
        said = complaint(capsys, main, *flags)
        assert re.search(words, said) and str(path) in said, (
            f"{name}, {main.__module__}.py: expected the file's name and {words!r}, got {said!r}")
    assert not (tmp_path / "x.gif").exists() and not (tmp_path / "out" / "sora.pt").exists(), (
        "something was written")


def test_an_optimizer_is_loaded_with_its_own_settings():
    """What a damaged file says of rates and decays must not reach the steps; momenta must fit."""
    p = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = torch.optim.AdamW([p], lr=0.5, betas=(0.9, 0.99))
    p.grad = torch.ones_like(p)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0] |= {"betas": None, "lr": "fast", "eps": float("nan")}
    load_optimizer(optimizer, saved, "x.pt")
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"]) == (0.5, (0.9, 0.99)), f"the file's settings were taken: {group}"
    optimizer.step()
    for state in ({0: {"exp_avg": torch.ones(2)}}, {0: None}, {"a": {}}, None,
                  {0: {"exp_avg": torch.ones(3, 2).to_sparse()}}):
        with pytest.raises(InputError, match="x.pt: its weights do not fit"):
            load_optimizer(optimizer, saved | {"state": state}, "x.pt")


def test_a_damaged_run_is_not_resumed(trained, spoilt, tmp_path, capsys):
    """--resume reads out/sora.pt with the same care, and leaves checkpoint and log as they are."""
    log = (trained / "log.csv").read_bytes()
    for name in ("middle", "old", "no optimizers"):
        state = torch.load(trained / "sora.pt", weights_only=True)
        del state["optimizers"]
        raw = None if name == "no optimizers" else spoilt[name][0].read_bytes()
        torch.save(state, tmp_path / "sora.pt")
        if raw is not None:
            (tmp_path / "sora.pt").write_bytes(raw)
        before = (tmp_path / "sora.pt").read_bytes()
        (tmp_path / "log.csv").write_bytes(log)
        said = complaint(capsys, train.main, "--resume", "--out", tmp_path)
        expected = "has no optimizers to go on with" if name == "no optimizers" else spoilt[name][1]
        assert expected in said, f"{name}: expected {expected!r}, got {said!r}"
        assert (tmp_path / "sora.pt").read_bytes() == before and (tmp_path / "log.csv").read_bytes() == log, (
            f"{name}: --resume was refused, yet it changed the checkpoint or the log")


def test_flags_that_do_not_fit_a_checkpoint_are_refused(trained, tmp_path, capsys):
    """And nothing is lost: checkpoint and log stay as they are."""
    ckpt, log = (trained / "sora.pt").read_bytes(), (trained / "log.csv").read_bytes()
    new = ["--out", tmp_path / "out"]
    for flags, words in (
            (["--init", trained / "sora.pt", "--dim", 96, *new], "dim 96: .* has 48; leave it out"),
            (["--init", trained / "sora.pt", "--preset", "tiny", "--dim", 96, *new], "dim 96: .* has 48; leave it"),
            (["--vae", trained / "sora.pt", "--vae-width", 16, *new], "vae-width 16: .* has 8; leave it out"),
            (["--resume", "--process", "sit", "--out", trained], "process sit: .* has ddpm"),
            (["--resume", "--preset", "tiny", "--out", trained], "preset tiny"),
            (["--resume", "--muon", 0, "--out", trained], "do not fit"),
            (["--resume", "--dim", 96, "--out", trained], "dim 96: .* has 48; leave it out"),
            (["--resume", "--rule", "steered", "--out", trained], "--rule steered: .* has official; leave it out"),
            (["--out", trained], "sora.pt exists: .*--resume.*--overwrite"),
            (["--overwrite", "--digit-size", 99, "--out", trained], "digit size 99"),
            (["--vae-steps", 0, *new], "vae-steps 0 without --init")):
        said = complaint(capsys, train.main, *flags)
        assert re.search(words, said), f"{flags}: expected {words!r}, got {said!r}"
    assert (trained / "sora.pt").read_bytes() == ckpt, "a refused command changed the checkpoint"
    assert (trained / "log.csv").read_bytes() == log, "a refused command changed the log"


def test_shipped_weights_are_those_of_the_checkpoint(trained, tmp_path, capsys):
    """Less than half the size, without optimizers; nearly the same weights; --init can start from them."""
    path = tmp_path / "sora.pt"
    call(ship.main, trained / "sora.pt", "--out", path)
    share = path.stat().st_size / (trained / "sora.pt").stat().st_size
    assert share < 0.4, f"expected less than 0.4 of the checkpoint's size, got {share:.2f}"
    whole, half = (load_models(name).dit for name in (trained / "sora.pt", path))
    for a, b in zip(whole.parameters(), half.parameters()):
        assert torch.allclose(a, b, rtol=4e-3, atol=1e-6), "shipped weights are not the averaged ones"
    said = complaint(capsys, train.main, "--resume", "--out", tmp_path)
    assert "--init" in said, f"no optimizers to go on with: expected to hear of --init, got {said!r}"
    run = start("--init", path, "--vae-steps", 0, "--out", tmp_path / "run")
    assert run.stage == "dit" and all(map(torch.equal, run.dit.parameters(), half.parameters())), (
        "--init does not start from the shipped weights")
    state = torch.load(trained / "sora.pt", weights_only=True)
    torch.save(state | {"stage": "vae"}, tmp_path / "early.pt")
    said = complaint(capsys, ship.main, tmp_path / "early.pt", "--out", tmp_path / "x.pt")
    assert "stopped before the transformer" in said, f"got {said!r}"


def test_polish_trains_the_decoder_alone(trained, tmp_path, capsys, monkeypatch):
    """Encoder, statistics and transformer stay bit for bit, so latents mean what they meant; copies get better."""
    call(polish.main, trained / "sora.pt", "--steps", 30, "--out", tmp_path / "x.pt", "--device", "cpu")
    old, new = load_checkpoint(trained / "sora.pt"), load_checkpoint(tmp_path / "x.pt")
    for name, x in old["vae"].items():
        decodes, moved = name.startswith(("decoder.", "to_pixels.")), not torch.equal(x, new["vae"][name])
        assert moved == decodes, f"{name}: {'should' if decodes else 'should not'} have learned"
    assert same(old["ema"], new["ema"]) and old["config"] == new["config"], "the transformer has changed"
    video, _ = real_clips(load_models(trained / "sora.pt").config, "heldout", 16, seed=0)
    before, after = [(through_vae(load_models(path).vae, video) - video).square().mean()
                     for path in (trained / "sora.pt", tmp_path / "x.pt")]
    assert after < 0.95 * before, f"copies: expected a smaller squared error than {before:.4f}, got {after:.4f}"
    said = complaint(capsys, polish.main, trained / "sora.pt", "--steps", 0)
    assert "--steps 0: expected 1 or more" in said, f"got {said!r}"
    monkeypatch.setattr(polish, "polish", lambda *args: pytest.fail("trained although --out cannot be written"))
    said = complaint(capsys, polish.main, trained / "sora.pt", "--out", tmp_path / "x.pt" / "y.pt", "--device", "cpu")
    assert "x.pt" in said, f"expected to hear which folder cannot be made, got {said!r}"


def test_without_a_checkpoint_of_ones_own_the_shipped_one_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours = checkpoints.SHIPPED
    assert ours.is_file(), f"{ours}: the weights that come along are missing"
    got = sample.parse("", []).ckpt
    assert got == str(ours), f"no out/sora.pt: expected --ckpt {ours}, got {got}"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sora.pt").touch()
    got = sample.parse("", []).ckpt
    assert got == "out/sora.pt", f"expected the user's own checkpoint, got {got}"
    for name, expected in ((str(ours), "out/tiny.score.json"), (os.path.relpath(ours), "out/tiny.score.json"),
                           ("runs/a/sora.pt", "runs/a/sora.score.json")):
        got = str(sample.score_path(name))
        assert got == expected, f"--score of {name}: expected {expected} (not in data/), got {got}"
