# SPDX-License-Identifier: Apache-2.0
"""The bar of a search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(total: int, name: str, show: bool) -> Iterator[Callable[[], object]]:
    """Yield a function that says that one unit is done; draws a tqdm bar when `show`."""
    if not show:
        yield lambda: None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("fewstep.search: 'progress' needs tqdm: pip install tqdm") from error
    with tqdm(total=total, desc=name) as shown:
        yield shown.update
