"""The report counts what it says, on English and Chinese, and the command prints it for a dataset."""

import json
from pathlib import Path

import pytest
import xxhash

from data_tools.tokenizer.fertility import Fertility, count_words
from data_tools.tokenizer.report import TextSample, TokenizerReport, report
from data_tools.tokenizer.sampled_report import sample_documents, script_of
from data_tools.tokenizer.section import TokenizerTraining
from data_tools.tokenizer.train import train_tokenizer
from megatrain.cli import main
from megatrain.data.manifest import Manifest, write_manifest
from megatrain.data.shard import write_shard
from megatrain.data.tokenizer import Tokenizer, describe, save_tokenizer
from megatrain.errors import UserError
from tests.data.texts import corpus
from tests.data_tools.finished import make_dataset, write_lineage

DRAMA, VERSE = [text[:4000] for text in corpus("drama", 8)], corpus("verse", 40)


@pytest.fixture(scope="module")
def model() -> bytes:
    section = TokenizerTraining(vocab_size=1500, special_tokens=("chat",), character_coverage=0.99)
    return train_tokenizer(DRAMA[:6] + VERSE[:30], section)


@pytest.fixture(scope="module")
def tokenizer(model: bytes) -> Tokenizer:
    return Tokenizer(model, describe("sentencepiece", model))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, model: bytes) -> Path:
    """Two splits, two sources; the drama lies in two shards."""
    folder = tmp_path_factory.mktemp("data")
    info = save_tokenizer(folder / "tokenizer", model)
    tokenizer = Tokenizer.load(folder)
    parts = {"train": [("drama", DRAMA[:3]), ("drama", DRAMA[3:6]), ("verse", VERSE[:30])]}
    parts["validation"] = [("verse", VERSE[30:])]
    for split, shards in parts.items():
        (folder / split).mkdir()
        infos = []
        for number, (source, texts) in enumerate(shards):
            encoded = tokenizer.encode_many(texts)
            infos.append(
                write_shard(
                    folder / split / f"shard-{number:05d}.arrow",
                    source=source,
                    doc_ids=[xxhash.xxh3_128_digest(text.encode()) for text in texts],
                    lengths=encoded.lengths,
                    tokens=encoded.tokens,
                    tokenizer_hash=info.hash,
                    text_bytes=sum(len(text.encode()) for text in texts),
                )
            )
        write_manifest(folder / split, Manifest(split, "uint16", info, tuple(infos)))
    return folder


def found(tokenizer: Tokenizer) -> TokenizerReport:
    samples = [TextSample(text, "drama", "en") for text in DRAMA]
    return report(tokenizer, [*samples, *[TextSample(text, "verse", "zh") for text in VERSE]])


def test_counts_are_those_of_the_texts(tokenizer: Tokenizer) -> None:
    result = found(tokenizer)
    for row, texts in ((result.by_language["en"], DRAMA), (result.by_source["verse"], VERSE)):
        ids = [id_ for text in texts for id_ in tokenizer.encode(text)]
        assert row == Fertility(
            documents=len(texts),
            characters=sum(map(len, texts)),
            bytes=sum(len(text.encode()) for text in texts),
            words=sum(map(count_words, texts)),
            tokens=len(ids),
            byte_tokens=sum(tokenizer.piece(id_).startswith("<0x") for id_ in ids),
        )
    assert result.overall == result.by_source["drama"] + result.by_source["verse"]
    assert result.by_language == {"en": result.by_source["drama"], "zh": result.by_source["verse"]}
    verse = result.by_source["verse"]
    assert verse.byte_tokens > 0 and verse.byte_token_share == verse.byte_tokens / verse.tokens
    assert verse.tokens_per_word == verse.tokens / verse.words
    assert verse.tokens_per_character == verse.tokens / verse.characters
    assert verse.bytes_per_token == 1 / verse.tokens_per_byte == verse.bytes / verse.tokens


def test_unused_and_longest_pieces(tokenizer: Tokenizer) -> None:
    result = found(tokenizer)
    used = {id_ for text in DRAMA + VERSE for id_ in tokenizer.encode(text)}
    lengths = tokenizer.byte_lengths()
    pieces = [id_ for id_ in range(1500) if lengths[id_] and not tokenizer.byte_ids()[id_]]
    # Not of text: <unk>, <s>, </s>, two of chat; and the bytes.
    assert result.pieces == len(pieces) == 1500 - 5 - 256
    unused = [id_ for id_ in pieces if id_ not in used]
    assert result.unused_pieces == len(unused) > 0
    assert [piece.id for piece in result.unused] == sorted(unused, key=lambda id_: (-lengths[id_], id_))[:20]
    assert [p.id for p in result.longest] == sorted(pieces, key=lambda id_: (-lengths[id_], id_))[:20]
    longest = result.longest[0]
    assert longest.bytes == len(longest.text.encode()) == max(lengths[pieces])
    assert longest.count == sum(tokenizer.encode(text).count(longest.id) for text in DRAMA + VERSE)


def test_as_json_and_as_a_table(tokenizer: Tokenizer) -> None:
    result = found(tokenizer)
    record = json.loads(json.dumps(result.record()))
    assert record["by_language"]["zh"]["tokens_per_character"] == pytest.approx(
        result.by_language["zh"].tokens_per_character
    )
    assert record["longest"][0]["text"] == result.longest[0].text
    lines = result.text().splitlines()
    names = ["", "language en", "language zh", "source drama", "source verse", "all"]
    assert [line[:20].strip() for line in lines[1:7]] == names
    assert len({len(line) for line in lines[1:7]}) == 1
    assert f"never used: {result.unused_pieces:,} of 1,239 pieces" in lines[7]


def test_what_is_lost_is_counted() -> None:
    section = TokenizerTraining(vocab_size=800, byte_fallback=False, character_coverage=0.98)
    model = train_tokenizer(DRAMA, section)
    lossy = Tokenizer(model, describe("sentencepiece", model))
    result = report(lossy, [TextSample("to be", "a", "en"), TextSample("龘", "b", "zh")])
    assert {name: row.lossy_documents for name, row in result.by_source.items()} == {"a": 0, "b": 1}


def test_nothing_to_report_on(tokenizer: Tokenizer) -> None:
    result = report(tokenizer, [])
    assert result.overall == Fertility() and result.unused_pieces == result.pieces
    assert result.overall.bytes_per_token is None and "never used" in result.text()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("To be, or not to be: that's it.", 8),
        ("白日依山盡，黃河入海流。", 10),
        ("GPT-2 在 2019 年发布", 6),
        ("カタカナ漢字", 6),
        ("Русский язык, ελληνικά", 3),
        ("... -- !", 0),
    ],
)
def test_words_are_those_of_the_steps(text: str, words: int) -> None:
    assert count_words(text) == words


def test_scripts() -> None:
    texts = {
        "Latin": DRAMA[0],
        "Han": VERSE[0],
        "Cyrillic": "Привет",
        "Kana": "これはペンです",
        "other": "12!",
    }
    assert {script_of(text) for text in DRAMA} == {"Latin"} and {script_of(text) for text in VERSE} == {"Han"}
    assert {name: script_of(text) for name, text in texts.items()} == {name: name for name in texts}


def test_documents_come_from_all_sources(dataset: Path) -> None:
    samples = list(sample_documents(dataset, 12, seed=0))
    assert {sample.source for sample in samples} == {"drama", "verse"}
    assert {sample.text for sample in samples} <= {*DRAMA, *VERSE} and len(samples) == 12
    assert (
        samples == list(sample_documents(dataset, 12, seed=0)) != list(sample_documents(dataset, 12, seed=1))
    )
    everything = [sample.text for sample in sample_documents(dataset, 10_000, seed=0)]
    assert sorted(everything) == sorted(DRAMA[:6] + VERSE)


def test_a_language_that_preparing_found_goes_before_the_script(tmp_path: Path) -> None:
    texts = [*(text[:300] for text in DRAMA[:5]), *VERSE[:2]]
    folder = make_dataset(tmp_path / "data", {"train": {"both": texts}})
    assert {s.language for s in sample_documents(folder, 9, seed=0)} == {"Latin", "Han"}
    write_lineage(folder, "train", 0, texts)  # which names "en", and of verse nothing
    found = {sample.text: sample.language for sample in sample_documents(folder, 9, seed=0)}
    assert found == {text: "en" if text.isascii() else "Han" for text in texts}


def test_the_command(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "tokenizer", str(dataset)]) == 0
    printed = capsys.readouterr().out
    assert "language Latin" in printed and "language Han" in printed and "source verse" in printed
    assert main(["data", "tokenizer", str(dataset), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["overall"]["documents"] == 46 and record["overall"]["lossy_documents"] == 0
    # Another tokenizer, on the same text.
    other = train_tokenizer(DRAMA, TokenizerTraining(vocab_size=500, character_coverage=0.98))
    (tmp_path / "other.model").write_bytes(other)
    words = ["data", "tokenizer", str(dataset / "train"), "--tokenizer", str(tmp_path / "other.model")]
    assert main(words) == 0
    assert "500 ids" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/none"], "no prepared dataset there"),
        (["{data}", "--tokenizer", "{tmp}/none.model"], "none.model: cannot be read"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], message: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [argument.format(tmp=tmp_path, data=dataset) for argument in arguments]
    assert main(["data", "tokenizer", *words]) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1
    with pytest.raises(UserError, match="no prepared dataset there"):
        list(sample_documents(dataset / "nowhere", 3, seed=0))


def test_a_ratio_of_nothing_is_no_number() -> None:
    nothing = Fertility()
    assert nothing.bytes_per_token is None and nothing.record()["tokens_per_word"] is None
    assert nothing.row("none").split()[4:8] == ["-"] * 4
