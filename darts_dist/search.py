"""The verb `search`: cells by gradient descent, a genotype for each seed.

Place: layer 4: config -> pictures or texts -> task -> run.
"""

from typing import Any

from darts_dist import run as runs
from darts_dist import texttask, trainconfig
from darts_dist.bilevel import Search
from darts_dist.config import Config, TextConfig
from darts_dist.data import sources
from darts_dist.errors import ConfigError
from darts_dist.journal import SearchJournal
from darts_dist.texttask import TextSearch


def check_selection(config: Config | TextConfig) -> None:
    """Raises, before the search and not after it, what `select` would say of `select_with`."""
    try:
        trainconfig.after_search(config, "select_with", config.select_with)
    except ConfigError as error:
        raise ConfigError(f"select_with: {error}") from None


def run(config: Config | TextConfig, workdir: str, debug: bool) -> dict[str, Any]:
    """Returns the content of result.json after a search in `workdir`."""
    if config.select:
        check_selection(config)

    def make() -> Search | TextSearch:
        if isinstance(config, TextConfig):
            return TextSearch(config, texttask.load(config))
        return Search(config, sources.load(config, "train"))

    lines = "genotypes.jsonl"
    return runs.carry_out("search", config, workdir, debug, make, SearchJournal, lines)
