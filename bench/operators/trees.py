"""Decision forests and kernels of support vectors, as scikit-learn's converters write them."""

from __future__ import annotations

from typing import Any

import numpy as np


def forest(trees: int, depth: int, features: int) -> dict[str, Any]:
    """Attributes of a TreeEnsembleRegressor of complete trees.

    Args:
        trees: How many.
        depth: Of each: 2^depth leaves.
        features: That it may ask about.
    """
    generator = np.random.default_rng(2)
    inner, nodes = 2**depth - 1, 2 ** (depth + 1) - 1
    numbers = np.arange(nodes)
    is_leaf = numbers >= inner
    leaves = numbers[is_leaf]

    def each(values: np.ndarray[Any, Any]) -> list[Any]:
        return list(np.tile(values, trees).tolist())

    thresholds = generator.standard_normal((trees, nodes)) * ~is_leaf
    asked = generator.integers(0, features, (trees, nodes)) * ~is_leaf
    return {
        "n_targets": 1,
        "nodes_treeids": np.repeat(np.arange(trees), nodes).tolist(),
        "nodes_nodeids": each(numbers),
        "nodes_featureids": asked.ravel().tolist(),
        "nodes_values": thresholds.ravel().tolist(),
        "nodes_modes": each(np.where(is_leaf, "LEAF", "BRANCH_LEQ")),
        "nodes_truenodeids": each(np.where(is_leaf, 0, 2 * numbers + 1)),
        "nodes_falsenodeids": each(np.where(is_leaf, 0, 2 * numbers + 2)),
        "target_treeids": np.repeat(np.arange(trees), len(leaves)).tolist(),
        "target_nodeids": each(leaves),
        "target_ids": [0] * (trees * len(leaves)),
        "target_weights": generator.standard_normal(trees * len(leaves)).tolist(),
    }


def support_vectors(vectors: int, features: int) -> dict[str, Any]:
    """Attributes of an SVMRegressor with a radial kernel.

    Args:
        vectors: Of support.
        features: Of each.
    """
    generator = np.random.default_rng(3)
    return {
        "kernel_type": "RBF",
        "kernel_params": [1 / features, 0.0, 3.0],
        "n_supports": vectors,
        "support_vectors": generator.standard_normal(vectors * features).tolist(),
        "coefficients": generator.standard_normal(vectors).tolist(),
        "rho": [0.1],
    }
