#!/usr/bin/env python3
"""Writes length_control.json: length-controlled win rates of synthetic verdicts, by NumPy.

Run from this folder, with NumPy's scalar sort:
NPY_DISABLE_CPU_FEATURES="AVX2 AVX512F AVX512_SKX X86_V3 X86_V4" python3 length_control.py   (numpy)
"""

import itertools
import json
import platform

import numpy as np

rng = np.random.default_rng(7)
FOLDS = 5


def folds(n):
    """scikit-learn's GroupKFold over groups of one row: sorted by size, then dealt from the end."""
    fold_of = np.empty(n, int)
    for visited, row in enumerate(np.argsort(np.ones(n, int))[::-1]):
        fold_of[row] = visited % FOLDS
    return fold_of


def optimum(x, t, a, c):
    """Tries every pattern of signs: on each the objective is smooth, and one of them holds the optimum."""
    for signs in itertools.product([0, 1, -1], repeat=x.shape[1]):
        signs = np.array(signs)
        some = signs != 0
        w = np.zeros(len(signs))
        for _ in range(100):
            p = 1 / (1 + np.exp(-(x @ w)))
            slope = x.T @ (a * (p - t))
            if not some.any() or np.abs((slope + signs / c)[some]).max() < 1e-10:
                break
            curvature = (x[:, some].T * (a * p * (1 - p))) @ x[:, some]
            step = np.linalg.solve(curvature, (slope + signs / c)[some])
            w[some] -= step * min(1, 1 / np.abs(step).max())
        if np.all(w[some] * signs[some] > 0) and np.all(np.abs(slope[~some]) <= 1 / c):
            return w
    raise ValueError("no pattern of signs holds the optimum")


def score(x, t, a, w):
    q = np.clip(1 / (1 + np.exp(-(x @ w))), 1e-15, 1 - 1e-15)
    return np.mean(a * (t * np.log(q) + (1 - t) * np.log(1 - q)))


def main():
    n, gamed_rows = 60, 120
    difficulty = np.round(rng.normal(size=n), 4)
    lengths = rng.integers(100, 3000, size=(n, 2))
    difference = lengths[:, 0] - lengths[:, 1]
    log_odds = rng.normal(size=n) - 0.4 + 0.5 * difficulty - 0.001 * difference
    preference = np.round(1 + 1 / (1 + np.exp(-log_odds)), 6)
    preference[[3, 17]] = [0.0, 1.5]
    missing = 5
    gamed = np.round(np.stack([rng.random(gamed_rows), rng.normal(size=gamed_rows), np.tile(difficulty, 2)]), 4)

    t = np.where(preference == 0, 1.5, preference) - 1
    s = difference / np.std(difference, ddof=1)
    x = np.concatenate(
        [
            np.stack([np.tanh(gamed[1]), gamed[2], np.zeros(gamed_rows)], 1),
            np.stack([np.tanh(s), difficulty, np.ones(n)], 1),
        ]
    )
    keep = np.arange(gamed_rows + n) != gamed_rows + missing
    x, t = x[keep], np.concatenate([gamed[0], t])[keep]
    a = np.concatenate([np.full(gamed_rows, 0.1), np.ones(n)])[keep]

    grid = np.logspace(-4, 4, 10)
    fold_of = folds(len(t))
    means = np.zeros(len(grid))
    for fold in range(FOLDS):
        train, test = fold_of != fold, fold_of == fold
        for i, c in enumerate(grid):
            means[i] += score(x[test], t[test], a[test], optimum(x[train], t[train], a[train], c)) / FOLDS

    def result(c):
        w = optimum(x, t, a, c)
        # The row without a preference is predicted all the same.
        q = 1 / (1 + np.exp(-(w[1] * difficulty + w[2])))
        error = 100 * np.std(q, ddof=1) / np.sqrt(n)
        return {"c": c, "weights": w.tolist(), "win_rate": 100 * q.mean(), "standard_error": error}

    content = {
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "preference": [None if i == missing else float(p) for i, p in enumerate(preference)],
        "lengths": lengths.tolist(),
        "difficulty": difficulty.tolist(),
        "gamed": gamed.T.tolist(),
        "validation": means.tolist(),
        "chosen": result(float(grid[np.argmax(means)])),
        "given": result(0.7),
        "folds": {str(n): "".join(map(str, folds(n))) for n in (5, 16, 17, 18, 40, 101, 300)},
    }
    with open("length_control.json", "w") as file:
        json.dump(content, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
