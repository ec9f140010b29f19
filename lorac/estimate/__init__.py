"""What a step will take, before anything is downloaded: memory, FLOPs and seconds, on a machine without a
GPU.

Take any PyTorch step, ours or someone else's:

    from lorac.estimate.trace import materialize, trace

    with torch.device("meta"):                        # no weights: shapes and dtypes only
        model = MyModel().bfloat16()                  # cast here: under the tracer torch casts no module

    def make():
        materialize(model)                            # meta -> tensors of the tracer
        optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
        batch = torch.randn(4, 16, dtype=torch.bfloat16)

        def step():
            model(batch).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return step

    result = trace(make)                              # as CUDA would run it (device="cpu": as the CPU does)
    result.peak.bytes, result.peak.by_kind(), result.peak.by_module(depth=2), result.calls

- `trace(make, steps=3, device="cuda", capability=(8, 0)) -> Trace` runs `make()` and its step on fake
  tensors.
- `measure(make, steps=3) -> Trace` is the same recorder on real CPU tensors: what `trace(device="cpu")` is
  held against.
- `phase("caching")` names what runs inside it, so that one recording holds loading, encoding, sampling,
  saving;
  `label("master weights", tensors)` says what a tensor is where the tracer cannot know; `on_host(tensors)`
  moves tensors' bytes from the card's account to the host's. All three do nothing when nothing is recording,
  and a step under trace may call them.
- `allocator.replay(result.requests(), …)` runs the recording through PyTorch's CUDA caching allocator.
- `cards.find("rtx3060-12gb")`, `cuda.overhead(card)`, `roofline.seconds(result.calls, card)`.

Only `trace`, `compiling`, `calibrate` and `truth` import torch: importing this package, `cards`, `cuda`, `allocator`
`roofline` or `record` does not.
"""
