#!/usr/bin/env python3
"""The transformers side of the benchmarks: `generate DIR` of generate.sh, `extract DIR` of extract.sh.

Both take the tokens that `sims-model bench` and `bench-extract` make up, warm up once, and print one JSON
object a measured round. Needs torch and transformers.
"""

import argparse
import json
import time

import torch
from transformers import AutoModelForCausalLM


def load(args):
    torch.set_num_threads(args.threads)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    model = AutoModelForCausalLM.from_pretrained(args.directory, dtype=dtype).eval()
    model.generation_config.eos_token_id = None
    return model


def token(sequence, position, vocab_size):
    return (7 * sequence + 13 * position + 3) % vocab_size


def generate(args):
    model = load(args)
    vocab_size = model.config.vocab_size
    prompts = torch.tensor(
        [[token(i, j, vocab_size) for j in range(args.prompt_tokens)] for i in range(args.batch)]
    )

    def sample(new_tokens):
        sampling = {"do_sample": False}
        if args.temperature > 0:
            sampling = {"do_sample": True, "temperature": args.temperature, "top_k": 0, "top_p": 1.0}
        start = time.perf_counter()
        with torch.inference_mode():
            output = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                pad_token_id=0,
                **sampling,
            )
        seconds = time.perf_counter() - start
        assert output.shape == (args.batch, args.prompt_tokens + new_tokens)
        return seconds

    sample(2)
    for _ in range(args.rounds):
        seconds = sample(args.new_tokens)
        print_round("transformers", "new_tokens", args.batch * args.new_tokens, seconds)


def extract(args):
    """Forward hooks on the asked layers, batches padded to their longest sequence; no logits."""
    model = load(args)
    vocab_size = model.config.vocab_size
    layers = args.layers
    sequences = []
    for i in range(args.sequences):
        length = args.shortest + 37 * i % (args.longest - args.shortest + 1)
        sequences.append([token(i, j, vocab_size) for j in range(length)])

    def run(sequences):
        states = []
        for first in range(0, len(sequences), args.batch):
            part = sequences[first : first + args.batch]
            lengths = torch.tensor([len(sequence) for sequence in part])
            longest = int(lengths.max())
            tokens = torch.tensor([sequence + [0] * (longest - len(sequence)) for sequence in part])
            mask = (torch.arange(longest) < lengths[:, None]).long()
            rows = torch.arange(len(part))

            def keep(_module, _inputs, output):
                hidden = output[0] if isinstance(output, tuple) else output
                states.append(hidden[rows, lengths - 1].float())

            hooks = [model.model.layers[layer].register_forward_hook(keep) for layer in layers]
            with torch.inference_mode():
                model.model(tokens, attention_mask=mask, use_cache=False)
            for hook in hooks:
                hook.remove()
        return states

    tokens = sum(len(sequence) for sequence in sequences)
    run(sequences[: args.batch])
    for _ in range(args.rounds):
        for name, order in [
            ("transformers", sequences),
            ("transformers, sorted by length", sorted(sequences, key=len)),
        ]:
            start = time.perf_counter()
            states = run(order)
            seconds = time.perf_counter() - start
            assert sum(len(part) for part in states) == len(layers) * args.sequences
            print_round(name, "tokens", tokens, seconds)


def print_round(engine, what, tokens, seconds):
    print(json.dumps({"engine": engine, "seconds": seconds, what: tokens, f"{what}_per_second": tokens / seconds}))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, call in [("generate", generate), ("extract", extract)]:
        command = commands.add_parser(name)
        command.add_argument("directory")
        command.add_argument("--batch", type=int, default=64 if call == generate else 16)
        command.add_argument("--threads", type=int, default=2)
        command.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
        command.add_argument("--rounds", type=int, default=1)
        command.set_defaults(call=call)
        if call == generate:
            command.add_argument("--prompt-tokens", type=int, default=32)
            command.add_argument("--new-tokens", type=int, default=64)
            command.add_argument("--temperature", type=float, default=0.9)
        else:
            command.add_argument("--layers", type=lambda text: [int(i) for i in text.split(",")], required=True)
            command.add_argument("--sequences", type=int, default=128)
            command.add_argument("--shortest", type=int, default=16)
            command.add_argument("--longest", type=int, default=128)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
