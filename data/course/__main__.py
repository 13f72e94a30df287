"""The course's commands; README.md beside this file is the sheet.

    python3 -m data.course make DIR                a student's copy, in a new folder
    python3 -m data.course part 3                  what part 3 asks for
    python3 -m data.course grade DIR               points a part, with a reason for each that is missing
    python3 -m data.course grade DIR --part 3 4    only these
    python3 -m data.course reveal DIR 3            puts the solution of part 3 (or all) into a copy
    python3 -m data.course hunt DIR 2              a copy, in a new folder, with mistake 2 in it (staff)
    python3 -m data.course expose DIR              measures a copy in which a mistake may be (staff)
    python3 -m data.course board DIR               runs an entry of the ten-minute board, prints its row
"""
import data  # first of all: it sets how the threads of torch wait

import argparse
import sys
import textwrap

from data.course.blanks import PACKED, module_of, original

if PACKED.exists():  # a student's copy: its sora.py has blanks, and may not even import
    sys.modules["sora"] = module_of(original())

from data.course import board, copies, grading, open_parts
from data.course.parts import OPEN, PARTS
from data.runtime.errors import run_script
from sora import InputError


def say_part(args):
    """Prints what a part asks for."""
    everything = {**{str(number): part for number, part in PARTS.items()}, **OPEN}
    if args.part not in everything:
        raise InputError(f"part {args.part}: expected one of {', '.join(everything)}")
    part = everything[args.part]
    print(f"Part {args.part}: {part.title} ({part.points} points, about {part.minutes} minutes)\n")
    for name in ("where", "source", "shapes", "hint"):
        text = textwrap.fill(getattr(part, name), 100, initial_indent=f"{name + ':':9}",
                             subsequent_indent=" " * 9)
        print(text)


def make(args):
    """Writes a student's copy."""
    copies.make(args.dir)
    print(f"wrote {args.dir}: start with {args.dir}/data/course/README.md")


def reveal(args):
    """Puts a solution in."""
    if args.part != "all" and not args.part.isdigit():
        raise InputError(f"part {args.part}: expected 1 to {len(PARTS)}, or all")
    for number in PARTS if args.part == "all" else [int(args.part)]:
        kept = copies.reveal(args.dir, number)
        print(f"part {number} is in {args.dir}/sora.py; what stood there is in {kept}")


def grade(args):
    """Prints the points, and why they are not more."""
    student, staff, total = copies.read_student(args.dir), original(), 0
    asked = args.part or [*map(str, PARTS), *OPEN]
    for name in asked:
        if name not in {*map(str, PARTS), *OPEN}:
            raise InputError(f"--part {name}: expected 1 to {len(PARTS)}, {', '.join(OPEN)}")
    wanted = [int(name) for name in asked if name not in OPEN]
    for number in wanted:
        result = grading.grade_part(student, staff, number, args.limit)
        total += result.points
        show(f"part {number:2}", PARTS[number].title, result)
    if wanted:
        most = sum(PARTS[number].points for number in wanted)
        print(f"{'':9}{'together':44}{total:5.1f} of {most}")
    for name in OPEN:
        result = open_parts.grade(args.dir, name) if name in asked else None
        if result:
            show("open", OPEN[name].title, result)
        elif args.part and name in asked:
            print(f"{'open':9}{OPEN[name].title:44}nothing in {args.dir}/open yet: python3 -m data.course part {name}")
    for note in copies.notes_on(args.dir, wanted):
        print(f"note: {note}")


def show(number, title, result):
    """The line of a part, and below it a line for each reason."""
    print(f"{number:9}{title:44}{result.points:5.1f} of {result.most}", flush=True)
    for reason in result.reasons:
        print(f"{'':11}{reason}", flush=True)


def staff_hunts():
    """The mistakes to hunt, which a student's copy does not have."""
    try:
        from data.course import hunts
    except ImportError:
        raise InputError("mistakes to hunt are not in a student's copy: run this where `make` was "
                         "run") from None
    return hunts


def hunt(args):
    """Writes a copy with a mistake."""
    staff_hunts().make(args.dir, args.number)
    print(f"wrote {args.dir}, with a mistake in it")


def expose(args):
    """Prints the measurements that tell the mistakes."""
    for name, got, expected, fine in staff_hunts().expose(args.dir):
        print(f"{'ok' if fine else 'OFF':5}{name:60}{got:>12}   expected {expected}")


def parse(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(prog="python3 -m data.course", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(function, *names):
        command = commands.add_parser(function.__name__.replace("say_", ""), allow_abbrev=False)
        command.set_defaults(run=function)
        for name in names:
            command.add_argument(name, type=int if name == "number" else str)
        return command
    add(make, "dir")
    add(say_part, "part")
    add(reveal, "dir", "part")
    add(hunt, "dir", "number")
    add(expose, "dir")
    grades = add(grade)
    grades.add_argument("dir", nargs="?", default=".", help="the copy (.)")
    grades.add_argument("--part", nargs="+", help="only these parts, numbers or names of open ones")
    grades.add_argument("--limit", type=float, default=grading.LIMIT, help="seconds a part may take")
    board.add_arguments(add(board.board, "dir"))
    return parser.parse_args(argv)


def main(argv=None):
    """Runs a command."""
    args = parse(argv)
    args.run(args)


if __name__ == "__main__":
    sys.argv[0] = "data.course"                                     # complaints begin with it
    run_script(main)
