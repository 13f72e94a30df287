"""What every script does at its foot."""
import sys
from pathlib import Path

from sora import InputError


def run_script(main):
    """Runs a script. Bad input ends it with exit code 2 and one line that says what to do, instead of a traceback."""
    try:
        main()
    except InputError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)
