"""Turn published weights into a model directory: safetensors, tokenizer.json, chat template.

Only data is read and written: no code of the source runs, none is copied.
"""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from training.convert.output import ConversionReport
from training.errors import TrainingError
from training.files import parsing
from training.model_directory.hub import local_directory
from training.pipes import run
from training.sizes import size_in_bytes

EXAMPLES = """\
examples:
  python -m training.convert llama --input LLaMA/7B --tokenizer LLaMA/tokenizer.model \\
      --output models/llama-7b
  python -m training.convert hf --input old-checkpoint --output models/clean --template llama
  python -m training.convert chatglm --input chatglm-6b --output models/chatglm-6b
  python -m training.convert gguf --input model.Q8_0.gguf --output models/from-gguf

`python -m training.convert llama --help` (or hf, chatglm, gguf) says more. The output appears only
when it is complete and checked; it must not exist before. Train on it (training.train), merge
adapters into it (training.merge), or serve it as it is (python -m service --model DIR).
"""
LLAMA = """\
Convert LLaMA 1 or 2 as Meta released it: a directory with params.json and consolidated.00.pth (one
file for 7B, two for 13B, four for 30B, eight for 65B and 70B), and tokenizer.model, which lies one
directory up in the release.

The files are put together, query and key rows brought into Hugging Face's rotary order, and the
dtype kept: every weight has the bits it had. A few megabytes are in memory at any moment, so the
65B needs no more than the 7B.
"""
LLAMA_END = """\
example:
  python -m training.convert llama --input LLaMA/13B --tokenizer LLaMA/tokenizer.model \\
      --output models/llama-13b

params.json does not say how long a text the model was trained on. The default is 2048 tokens for
LLaMA 1 and 4096 for LLaMA 2, distinguished by norm_eps (1e-06 or 1e-05; among 8192 wide models by
n_kv_heads). Set --context for models trained further, such as CodeLlama (16384).
"""
HF = """\
Convert a directory that Hugging Face's libraries saved, old or new: pytorch_model*.bin (one or
many) or safetensors, tokenizer.json or tokenizer.model.

Weights are streamed, a few megabytes at a time. tokenizer.json is made from a LLaMA style
tokenizer.model when it is missing. Code files and auto_map stay behind, .bin files are read as
tensors only, and a head that config.json ties to the embeddings is left out.
"""
HF_END = """\
examples:
  python -m training.convert hf --input chinese-llama-7b --output models/chinese-llama-7b \\
      --template llama
  python -m training.convert hf --input model-fp32 --output models/model-fp16 --dtype float16
  python -m training.convert hf --input modelscope:Qwen/Qwen3-0.6B --output models/qwen3-0.6b
"""
CHATGLM = """\
Convert ChatGLM-6B, ChatGLM2-6B or ChatGLM3-6B as the hub has them: pytorch_model-*.bin (or
safetensors), config.json, ice_text.model or tokenizer.model. Which one it is shows by itself. Their
Python files are neither run nor copied. Every weight keeps its bits, tokenizer.json gives the ids
of the original tokenizer.

ChatGLM-6B keeps its tensors' names; rows of image tokens, which the first release has (vocab_size
150528), are left out and ids counted without them. The model type becomes chatglm_6b, since
"chatglm" now means ChatGLM2 and 3.
ChatGLM2 and 3 (the base and 32K models too) become what transformers calls glm, with queries, keys
and values in tensors of their own.
Quantised checkpoints (int4, int8) and P-tuned ones are refused.
"""
CHATGLM_END = """\
examples:
  python -m training.convert chatglm --input chatglm-6b --output models/chatglm-6b
  python -m training.convert chatglm --input chatglm2-6b --output models/chatglm2-6b-bf16 \\
      --dtype bfloat16
"""
GGUF = """\
Convert a GGUF file (llama.cpp's format). Its blocks become plain weights, so the output is several
times as large and exactly as good as the file: quantisation is not undone. Weights, sizes,
tokenizer and chat template are read by transformers, for the architectures that it knows.

The whole model is in memory in --dtype: about 2 bytes a parameter as float16.
"""
GGUF_END = """\
example:
  python -m training.convert gguf --input SmolLM2-135M-Instruct.Q4_1.gguf --output models/smollm2

`make smollm2` runs this on a small real model.
"""

OR_NAME = "; or a name on a hub: ORG/NAME, modelscope:ORG/NAME, with @REVISION if need be"
AddParser = Callable[..., argparse.ArgumentParser]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 after printing what is wrong."""
    args = _parse(argv)
    started = time.monotonic()
    try:
        with parsing(Path(args.input), "whole, or not of this source"):
            report: ConversionReport = args.run(args)
    except (TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"{args.output}: {report.tensors} tensors, {report.size / 1e9:.2f} GB in {report.files}"
        f" file(s), {time.monotonic() - started:.1f} s"
    )
    for note in report.notes:
        print(f"note: {note}")
    return 0


def _llama(args: argparse.Namespace) -> ConversionReport:
    from training.convert.meta.conversion import convert_llama

    return convert_llama(
        args.input, args.tokenizer, args.output, args.template, args.max_shard_size, args.context
    )


def _hf(args: argparse.Namespace) -> ConversionReport:
    from training.convert.directory import convert_directory

    return convert_directory(
        local_directory(args.input), args.output, args.template, args.dtype, args.max_shard_size
    )


def _chatglm(args: argparse.Namespace) -> ConversionReport:
    from training.convert.chatglm.conversion import convert_chatglm

    source = local_directory(args.input)
    return convert_chatglm(source, args.output, args.template, args.dtype, args.max_shard_size)


def _gguf(args: argparse.Namespace) -> ConversionReport:
    from training.convert.gguf.conversion import convert_gguf

    return convert_gguf(args.input, args.output, args.template, args.dtype, args.max_shard_size)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.convert",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sources = parser.add_subparsers(title="sources", metavar="SOURCE", required=True)
    add = partial(sources.add_parser, formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_llama(add)
    _add_hf(add)
    _add_chatglm(add)
    _add_gguf(add)
    return parser.parse_args(argv)


def _add_llama(add: AddParser) -> None:
    parser = add(
        "llama",
        help="LLaMA's original release: consolidated.NN.pth, params.json",
        description=LLAMA,
        epilog=LLAMA_END,
    )
    _add_places(parser, "DIR", "directory with consolidated.NN.pth and params.json")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="FILE",
                        help="the release's tokenizer.model")  # fmt: skip
    _add_format(parser, "llama")
    parser.add_argument(
        "--context", type=_tokens, metavar="TOKENS", help="longest sequence (default: see below)"
    )
    parser.set_defaults(run=_llama)


def _add_hf(add: AddParser) -> None:
    parser = add(
        "hf",
        help="a Hugging Face directory: pytorch_model*.bin or safetensors",
        description=HF,
        epilog=HF_END,
    )
    _add_places(parser, "DIR", f"directory with config.json and weights{OR_NAME}", str)
    _add_format(parser, None)
    _add_dtype(parser, None, "each tensor's own")
    parser.set_defaults(run=_hf)


def _add_chatglm(add: AddParser) -> None:
    parser = add(
        "chatglm",
        help="ChatGLM-6B, ChatGLM2-6B or ChatGLM3-6B as the hub has them",
        description=CHATGLM,
        epilog=CHATGLM_END,
    )
    _add_places(
        parser, "DIR", f"directory with config.json, weights, the tokenizer's .model{OR_NAME}", str
    )
    _add_format(parser, None, "chatglm, chatglm2 or chatglm3, as the model is")
    _add_dtype(parser, None, "each tensor's own")
    parser.set_defaults(run=_chatglm)


def _add_gguf(add: AddParser) -> None:
    parser = add(
        "gguf", help="llama.cpp's format: one .gguf file", description=GGUF, epilog=GGUF_END
    )
    _add_places(parser, "FILE", "the .gguf file")
    _add_format(parser, None)
    _add_dtype(parser, "float16", "float16")
    parser.set_defaults(run=_gguf)


def _add_places(
    parser: argparse.ArgumentParser, metavar: str, text: str, kind: type = Path
) -> None:
    add = parser.add_argument
    add("--input", type=kind, required=True, metavar=metavar, help=text)
    add("--output", type=Path, required=True, metavar="DIR",
        help="model directory to create; must not exist")  # fmt: skip


def _add_format(
    parser: argparse.ArgumentParser, template: str | None, default: str | None = None
) -> None:
    shown = default or template or "the one that comes with the model"
    add = parser.add_argument
    add("--template", default=template, metavar="NAME",
        help=f"chat template: a name in training/templates or a .jinja file (default: {shown})",
    )  # fmt: skip
    add("--max-shard-size", type=size_in_bytes, default="2GB", metavar="SIZE",
        help="largest weights file, such as 500MB or 4GiB (default: %(default)s)")  # fmt: skip


def _add_dtype(parser: argparse.ArgumentParser, default: str | None, described: str) -> None:
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default=default,
                        help=f"dtype of the output's weights (default: {described})")  # fmt: skip


def _tokens(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of tokens such as 4096")
    return int(text)


def command() -> NoReturn:
    """`mergeline-convert`, and `python -m training.convert`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing half-written stays
    run(main)


if __name__ == "__main__":
    command()
