"""Train one run of a study, in a process of its own: what fails there, fails alone.

python -m pairloom.ablation.work CONFIG.json RUN
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from pairloom import configfile
from pairloom.fit import train


def main(config: str, run: str) -> None:
    """Train as configured; a mistake or a divergence is one sentence on stderr and exit status 2."""
    warnings.simplefilter("ignore")
    try:
        train(configfile.load(config), Path(run))
    except KeyboardInterrupt as stop:
        raise SystemExit(128 + getattr(stop, "signum", 2)) from None
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        print(f"{error}" or type(error).__name__, file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main(*sys.argv[1:])
