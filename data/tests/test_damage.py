"""Whatever is damaged in a checkpoint: it is refused in one line, or loaded as it was, bit for bit."""
import io
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.runtime.checkpoints import FIELDS, load_checkpoint, load_models, save_checkpoint
from data.tests.conftest import same
from sora import DiT, InputError, VideoVAE
from train import TrainConfig

SETTINGS = dict(max_examples=75, deadline=None, derandomize=True,
                suppress_health_check=[HealthCheck.function_scoped_fixture])
TINY = TrainConfig(vae_width=1, dim=8, depth=1, heads=1, latent_channels=1)


class Tiny(NamedTuple):
    """A checkpoint of a few kB: its contents, its bytes, and where damaged ones are written."""
    state: dict
    whole: bytes
    path: Path

    def __repr__(self):                                             # hypothesis would print it all
        return f"Tiny({self.path})"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A checkpoint that a test may damage."""
    path = tmp_path_factory.mktemp("tiny") / "sora.pt"
    vae, dit = VideoVAE(TINY).state_dict(), DiT(TINY, 10).state_dict()
    save_checkpoint(path, config=asdict(TINY), words=[str(i) for i in range(10)], command="train.py",
                    vae=vae, dit=dit, ema=dit, stage="dit", step=3)
    return Tiny(load_checkpoint(path), path.read_bytes(), path)


def regions(whole):
    """Where damage is of different kinds: (first byte, end) of the largest tensor, of the list of the
    archive's parts with their sizes and checksums, and of the whole file."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        tensor = max((part for part in archive.infolist() if "/data/" in part.filename),
                     key=lambda part: part.file_size)
        directory = archive.start_dir
    middle = tensor.header_offset + tensor.file_size // 2
    return [(middle, middle + tensor.file_size // 2), (directory, len(whole)), (0, len(whole))]


def outcome(path, state):
    """None if the file was refused in one line or is the same as ever, else what is wrong, in words."""
    try:
        got = load_checkpoint(path)
        load_models(path)
    except InputError as error:
        said = str(error)
        return None if "\n" not in said and str(path) in said else f"refused with {said!r}"
    return None if same(got, state) else "loaded, but it is not what was saved"


@settings(**SETTINGS)
@given(damage=st.data())
def test_damaged_bytes(tiny, damage):
    """Flipped bits, stretches of other bytes, stretches left out or repeated, and ends cut off."""
    state, whole, path = tiny
    draw, n = damage.draw, len(whole)
    kind = draw(st.sampled_from(["flip", "flip", "replace", "cut out", "repeat", "truncate"]))
    start, end = draw(st.sampled_from(regions(whole)))
    at = start + draw(st.integers(0, 2 ** 30)) % (end - start)
    length = draw(st.integers(1, 400))
    if kind == "flip":
        middle, rest = bytes([whole[at] ^ 1 << draw(st.integers(0, 7))]), at + 1
    elif kind == "replace":
        middle, rest = draw(st.binary(min_size=1, max_size=64)), at + length
    else:
        middle, rest = b"", {"cut out": at + length, "repeat": max(at - length, 0), "truncate": n}[kind]
    path.write_bytes(whole[:at] + middle + whole[rest:])
    wrong = outcome(path, state)
    assert wrong is None, (
        f"{kind} at byte {at} of {n}: {wrong}; expected one line, or the same weights: are all checksums "
        "verified before anything is believed?")


def junk():
    """Values that no field of a checkpoint can have."""
    return st.sampled_from([None, -1, 1.5, True, "", "gan", [], [1], ["a", "a"], {}, {1: 2}, {"a": "b"},
                            10 ** 30, float("nan"), torch.zeros(3), torch.tensor(float("nan")), b"x"])


@settings(**SETTINGS)
@given(damage=st.data())
def test_damaged_fields(tiny, damage):
    """A field, a value of the config or a tensor is missing, or something else stands there."""
    state, _, path = tiny
    draw = damage.draw
    name = draw(st.sampled_from([*FIELDS, "format"]))
    changed = {key: dict(value) if isinstance(value, dict) else value for key, value in state.items()}
    place, key = changed, name
    if name in ("config", "vae", "ema") and draw(st.booleans()):    # something in it
        place, key = changed[name], draw(st.sampled_from(list(state[name])))
    if draw(st.integers(0, 4)) == 0:
        del place[key]
    else:
        place[key] = draw(junk())
    buffer = io.BytesIO()
    torch.save(changed, buffer)
    path.write_bytes(buffer.getvalue())
    expected = state
    try:                                                            # a few of these values are possible
        if same(load_checkpoint(path), changed):
            expected = changed
    except InputError:
        pass
    wrong = outcome(path, expected)
    assert wrong is None, f"{name}, {key} became {place.get(key, 'nothing')!r}: {wrong}"


@pytest.mark.parametrize("net", ["vae", "dit", "ema"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tiny, net, value):
    state, _, path = tiny
    weights = {name: x.clone() for name, x in state[net].items()}
    next(iter(weights.values())).view(-1)[0] = value
    torch.save(state | {net: weights}, path)
    with pytest.raises(InputError, match=f"its {net} has weights that are infinite or no numbers"):
        load_checkpoint(path)


@pytest.mark.parametrize("words", [["a", "a"], "ab", [1, 2], ["a", ""], {"a": 1}, None])
def test_words_that_are_none_are_refused(tiny, words):
    state, _, path = tiny
    torch.save(state | {"words": words}, path)
    with pytest.raises(InputError, match="its words (is no list|are not words, each once)"):
        load_checkpoint(path)


def test_a_config_too_large_is_refused_before_memory_is_taken(tiny):
    """A thousand terabytes: whoever makes the networks first is killed, or waits for very long."""
    state, _, path = tiny
    for name, value in (("dim", 8 * 10 ** 6), ("depth", 10 ** 9), ("noise_steps", 10 ** 12)):
        torch.save(state | {"config": state["config"] | {name: value}}, path)
        said = f"{path}: .*{name} {value}.*that would take about .*B of memory"
        with pytest.raises(InputError, match=said):
            load_models(path)


def test_a_process_that_is_unknown_is_refused(tiny):
    state, _, path = tiny
    torch.save(state | {"config": state["config"] | {"process": "gan"}}, path)
    with pytest.raises(InputError, match="process 'gan': expected one of ddpm, sit"):
        load_models(path)
