"""The verb `search`: cells by gradient descent, a genotype for each seed.

Place: layer 4: config -> pictures or texts -> task -> run.
"""

from typing import Any

from darts_dist import run as runs
from darts_dist import texttask
from darts_dist.bilevel import Search
from darts_dist.config import Config, TextConfig
from darts_dist.data import sources
from darts_dist.journal import SearchJournal
from darts_dist.texttask import TextSearch


def run(config: Config | TextConfig, workdir: str, debug: bool) -> dict[str, Any]:
    """Returns the content of result.json after a search in `workdir`."""

    def make() -> Search | TextSearch:
        if isinstance(config, TextConfig):
            return TextSearch(config, texttask.load(config))
        return Search(config, sources.load(config, "train"))

    lines = "genotypes.jsonl"
    return runs.carry_out("search", config, workdir, debug, make, SearchJournal, lines)
