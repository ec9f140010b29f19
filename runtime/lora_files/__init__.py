"""LoRA files of any origin: read, told apart, turned into one another, added up, cut down, taken out of models.

keys.py, names.py
    whose style a key is, which part it holds; which module of a family it is for, in every style
adapter.py, configs.py, save.py
    read(path) -> Adapter; where alpha is; claim(out, mark, force), save(adapter, out, mark)
factors.py, rebuilt.py
    pair(update) -> (B, A), spectrum, truncated; new factors into a file
usable.py, findings.py, inspection.py
    what an operation can take; what is wrong with a file; inspected(adapter) -> Inspected
convert.py, merge.py, resize.py
    from an adapter to an adapter
bases.py, bake.py, extract.py
    opened(path) -> Model; adapters into a base; an adapter from two
"""
