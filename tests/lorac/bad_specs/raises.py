"""The spec's own code fails, after a part that is wrong too."""

from lorac import LoRA

adapter = LoRA(dropout=1.5)


def pictures(name: str) -> str:
    folders = {"cats": "pictures/cats"}
    return folders[name]


path = pictures("dogs")
