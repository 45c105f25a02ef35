"""The compiled part; all else that is to say about the distribution stands in pyproject.toml."""

import zlib
from pathlib import Path

from setuptools import Extension, setup

SOURCES = ["model/cpu_add_norm.c", "model/cpu_fused_attention.c"]
HEADER = "model/cpu_kernels.h"
# What model/cpu_kernels.py knows the library by.
DIGEST = zlib.crc32(b"".join(Path(name).read_bytes() for name in [*SOURCES, HEADER]))

setup(
    ext_modules=[
        Extension(
            "nezha_cpu_kernels",
            SOURCES,
            depends=[HEADER],
            define_macros=[("DIGEST", f"{DIGEST}u")],
            extra_compile_args=["-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"],
            extra_link_args=["-fopenmp", "-lm"],
            optional=True,  # Without a C compiler training on CPUs is slower.
        )
    ]
)
