#!/usr/bin/env python3
"""Writes comparison.json: what scipy and statsmodels say about tests, power, equivalence and seeds.

Run from this folder: python3 comparison.py   (numpy, scipy, statsmodels)
"""

import json
import platform

import numpy as np
import scipy
import statsmodels
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW, ttost_paired

rng = np.random.default_rng(20251125)


def rounded(values, digits=6):
    return [round(float(value), digits) for value in values]


def mcnemar_case(first_only, second_only):
    table = [[10, first_only], [second_only, 20]]
    case = {"first_only": first_only, "second_only": second_only}
    for name, options in {
        "exact": {"exact": True},
        "chi_square": {"exact": False, "correction": False},
        "corrected": {"exact": False, "correction": True},
    }.items():
        result = mcnemar(table, **options)
        case[name] = [float(result.statistic), float(result.pvalue)]
    return case


def holm_case(p_values):
    return {"p": p_values, "holm": [float(p) for p in multipletests(p_values, method="holm")[1]]}


def tost_case(n, mean, sd, margin):
    differences = rounded(rng.normal(mean, sd, n))
    p_value, lower, upper = ttost_paired(np.array(differences), np.zeros(n), -margin, margin)
    interval = DescrStatsW(differences).tconfint_mean(alpha=0.1)
    return {
        "differences": differences,
        "margin": margin,
        "p_value": float(p_value),
        "p_lower": float(lower[1]),
        "p_upper": float(upper[1]),
        "interval_90": [float(end) for end in interval],
    }


def seeds_case(n):
    figures = rounded(rng.normal(0.6, 0.04, n))
    interval = stats.t.interval(0.95, n - 1, np.mean(figures), stats.sem(figures))
    return {
        "figures": figures,
        "mean": float(np.mean(figures)),
        "standard_deviation": float(np.std(figures, ddof=1)),
        "interval": [float(end) for end in interval],
    }


def mean_power_case(effect, prompts, alpha):
    power = TTestPower().power(effect, prompts, alpha, alternative="two-sided")
    return {"effect": effect, "prompts": prompts, "alpha": alpha, "power": float(power)}


def mean_prompts_case(effect, alpha, power):
    needed = TTestPower().solve_power(
        effect_size=effect, alpha=alpha, power=power, alternative="two-sided"
    )
    return {"effect": effect, "alpha": alpha, "power": power, "prompts": float(needed)}


def flips_case(difference, discordance, alpha, power):
    """Connor's number, and the true power of the chi-square test there, summed over all outcomes."""
    z_alpha, z_power = stats.norm.isf(alpha / 2), stats.norm.ppf(power)
    needed = (
        z_alpha * np.sqrt(discordance) + z_power * np.sqrt(discordance - difference**2)
    ) ** 2 / difference**2
    prompts = int(np.ceil(needed))
    true_power = 0.0
    for discordant in range(1, prompts + 1):
        chance = stats.binom.pmf(discordant, prompts, discordance)
        if chance < 1e-14:
            continue
        wins = np.arange(discordant + 1)
        seen = (2 * wins - discordant) ** 2 / discordant > z_alpha**2
        share = (1 + difference / discordance) / 2
        true_power += chance * stats.binom.pmf(wins, discordant, share)[seen].sum()
    return {
        "difference": difference,
        "discordance": discordance,
        "alpha": alpha,
        "power": power,
        "prompts": float(needed),
        "true_power": float(true_power),
    }


reference = {
    "made_by": {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "statsmodels": statsmodels.__version__,
    },
    "mcnemar": [
        mcnemar_case(*counts)
        for counts in [(0, 1), (5, 0), (3, 9), (25, 24), (200, 260), (4000, 4300)]
    ],
    "holm": [
        holm_case(p)
        for p in [
            [0.04],
            [0.01, 0.04, 0.03, 0.005],
            [0.02, 0.02, 0.5, 1.0, 0.0],
            rounded(rng.random(20) ** 3),
        ]
    ],
    "tost": [tost_case(12, 0.0, 0.1, 0.05), tost_case(80, 0.02, 0.1, 0.05), tost_case(40, -0.09, 0.1, 0.05)],
    "seeds": [seeds_case(2), seeds_case(3), seeds_case(10)],
    "student_t": [
        {"p": p, "degrees": degrees, "quantile": float(stats.t.ppf(p, degrees))}
        for degrees in (1, 2, 4, 9, 30.5, 1000)
        for p in (1e-6, 0.025, 0.3, 0.95, 0.995)
    ],
    "mean_power": [
        mean_power_case(*case)
        for case in [(0.2, 2, 0.05), (0.9, 4, 0.05), (0.5, 34, 0.05), (0.1, 500, 0.01), (0.03, 9000, 0.1)]
    ],
    "mean_prompts": [
        mean_prompts_case(*case)
        for case in [(1.2, 0.05, 0.9), (0.5, 0.05, 0.8), (0.12, 0.01, 0.8), (0.0667, 0.05, 0.95)]
    ],
    "flips": [
        flips_case(*case)
        for case in [(0.03, 0.1, 0.05, 0.8), (0.1, 0.3, 0.05, 0.9), (0.2, 1.0, 0.01, 0.8)]
    ],
}
with open("comparison.json", "w", encoding="utf-8") as file:
    json.dump(reference, file, indent=1)
    file.write("\n")
