"""Records: whatever another process left in a file is read or refused in words; a changed one is noticed."""

import json
import os
from pathlib import Path

import pytest

from megatrain.records import OWN_HASH, check_seal, parse_record, read_file, sealed, write_sealed

RECORD = {"version": 3, "step": 200, "loss": 2.5, "name": "drama 明月", "skipped": [[0, 8]], "none": None}


def test_no_single_flipped_bit_changes_a_sealed_record(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_sealed(path, RECORD)
    text = read_file(path)
    for bit in range(8 * len(text)):
        flipped = bytearray(text)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            found = parse_record(bytes(flipped))
            check_seal(found, required=found.get("version", 0) >= 3)
        except ValueError:
            continue
        assert found == parse_record(text), flipped


def test_a_record_of_a_version_without_hashes_is_read_and_a_flipped_version_is_not() -> None:
    check_seal({"version": 2}, required=False)
    with pytest.raises(ValueError, match="absent"):
        check_seal({"version": 3}, required=True)
    with pytest.raises(ValueError, match="differs"):
        check_seal({**sealed({"version": 3}), "version": 2}, required=False)
    assert list(sealed(sealed(RECORD))) == [*RECORD, OWN_HASH]


@pytest.mark.parametrize(
    "text",
    [b"[1]", b"7", b"null", b"", b"{", b'{"a": NaN}', b'{"a": 1, "a": 2}', b'{"a": "\xff"}', b"\xff\xfe{"]
    + [b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"a": ' + b"9" * 5000 + b"}"],
)
def test_what_is_no_record_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_record(text)


def test_what_is_no_regular_file_is_an_error_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "long").write_text(json.dumps(RECORD))
    for name in ("fifo", ".", "absent"):
        with pytest.raises(OSError, match=r"\w"):
            read_file(tmp_path / name)
    with pytest.raises(OSError, match="at most 5"):
        read_file(tmp_path / "long", max_bytes=5)
