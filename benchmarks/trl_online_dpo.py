"""TRL's online DPO on this project's prompts and judges; runs in TRL's own environment and prints JSON lines.

`python -m benchmarks.trl_online_dpo --model FOLDER --steps N ...` from the root of the repository. Imports nothing of
this project but judges. Lines:
`{"kind": "step", "step", "seconds", "completions"}`, where seconds are training alone;
`{"kind": "evaluation", "version", "training_seconds", "win_rate": {"mean", "n"}, "length_mean"}`;
`{"kind": "log", "step", "kl"}`.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-not-found]
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer  # type: ignore[import-not-found]

Judge = Callable[[str, str, str], float]
ROWS_AT_ONCE = 32


def emit(kind: str, **fields: Any) -> None:
    """One line for the process that started this one."""
    print(json.dumps({"kind": kind, **fields}), flush=True)


def reward_of(judge: Judge) -> Callable[..., list[float]]:
    """A reward function that gives each of the two completions of a prompt its win probability over the other.

    TRL hands over all first completions, then all second ones.
    """

    def reward(prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
        half = len(prompts) // 2
        texts = [completion[0]["content"] for completion in completions]
        first = [judge(prompts[i][-1]["content"], texts[i], texts[half + i]) for i in range(half)]
        return first + [1 - p for p in first]

    return reward


class Evaluator:
    """Completions of held-out prompts, and their win rate against those of the start."""

    def __init__(self, judge: Judge, tokenizer: Any, prompts: Sequence[str], max_new_tokens: int) -> None:
        self._judge, self._tokenizer, self._prompts = judge, tokenizer, list(prompts)
        self._max_new_tokens = max_new_tokens
        self._start: list[str] = []

    def remember_start(self, model: Any) -> None:
        """Sample what later policies are compared with."""
        self._start = self._sample(model)[0]

    def win_rate(self, model: Any) -> tuple[float, float]:
        """Win rate against the start, and the mean length in tokens."""
        texts, length = self._sample(model)
        rates = [self._judge(*case) for case in zip(self._prompts, texts, self._start, strict=True)]
        return sum(rates) / len(rates), length

    @torch.no_grad()
    def _sample(self, model: Any) -> tuple[list[str], float]:
        texts: list[str] = []
        tokens = 0
        training = model.training
        model.eval()
        for start in range(0, len(self._prompts), ROWS_AT_ONCE):
            chat = [[{"role": "user", "content": p}] for p in self._prompts[start : start + ROWS_AT_ONCE]]
            inputs = self._tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
            )
            output = model.generate(
                **inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=self._max_new_tokens
            )[:, inputs["input_ids"].shape[1] :]
            tokens += int((output != self._tokenizer.pad_token_id).sum())
            texts += self._tokenizer.batch_decode(output, skip_special_tokens=True)
        model.train(training)
        return texts, tokens / len(texts)


class Clock(TrainerCallback):
    """Reports every step; evaluates now and then, off the clock."""

    def __init__(self, arguments: argparse.Namespace, evaluator: Evaluator) -> None:
        self._arguments, self._evaluator = arguments, evaluator
        self._spent = self._began = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if self._arguments.evaluate_every:
            self._evaluator.remember_start(model)
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        # From the end of one step to the end of the next: what the trainer does in between is part of a step.
        step_seconds = time.perf_counter() - self._began
        self._spent += step_seconds
        emit("step", step=state.global_step, seconds=step_seconds, completions=2 * self._arguments.prompts_per_step)
        every = self._arguments.evaluate_every
        if every and state.global_step % every == 0:
            mean, length = self._evaluator.win_rate(model)
            rate = {"mean": mean, "n": self._arguments.heldout_prompts}
            emit(
                "evaluation",
                version=state.global_step,
                training_seconds=self._spent,
                win_rate=rate,
                length_mean=length,
            )
            # Only ever set: clearing it would undo the trainer's own decision to stop.
            if mean >= self._arguments.goal:
                control.should_training_stop = True
        if self._spent >= self._arguments.seconds:
            control.should_training_stop = True
        self._began = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "objective/kl" in logs:
            emit("log", step=state.global_step, kl=logs["objective/kl"])


def main() -> None:
    """Train as the command line says."""
    arguments = _parser().parse_args()
    torch.set_num_threads(arguments.threads)
    random.seed(arguments.seed)
    judge = _load(arguments.judge)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=getattr(torch, arguments.dtype))
    heldout = _prompts(arguments.heldout)[: arguments.heldout_prompts]
    lora = LoraConfig(
        r=arguments.lora_rank, lora_alpha=2 * arguments.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = OnlineDPOTrainer(
            model=model,
            reward_funcs=reward_of(judge),
            args=_configuration(arguments, folder),
            train_dataset=Dataset.from_list(
                [{"prompt": [{"role": "user", "content": prompt}]} for prompt in _prompts(arguments.prompts)]
            ),
            processing_class=tokenizer,
            peft_config=lora if arguments.lora_rank else None,
            callbacks=[Clock(arguments, Evaluator(judge, tokenizer, heldout, arguments.max_new_tokens))],
        )
        trainer.train()


def _configuration(arguments: argparse.Namespace, folder: str) -> OnlineDPOConfig:
    """Tuned for this machine: as shipped, gradient checkpointing takes the KV cache away from generation."""
    return OnlineDPOConfig(
        output_dir=folder,
        seed=arguments.seed,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=arguments.prompts_per_step,
        max_steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        lr_scheduler_type="constant",
        beta=arguments.beta,
        max_new_tokens=arguments.max_new_tokens,
        temperature=1.0,
        top_k=0,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def _load(name: str) -> Judge:
    module, _, function = name.partition(":")
    judge: Judge = getattr(import_module(module), function)
    return judge


def _prompts(path: str) -> list[str]:
    return [json.loads(line)["prompt"] for line in Path(path).read_text(encoding="utf-8").splitlines()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--judge", required=True, help="module:function")
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--heldout", required=True)
    parser.add_argument("--heldout-prompts", type=int, default=64)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--lora-rank", type=int, default=0, help="0 trains all weights")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="training time after which to stop")
    parser.add_argument("--evaluate-every", type=int, default=0)
    parser.add_argument("--goal", type=float, default=1.1, help="win rate at which to stop")
    parser.add_argument("--prompts-per-step", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()
