"""What a run trains on: samples of the mixture, packed or not, and the order that they come in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import xxhash

from megatrain.config import Config, DataConfig, first_samples
from megatrain.data.batch import PADDING, rows_of_rank
from megatrain.data.dataset import TokenDataset
from megatrain.data.documents import documents_of
from megatrain.data.files import File
from megatrain.data.loader import Loader
from megatrain.data.lookahead import Lookahead
from megatrain.data.mixture import TokenMixture
from megatrain.data.order import Phase, SampleOrder
from megatrain.data.packing import PackedDataset
from megatrain.data.permutation import BlockShuffle
from megatrain.data.rows import Ints, Pieces, Reads
from megatrain.errors import require

GIB = 2**30


@dataclass(frozen=True)
class _Member:
    reader: TokenDataset | PackedDataset
    source: str
    first_file: int


class TrainingSamples:
    """The samples of all sources: windows, or rows of packed documents."""

    def __init__(self, mixture: TokenMixture, config: DataConfig) -> None:
        """Raises UserError where data.packing asks for a plan that a dataset has not."""
        self._config, self._length = config, config.sequence_length
        self._mixture = mixture
        blocks = config.shuffle
        self._shuffle = BlockShuffle(blocks.block, blocks.window) if blocks.kind == "block" else None
        self.eos_id, self.dtype, self.vocab_size = mixture.eos_id, mixture.dtype, mixture.vocab_size
        self._readers: dict[int, TokenDataset | PackedDataset] = {
            id(dataset): PackedDataset.open(dataset, self._length)
            if config.packing == "best_fit"
            else dataset
            for dataset in mixture.datasets
        }
        self.shard_files: list[File] = []
        first_files = {}
        for dataset in mixture.datasets:
            first_files[id(dataset)] = len(self.shard_files)
            self.shard_files += dataset.shard_files
        self._members = {
            name: _Member(self._readers[id(member.dataset)], member.source, first_files[id(member.dataset)])
            for name, member in mixture.members.items()
        }

    def order(self, seed: int) -> SampleOrder:
        """The order that the samples come in. Raises UserError where it is impossible, naming the source."""
        config, members = self._config, self._mixture.members
        weights = {name: m.weight for name, m in members.items() if m.weight is not None} or None
        later: list[Phase] = []
        if config.phases:
            weights = config.phases[0].weights
            begins = zip(first_samples(config), config.phases, strict=True)
            later = [Phase(first, phase.weights) for first, phase in begins][1:]
        return SampleOrder(self.sizes, weights, seed, later=later, shuffle=self._shuffle)

    @property
    def sizes(self) -> dict[str, int]:
        """The number of samples of each source."""
        return {name: m.reader.windows(m.source, self._length) for name, m in self._members.items()}

    @property
    def remote(self) -> bool:
        """Whether some shards lie on object storage."""
        return any(dataset.remote is not None for dataset in self._mixture.datasets)

    def fingerprint(self, order: SampleOrder) -> str:
        """Of all that decides which tokens a run sees when: shards, order, length, handling of documents."""
        documents: str = documents_of(self._config)
        plans = [r.plan.fingerprint for r in self._readers.values() if isinstance(r, PackedDataset)]
        if plans:
            documents += f"/{xxhash.xxh3_64_hexdigest(' '.join(plans).encode())}"
        return f"{self._mixture.fingerprint}-{order.fingerprint}-{self._length}-{documents}"

    def locate(self, source: str, ids: Ints) -> tuple[TokenDataset, Pieces]:
        """Where samples of a source lie, and in which dataset."""
        member, dataset = self._members[source], self._mixture.members[source].dataset
        return dataset, member.reader.locate(member.source, ids, self._length)

    def reads(self, source: str, ids: Ints, sequence_length: int) -> Reads:
        """See TokenDataset.reads."""
        member = self._members[source]
        reads = member.reader.reads(member.source, ids, sequence_length)
        return replace(reads, file=reads.file + member.first_file)

    def shards_of(self, source: str, ids: Ints, sequence_length: int) -> Ints:
        """See TokenDataset.shards_of."""
        member = self._members[source]
        return member.reader.shards_of(member.source, ids, sequence_length)

    def fetch(self, source: str, shard: int) -> bool:
        """See TokenDataset.fetch."""
        return self._members[source].reader.fetch(shard)

    def require_room(self, sources: Iterable[str]) -> None:
        """Raise UserError where the cache is too small for the shards that are read from at one time."""
        cache, needed = self._config.cache, 0
        for name in sources:
            member, dataset = self._members[name], self._mixture.members[name].dataset
            if dataset.remote is not None:
                sizes = dataset.bytes_of(dataset.shards(member.source))
                ends = member.reader.ends(member.source, self._length)
                needed += at_hand(ends, sizes, self._shuffle) + cache.ahead * int(sizes.max())
        mend = "lower data.shuffle.window" if self._shuffle else "set data.shuffle.kind=block"
        require(
            needed <= cache.gib * GIB,
            f"data.cache.gib ({cache.gib:g}): the shards that are read from at one time take up to "
            f"{needed / GIB:.3g} GiB; raise it, or {mend}",
        )

    def verify_share(self, share: int, shares: int) -> None:
        """Re-hash every `shares`-th shard, with its plan. Raises FailedWork naming a damaged one.

        Shards on object storage are hashed whenever they are fetched.
        """
        for reader in self._readers.values():
            dataset = reader if isinstance(reader, TokenDataset) else reader.dataset
            if dataset.remote is None:
                mine = range(share, len(dataset.manifest.shards), shares)
                dataset.verify_shards(mine)
                if isinstance(reader, PackedDataset):
                    reader.verify_shards(mine)


def at_hand(ends: Ints, sizes: Ints, shuffle: BlockShuffle | None) -> int:
    """Bytes of the shards that a source is read from at one time, at most.

    Shard number i holds the samples up to `ends[i]` and has `sizes[i]` bytes.
    """
    count = len(ends)
    if shuffle is not None:
        # A block may begin with the last sample of a shard.
        last = np.minimum(np.searchsorted(ends, ends + shuffle.block - 2, side="right"), count - 1)
        count = min(count, shuffle.window * int((last - np.arange(count) + 1).max()))
    return int(np.sort(sizes)[::-1][:count].sum())


def open_loader(
    samples: TrainingSamples, order: SampleOrder, config: Config, *, dp_rank: int, dp_size: int
) -> Loader:
    """The loader of one data-parallel rank; for shards on object storage, one that fetches them ahead."""
    data, train = config.data, config.train
    rows = rows_of_rank(train.global_batch, train.micro_batch, dp_rank, dp_size)
    rows, lookahead = rows[rows != PADDING], None
    if samples.remote and data.cache.ahead and len(rows):
        lookahead = Lookahead(
            samples,
            order,
            rows=rows,
            global_batch=train.global_batch,
            sequence_length=data.sequence_length,
            ahead=data.cache.ahead,
        )
    return Loader(
        samples,
        order,
        global_batch=train.global_batch,
        micro_batch=train.micro_batch,
        dp_rank=dp_rank,
        dp_size=dp_size,
        sequence_length=data.sequence_length,
        documents=documents_of(data),
        prefetch=data.prefetch,
        lookahead=lookahead,
    )
