"""`python -m runtime.evaluation RUN`: a finished run, evaluated after the fact over its checkpoints and LoRA weights.

__main__.py
    the command: what is asked, what is said
results.py
    evaluation.json: Evaluation, its rows and figures
subject.py
    the run, loaded: its checkpoints put back, its held-out loss at a weight
figures.py, recommend.py
    pure functions: similarity, diversity, memorisation, repetition; which weight to use
judge.py
    how pictures and words are seen: an open_clip model, or pixels alone
pictures.py, texts.py
    a row of figures for a checkpoint at a weight, by the kind of data
apply.py
    the recommended weight becomes the one that the WebUI offers
"""
