"""A trained adapter becomes the files that others load.

write.py
    export(folder, weights, plan, facts, previews) -> Manifest; finished(folder, plan) -> Path | None
    checkpoint_files(plan, weights, step); lora_bytes(plan, weights, step); claim(folder, plan)
weights.py
    Weights: component -> module path -> part -> tensor
kohya.py, diffusers.py
    tensors(family, weights, adapter, dtype) -> {key: tensor}
metadata.py, dataset.py
    what the WebUI's file says of itself
manifest.py
    Manifest, and how one is read: without torch, as the pages of a run read it too
sidecars.py, pictures.py, consumers.py, transformer_consumers.py
    what lies beside it, who takes it
"""
