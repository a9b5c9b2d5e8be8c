"""How documents that share a row are kept apart, and by which rule a run that exists was begun."""

from __future__ import annotations

from typing import Literal, get_args

from megatrain.config import DataConfig

Start = Literal["eos", "none"]
Documents = Literal["concat", "mask", "start"]
"""What happens at the end of a document; these words are stored in data fingerprints.

`concat`: nothing; each token predicts the next one.
`mask`: attention and positions stay within a document. EOS is its last token, and the label behind EOS, the
first token of the next document, does not count.
`start`: attention and positions stay within a document. EOS is the start token of the document behind it:
positions restart at EOS, and every label counts.
"""


def documents_of(data: DataConfig) -> Documents:
    """Return the rule that a config states; a `document_start` that is not set is that of a new run."""
    if not data.document_mask:
        return "concat"
    return "mask" if data.document_start == "none" else "start"


def documents_in(fingerprint: str) -> Documents | None:
    """Return the rule that a data fingerprint names; None where it is not one of a run."""
    word = fingerprint.rpartition("-")[2].partition("/")[0]
    return next((known for known in get_args(Documents) if known == word), None)


def starts_documents(documents: Documents | None) -> bool:
    """Whether EOS was trained as the token before the first one of a document."""
    return documents in ("start", "concat")


def document_start(data: DataConfig, begun_with: str | None) -> Start:
    """Return the rule to follow: the config's own; else that of what is continued or looked at, whose data
    fingerprint is `begun_with`; else that of a new run."""
    if data.document_start is not None:
        return data.document_start
    return "none" if begun_with is not None and documents_in(begun_with) == "mask" else "eos"
