"""Raw files to documents: which files a source has, how each kind is read, and what is wrong with them."""

from data_tools.readers.files import find_files, look_for_files, told_left_out
from data_tools.readers.parts import InputPart, split
from data_tools.readers.read import read_documents, require_few_broken, require_readable
from data_tools.readers.records import Record
from data_tools.readers.source import Source

__all__ = [
    "InputPart",
    "Record",
    "Source",
    "find_files",
    "look_for_files",
    "read_documents",
    "require_few_broken",
    "require_readable",
    "split",
    "told_left_out",
]
