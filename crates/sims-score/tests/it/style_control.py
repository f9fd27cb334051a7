#!/usr/bin/env python3
"""Writes style_control.json: scores of two synthetic models at equal style, by scikit-learn.

Run from this folder: python3 style_control.py   (numpy, scikit-learn)
"""

import json
import math
import platform

import numpy as np
import sklearn
from sklearn.linear_model import LogisticRegression

rng = np.random.default_rng(11)
QUESTIONS, MODELS = 40, ["one", "two"]


def fit(x, y, weights, c):
    model = LogisticRegression(C=c, fit_intercept=False, solver="newton-cg", tol=1e-12, max_iter=1000)
    return model.fit(x, y, sample_weight=weights).coef_[0]


def main():
    counts = {name: rng.integers([50, 0, 0, 0], [800, 6, 12, 9], (QUESTIONS, 4)) for name in ["base", *MODELS]}
    battles = []
    for number, model in enumerate(MODELS):
        for question in range(QUESTIONS):
            longer = counts[model][question, 0] > counts["base"][question, 0]
            p = np.array([0.25, 0.1, 0.65]) if not longer else np.array([0.5, 0.1, 0.4])
            share = float(rng.choice([1.0, 0.5, 0.0], p=p))
            battles.append((number, question, share, int(rng.choice([1, 2, 3])) if share != 0.5 else 1))

    player, question, share, rows = (np.array(column) for column in zip(*battles))
    base = counts["base"][question].astype(float)
    other = np.stack([counts[MODELS[p]][q] for p, q in zip(player, question)]).astype(float)
    # Rows one by one, a tie as a win and a loss.
    index = np.repeat(np.arange(len(rows)), rows)

    def standardised(f, ddof):
        return (f - f[index].mean(0)) / f[index].std(0, ddof=ddof)

    def doubled(x, y):
        weights = np.concatenate([y, 1 - y])
        hard = np.concatenate([np.ones(len(y)), np.zeros(len(y))])
        return np.concatenate([x, x]), hard, weights

    hot = np.eye(len(MODELS))[player]
    f1 = standardised((base - other) / (base + other + 1), 0)
    x1 = np.concatenate([np.full((len(rows), 1), math.log(10)), -math.log(10) * hot, f1], 1)
    # Two copies of every row, as upstream makes them.
    x, y, w = doubled(x1[index], 1 - share[index])
    w1 = fit(x, y, 2 * w, 1.0)
    density = lambda c: c[:, 1:] / (c[:, :1] + 1)
    length = (other[:, :1] - base[:, :1]) / (other[:, :1] + base[:, :1])
    markdown = (density(other) - density(base)) / (density(other) + density(base) + 1)
    f2 = standardised(np.concatenate([length, markdown], 1), 1)
    x, y, w = doubled(np.concatenate([hot, f2], 1)[index], share[index])
    w2 = fit(x, y, w, np.inf)

    content = {
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "sklearn": sklearn.__version__},
        "counts": {name: table.tolist() for name, table in counts.items()},
        "battles": [[MODELS[m], f"q{q}", s, r] for m, q, s, r in battles],
        "v0.1": {"scores": [100 / (1 + 10 ** (w1[0] - w)) for w in w1[1:3]], "style": w1[3:].tolist()},
        "v2.0": {"scores": (100 / (1 + np.exp(-w2[:2]))).tolist(), "style": w2[2:].tolist()},
    }
    with open("style_control.json", "w") as file:
        json.dump(content, file)
        file.write("\n")


if __name__ == "__main__":
    main()
