"""Time and memory of converting a model of a billion weights, beside transformers' load and save.

    python -m benchmarks.convert [--folder DIR] [--rounds 2] [--layers 16]

Writes a Llama of random bf16 weights (of Llama 3.2 1B's sizes) as a Hugging Face folder. Then, in
turns and each in a process of its own: `reforge convert` to a checkpoint, which is fp32, and from
it back to a Hugging Face folder in bf16, without logits; and transformers' `from_pretrained` with
`save_pretrained`. Ends with exit code 1 if a tensor that came back is not the one that left.

Memory is what a process has for itself (RssAnon and RssShmem of /proc/PID/status), read every 10
ms. Files that it maps (RssFile) are in a column of their own: the system takes such pages back
when it needs them. Needs 15 GB of disk.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

import torch
from torch import Tensor

from benchmarks.tables import write_table
from megatron_core.config import ModelConfig
from megatron_core.conversion import HuggingFaceModel, find_family
from megatron_core.conversion.tensor_files import write_tensor_files
from megatron_core.files import write_json
from tests.trainable import environment

GB = 1e9
TRANSFORMERS = """
import sys
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto", local_files_only=True)
model.save_pretrained(sys.argv[2])
"""
IMPORTS = {
    "reforge": "import megatron_core.exchange",
    "transformers": "from transformers import AutoModelForCausalLM, LlamaForCausalLM",
}


@dataclass(frozen=True)
class Cost:
    """Seconds, and the largest memory of each kind in bytes."""

    seconds: float
    own: int
    mapped: int


def llama(layers: int) -> ModelConfig:
    """Llama 3.2 1B, of so many layers, without the stretched rotary positions."""
    return ModelConfig(
        vocabulary=128_256, positions=8192, layers=layers, hidden=2048, heads=32, kv_heads=8,
        ffn=8192, rope_theta=500_000.0, tied_embeddings=True,
    )  # fmt: skip


def write_model(config: ModelConfig, folder: Path) -> int:
    """A Hugging Face folder of random weights, a tensor at a time; the number of weights."""
    family = find_family(config)
    shapes = {link.theirs: link.shape for link in family.links(config)}
    generator = torch.Generator().manual_seed(1)

    def draw(name: str) -> Tensor:
        return torch.randn(shapes[name], generator=generator).mul_(0.02).bfloat16()

    folder.mkdir()
    write_tensor_files(folder, shapes, draw, torch.bfloat16, 5_000_000_000)
    write_json(folder / "config.json", {**family.write(config), "dtype": "bfloat16"})
    return sum(torch.Size(shape).numel() for shape in shapes.values())


def measure(command: Sequence[str]) -> Cost:
    """What a command costs from its start to its end."""
    start = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=environment(OMP_NUM_THREADS="1", TQDM_DISABLE="1", HF_HUB_OFFLINE="1"),
    )  # fmt: skip
    own = mapped = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        sizes = dict(line.split(":", 1) for line in status.splitlines())
        if "RssAnon" in sizes:  # a process that has ended has none
            anonymous, shared, files = (
                int(sizes[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem", "RssFile")
            )
            own, mapped = max(own, anonymous + shared), max(mapped, files)
        time.sleep(0.01)
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{said}")
    return Cost(time.monotonic() - start, own, mapped)


def convert(source: Path, target: Path, form: str, *options: str) -> list[str]:
    """The command that converts without looking at logits."""
    program = "from stages.app import main; main()"
    return [
        sys.executable, "-c", program, "convert", "--from", str(source), "--to", str(target),
        "--format", form, "--no-logits", *options,
    ]  # fmt: skip


def turn(folder: Path) -> dict[str, Cost]:
    """Every row once; what it wrote is checked and removed."""
    theirs, ours, back, saved = (folder / name for name in ("theirs", "ours", "back", "saved"))
    costs = {
        "Hugging Face → Reforge": measure(convert(theirs, ours, "reforge")),
        "Reforge → Hugging Face": measure(
            convert(ours, back, "hugging_face", "--dtype", "bfloat16")
        ),
        "transformers, load and save": measure(
            [sys.executable, "-c", TRANSFORMERS, str(theirs), str(saved)]
        ),
    }
    first = HuggingFaceModel.open(theirs).files
    for copy in (back, saved):
        again = HuggingFaceModel.open(copy).files
        if wrong := [name for name in first if not torch.equal(first[name], again[name])]:
            raise SystemExit(f"{copy.name} has other bits of {', '.join(wrong)}")
    for made in (ours, back, saved):
        rmtree(made)
    return costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where there is room; by default the system's")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--layers", type=int, default=16)
    chosen = parser.parse_args()
    imports = {name: measure([sys.executable, "-c", line]) for name, line in IMPORTS.items()}
    config = llama(chosen.layers)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        weights = write_model(config, Path(name) / "theirs")
        turns = [turn(Path(name)) for _ in range(chosen.rounds)]
    largest = config.vocabulary * config.hidden
    rows = [
        [row, " / ".join(f"{of[row].seconds:.0f}" for of in turns),
         f"{max(of[row].own for of in turns) / GB:.2f}",
         f"{max(of[row].mapped for of in turns) / GB:.2f}"]
        for row in turns[0]
    ]  # fmt: skip
    rows += [
        [f"imports of {name} alone", f"{of.seconds:.0f}", f"{of.own / GB:.2f}",
         f"{of.mapped / GB:.2f}"]
        for name, of in imports.items()
    ]  # fmt: skip
    write_table(
        "convert",
        "python -m benchmarks.convert",
        ["", f"seconds, {chosen.rounds} turns", "largest memory of its own, GB",
         "largest mapped files, GB"],
        rows,
        f"{weights / 1e9:.2f} billion random weights in bf16, {weights * 2 / GB:.2f} GB; the "
        f"largest tensor, the embedding, has {largest * 2 / GB:.2f} GB in bf16 and "
        f"{largest * 4 / GB:.2f} GB in fp32, as which a checkpoint has it. Ours hashes every "
        "tensor on both sides as it is read back from the disk, and syncs what it wrote; "
        "transformers does neither, and keeps a model that it need not cast in the files that it "
        "maps. All came back bit for bit.",
    )  # fmt: skip


if __name__ == "__main__":
    main()
