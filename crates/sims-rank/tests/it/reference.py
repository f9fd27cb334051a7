#!/usr/bin/env python3
"""Writes reference.json: scores of every method by numpy and scipy, written from the formulas.

Run from this folder: python3 reference.py   (numpy, scipy)
"""

import json
import platform

import numpy as np
import scipy
from scipy import optimize
from scipy.special import expit

rng = np.random.default_rng(20250711)
TAU, RIDGE, PRIOR = 1.3, 0.1, 0.25


def design(size, complete):
    """Pairs i < j; the chain of neighbours is always among them."""
    pairs = [(i, j) for i in range(size) for j in range(i + 1, size)]
    return [p for p in pairs if complete or p[1] == p[0] + 1 or rng.random() < 0.4]


def mean_scores(a, met):
    """Mean win, mean logit and Copeland with errors by the jackknife over a response's comparisons."""
    size = len(a)
    found = {}
    for name, outcome in (
        ("mean-win", lambda x: expit(x / TAU)),
        ("mean-logit", lambda x: 2 * x),
        ("copeland", lambda x: (x > 0) + 0.5 * (x == 0)),
    ):
        values, errors = [], []
        for i in range(size):
            y = outcome(a[i, met[i]]).astype(float)
            # LLM-Blender divides by K, not by the K - 1 met, where all were met.
            factor = (size - 1) / size if name == "mean-logit" and met.sum() == size * (size - 1) else 1.0
            n = len(y)
            values.append(factor * y.mean())
            if n > 1:
                left = np.array([np.delete(y, k).mean() for k in range(n)])
                errors.append(factor * float(np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum())))
            else:
                errors.append(None)
        found[name] = (values, errors)
    return found


def bradley_terry(pairs, a, size):
    def loss(s):
        gaps = np.array([s[i] - s[j] for i, j in pairs])
        p = np.array([expit(a[i, j] / TAU) for i, j in pairs])
        return (p * np.logaddexp(0, -gaps) + (1 - p) * np.logaddexp(0, gaps)).sum() + RIDGE / 2 * (s**2).sum()

    s = optimize.minimize(loss, np.zeros(size), method="BFGS", options={"gtol": 1e-10}).x
    s -= s.mean()
    hessian = RIDGE * np.eye(size)
    for i, j in pairs:
        p = expit(s[i] - s[j])
        e = np.zeros(size)
        e[i], e[j] = 1, -1
        hessian += p * (1 - p) * np.outer(e, e)
    basis = np.linalg.svd(np.ones((1, size)))[2][1:].T
    covariance = basis @ np.linalg.inv(basis.T @ hessian @ basis) @ basis.T
    return s.tolist(), np.sqrt(np.diag(covariance)).tolist()


def incidence(pairs, size):
    b = np.zeros((len(pairs), size))
    for row, (i, j) in enumerate(pairs):
        b[row, i], b[row, j] = 1, -1
    return b


def least_squares(pairs, a, size):
    b = incidence(pairs, size)
    y = np.array([a[i, j] for i, j in pairs])
    s = np.linalg.lstsq(b, y, rcond=None)[0]
    covariance = np.linalg.pinv(b.T @ b)
    squares = ((y - b @ s) ** 2).sum()
    freedom = len(pairs) - size + 1
    errors = np.sqrt(squares / freedom * np.diag(covariance)).tolist() if freedom else [None] * size
    return s, covariance, squares, freedom, errors


def completed(pairs, a, size):
    s, covariance, squares, freedom, _ = least_squares(pairs, a, size)
    variance = (PRIOR + squares) / (1 + freedom)
    known = np.eye(size, dtype=bool)
    filled = s[:, None] - s[None, :]
    for i, j in pairs:
        known[i, j] = known[j, i] = True
        filled[i, j], filled[j, i] = a[i, j], a[j, i]
    p = expit(filled / TAU)
    values = [float(np.delete(p[i], i).mean()) for i in range(size)]
    errors = []
    for i in range(size):
        slope = np.where(known[i], 0.0, p[i] * (1 - p[i]) / TAU / (size - 1))
        by_score = -slope
        by_score[i] += slope.sum()
        errors.append(float(np.sqrt(variance * ((slope**2).sum() + by_score @ covariance @ by_score))))
    return values, errors


def sppo(pairs, a, size):
    def scores(pairs):
        total, met = np.zeros(size), np.zeros(size)
        for i, j in pairs:
            total[[i, j]] += 2 * a[i, j], 2 * a[j, i]
            met[[i, j]] += 1
        if (met == 0).any():
            return np.where(met == 0, np.nan, 0.0)
        s = (size - 1) / size * total / met / TAU
        return expit(s[:, None] - s[None, :]).mean(1)

    left = np.array([scores([p for p in pairs if p != out]) for out in pairs])
    n = len(pairs)
    if np.isnan(left).any():
        return None
    errors = np.sqrt((n - 1) / n * ((left - left.mean(0)) ** 2).sum(0))
    return scores(pairs).tolist(), errors.tolist()


def case(size, complete):
    while True:
        pairs = design(size, complete)
        quality = rng.normal(0, 1.5, size)
        d = np.round(quality[:, None] - quality[None, :] + rng.normal(0.3, 0.7, (size, size)), 4)
        a = (d - d.T) / 2
        found = sppo(pairs, a, size)
        if found is not None:
            break
    met = np.zeros((size, size), dtype=bool)
    for i, j in pairs:
        met[i, j] = met[j, i] = True
    s, _, _, _, errors = least_squares(pairs, a, size)
    methods = mean_scores(a, met)
    methods["bradley-terry"] = bradley_terry(pairs, a, size)
    methods["least-squares"] = (s.tolist(), errors)
    methods["mean-win-completed"] = completed(pairs, a, size)
    methods["winprob-sppo"] = found
    return {
        "size": size,
        "tau": TAU,
        "ridge": RIDGE,
        "logits": [[i, j, d[i, j]] for p in pairs for i, j in (p, p[::-1])],
        "methods": {name: {"scores": list(map(float, v)), "errors": e} for name, (v, e) in methods.items()},
    }


reference = {
    "made_by": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__},
    "cases": [case(6, True), case(10, True), case(7, False), case(10, False)],
}
with open("reference.json", "w", encoding="utf-8") as file:
    json.dump(reference, file, indent=1)
    file.write("\n")
