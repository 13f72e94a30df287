"""Bad input ends a script with exit code 2 and one line; a programming error keeps its traceback."""
import os
import sys
from pathlib import Path

from sora import InputError


def run_script(main):
    """Runs a script's main(). What the user can mend is said in one line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):                          # no name or caption can end a run:
            stream.reconfigure(errors="backslashreplace")           # what cannot be printed is \x.., \u....
    try:
        main()
    except InputError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":                # several processes say it once
            print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)
