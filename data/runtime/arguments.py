"""A command line whose mistakes are answered in one line, with the nearest name that there is."""
import argparse
import difflib
import re
from dataclasses import fields


class Parser(argparse.ArgumentParser):
    """argparse's parser: help as written, no shortened flags, no usage of sixty lines before an error."""

    def __init__(self, description):
        super().__init__(description=description, allow_abbrev=False,
                         formatter_class=argparse.RawDescriptionHelpFormatter)

    def add_fields(self, title, config, but=None):
        """A group of flags: the fields of a config class, made by `sora.option`, without those of `but`, a
        class it extends. Left out, a flag is None."""
        group = self.add_argument_group(f"{title} (in brackets: tiny)")
        others = {item.name for item in fields(but)} if but else set()
        for item in fields(config):
            if item.name not in others:
                text = f"{item.metadata['help']} ({item.default})".replace("%", "%%")
                group.add_argument(f"--{item.name.replace('_', '-')}", type=item.type, help=text,
                                   metavar=item.type.__name__.upper())

    def error(self, message):
        """Ends with one line and exit code 2."""
        self.exit(2, f"{self.prog}: {message}{self.nearest(message)}\n")

    def nearest(self, message):
        """What may have been meant by a flag or a choice that does not exist, in words."""
        wrong = re.search(r"unrecognized arguments: ([^\s=]+)|invalid choice: '([^']+)'", message)
        if not wrong:
            return ""
        known = []
        for action in self._actions:
            known += [*action.option_strings, *(action.choices or ())]
        near = difflib.get_close_matches(wrong[1] or wrong[2], known, n=1)
        return f"; did you mean {near[0]}?" if near else ""

    def parse_args(self, argv=None):
        """The flags. An empty text is no way to leave one out: it is mostly a variable without a value."""
        args = super().parse_args(argv)
        for action in self._actions:
            value = getattr(args, action.dest, None)
            given = value if isinstance(value, list) else [value]
            if "" in given and value != action.default:
                name = (action.option_strings or [action.dest])[0]
                self.error(f"{name}: expected a value, got an empty text; leave the flag out instead")
        return args
