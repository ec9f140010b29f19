"""TRL's SFTTrainer: `python -m tests.bench.language.trl_run TASK RESULT`.

The data set comes tokenised, with labels, as SFTTrainer takes it; its head is chunked by itself (`loss_type="nll"`).
`flattened` is its padding-free, `packed` its best-fit-decreasing packing, which is padding-free too.
"""

from __future__ import annotations

import tempfile

from datasets import Dataset
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

from tests.bench.language import measure
from tests.bench.language.setting import Task
from tests.bench.language.trainer_arguments import arguments, lora, model


def run(task: Task) -> measure.Result:
    setting, way = task.setting, task.way
    tokenizer = AutoTokenizer.from_pretrained(setting.model)
    rows = measure.features(measure.samples(task.rows, tokenizer, setting.length))
    watching = measure.Watching()
    with tempfile.TemporaryDirectory() as output:
        trainer = SFTTrainer(
            model=model(task),
            args=SFTConfig(
                **arguments(task, output),
                max_length=setting.length if way.batches != "flattened" else None,
                packing=way.is_packed,
                padding_free=way.batches == "flattened",
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=lora(setting),
            callbacks=[watching],
        )
        collator = trainer.data_collator = measure.Counting(trainer.data_collator)
        trainer.train()
    loss = measure.held_out_loss(trainer.model, tokenizer, setting)
    steps = measure.by_step(collator.seen, setting.steps, task.micro_batches)
    return measure.result(task, watching.clock, steps, loss)


if __name__ == "__main__":
    measure.main(run)
