"""Real text for tests: the bundled corpus, English drama and Chinese verse."""

import gzip
import json
from pathlib import Path
from typing import Literal

CORPUS = Path(__file__).resolve().parents[2] / "data_tools" / "corpus"


def corpus(name: Literal["drama", "verse"], documents: int) -> list[str]:
    """The first documents of a part."""
    with gzip.open(CORPUS / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line, _ in zip(file, range(documents), strict=False)]
