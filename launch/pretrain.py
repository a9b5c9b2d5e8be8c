"""What every launcher starts on each rank: `launch/pretrain.py --config CONFIG [section.key=value ...]`.

Exit codes: 0 done (or stopped by RUN/STOP), 2 wrong input, 1 failed, 75 preempted and saved (0 under
`megatrain train`, which is told by a file: a launcher would print an error).
"""

from __future__ import annotations

import os
import sys

from megatrain.output import require_utf8
from megatrain.train.main import main

if __name__ == "__main__":
    require_utf8(os.environ)
    sys.exit(main(sys.argv[1:]))
