"""The course: blanks cut from sora.py, graders that the original passes and wrong answers do not."""
import re

import pytest
import torch

from data.course import grading
from data.course.__main__ import main
from data.course.blanks import blank, fill, find, frame_of, original, pieces
from data.course.hunts import HUNTS
from data.course.parts import OPEN, PARTS
from data.course.wrong import WRONG, apply
from data.tests.conftest import ROOT, call

TEXT = original()
CHANGES = [(part, number) for part, changes in WRONG.items() for number in range(len(changes))]


# --- the marks ----------------------------------------------------------------------------------------

def test_every_part_has_its_marks():
    """In sora.py itself, and nothing but marks was added to it."""
    assert find(TEXT).keys() == PARTS.keys(), (
        f"expected marks of parts {list(PARTS)}, got {list(find(TEXT))}: a mark lost its partner?")
    marks = re.findall(r"^ *# (?:>>>|<<<).*\n", TEXT, re.MULTILINE)
    places = sum(len(each) for each in find(TEXT).values())
    assert len(marks) == 2 * places, f"expected a mark before and after {places} places, got {len(marks)}"
    lines = TEXT.count("\n") - len(marks)
    assert lines <= 800, f"sora.py without its marks: expected at most 800 lines, got {lines}"


def test_blanks_are_cut_and_filled_without_a_trace():
    for part in PARTS:
        empty = blank(TEXT, part)
        assert all("raise NotImplementedError" in piece for piece in pieces(empty, part))
        assert frame_of(empty) == frame_of(TEXT), f"part {part}: lines outside its places have changed"
        assert fill(empty, part, pieces(TEXT, part)) == TEXT, f"part {part}: not what it was before blanking"


def test_sections_are_where_the_readme_says():
    """The table of README.md, line by line of sora.py."""
    lines = TEXT.splitlines()
    begins = [i for i, line in enumerate(lines, 1) if re.match(r"# \d\. ", line)]
    ends = [begin - 2 for begin in begins[1:]] + [len(lines)]       # a rule stands above each title
    rows = re.findall(r"^\| \d [^|]*\| (\d+)-(\d+) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    expected = [(str(begin), str(end)) for begin, end in zip(begins, ends)]
    assert rows == expected, f"README.md, lines of the sections: expected {expected}, got {rows}"


# --- the graders --------------------------------------------------------------------------------------

@pytest.mark.parametrize("part", PARTS)
def test_original_passes_and_blank_fails(part):
    reasons = grading.check_part(TEXT, part)
    assert reasons == [None] * len(reasons), f"part {part}: the original is told {reasons}"
    assert PARTS[part].points % len(reasons) == 0, "expected points that the checks can share evenly"
    reasons = grading.check_part(blank(TEXT, part), part)
    assert all(f"part {part} is yours" in reason for reason in reasons), (
        f"part {part}, blank: expected every check to fail and say so, got {reasons}")


@pytest.mark.parametrize("part, number", CHANGES)
def test_wrong_answers_are_told_what_is_wrong(part, number):
    wrong = WRONG[part][number]
    reasons = [reason for reason in grading.check_part(apply(TEXT, part, wrong), part) if reason]
    assert reasons, f"part {part}, {wrong.new!r} instead of {wrong.old!r}: passed"
    told = [reason for reason in reasons if wrong.says in reason]
    assert told, f"part {part}, {wrong.new!r}: expected {wrong.says!r} in what is said, got {reasons}"
    assert all("\n" not in reason for reason in reasons), "expected one line for each reason"


def test_wrong_answers_are_three_or_more_a_part_and_have_their_own_messages():
    for part in PARTS:
        says = [wrong.says for wrong in WRONG[part]]
        assert len(says) >= 3, f"part {part}: expected three wrong answers or more, got {len(says)}"
        assert len(set(says)) == len(says), f"part {part}: two wrong answers have one message: {says}"


def test_wrong_answers_that_no_longer_fit_are_an_error():
    with pytest.raises(ValueError, match="stands 0 times"):
        apply(TEXT.replace("signal * eps", "noise_free * eps"), 6, WRONG[6][0])


# --- the sheet, and what is said ----------------------------------------------------------------------

def test_the_sheet_lists_what_there_is(capsys):
    """Titles and points of README.md are those of parts.py, and every part can be shown."""
    sheet = (ROOT / "data/course/README.md").read_text()
    for number, part in PARTS.items():
        title = part.title.replace("|", r"\|")                     # which would end the cell
        row = f"| {number} | {title} | {part.minutes} | {part.points} |"
        assert row in sheet, f"data/course/README.md: expected the row {row!r}"
        call(main, "part", number)
        assert part.title in capsys.readouterr().out
    for name, part in OPEN.items():
        assert f"`{name}`" in sheet and part.title in sheet, f"data/course/README.md: nothing on {name}"
    assert len(sheet.splitlines()) <= 200
    staff = (ROOT / "data/course/STAFF.md").read_text()
    answers = staff.partition("## The ten questions")[2].partition("##")[0]
    questions = sheet.partition("Questions to answer")[2].partition("Budget")[0]
    numbers = re.findall(r"^\d+\.", questions, re.MULTILINE)
    assert len(numbers) == 10 and re.findall(r"^\d+\.", answers, re.MULTILINE) == numbers
    mistakes = staff.partition("## The mistakes")[2].partition("##")[0]
    rows = re.findall(r"^\| (\d) ", mistakes, re.MULTILINE)
    assert [int(row) for row in rows] == list(HUNTS), f"STAFF.md: expected a row for each hunt, got {rows}"


@pytest.mark.parametrize("part, answers", [
    (1, ["    return latent", "    return tokens"]),
    (8, ["        return x"]),
    (10, ["    return model"])])
def test_to_do_nothing_earns_nothing(part, answers):
    """It has many a symmetry that a right answer has, too."""
    reasons = grading.check_part(fill(TEXT, part, answers), part)
    free = [check.__name__ for check, reason in zip(grading.CHECKS[part], reasons) if reason is None]
    assert not free or free == ["check_scale_of_one"], f"part {part}, {answers}: passed {free}"


def test_a_part_cannot_call_the_solution():
    """`import sora` in a student's part finds the student's own sora.py."""
    answers = ["    import sora\n    return sora.patchify(latent, p)",
               "    import sora\n    return sora.unpatchify(tokens, p, F, h, w)"]
    reasons = grading.check_part(fill(TEXT, 1, answers), 1)
    assert all("recursion" in (reason or "") for reason in reasons), f"expected calls without end, got {reasons}"


def test_code_that_raises_is_shown_its_line():
    """And code that returns nothing is told so."""
    reasons = grading.check_part(fill(TEXT, 8, ["        x0 = self.nothing(model)\n        return x0"]), 8)
    assert "AttributeError" in reasons[0] and "at `x0 = self.nothing(model)`" in reasons[0], reasons
    reasons = grading.check_part(fill(TEXT, 8, [pieces(blank(TEXT, 8), 8)[0] + "\n" + pieces(TEXT, 8)[0]]), 8)
    assert "delete the line `raise NotImplementedError`" in reasons[0], reasons
    reasons = grading.check_part(fill(TEXT, 8, ["        pass"]), 8)
    assert "got NoneType. Is there a `return`?" in reasons[0], reasons
    reasons = grading.check_part(fill(TEXT, 7, ["        pass"] * 2), 7)
    assert "is there a `return`?" in reasons[0], reasons


def test_errors_show_no_solution_of_another_part():
    """An error that arises in `predict`, part 6, shows the line of part 8 that called it."""
    reasons = grading.check_part(fill(TEXT, 8, [pieces(TEXT, 8)[0].replace("x, t,", "x, t.float(),")]), 8)
    assert "at `x0, eps = self.predict(model, x, t.float(), caption)`" in reasons[0], reasons
    schedule, _, q_sample = pieces(TEXT, 5)
    reasons = grading.check_part(fill(TEXT, 5, [schedule, "        return 1", q_sample]), 5)
    assert "at `signal, noise = self.signal_noise(t)`" in str(reasons), reasons
    reasons = grading.check_part(fill(TEXT, 1, ["    return latent.flatten(2)", pieces(TEXT, 1)[1]]), 1)
    assert all("permute" not in str(reason) for reason in reasons), reasons
    five_lines_more = 5 * "\n" + "    return latent +"             # Python quotes from the complete file
    reasons = grading.check_part(fill(TEXT, 1, [five_lines_more, pieces(TEXT, 1)[1]]), 1)
    assert "at `return latent +`" in reasons[0], reasons


def test_mistakes_with_the_anchor_are_not_told_to_flip():
    for wrong in WRONG[12]:
        reasons = str(grading.check_part(apply(TEXT, 12, wrong), 12))
        assert ("Flip `past`" in reasons) == ("Flip" in wrong.says), f"{wrong.new!r} is told {reasons}"


def test_global_settings_are_put_back():
    text = fill(TEXT, 8, ["        torch.set_grad_enabled(False)\n" + pieces(TEXT, 8)[0]])
    reasons = grading.check_part(text, 8)
    assert all("global settings" in reason for reason in reasons) and torch.is_grad_enabled(), reasons
