"""What kind of work an operator does."""

from __future__ import annotations

import re

KINDS = {
    "products": r"(add)?mm|(b|badd)bmm|bmm|addbmm|mkldnn_linear\w*|linear|mv|addmv|dot|mkl_linear",
    "convolutions": r"(mkldnn_|slow_|thnn_)?conv\w*",
    "attention": r"_?scaled_dot_product\w*",
    "norms": r"(native_)?(group|layer|batch)_norm\w*|_?fused_rms_norm\w*|rms_norm\w*",
    "loss and softmax": r"_?(log_)?softmax\w*|nll_loss\w*|cross_entropy\w*|mse_loss\w*",
}
"""Names of ATen operators; the first that matches counts."""
REST = "elementwise and copies"


def kind(operator: str) -> str:
    """Of an operator's name, with `aten::` or without."""
    name = operator.removeprefix("aten::")
    return next((words for words, names in KINDS.items() if re.fullmatch(names, name)), REST)
