#!/usr/bin/env python3
"""PyTorch's side of benches/fit.sh: the fit of HPR at one layer, on made-up states; one JSON line a round.

The network, the loss, the steps and the held-out pass of every epoch are those of `sims-model bench-fit`, in f32:
AdamW without decay, linear decay after 5 % warm-up, gradients clipped to norm 1, 16 position pairs a batch.
"""

import argparse
import json
import math
import time

import torch
from torch import nn


class Guidance(nn.Module):
    """Bias-free probe and angle network, as in VinAIResearch/HPR."""

    def __init__(self, hidden, depth=4):
        super().__init__()
        widths = [max(1, hidden >> layer) for layer in range(depth)] + [1]
        layers = []
        for index, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
            layers += [nn.Linear(inputs, outputs)] + ([nn.GELU()] if index + 1 < depth else [])
        self.net = nn.Sequential(*layers)
        self.probe = nn.Linear(hidden, 1, bias=False)

    def forward(self, states):
        return self.probe(states)[:, 0], math.pi * torch.sigmoid(self.net(states)[:, 0])


def loss_of(model, states, labels, targets):
    logits, angles = model(states)
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, labels)
    return entropy + nn.functional.mse_loss(angles, targets), logits, angles


def fit(chosen, rejected, fit_rows, held_out_rows, epochs, batch, fused):
    scale = math.sqrt(chosen.shape[1]) / (torch.cat([chosen[fit_rows], rejected[fit_rows]]).norm(dim=1).mean())
    halves = []
    for rows in (fit_rows, held_out_rows):
        pair = (chosen[rows] * scale, rejected[rows] * scale)
        cosines = nn.functional.cosine_similarity(*pair).clamp(-1 + 1e-7, 1 - 1e-7)
        halves.append((*pair, torch.acos(cosines)))
    model = Guidance(chosen.shape[1])
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.0, fused=fused)
    batches = math.ceil(len(fit_rows) / batch)
    steps = batches * epochs
    warmup = math.ceil(0.05 * steps)
    rate = lambda step: step / warmup if step < warmup else (steps - step) / max(1, steps - warmup)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)

    def gather(half, rows):
        positive, negative, angles = half
        states = torch.cat([positive[rows], negative[rows]])
        zeros = torch.zeros(len(rows))
        return states, torch.cat([zeros + 1, zeros]), torch.cat([zeros, angles[rows]])

    for _ in range(epochs):
        for rows in torch.randperm(len(fit_rows)).split(batch):
            loss, _, _ = loss_of(model, *gather(halves[0], rows))
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            states, labels, targets = gather(halves[1], torch.arange(len(held_out_rows)))
            _, logits, angles = loss_of(model, states, labels, targets)
            accuracy = ((logits > 0) == (labels > 0)).float().mean().item()
            error = nn.functional.mse_loss(angles, targets).item()
    return steps, accuracy, error


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--fused", action="store_true", help="AdamW as one kernel, which is not PyTorch's default")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    count = args.pairs * args.rows
    normal = 0.2 * (2 * torch.rand(args.hidden) - 1)
    chosen = 2 * torch.rand(count, args.hidden) - 1 + normal
    rejected = 2 * torch.rand(count, args.hidden) - 1 - normal
    pair = torch.arange(count) // args.rows
    held_out = torch.nonzero(pair % 5 == 0)[:, 0]
    rows = torch.nonzero(pair % 5 != 0)[:, 0]
    for _ in range(args.rounds):
        start = time.perf_counter()
        steps, accuracy, error = fit(chosen, rejected, rows, held_out, args.epochs, 16, args.fused)
        seconds = time.perf_counter() - start
        print(
            json.dumps(
                {
                    "engine": "PyTorch" + (", fused AdamW" if args.fused else ""),
                    "seconds": seconds,
                    "steps": steps,
                    "tokens_per_second": len(rows) * args.epochs / seconds,
                    "probe_accuracy": accuracy,
                    "angle_error": error,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
