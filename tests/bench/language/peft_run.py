"""peft with transformers' Trainer: `python -m tests.bench.language.peft_run TASK RESULT`.

Batches are padded by DataCollatorForSeq2Seq, in the file's order or grouped by length, or flattened by
DataCollatorWithFlattening, whose positions keep samples apart under sdpa as under flash attention.
"""

from __future__ import annotations

import tempfile

from peft import get_peft_model
from transformers import (
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    DataCollatorWithFlattening,
    Trainer,
    TrainingArguments,
)

from tests.bench.language import measure
from tests.bench.language.setting import Task
from tests.bench.language.trainer_arguments import arguments, lora, model


def run(task: Task) -> measure.Result:
    tokenizer = AutoTokenizer.from_pretrained(task.setting.model)
    rows = measure.features(measure.samples(task.rows, tokenizer, task.setting.length))
    adapted = get_peft_model(model(task), lora(task.setting))
    if task.way.batches == "flattened":
        # Where a cache is made, transformers takes no notice of where positions begin again.
        adapted.config.use_cache = False
        collator = measure.Counting(DataCollatorWithFlattening())
    else:
        collator = measure.Counting(DataCollatorForSeq2Seq(tokenizer))
    watching = measure.Watching()
    with tempfile.TemporaryDirectory() as output:
        trainer = Trainer(
            model=adapted,
            args=TrainingArguments(**arguments(task, output)),
            train_dataset=rows,
            data_collator=collator,
            processing_class=tokenizer,
            callbacks=[watching],
        )
        trainer.train()
    loss = measure.held_out_loss(adapted, tokenizer, task.setting)
    steps = measure.by_step(collator.seen, task.setting.steps, task.micro_batches)
    return measure.result(task, watching.clock, steps, loss)


if __name__ == "__main__":
    measure.main(run)
