"""onnxruntime-web, which runs models in a browser: from npm or from a folder, only what is used."""

from __future__ import annotations

import hashlib
import re
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairloom import npm

PACKAGE = "onnxruntime-web@1.30.0"
WASM = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""With one thread or several."""
WEBGPU = (
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
"""The same, and WebGPU."""
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "ThirdPartyNotices.txt")
PLACES = (".", "dist", "package/dist", "node_modules/onnxruntime-web/dist")
"""Where the files lie in a folder that a user gives."""
WASM_MAGIC = b"\0asm"
MIT = """MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial
portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES
OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
"""Of onnxruntime, as its files say; the package of npm has no licence file."""


class RuntimeFault(ValueError):
    """There is no usable onnxruntime-web; the message says what to do."""


@dataclass(frozen=True, slots=True)
class WebRuntime:
    """The files, by their names."""

    version: str
    origin: str
    files: dict[str, bytes]

    @property
    def webgpu(self) -> bool:
        """Can it use WebGPU?"""
        return set(WEBGPU) <= set(self.files)

    def bytes_of(self, names: tuple[str, ...]) -> int:
        """What a visitor loads of it."""
        return sum(len(self.files[name]) for name in names)

    def write(self, folder: Path) -> None:
        """The files, their licence, and what they are."""
        folder.mkdir()
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        if not any(name.startswith("LICENSE") for name in self.files):
            (folder / "LICENSE").write_text(MIT, encoding="utf-8")

    def describe(self) -> dict[str, Any]:
        """What the files are, as plain JSON."""
        files = {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in self.files.items()
        }
        return {"name": "onnxruntime-web", "version": self.version, "origin": self.origin, "files": files}


def find_runtime(folder: Path | None) -> WebRuntime:
    """The files of a folder, or of the package that npm fetches.

    Args:
        folder: Holds them, or is the unpacked package, or has it in node_modules.

    Raises:
        RuntimeFault: They are not there, or npm cannot have them.
    """
    if folder is None:
        return _from_npm()
    if not folder.is_dir():
        raise RuntimeFault(
            f"{folder}: there is no such folder; --runtime takes one with onnxruntime-web in it."
        )
    found = next((folder / place for place in PLACES if (folder / place / WASM[0]).is_file()), folder)
    files = {name: (found / name).read_bytes() for name in (*WASM, *WEBGPU) if (found / name).is_file()}
    for place in (found, found.parent):
        for name in LICENCES:
            if name not in files and (place / name).is_file():
                files[name] = (place / name).read_bytes()
    return _checked(files, str(folder), "a folder")


def _from_npm() -> WebRuntime:
    with tempfile.TemporaryDirectory(prefix="pairloom-npm-") as folder:
        try:
            packed = npm.pack(PACKAGE, Path(folder), instead="give a folder with its files with --runtime")
        except npm.NpmError as error:
            raise RuntimeFault(str(error)) from None
        wanted = {f"package/dist/{name}": name for name in (*WASM, *WEBGPU)}
        wanted |= {f"package/{name}": name for name in LICENCES}
        files: dict[str, bytes] = {}
        try:
            with tarfile.open(packed) as archive:
                for member in archive:
                    content = archive.extractfile(member) if member.name in wanted else None
                    if content is not None:
                        files[wanted[member.name]] = content.read()
        except (tarfile.TarError, EOFError, OSError) as error:
            raise RuntimeFault(
                f"{PACKAGE}: what npm fetched cannot be unpacked ({error}); try again."
            ) from None
    return _checked(files, PACKAGE, f"npm, {PACKAGE}")


def _checked(files: dict[str, bytes], where: str, origin: str) -> WebRuntime:
    missing = [name for name in WASM if name not in files]
    if missing:
        raise RuntimeFault(
            f"{where}: holds no {missing[0]}; onnxruntime-web's dist folder has it, with {', '.join(WASM)}."
        )
    for name in (WASM[2], WEBGPU[2]):
        if name in files and not files[name].startswith(WASM_MAGIC):
            raise RuntimeFault(
                f"{where}: its {name} is no WebAssembly (cut off, or damaged); fetch it again."
            )
    if not set(WEBGPU) <= set(files):
        files = {name: content for name, content in files.items() if name not in WEBGPU}
    head = files[WASM[0]][:400].decode("utf-8", "replace")
    version = re.search(r"ONNX Runtime Web v([\w.+-]+)", head)
    return WebRuntime(version[1] if version else "of unknown number", origin, files)
