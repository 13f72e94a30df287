"""Command lines: unknown and contradictory flags are refused, and every field of the config is one."""
import re
from dataclasses import fields

import pytest

import sample
import train
from data.runtime.config import trained_sizes

GONE = "--history-guidance --stills --forcing --context-noise --both-ways --remember".split()


@pytest.mark.parametrize("parse", [train.parse, lambda argv: sample.parse(sample.__doc__, argv)],
                         ids=["train", "sample"])
@pytest.mark.parametrize("flag", ["--lerning-rate", "--prom", *GONE])
def test_unknown_flags_are_refused(capsys, parse, flag):
    """Those that left, those that never were, and shortened ones."""
    with pytest.raises(SystemExit) as ended:
        parse([flag, "1"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and f"unrecognized arguments: {flag} 1" in said, f"{flag}: got {said!r}"


@pytest.mark.parametrize("parse,flags,words", [
    ("train", "--preset huge", "invalid choice: 'huge'.*tiny"),
    ("train", "--steps many", "invalid int value"), ("train", "--lr fast", "invalid float value"),
    ("train", "--resume --vae x.pt", "not allowed with"),
    ("train", "--init a.pt --vae x.pt", "not allowed with"),
    ("sample", "--loop --edit a.npy", "not allowed with"),
    ("sample", "--extend a.npy --image b.png", "not allowed with"),
    ("sample", "--connect a.npy", "expected 2"), ("sample", "--frames long", "invalid int value")])
def test_flags_that_contradict_are_refused(capsys, parse, flags, words):
    with pytest.raises(SystemExit) as ended:
        train.parse(flags.split()) if parse == "train" else sample.parse("", flags.split())
    said = capsys.readouterr().err
    assert ended.value.code == 2 and re.search(words, said), f"{flags}: expected {words!r}, got {said!r}"


def test_every_field_of_the_config_is_a_flag_with_its_help(capsys):
    with pytest.raises(SystemExit):
        train.parse(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for item in fields(train.TrainConfig):
        text = " ".join(item.metadata["help"].split())
        assert f"--{item.name.replace('_', '-')} " in printed, f"--help: no flag for {item.name}"
        assert text in printed, f"--help: expected {text!r} for {item.name}"


def test_a_size_of_several_shapes_is_told_once():
    shapes = "1x64x64:2 20x64x64:2 8x32x48:1"
    got = trained_sizes(train.TrainConfig(shapes=shapes))
    assert got == [(64, 64), (32, 48)], f"{shapes}: expected each size once, got {got}"
