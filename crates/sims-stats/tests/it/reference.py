#!/usr/bin/env python3
"""Writes reference.json: what scipy and scikit-learn say about small seeded tables.

Run from this folder: python3 reference.py   (numpy, scipy, scikit-learn)
"""

import json
import platform

import numpy as np
import scipy
import sklearn
from scipy import optimize, stats
from sklearn import metrics

rng = np.random.default_rng(20250711)


def rounded(values, digits=6):
    return [round(float(value), digits) for value in values]


def spearman_case(n, ties):
    x = rng.normal(size=n)
    y = 0.5 * x + rng.normal(size=n)
    if ties:
        x, y = np.round(x), np.round(y)
    x, y = rounded(x), rounded(y)
    return {
        "x": x,
        "y": y,
        "spearman": float(stats.spearmanr(x, y).statistic),
        "pearson": float(stats.pearsonr(x, y).statistic),
    }


def kappa_case(n, classes):
    left = rng.integers(0, classes, n)
    right = np.where(rng.random(n) < 0.6, left, rng.integers(0, classes, n))
    return {
        "left": left.tolist(),
        "right": right.tolist(),
        "classes": classes,
        "kappa": float(metrics.cohen_kappa_score(left, right)),
    }


def newcombe(area, m, n, confidence=0.95):
    """Newcombe 2006, method 5, by Brent's root finder."""
    z = stats.norm.ppf(0.5 + confidence / 2)
    others = (m + n) / 2 - 1

    def gap(theta):
        spread = 1 + others * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return abs(area - theta) - z * np.sqrt(theta * (1 - theta) * spread / (m * n))

    low = optimize.brentq(gap, 1e-12, area - 1e-12) if area > 0 else 0.0
    high = optimize.brentq(gap, area + 1e-12, 1 - 1e-12) if area < 1 else 1.0
    return [float(low), float(high)]


def auroc_case(m, n, shift, ties):
    positives, negatives = rng.normal(shift, 1, m), rng.normal(0, 1, n)
    if ties:
        positives, negatives = np.round(positives), np.round(negatives)
    positives, negatives = rounded(positives), rounded(negatives)
    area = metrics.roc_auc_score([1] * m + [0] * n, positives + negatives)
    return {
        "positives": positives,
        "negatives": negatives,
        "auroc": float(area),
        "interval": newcombe(area, m, n),
    }


def proportion_case(successes, n, confidence):
    interval = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return {
        "successes": successes,
        "n": n,
        "confidence": confidence,
        "interval": [float(interval.low), float(interval.high)],
    }


def bradley_terry_case(items, pairs, ridge):
    comparisons = []
    for _ in range(pairs):
        first, second = rng.choice(items, 2, replace=False)
        comparisons.append([int(first), int(second), round(float(rng.random()), 4)])

    def loss(scores):
        total = 0.5 * ridge * np.sum(scores**2)
        for first, second, p in comparisons:
            gap = scores[first] - scores[second]
            total += p * np.logaddexp(0, -gap) + (1 - p) * np.logaddexp(0, gap)
        return total

    fit = optimize.minimize(loss, np.zeros(items), method="BFGS", options={"gtol": 1e-9})
    scores = fit.x - fit.x.mean()
    hessian = ridge * np.eye(items)
    for first, second, _ in comparisons:
        p = 1 / (1 + np.exp(scores[second] - scores[first]))
        hessian[first, first] += p * (1 - p)
        hessian[second, second] += p * (1 - p)
        hessian[first, second] -= p * (1 - p)
        hessian[second, first] -= p * (1 - p)
    # A basis of the sum-zero subspace; its inverse Hessian mapped back.
    basis = np.linalg.svd(np.ones((1, items)))[2][1:].T
    covariance = basis @ np.linalg.inv(basis.T @ hessian @ basis) @ basis.T
    return {
        "items": items,
        "comparisons": comparisons,
        "ridge": ridge,
        "scores": [float(score) for score in scores],
        "standard_errors": [float(error) for error in np.sqrt(np.diag(covariance))],
    }


def bootstrap_case(n):
    values = rounded(rng.gamma(2.0, 1.0, n))
    result = stats.bootstrap(
        (values,), np.mean, n_resamples=50_000, method="percentile", rng=rng
    )
    flips = stats.permutation_test(
        (np.array(values) - 1.9,), np.mean, permutation_type="samples", n_resamples=50_000, rng=rng
    )
    return {
        "values": values,
        "interval": [float(end) for end in result.confidence_interval],
        "standard_error": float(result.standard_error),
        "sign_flip_shift": 1.9,
        "sign_flip_p": float(flips.pvalue),
    }


reference = {
    "made_by": {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "scikit-learn": sklearn.__version__,
    },
    "correlation": [spearman_case(30, False), spearman_case(40, True)],
    "kappa": [kappa_case(60, 2), kappa_case(80, 4)],
    "auroc": [auroc_case(25, 40, 1.0, False), auroc_case(30, 30, 0.5, True), auroc_case(12, 9, 6.0, False)],
    "proportion": [proportion_case(7, 50, 0.95), proportion_case(0, 12, 0.9), proportion_case(400, 805, 0.99)],
    "bradley_terry": [bradley_terry_case(4, 30, 0.1), bradley_terry_case(7, 60, 0.01)],
    "bootstrap": [bootstrap_case(80)],
    "noise_range": [
        {"count": count, "quantile_95": float(stats.studentized_range.ppf(0.95, count, np.inf))}
        for count in (2, 3, 4, 5, 8, 10, 16, 24)
    ],
}
with open("reference.json", "w", encoding="utf-8") as file:
    json.dump(reference, file, indent=1)
    file.write("\n")
