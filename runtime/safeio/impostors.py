"""What people often have under a model's or a picture's name, told from its first bytes."""

from __future__ import annotations

from runtime.errors import InputError, Problem

LFS_POINTER = b"version https://git-lfs"
"""How a Git LFS pointer starts (git-lfs, docs/spec.md)."""

HTML = (b"<!doctype", b"<html", b"<head", b"<?xml")


def refuse_impostor(head: bytes, size: int, wanted: str, where: str) -> None:
    """Raise InputError if a file of `size` bytes that starts with `head` is nothing at all, or stands for
    another.

    `wanted` is what the user thinks it is: "model", "picture".
    """
    if size == 0:
        raise InputError(Problem(where, "is empty (0 bytes)", "fetch the file again"))
    if head.startswith(LFS_POINTER):
        what = f"is a Git LFS pointer, {size:,} bytes: fetch the real file"
        raise InputError(Problem(where, what, "run `git lfs pull` in its folder"))
    if head.lstrip().lower().startswith(HTML):
        hint = "fetch it again; the site may want you to log in first"
        raise InputError(Problem(where, f"is a web page, not a {wanted}", hint))
