"""Win rate of the current policy against the start, on held-out prompts, judged by the run's own panel.

The start's completions are sampled once, before the first update reaches an engine, and kept in the run directory,
so that a resumed run compares with the same ones.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.config import AlignConfig
from actors.planes import Planes, sampling_of
from actors.records import SCHEMA, GroupRequest, Message, Part, derive_seed
from actors.scorer import Comparison
from algorithms.intervals import win_rate_interval


class Evaluator:
    """Held-out prompts, the start's answers to them, and comparisons against these."""

    def __init__(
        self,
        config: AlignConfig,
        prompts: Sequence[tuple[Message, ...]],
        planes: Planes,
        policy: str,
        run_directory: str,
    ) -> None:
        self._config = config
        self._prompts = prompts[: max(config.evaluation.final_prompts, config.evaluation.prompts)]
        self._planes = planes
        self._policy = policy
        self.start: list[Any] = []
        """The start's completions, a record batch a prompt, once they are sampled."""
        self._path = Path(run_directory) / "start.parquet"

    async def sample_start(self) -> None:
        """Sample the start's completions, or read those of an earlier life of this run."""
        if not self._path.exists():
            references = await asyncio.gather(*(self._sample(i, -1) for i in range(len(self._prompts))))
            batches = [await reference for reference in references]
            part = self._path.with_suffix(".part")
            pq.write_table(pa.Table.from_batches(batches, SCHEMA), part)
            part.rename(self._path)
        table = pq.read_table(self._path, schema=SCHEMA)
        self.start = table.combine_chunks().to_batches(max_chunksize=1)

    async def evaluate(self, version: int, final: bool) -> tuple[dict[str, Any], list[Comparison]]:
        """Figures of one evaluation, and the comparisons prompt by prompt."""
        options = self._config.evaluation
        count = min(options.final_prompts if final else options.prompts, len(self._prompts))
        comparisons = await asyncio.gather(*(self._judge(i, version) for i in range(count)))
        outcomes = {"win_rate": [c.probability for c in comparisons]}
        if self._config.scoring.gold:
            outcomes["gold_win_rate"] = [c.gold for c in comparisons if c.gold is not None]
        figures = {
            **{name: asdict(win_rate_interval(found, seed=self._config.seed)) for name, found in outcomes.items()},
            "ties": float(np.mean([c.ties for c in comparisons])),
            "length_mean": float(np.mean([c.length for c in comparisons])),
            "judges": {j: float(np.mean([c.judges[j] for c in comparisons])) for j in comparisons[0].judges},
        }
        return figures, list(comparisons)

    async def _judge(self, i: int, version: int) -> Comparison:
        return await self._planes.compare(self.start[i], await self._sample(i, version))

    async def _sample(self, i: int, version: int) -> Any:
        seed, samples = self._config.seed, self._config.evaluation.samples
        seeds = tuple(derive_seed(seed, "heldout", version, i, k) for k in range(samples))
        request = GroupRequest(
            id=f"heldout-{i:06d}-v{version}",
            index=i,
            epoch=0,
            version=version,
            messages=self._prompts[i],
            parts=(Part(role="heldout", policy=self._policy, seeds=seeds, sampling=sampling_of(self._config.rollout)),),
        )
        return (await self._planes.generate(request))[1]
