"""Which documents belong together."""

from __future__ import annotations

from collections import defaultdict


class Clusters:
    """Disjoint sets over the numbers 0 … n - 1 (union-find with path halving).

    The representative of a set is its smallest number, whatever the order of the unions.
    """

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def find(self, item: int) -> int:
        """The smallest number in the set of ``item``."""
        parent = self._parent
        while parent[item] != item:
            parent[item] = item = parent[parent[item]]
        return item

    def join(self, one: int, other: int) -> None:
        """Make one set of the sets of ``one`` and ``other``."""
        one, other = sorted((self.find(one), self.find(other)))
        self._parent[other] = one

    def groups(self) -> dict[int, list[int]]:
        """The sets of two or more, ascending, by their smallest number."""
        members = defaultdict(list)
        for item in range(len(self._parent)):
            members[self.find(item)].append(item)
        return {first: items for first, items in members.items() if len(items) > 1}
