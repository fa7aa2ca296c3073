"""Connected components of graphs whose edges come in pieces: each piece shrinks to a forest before it travels."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.int64]


def forest(edges: Places) -> Places:
    """For every node of a graph but the lowest of its component, the edge `[m, 2]` from that lowest node to it.

    `edges` `[n, 2]` hold nodes in any order, repeated or not. The result has the same components, at most one edge for
    each node, and is sorted by node. Time is that of sorting; memory a few times the input's.
    """
    nodes, numbered = np.unique(edges, return_inverse=True)
    ends = numbered.reshape(-1, 2)
    roots = np.arange(len(nodes))
    while len(ends := ends[roots[ends[:, 0]] != roots[ends[:, 1]]]):
        # Hook the higher root of each edge to the lowest it meets, then let every node point to its root.
        low, high = np.sort(roots[ends], axis=1).T
        np.minimum.at(roots, high, low)
        while (roots != (shorter := roots[roots])).any():
            roots = shorter
    others = roots != np.arange(len(nodes))
    return np.stack([nodes[roots[others]], nodes[others]], axis=1)


def merged(forests: Iterable[Places]) -> Places:
    """The forest of all edges of several."""
    return forest(np.concatenate([np.empty((0, 2), np.int64), *forests]))


def members(found: Places) -> Places:
    """(node, lowest node of its component) `[n, 2]` for each node of a forest, roots too, sorted by node."""
    roots = np.unique(found[:, 0])
    everyone = np.concatenate([found[:, ::-1], np.stack([roots, roots], axis=1)])
    return everyone[np.argsort(everyone[:, 0], kind="stable")]
