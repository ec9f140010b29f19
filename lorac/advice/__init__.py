"""What a run's own files say of it, and the change to its spec that follows: `lorac advise`.

thresholds.py
    every bound with its reason: one table
evidence.py
    what a run's folder holds, measured once
looked.py
    what one rule found: a figure, a verdict, changes of fields
unstable.py, overfitted.py, weak.py
    the rules, one function each
advise.py
    all of them in their order; advice.json; the text
"""
