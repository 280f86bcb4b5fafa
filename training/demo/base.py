"""The demo's base model: a tiny LLaMA that has read the corpus and answers nothing yet."""

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import NamedTuple

import sentencepiece
import torch
from torch.nn.functional import cross_entropy, linear
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from training.demo.corpus import corpus
from training.model_directory.templates import read_template
from training.model_directory.tokenizer import tokenizer_from_sentencepiece
from training.progress import Meter
from training.threads import Threads

CONTEXT = 4096  # tokens


class Size(NamedTuple):
    """How big the base is and how long it reads; the defaults take minutes on two cores."""

    vocab: int = 5600
    hidden: int = 192
    inner: int = 512
    layers: int = 3
    heads: int = 6
    passages: int = 8000
    steps: int = 1200
    batch: int = 8  # blocks a step
    block: int = 128  # tokens a block
    lr: float = 3e-3


def write_base(folder: Path, questions: Sequence[str], size: Size, seed: int) -> None:
    """Write a complete model directory: float32 weights, tokenizer, chat template."""
    documents = corpus(questions, size.passages, seed)
    with TemporaryDirectory() as scratch:
        model = Path(scratch) / "tokenizer.model"
        train_sentencepiece(documents, size.vocab, model)
        tokenizer = tokenizer_from_sentencepiece(model, CONTEXT)
    tokenizer.chat_template = read_template("llama")
    pretrain(documents, tokenizer, size, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train_sentencepiece(documents: Sequence[str], vocab: int, path: Path) -> None:
    """Train LLaMA's kind of tokenizer: BPE, byte fallback, digits apart, no normalisation.

    Every frequent Chinese character (GB2312, level 1) and all of ASCII have ids of their own.
    """
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in documents for line in text.split("\n") if line),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab,
        character_coverage=1.0,
        required_chars=frequent_characters(),
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        num_threads=1,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())


def frequent_characters() -> str:
    """Printable ASCII and the 3,755 characters of GB2312's level 1 (rows B0 to D7)."""
    ascii_text = "".join(chr(code) for code in range(0x21, 0x7F))
    cells = ((row, cell) for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF))
    return ascii_text + "".join(bytes(pair).decode("gb2312", "ignore") for pair in cells)


def pretrain(
    documents: Sequence[str], tokenizer: PreTrainedTokenizerBase, size: Size, seed: int
) -> LlamaForCausalLM:
    """Train a LLaMA from random weights on `documents` as plain text; returns it in eval mode."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(_shape(size, tokenizer))
    _start_copying(model)
    ids = [[*tokenizer.encode(text), tokenizer.eos_token_id] for text in documents]
    losses = _losses(model, ids, _blocks(ids, size, seed))
    return optimise(model, losses, size.steps, size.lr, "pre-training the demo base")


def _losses(
    model: LlamaForCausalLM, documents: Sequence[Sequence[int]], blocks: Iterator[list[list[int]]]
) -> Iterator[torch.Tensor]:
    """Cross-entropy of each batch of blocks, in nats a token.

    The documents use a fifth of the vocabulary, and the output layer is two fifths of a step: most
    steps choose among the used tokens alone. Every tenth chooses among all, so that the model
    learns not to say the others.
    """
    used = torch.tensor(sorted({token for ids in documents for token in ids}))
    place = torch.zeros(model.config.vocab_size, dtype=torch.long)
    place[used] = torch.arange(len(used))
    for step, block in enumerate(blocks):
        ids = torch.tensor(block)
        if step % 10 == 0:
            yield model(input_ids=ids, labels=ids).loss
        else:
            hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
            logits = linear(hidden, model.lm_head.weight[used])
            yield cross_entropy(logits.flatten(0, 1), place[ids[:, 1:]].flatten())


def optimise(
    model: LlamaForCausalLM, losses: Iterator[torch.Tensor], steps: int, lr: float, title: str
) -> LlamaForCausalLM:
    """Train every weight of `model` on as many `losses` as there are steps; in eval mode then.

    Each loss is computed when its step comes, from the weights as they are by then.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=lr, weight_decay=0.05, betas=(0.9, 0.95), fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    with Threads() as threads, Meter(title, steps, "step") as progress:
        for _ in range(steps):
            loss = next(losses)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            threads.look()
            progress.update(note=f"loss {loss.item():.2f}")
    return model.eval()


def _start_copying(model: LlamaForCausalLM) -> None:
    """Let attention start by looking for like tokens and passing them on unchanged.

    Mimetic initialisation (Trockman and Kolter, arXiv:2305.09828): copying, which nearly every
    task needs, is then learnt in hundreds of steps instead of many thousands.
    """
    with torch.no_grad():
        for layer in model.model.layers:
            attention = layer.self_attn
            attention.k_proj.weight.copy_(attention.q_proj.weight)
            attention.o_proj.weight.copy_(attention.v_proj.weight.T)


def _shape(size: Size, tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        max_position_embeddings=CONTEXT,
        initializer_range=size.hidden**-0.5,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )


def _blocks(documents: Sequence[list[int]], size: Size, seed: int) -> Iterator[list[list[int]]]:
    """Batches of equally long blocks cut from the documents, read over and over."""
    rng, stream = Random(f"blocks {seed}"), list[int]()
    while True:
        for document in rng.sample(documents, len(documents)):
            stream += document
            if len(stream) >= size.batch * size.block:
                starts = range(0, size.batch * size.block, size.block)
                yield [stream[start : start + size.block] for start in starts]
                stream = []
