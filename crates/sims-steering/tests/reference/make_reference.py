#!/usr/bin/env python3
"""Makes reference.json: what NumPy and scikit-learn compute for the operators and fits of sims-steering.

    python3 crates/sims-steering/tests/reference/make_reference.py

Needs numpy and scikit-learn (made with numpy 2.4.6, scikit-learn 1.9.1). Written from the formulas alone:
Householder pseudo-rotation by its mirror image as the paper has it, the mean difference by loops over
responses, the probe and the area under the curve by scikit-learn, the principal direction by NumPy's SVD, the
transport by sorting and NumPy's polyfit, a condition's F1 by scikit-learn.
"""

import json
import math
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score

rng = np.random.default_rng(20241109)


def f32(x):
    """Rounds to f32 and returns f64, so that Rust reads the very same numbers."""
    return np.asarray(x, dtype=np.float32).astype(np.float64)


def gelu(x):
    return 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def angle_net(layers, x):
    for index, (weight, bias) in enumerate(layers):
        x = weight @ x + bias
        if index + 1 < len(layers):
            x = gelu(x)
    return math.pi / (1.0 + math.exp(-x[0]))


def angle_between(a, b):
    return math.acos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1.0, 1.0))


def hpr(a, w, gamma):
    """The paper's form: a and its mirror image combined to stand at gamma from a."""
    mirrored = a - 2.0 * (a @ w) / (w @ w) * w
    gamma2 = angle_between(a, mirrored)
    return (math.sin(gamma) * mirrored + math.sin(gamma2 - gamma) * a) / math.sin(gamma2)


def householder_cases(hidden=12, rows=40):
    normal = f32(rng.normal(size=hidden))
    widths = [hidden, hidden // 2, hidden // 4, 1]
    layers = [
        (f32(rng.normal(size=(o, i)) / math.sqrt(i)), f32(0.1 * rng.normal(size=o)))
        for i, o in zip(widths, widths[1:])
    ]
    # Neither so near the plane nor so near its normal that the mirror form loses its digits.
    states = []
    while len(states) < rows:
        a = f32(3.0 * rng.normal(size=hidden))
        if 0.1 < abs(a @ normal) / np.linalg.norm(a) / np.linalg.norm(normal) < 0.9:
            states.append(a)
    input_scale = 0.25
    angles = [angle_net(layers, input_scale * a) for a in states]
    edited = [hpr(a, normal, g) if a @ normal <= 0 else a for a, g in zip(states, angles)]
    return {
        "normal": normal.tolist(),
        "layers": [{"weight": w.ravel().tolist(), "bias": b.tolist()} for w, b in layers],
        "input_scale": input_scale,
        "states": np.concatenate(states).tolist(),
        "angles": angles,
        "edited": np.concatenate(edited).tolist(),
    }


def few_principal_direction(differences):
    """Fewer pairs than dimensions: by the pairs' Gram matrix."""
    _, vectors = np.linalg.eigh(differences @ differences.T)
    axis = vectors[:, -1] @ differences
    axis /= np.linalg.norm(axis)
    agree = np.sign(differences @ axis).sum() or differences.mean(axis=0) @ axis
    return (axis * np.sign(agree)).tolist()


def quantile_transport(source, target):
    lines = [np.polyfit(np.sort(x), np.sort(y), 1) for x, y in zip(source.T, target.T)]
    return {
        "scale": [line[0] for line in lines],
        "shift": [line[1] for line in lines],
        "low": source.min(axis=0).tolist(),
        "high": source.max(axis=0).tolist(),
    }


def gaussian_transport(source, target):
    scale = target.std(axis=0) / source.std(axis=0)
    shift = target.mean(axis=0) - scale * source.mean(axis=0)
    return {"scale": scale.tolist(), "shift": shift.tolist(), "low": [], "high": []}


def transported(source, target, share):
    """Target states moved by the map of source to target: some coordinates lie outside its support."""
    line = quantile_transport(source, target)
    scale, shift, low, high = (np.array(line[name]) for name in ("scale", "shift", "low", "high"))
    moved = (1 - share) * target + share * (scale * target + shift)
    return np.where((low <= target) & (target <= high), moved, target)


def fit_cases(hidden=10, pairs=60):
    direction = rng.normal(size=hidden)
    offset = 2.0 * rng.normal(size=hidden)
    positive, negative, numbers = [], [], []
    for pair in range(pairs):
        shared = rng.normal(size=hidden)
        for _ in range(1 + pair % 4):
            positive.append(offset + shared + 0.35 * direction + 0.7 * rng.normal(size=hidden))
            negative.append(offset + shared - 0.35 * direction + 0.7 * rng.normal(size=hidden))
            numbers.append(pair)
    positive, negative, numbers = f32(positive), f32(negative), np.array(numbers)

    def two_level(states):
        return np.mean([states[numbers == pair].mean(axis=0) for pair in range(pairs)], axis=0)

    mean_difference = two_level(positive) - two_level(negative)
    rows = np.concatenate([positive, negative])
    pair_scores = np.concatenate(
        [[(states[numbers == pair] @ mean_difference).mean() for pair in range(pairs)] for states in (positive, negative)]
    )
    pair_labels = np.repeat([1, 0], pairs)
    labels = np.concatenate([np.ones(len(positive)), np.zeros(len(negative))])
    state_norm = np.linalg.norm(rows, axis=1).mean()
    scale = math.sqrt(hidden) / state_norm
    probe = LogisticRegression(fit_intercept=False, C=0.5, tol=1e-12, max_iter=100_000, solver="newton-cg")
    probe.fit(scale * rows, labels)
    differences = np.array(
        [(positive[numbers == pair].mean(axis=0) - negative[numbers == pair].mean(axis=0)) for pair in range(pairs)]
    )
    _, lengths, axes = np.linalg.svd(differences, full_matrices=False)
    axis = axes[0] * np.sign(np.sign(differences @ axes[0]).sum())
    return {
        "principal_direction": axis.tolist(),
        "explained": float(lengths[0] ** 2 / (lengths**2).sum()),
        "agreeing": float((differences @ axis > 0).mean()),
        "few_principal_direction": few_principal_direction(differences[:6]),
        "transport_quantiles": quantile_transport(negative, positive),
        "transport_pooled": quantile_transport(
            *(f32([states[numbers == pair].mean(axis=0) for pair in range(pairs)]) for states in (negative, positive))
        ),
        "transport_gaussian": gaussian_transport(negative, positive),
        "transported": transported(negative, positive, 0.3).ravel().tolist(),
        "hidden": hidden,
        "pairs": numbers.tolist(),
        "positive": positive.ravel().tolist(),
        "negative": negative.ravel().tolist(),
        "mean_difference": mean_difference.tolist(),
        "flat_mean_difference": (positive.mean(axis=0) - negative.mean(axis=0)).tolist(),
        "state_norm": state_norm,
        "inverse_penalty": 0.5,
        "probe": (scale * probe.coef_[0]).tolist(),
        "probe_accuracy": float(probe.score(scale * rows, labels)),
        "auroc": float(roc_auc_score(pair_labels, pair_scores)),
    }


def condition_cases(hidden=9, prompts=60):
    """Fit half to the class means, held-out half to a grid of thresholds, in f32 where the steering stores f32."""
    offset = 3.0 * rng.normal(size=hidden)
    apart = 0.5 * rng.normal(size=hidden)
    draw = lambda sign: f32(offset + sign * apart + rng.normal(size=(prompts, hidden)))
    halves = [(draw(1.0), draw(-1.0)) for _ in range(2)]
    (inside, outside), held_out = halves
    center = f32((inside.mean(axis=0) + outside.mean(axis=0)) / 2)
    direction = f32(inside.mean(axis=0) - outside.mean(axis=0))
    cosine = lambda states: (states - center) @ direction / np.linalg.norm(states - center, axis=1) / np.linalg.norm(direction)
    labels = np.repeat([1, 0], prompts)
    grid = np.arange(-100, 100) / 100
    cosines = np.concatenate([cosine(states) for states in held_out])
    scores = [f1_score(labels, cosines > threshold) for threshold in grid]
    return {
        "hidden": hidden,
        "inside": [half[0].ravel().tolist() for half in halves],
        "outside": [half[1].ravel().tolist() for half in halves],
        "center": center.tolist(),
        "direction": direction.tolist(),
        "held_out_cosines": cosines.tolist(),
        "best_f1": max(scores),
        "best_thresholds": [t for t, score in zip(grid.tolist(), scores) if score == max(scores)],
    }


reference = {"householder": householder_cases(), "fits": fit_cases(), "condition": condition_cases()}
path = Path(__file__).with_name("reference.json")
path.write_text(json.dumps(reference) + "\n")
