"""Bad input ends a script with exit code 2 and one line; a programming error keeps its traceback."""
import os
import sys
from pathlib import Path

from sora import InputError


def run_script(main):
    """Runs a script's main(). What the user can mend is said in one line."""
    try:
        main()
    except InputError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":                # several processes say it once
            print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)
