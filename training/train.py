"""Train a LoRA adapter: `python -m training.train --config RECIPE [key=value …]`.

Checkpoints go to OUTPUT.run/ while it trains; OUTPUT appears when the adapter is complete.
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from training.config import TrainConfig, load_config
from training.data import Row, read_rows
from training.errors import TrainingError
from training.files import write_aside

EPILOG = """\
examples:
  python -m training.train --config training/recipes/llama_lora.yaml \\
      model=llama-7b-hf output=adapters/cblue data.train=train.json data.eval=dev.json
  python -m training.train --config training/recipes/llama_lora.yaml optim.lr=1e-4 lora.r=16
  python -m training.train --config my.yaml --resume     # goes on from the newest checkpoint

Every key of the recipe can be overridden; training/README.md explains them all.
"""


def train(config: TrainConfig, *, resume: bool = False) -> Path:
    """Run `config` to its end and return the adapter directory.

    Raises TrainingError for bad data or settings before the base model is loaded; only whether
    `lora.targets` name something in it shows afterwards.
    """
    settings = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    record = run_directory(config) / "training.yaml"
    _refuse_conflicts(config, record, settings, resume)
    rows = {"train": _rows(config, config.data.train)}
    if config.data.eval:
        rows["eval"] = _rows(config, config.data.eval)
    tokenizer, datasets = _encode(config, rows)
    trainer = _trainer(config, tokenizer, datasets)
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(settings, encoding="utf-8")
    trainer.train(resume_from_checkpoint=_newest_checkpoint(record.parent) if resume else None)
    if "eval" in datasets:
        print(f"evaluation loss: {trainer.evaluate()['eval_loss']:.4f}")
    with write_aside(config.output) as aside:
        trainer.model.save_pretrained(str(aside))
        tokenizer.save_pretrained(str(aside))
        shutil.copy(record, aside)
    print(f"adapter written to {config.output}")
    return config.output


def run_directory(config: TrainConfig) -> Path:
    """Where checkpoints go; training.yaml in it records the settings that the run began with."""
    return config.output.with_name(config.output.name + ".run")


def _refuse_conflicts(config: TrainConfig, record: Path, settings: str, resume: bool) -> None:
    """Two runs are never mixed, and a finished adapter is never written over."""
    if config.output.exists():
        raise TrainingError(f"{config.output} exists already: choose another output or remove it")
    if not (config.model / "config.json").is_file():
        raise TrainingError(f"{config.model}: no config.json in it; model= names a model directory")
    if resume:
        _check_same_run(record, yaml.safe_load(settings))
    elif record.exists():
        raise TrainingError(
            f"{record.parent} holds an earlier run: add --resume to go on, or remove it"
        )


def _check_same_run(record: Path, settings: dict[str, Any]) -> None:
    if not record.is_file():
        raise TrainingError(f"{record.parent}: nothing to resume; run once without --resume")
    before = yaml.safe_load(record.read_text(encoding="utf-8"))
    free = {"save_every", "save_keep", "eval_every", "log_every"}
    changed = sorted(k for k in settings if k not in free and settings[k] != before.get(k))
    if changed:
        raise TrainingError(
            f"cannot resume {record.parent}: {', '.join(changed)} changed since it started; "
            "put the old values back or choose another output"
        )


def _newest_checkpoint(run: Path) -> str | None:
    # trainer_state.json is written last: a checkpoint without it was cut off by a kill.
    complete = [path.parent for path in run.glob("checkpoint-*/trainer_state.json")]
    newest = max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    print(f"resuming from {newest}" if newest else "no checkpoint yet: starting from step 0")
    return str(newest) if newest else None


def _rows(config: TrainConfig, path: Path) -> list[Row]:
    return read_rows(path, config.data.prompt, config.data.response)


def _encode(
    config: TrainConfig, rows: dict[str, list[Row]]
) -> tuple[Any, dict[str, list[dict[str, list[int]]]]]:
    """The tokenizer, and every split as a list of model inputs."""
    from tqdm import tqdm

    from training.collate import features
    from training.rendering import encode_sample, load_tokenizer

    tokenizer = load_tokenizer(config.model, config.template)
    datasets = {}
    for split, split_rows in rows.items():
        bar = tqdm(split_rows, desc=f"tokenise {split}", unit="row", leave=False)
        samples = [encode_sample(tokenizer, row, config.data.max_length) for row in bar]
        datasets[split] = [features(sample) for sample in samples]
        tokens = sum(len(inputs["input_ids"]) for inputs in datasets[split])
        print(f"{split}: {len(samples):,} samples, {tokens:,} tokens")
        cut = [sample.cut_tokens for sample in samples if sample.cut_tokens]
        if cut:
            print(
                f"warning: {len(cut):,} of the {len(samples):,} {split} prompts lost {sum(cut):,} "
                f"tokens in their middle to fit data.max_length={config.data.max_length}"
            )
    return tokenizer, datasets


def _trainer(config: TrainConfig, tokenizer: Any, datasets: dict[str, Any]) -> Any:
    from transformers import Trainer, set_seed

    from training.adapters import add_lora, count_parameters
    from training.collate import PadRight

    set_seed(config.seed)  # before the model: LoRA's A matrices are drawn when it is wrapped
    model = add_lora(_load_base(config), config.lora)
    print(count_parameters(model))
    pad = tokenizer.pad_token_id
    return Trainer(
        model=model,
        args=_arguments(config),
        train_dataset=datasets["train"],
        eval_dataset=datasets.get("eval"),
        data_collator=PadRight(tokenizer.eos_token_id if pad is None else pad),
    )


def _load_base(config: TrainConfig) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    if config.precision == "fp16" and not torch.cuda.is_available():
        raise TrainingError("precision=fp16 needs a GPU; use fp32 or bf16 on this machine")
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    model = AutoModelForCausalLM.from_pretrained(
        str(config.model), dtype=dtypes[config.precision], trust_remote_code=False
    )
    model.config.use_cache = False  # a cache is dead weight in training
    return model


def _arguments(config: TrainConfig) -> Any:
    import torch
    from transformers import TrainingArguments

    optim = config.optim
    return TrainingArguments(
        output_dir=str(run_directory(config)),
        learning_rate=optim.lr,
        lr_scheduler_type=optim.schedule,
        warmup_steps=optim.warmup_ratio,  # a value below 1 is a share of all steps
        weight_decay=optim.weight_decay,
        max_grad_norm=optim.max_grad_norm,
        max_steps=optim.steps or -1,
        num_train_epochs=optim.epochs or 1,
        per_device_train_batch_size=optim.batch_size,
        per_device_eval_batch_size=optim.batch_size,
        gradient_accumulation_steps=optim.accumulation,
        train_sampling_strategy="group_by_length",
        bf16=config.precision == "bf16",
        fp16=config.precision == "fp16",
        seed=config.seed,
        save_strategy="steps",
        save_steps=config.save_every,
        save_total_limit=config.save_keep,
        eval_strategy="steps" if config.eval_every else "no",
        eval_steps=config.eval_every,
        logging_steps=config.log_every,
        prediction_loss_only=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
    )


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and train; 0 when done, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m training.train",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, help="recipe, a YAML file")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument("override", nargs="*", metavar="key=value", help="replaces a recipe's key")
    args = parser.parse_intermixed_args(arguments)
    try:
        train(load_config(args.config, args.override), resume=args.resume)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
