"""The course's mistakes to hunt, each exposed by its measurement; open parts, the board."""
import json
import shutil
import subprocess
import sys

import pytest
import torch

from data.course import board, copies, hunts, open_grades, open_parts
from data.course.__main__ import main
from data.course.blanks import without_marks
from data.course.hunts import HUNTS
from data.course.measurements import MEASUREMENTS
from data.runtime import checkpoints
from data.tests.conftest import ROOT, call, complaint


# --- hunts --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("number", HUNTS)
def test_each_mistake_is_exposed_by_its_measurement(number):
    hunt = HUNTS[number]
    value, expected, fine = hunts.measure(hunt.measure, hunts.loader(ROOT))
    assert fine, f"{hunt.measure}, without a mistake: expected {expected}, got {value}"
    text = hunts.changed((ROOT / hunt.file).read_text(), hunt)
    value, expected, fine = hunts.measure(hunt.measure, hunts.loader(ROOT, {hunt.file: text}))
    assert not fine, f"{hunt.title}: expected {hunt.measure!r} outside of {expected}, got {value}"


def test_hunts_and_measurements_belong_together():
    assert len(HUNTS) >= 8
    assert {hunt.measure for hunt in HUNTS.values()} == MEASUREMENTS.keys()
    for hunt in HUNTS.values():
        with pytest.raises(ValueError, match="stands 0 times"):
            hunts.changed("another text", hunt)


def test_a_hunt_is_a_copy_with_one_mistake(tmp_path, capsys):
    """Nothing in it says which, `grade` does not either, and `expose` does."""
    folder = tmp_path / "hunt"
    call(main, "hunt", folder, 3)
    differs = [name for name in copies.TOP if (folder / name).read_bytes() != (ROOT / name).read_bytes()]
    assert differs == ["sora.py"], f"expected one file with a mistake, got {differs}"
    expected = hunts.changed(without_marks((ROOT / "sora.py").read_text()), HUNTS[3])
    assert (folder / "sora.py").read_text() == expected, "expected sora.py without marks, with the mistake"
    assert not (folder / "data/course").exists(), "graders in the copy would name the mistake"
    said = complaint(capsys, main, "grade", folder)
    assert "no lines `# >>> part 1`" in said and "return mean" not in said, said
    scripts = subprocess.run([sys.executable, "-c", "import train, sample"], cwd=folder, capture_output=True)
    assert scripts.returncode == 0, f"train.py and sample.py need no graders: {scripts.stderr.decode()}"
    call(main, "expose", folder)
    off = [line for line in capsys.readouterr().out.splitlines() if line.startswith("OFF")]
    assert len(off) == 1 and HUNTS[3].measure in off[0], f"expected {HUNTS[3].measure!r} to be off, got {off}"


def test_expose_takes_each_measurement_on_its_own(tmp_path):
    """One file that does not parse and one that never ends: the others are measured."""
    folder = tmp_path / "mended"
    copies.copy_to(folder)
    (folder / "sora.py").write_text("def guided(:\n")
    (folder / "data/runtime/checkpoints.py").write_text("while True: pass\n")
    lines = dict(zip(MEASUREMENTS, hunts.expose(folder, limit=12)))
    digits, endless = HUNTS[9].measure, HUNTS[7].measure
    assert lines.pop(digits)[1:] == ("0", "0 to 0", True), lines
    assert "stopped after" in lines.pop(endless)[1]
    for name, (_, value, _, fine) in lines.items():
        assert value.startswith("SyntaxError") and not fine, f"{name}: expected SyntaxError, got {value}"


# --- open parts ---------------------------------------------------------------------------------------

FORCING = """
import torch

def draw_levels(process, known, generator):
    return torch.where(known, 0, process.draw_levels(known.shape, generator))

def staircase(process, steps, F):
    rows = torch.arange(steps + F)[:, None] - torch.arange(F)
    return ((1 - rows.clamp(0, steps) / steps) * process.N).round().long()
"""


@pytest.fixture
def handed_in(tmp_path):
    (tmp_path / "open").mkdir()
    return tmp_path / "open"


def test_points_are_in_proportion():
    assert [open_grades.in_proportion(6, share, none=1.0, full=0.6) for share in (1.2, 0.8, 0.5)] == [
        0, pytest.approx(3), 6]


def test_cache_without_a_cache_gets_part_of_the_points(handed_in):
    """`generate` itself is refused: known frames see the unknown. Masked, without a cache, it gets four."""
    (handed_in / "cache.py").write_text("from sora import generate")
    points, reasons = open_grades.graded(handed_in, "cache")
    assert points == 0 and "known frames see the unknown ones" in reasons[0], reasons
    (handed_in / "cache.py").write_text(
        "import torch\nimport torch.nn.functional as nnf\nfrom unittest.mock import patch\nimport sora\n"
        "def generate(model, process, latent, known, caption, **more):\n"
        "    real, seen = nnf.scaled_dot_product_attention, known.repeat_interleave(4)\n"
        "    mask = ~seen[:, None] | seen\n"
        "    def masked(q, k, v):\n"
        "        return real(q, k, v, attn_mask=mask)\n"
        "    with patch.object(nnf, 'scaled_dot_product_attention', masked):\n"
        "        return sora.generate(model, process, latent, known, caption, **more)\n")
    points, reasons = open_grades.graded(handed_in, "cache")
    assert points == pytest.approx(4) and "100 % of the multiplications" in reasons[0], (points, reasons)


def test_forcing_is_checked_and_measured(handed_in):
    (handed_in / "forcing.py").write_text(FORCING)
    points, reasons = open_grades.graded(handed_in, "forcing")
    assert points == 4 and "no checkpoint" in reasons[0], (points, reasons)
    shutil.copy(checkpoints.SHIPPED, handed_in / "forcing.pt")
    points, reasons = open_grades.graded(handed_in, "forcing")
    assert points == 4 and "held-out loss" in reasons[0], "the weights that come along: no points for the loss"
    one = FORCING.replace("known.shape, generator", "(len(known), 1), generator")
    (handed_in / "forcing.py").write_text(one.replace("arange(F)\n", "zeros(F)\n"))
    points, reasons = open_grades.graded(handed_in, "forcing")
    assert points == 0 and "independent" in reasons[0] and "ahead" in reasons[1], (points, reasons)


def test_forcing_keeps_the_points_of_what_is_right(handed_in):
    """Each of its three pieces may raise what it likes."""
    (handed_in / "forcing.py").write_text(FORCING.replace("rows = ", "rows = None + "))
    (handed_in / "forcing.pt").write_bytes(b"damaged")
    points, reasons = open_grades.graded(handed_in, "forcing")
    assert points == 2 and len(reasons) == 2, (points, reasons)
    assert "staircase: TypeError" in reasons[0] and "damaged" in reasons[1], reasons
    (handed_in / "forcing.py").write_text(FORCING.replace("torch.where(known, 0, ", "(None + "))
    points, reasons = open_grades.graded(handed_in, "forcing")
    assert points == 2 and "draw_levels: TypeError" in reasons[0], (points, reasons)


def test_forcing_is_measured_on_the_clips_of_the_weights_that_come_along(handed_in):
    """Not on those that the student's checkpoint was trained on: shorter ones would be easier."""
    saved = checkpoints.load_checkpoint(checkpoints.SHIPPED)
    del saved["format"]
    path = handed_in / "forcing.pt"
    checkpoints.save_checkpoint(path, **saved | {"config": saved["config"] | {"frames": 8, "digit_size": 12}})
    assert open_grades.forced_loss(path, 8) == open_grades.forced_loss(checkpoints.SHIPPED, 8)
    checkpoints.save_checkpoint(path, **saved | {"config": saved["config"] | {"noise_steps": 10}})
    with pytest.raises(open_grades.Missed, match="got ddpm, v and 10"):
        open_grades.forced_loss(path, 8)


def test_recipe_counts_in_deviations_of_the_baseline(handed_in):
    table = {"frechet": [21.0, 22.0, 23.0], "baseline": [22.0, 23.0, 24.0], "seeds": 3 * [{"legibility": 0.9}]}
    (handed_in / "recipe.json").write_text(json.dumps(table))
    points, reasons = open_grades.graded(handed_in, "recipe")
    assert points == pytest.approx(5) and "1.00 standard deviations" in reasons[0]
    table["seeds"] = 3 * [{"legibility": 0.8}]
    (handed_in / "recipe.json").write_text(json.dumps(table))
    points, reasons = open_grades.graded(handed_in, "recipe")
    assert points == 0 and "legibility 0.800, expected at least 0.85" in reasons[0]


def test_open_parts_run_in_a_process_of_their_own(handed_in, tmp_path):
    assert open_parts.grade(tmp_path, "cache") is None
    (handed_in / "forcing.py").write_text("while True: pass")
    grade = open_parts.grade(tmp_path, "forcing", limit=4)
    assert grade.points == 0 and "stopped after 4 seconds" in grade.reasons[0], grade


# --- the board ----------------------------------------------------------------------------------------

def test_board_takes_entries_with_one_changed_file(tmp_path, capsys):
    folder = tmp_path / "entry"
    copies.copy_to(folder)
    assert board.changed_file(folder) == "", "an unchanged copy is the baseline"
    for name in ("open", "venv", ".venv"):
        (folder / name).mkdir()
        (folder / name / "mine.py").write_text("not the entry's")
    (folder / "train.py").write_text((ROOT / "train.py").read_text() + "\n")
    assert board.changed_file(folder) == "train.py"
    (folder / "sora.py").write_text((ROOT / "sora.py").read_text() + "\n")
    said = complaint(capsys, main, "board", folder)
    assert "2 files differ (sora.py, train.py)" in said, said
    assert "no train.py" in complaint(capsys, main, "board", tmp_path)
    (tmp_path / "old.json").write_text("{}")
    assert "not a file" in complaint(capsys, main, "board", ROOT, "--baseline", tmp_path / "old.json")
    assert "--n 1: expected 2" in complaint(capsys, main, "board", ROOT, "--n", 1)


def test_board_measures_what_an_entry_made(tmp_path, monkeypatch, capsys, few_references):
    """Training and sampling are stand-ins here: the entry's clips are held-out ones. It runs in a copy."""
    def run(folder, minutes, *command):
        names = {path.name for path in (folder / "data/weights").iterdir()}
        assert "ship.py" in names and "tiny.pt" not in names, f"expected no trained weights, got {names}"
        if command[0] == "train.py":
            return
        video, caption = open_grades.real_clips(board.ClipConfig(), "heldout", 40)
        torch.save({"clips": ((video + 1) * 127.5).round().to(torch.uint8), "caption": caption}, command[3])
    monkeypatch.setattr(board, "run", run)
    path = tmp_path / "new" / "row.json"
    call(main, "board", ROOT, "--name", "real clips", "--seeds", 0, 1, "--json", path)
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("| real clips | nothing | 2 cores"), row
    table = json.loads(path.read_text())
    assert table["seeds"][0]["legibility"] > 0.9 and table["frechet"][0] == table["frechet"][1], table


def test_board_says_what_went_wrong(tmp_path):
    (tmp_path / "slow.py").write_text("while True: pass")
    (tmp_path / "bad.py").write_text("raise SystemExit(4)")
    with pytest.raises(board.InputError, match="not done after"):
        board.run(tmp_path, 0.02, "slow.py")
    with pytest.raises(board.InputError, match="ended with code 4"):
        board.run(tmp_path, 1, "bad.py")
