#!/usr/bin/env python3
"""The other side of benches/generate.sh: batched sampling by transformers.

`make DIR` writes a random Llama of the built-in model's size (1.24 M parameters) as a Hugging Face
directory. `run DIR` times `generate` on the prompts that `sims-model bench` makes and prints one JSON
object a measured round. Needs torch and transformers.
"""

import argparse
import json
import time

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "WhitespaceSplit"},
    "post_processor": None,
    "decoder": None,
}


def make(args):
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(args.directory)
    words = {f"w{i}": i for i in range(config.vocab_size)}
    tokenizer = TOKENIZER | {"model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"}}
    with open(f"{args.directory}/tokenizer.json", "w") as file:
        json.dump(tokenizer, file)


def run(args):
    torch.set_num_threads(args.threads)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    model = AutoModelForCausalLM.from_pretrained(args.directory, dtype=dtype).eval()
    model.generation_config.eos_token_id = None
    vocab_size = model.config.vocab_size
    prompts = torch.tensor(
        [
            [(7 * prompt + 13 * position + 3) % vocab_size for position in range(args.prompt_tokens)]
            for prompt in range(args.batch)
        ]
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
        new_tokens = args.batch * args.new_tokens
        print(
            json.dumps(
                {
                    "engine": "transformers",
                    "seconds": seconds,
                    "prompt_tokens": args.batch * args.prompt_tokens,
                    "new_tokens": new_tokens,
                    "new_tokens_per_second": new_tokens / seconds,
                }
            )
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("make", help="write a random model")
    command.add_argument("directory")
    command.set_defaults(call=make)
    command = commands.add_parser("run", help="time generate")
    command.add_argument("directory")
    command.add_argument("--batch", type=int, default=64)
    command.add_argument("--prompt-tokens", type=int, default=32)
    command.add_argument("--new-tokens", type=int, default=64)
    command.add_argument("--temperature", type=float, default=0.9)
    command.add_argument("--threads", type=int, default=2)
    command.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    command.add_argument("--rounds", type=int, default=1)
    command.set_defaults(call=run)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
