"""Every byte that lorac takes from a stranger or keeps for its user passes through here.

Nothing here imports torch until a tensor is loaded or written. Errors are runtime/errors.py's.

atomic.py
    write_bytes(path, data); write_text(path, text); writing(path, size=None) -> context: binary file
    making_folder(final) -> context: Path; publish_folder(partial, final); sweep(folder) -> [removed]
strict_json.py
    loads(text, where, *, limit=LIMIT, error=InputError); read(path, *, limit, error); canonical(value) -> str
digest.py
    sha256_file(path) -> hex; sha256_files(paths) -> {Path: hex}; DigestCache(folder) with both
paths.py
    inside(root, relative, *, where="", error=InputError) -> Path; relative_name(root, path) -> str
    open_file(path) -> binary file; display(path) -> str; cache_folder() -> Path
texts.py
    decode(data, path) -> str
safetensors.py
    read_header(path) -> Header(tensors: {name: TensorInfo}, metadata, body)
    write(path, tensors, metadata=None, *, finite=True, header_limit=MAX_HEADER); exports give WEBUI_HEADER
    write_each(path, described, load, metadata=None): one tensor at a time
    serialise(tensors, metadata=None) -> bytes; body_sha256(path) -> hex
weights.py
    open_weights(path) -> Weights: a mapping name -> TensorInfo(dtype, shape, start, strides) and a context
    manager, with .load(name) -> Tensor and .metadata. Safetensors and what torch.save writes, told apart by
    their bytes (pickles.py, zip_members.py, inert_pickle.py: nothing in a file is run)
tensors.py
    TensorInfo, dtype names and sizes, dtype_name(torch.dtype) -> "F32"
images.py
    open_picture(path) -> PIL RGB image; probe(path) -> (width, height) as shown
    fault(path) -> Problem or None, by decoding all of it
"""
