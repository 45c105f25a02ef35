"""The compiled part; all else that is to say about the distribution stands in pyproject.toml."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "nezha_cpu_kernels",
            ["model/cpu_add_norm.c", "model/cpu_fused_attention.c"],
            depends=["model/cpu_kernels.h"],
            extra_compile_args=["-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"],
            extra_link_args=["-fopenmp", "-lm"],
            optional=True,  # Without a C compiler attention on CPUs is slower.
        )
    ]
)
